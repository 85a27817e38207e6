//! Which images a step has: an epoch is a permutation, cut into steps of T images each.

use rand::seq::SliceRandom;

use crate::random::{Purpose, generator};

/// The images of every step of a training. The same for all ranks, however many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    images: u32,
    target: u32,
    seed: u64,
}

/// A step would need more images than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a step of {target} images from a set of {images}: the target batch must be at most {images}")]
pub struct TooFewImages {
    /// Images of the set.
    pub images: u32,
    /// Images of a step.
    pub target: u32,
}

impl Order {
    /// Steps of `target` images, from 1, out of a set of `images`.
    ///
    /// # Errors
    ///
    /// The set is smaller than a step.
    pub fn new(images: u32, target: u32, seed: u64) -> Result<Self, TooFewImages> {
        if target == 0 || images < target {
            Err(TooFewImages { images, target })
        } else {
            Ok(Self { images, target, seed })
        }
    }

    /// Steps of an epoch. The images that are left over, fewer than a step's, have their chance in the next epoch's permutation.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.images / self.target
    }

    /// An epoch's images in their order: whole steps of them.
    #[must_use]
    pub fn epoch(&self, epoch: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..self.images).collect();
        all.shuffle(&mut generator(Purpose::Order, self.seed, epoch, 0));
        all.truncate((self.steps() * self.target) as usize);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_every_image_once_but_for_a_remainder() {
        let order = Order::new(10, 4, 7).expect("enough");
        assert_eq!(order.steps(), 2);
        let mut first = order.epoch(0);
        assert_ne!(first, order.epoch(1));
        assert_eq!(first, order.epoch(0));
        assert_ne!(first, Order::new(10, 4, 8).expect("enough").epoch(0));
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 8);
    }

    #[test]
    fn a_step_larger_than_the_set_is_refused() {
        assert_eq!(Order::new(4, 4, 0).map(|order| order.steps()), Ok(1));
        let refused = Order::new(4, 5, 0).expect_err("too few");
        assert_eq!(refused.to_string(), "a step of 5 images from a set of 4: the target batch must be at most 4");
        assert!(Order::new(0, 0, 0).is_err());
    }
}
