//! Chance that everybody agrees on: every choice depends on the seed, the epoch and the image, never on a rank, a thread or the order in
//! which things are computed.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a generator is for; two purposes share no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The order of an epoch's images.
    Order = 1,
    /// How an image is augmented.
    Augment = 2,
    /// The first weights.
    Weights = 3,
}

/// The generator for one purpose. `item` is the image's number, or 0 where there is only one of a kind in an epoch.
#[must_use]
pub fn generator(purpose: Purpose, seed: u64, epoch: u32, item: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, u64::from(epoch), item, purpose as u64]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
