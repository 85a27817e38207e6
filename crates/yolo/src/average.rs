//! The moving average of a training's weights, which is what is validated and kept.

use crate::network::Network;

/// Steps over which the average learns to remember.
const RAMP: f64 = 2000.0;
/// Share of the old in the long run.
const DECAY: f64 = 0.9999;

/// A second network that follows the one that is trained.
#[derive(Debug)]
pub struct Average {
    /// The averaged network.
    pub network: Network,
    /// Steps that it has followed.
    pub updates: u64,
}

impl Average {
    /// An average that starts as the network itself.
    #[must_use]
    pub fn new(network: &Network) -> Self {
        Self { network: network.copy(), updates: 0 }
    }

    /// Follows one step: the old keeps the share `0.9999 (1 - exp(-steps / 2000))`.
    pub fn follow(&mut self, network: &Network) {
        let _guard = tch::no_grad_guard();
        self.updates += 1;
        let share = 1.0 - DECAY * (1.0 - (-(self.updates as f64) / RAMP).exp());
        let _ = self.network.parameters.lerp_(&network.parameters, share);
        let _ = self.network.statistics.lerp_(&network.statistics, share);
    }
}
