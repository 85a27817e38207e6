//! The memory model: what a rank needs, by part, and how many images fit.

use serde::{Deserialize, Serialize};

/// What a rank needs on a device of some kind: `M(m) = F + m * s² * (a + d * N)`, with s the side of the image and N the most
/// labels in one. F is the sum of the first three.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryModel {
    /// What the device's runtime and the communication take before there is a model.
    pub context_bytes: u64,
    /// The weights, and the running average of them.
    pub weights_bytes: u64,
    /// Gradients and the optimizer's state.
    pub gradients_and_optimizer_bytes: u64,
    /// a: bytes of activations for each pixel of a training image.
    pub bytes_per_pixel: f64,
    /// d: bytes for each pixel and label of a training image.
    pub bytes_per_pixel_and_label: f64,
    /// Bytes for each pixel of a validation image; 0 where nothing is validated on the device.
    pub validation_bytes_per_pixel: f64,
    /// What is needed whatever the batch, while a trainer starts or updates the weights: next to it, a small one does not count.
    #[serde(default)]
    pub least_bytes: u64,
}

/// What the images of a job are like, as far as memory cares, and how many a validation takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    /// s: side of the square image in pixels.
    pub side: u32,
    /// N: the most labels in one, mosaics included.
    pub labels: u32,
    /// Validation images of a batch for each image of the rank's own micro-batch; 0 where none are validated.
    pub validation: u32,
    /// Validation images that there are: no batch has more.
    pub validation_most: u32,
}

/// The predicted memory of a rank by part, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryParts {
    /// The device's runtime and the communication.
    pub context_bytes: u64,
    /// Weights.
    pub weights_bytes: u64,
    /// Gradients and the optimizer's state.
    pub gradients_and_optimizer_bytes: u64,
    /// Activations of the largest micro-batch.
    pub activations_bytes: u64,
    /// A batch of the validation, which has the place of the activations: they are not there at the same time.
    pub validation_bytes: u64,
    /// What is needed in all whatever the batch, at some other moment.
    #[serde(default)]
    pub least_bytes: u64,
}

impl MemoryParts {
    /// What is there whatever the batch.
    #[must_use]
    pub fn fixed_bytes(&self) -> u64 {
        let parts = [self.context_bytes, self.weights_bytes, self.gradients_and_optimizer_bytes];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// The peak: of training, validation and all else what needs most.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        let images = self.activations_bytes.max(self.validation_bytes);
        self.fixed_bytes().saturating_add(images).max(self.least_bytes)
    }
}

impl MemoryModel {
    /// What a rank needs whose micro-batches have `micro` images.
    #[must_use]
    pub fn predict(&self, micro: u32, images: Images) -> MemoryParts {
        let (training, validation) = self.bytes_per_image(images);
        let validated = micro.saturating_mul(images.validation).min(images.validation_most);
        // Rounded up: a byte too little is out of memory. The cast stops at the end of u64.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is meant")]
        let bytes = |per_image: f64, count: u32| (per_image * f64::from(count)).ceil() as u64;
        MemoryParts {
            context_bytes: self.context_bytes,
            weights_bytes: self.weights_bytes,
            gradients_and_optimizer_bytes: self.gradients_and_optimizer_bytes,
            activations_bytes: bytes(training, micro),
            validation_bytes: bytes(validation, validated),
            least_bytes: self.least_bytes,
        }
    }

    /// Images of the largest micro-batch, up to `limit`, with which a rank stays within `budget` bytes; 0 where not even one fits.
    #[must_use]
    pub fn most_images(&self, budget: u64, images: Images, limit: u32) -> u32 {
        let fits = |micro: u32| self.predict(micro, images).peak_bytes() <= budget;
        let (mut fitting, mut beyond) = (0, limit.saturating_add(1));
        while beyond - fitting > 1 {
            let middle = fitting + (beyond - fitting) / 2;
            if fits(middle) { fitting = middle } else { beyond = middle }
        }
        fitting
    }

    /// Of a training image, and of one of the validation.
    fn bytes_per_image(&self, images: Images) -> (f64, f64) {
        let pixels = f64::from(images.side) * f64::from(images.side);
        let training = self.bytes_per_pixel + self.bytes_per_pixel_and_label * f64::from(images.labels);
        (pixels * training.max(0.0), pixels * self.validation_bytes_per_pixel.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: MemoryModel = MemoryModel {
        context_bytes: 300,
        weights_bytes: 100,
        gradients_and_optimizer_bytes: 200,
        bytes_per_pixel: 2.0,
        bytes_per_pixel_and_label: 0.5,
        validation_bytes_per_pixel: 1.5,
        least_bytes: 0,
    };

    #[test]
    fn the_peak_is_that_of_the_phase_that_needs_more() {
        let images = Images { side: 10, labels: 2, validation: 1, validation_most: 100 };
        let parts = MODEL.predict(4, images);
        assert_eq!((parts.activations_bytes, parts.validation_bytes), (1200, 600));
        assert_eq!((parts.fixed_bytes(), parts.peak_bytes()), (600, 1800));
        let parts = MODEL.predict(4, Images { labels: 0, validation: 2, ..images });
        assert_eq!((parts.activations_bytes, parts.validation_bytes, parts.peak_bytes()), (800, 1200, 1800));
        let parts = MODEL.predict(4, Images { labels: 0, validation: 2, validation_most: 5, ..images });
        assert_eq!((parts.validation_bytes, parts.peak_bytes()), (750, 1400));
    }

    #[test]
    fn a_small_batch_needs_what_any_needs() {
        let images = Images { side: 10, labels: 2, validation: 1, validation_most: 100 };
        let model = MemoryModel { least_bytes: 1000, ..MODEL };
        assert_eq!((model.predict(1, images).peak_bytes(), model.predict(4, images).peak_bytes()), (1000, 1800));
        assert_eq!(model.most_images(999, images, 64), 0);
    }

    #[test]
    fn the_most_images_fit_and_one_more_does_not() {
        let images = Images { side: 10, labels: 2, validation: 1, validation_most: 100 };
        assert_eq!(MODEL.most_images(1800, images, 64), 4);
        assert_eq!(MODEL.most_images(1799, images, 64), 3);
        assert_eq!(MODEL.most_images(u64::MAX, images, 64), 64);
        assert_eq!(MODEL.most_images(899, images, 64), 0);
        assert_eq!(MODEL.most_images(0, images, 64), 0);
    }
}
