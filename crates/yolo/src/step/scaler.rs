//! Mixed precision in half floats, whose range is small.

/// The factor by which a loss is multiplied so that gradients in half floats do not vanish: as large as goes, halved where one overflows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaler {
    /// The factor.
    pub scale: f64,
    /// Steps since it last changed.
    pub steady: u32,
}

impl Default for Scaler {
    fn default() -> Self {
        // A step's loss is not yet divided by its target scores when it is scaled.
        Self { scale: 1024.0, steady: 0 }
    }
}

impl Scaler {
    /// Steps without overflow after which the factor doubles.
    const PATIENCE: u32 = 2000;

    /// Whether a step's gradients are good for an update; adapts the factor for the next step.
    pub(super) fn judge(&mut self, finite: bool) -> bool {
        self.steady = if finite { self.steady + 1 } else { 0 };
        if !finite {
            self.scale = (self.scale / 2.0).max(f64::MIN_POSITIVE);
        } else if self.steady == Self::PATIENCE {
            self.scale *= 2.0;
            self.steady = 0;
        }
        finite
    }
}
