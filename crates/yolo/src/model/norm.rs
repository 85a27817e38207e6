//! Batch normalisation whose running statistics move once a step, whatever the micro-batches that the step was cut into.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use crate::network::padded;

/// Added to the variance, as in the official network.
const EPSILON: f64 = 1e-3;

/// One layer. In training it uses its batch's own statistics and leaves them where [`Norms`] finds them.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    statistics: Statistics,
}

/// Statistics of one layer; handles of the tensors that the layer itself uses.
#[derive(Debug)]
struct Statistics {
    mean: Tensor,
    variance: Tensor,
    batch_mean: Tensor,
    batch_variance: Tensor,
}

impl Norm {
    pub(super) fn new(path: &Path<'_>, channels: i64, norms: &mut Norms) -> Self {
        let channels = [channels];
        let (one, zero) = (Init::Const(1.0), Init::Const(0.0));
        let scratch = || Tensor::zeros(channels, (Kind::Float, path.device()));
        let statistics = Statistics {
            mean: path.zeros_no_train("running_mean", &channels),
            variance: path.ones_no_train("running_var", &channels),
            batch_mean: scratch(),
            batch_variance: scratch(),
        };
        norms.layers.push(statistics.share());
        Self { weight: path.var("weight", &channels, one), bias: path.var("bias", &channels, zero), statistics }
    }

    pub(super) fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let Statistics { mean, variance, batch_mean, batch_variance } = &self.statistics;
        // A momentum of 1 leaves the batch's mean and unbiased variance in the tensors that are passed for the running ones.
        let (mean, variance, momentum) = if train { (batch_mean, batch_variance, 1.0) } else { (mean, variance, 0.0) };
        x.batch_norm(Some(&self.weight), Some(&self.bias), Some(mean), Some(variance), train, momentum, EPSILON, true)
    }
}

impl Statistics {
    fn share(&self) -> Self {
        Self {
            mean: self.mean.shallow_clone(),
            variance: self.variance.shallow_clone(),
            batch_mean: self.batch_mean.shallow_clone(),
            batch_variance: self.batch_variance.shallow_clone(),
        }
    }
}

/// The statistics of all layers of a network.
#[derive(Debug, Default)]
pub struct Norms {
    layers: Vec<Statistics>,
    batch: std::cell::OnceCell<Tensor>,
}

impl Norms {
    /// Moves the statistics of all layers into one tensor of means and variances, `[2, channels of all layers]` with zeros between the layers
    /// ([`padded`]), which is returned, and
    /// those of their batches into another, [`Self::batch`]. Called once, when the network is on its device.
    pub(crate) fn flatten(&self) -> Tensor {
        let apart = |values: &Tensor| {
            let channels = values.size1().expect("a vector");
            values.constant_pad_nd([0, padded(channels) - channels])
        };
        let join = |of: fn(&Statistics) -> &Tensor| {
            let parts: Vec<Tensor> = self.layers.iter().map(|layer| apart(of(layer))).collect();
            Tensor::cat(&parts, 0)
        };
        let running = Tensor::stack(&[join(|layer| &layer.mean), join(|layer| &layer.variance)], 0);
        let batch = running.zeros_like();
        let mut at = 0;
        for layer in &self.layers {
            let channels = layer.mean.size1().expect("a vector");
            let part = |whole: &Tensor, row: i64| whole.get(row).narrow(0, at, channels);
            // Handles share what they refer to, so the layer's own moves with this one.
            layer.mean.shallow_clone().set_data(&part(&running, 0));
            layer.variance.shallow_clone().set_data(&part(&running, 1));
            layer.batch_mean.shallow_clone().set_data(&part(&batch, 0));
            layer.batch_variance.shallow_clone().set_data(&part(&batch, 1));
            at += padded(channels);
        }
        self.batch.set(batch).expect("flattened once");
        running
    }

    /// Mean and unbiased variance of the last forward pass in training, over all layers, `[2, channels of all layers]`. What it writes to is
    /// to be cleared before the next pass, see [`Self::clear`].
    ///
    /// # Panics
    ///
    /// The network's statistics do not lie in one tensor.
    pub fn batch(&self) -> &Tensor {
        self.batch.get().expect("the network is flattened when it is made")
    }

    /// Clears the batch's statistics: what a batch that was not finite has left would not go away by being weighted with nothing.
    pub fn clear(&self) {
        let _ = self.batch().shallow_clone().zero_();
    }
}
