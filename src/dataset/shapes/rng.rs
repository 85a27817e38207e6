//! The generator's random numbers: integers only, so that a seed means the same on every machine and for good.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of one image. Streams of different images share nothing, so images can be drawn in any order, on any
    /// number of threads, and a larger set begins with the images of a smaller one.
    #[must_use]
    pub fn of_image(seed: u64, split: u64, index: u64) -> Self {
        let mut rng = Self(seed);
        let mut state = rng.next();
        for part in [split, index] {
            rng = Self(state ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93));
            state = rng.next();
        }
        Self(state)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..=high`, as even as 64 bits allow. An empty range gives `low`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = u64::try_from(high.saturating_sub(low)).unwrap_or(0).saturating_add(1);
        let scaled = (u128::from(self.next()) * u128::from(span)) >> 64;
        low + i64::try_from(scaled).expect("smaller than the span, which came from an i64")
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn the_stream_is_the_published_one() {
        // First outputs of the reference implementation for seed 1234567.
        let mut rng = Rng(1_234_567);
        assert_eq!([rng.next(), rng.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn ranges_are_kept_and_reached() {
        let mut rng = Rng::of_image(0, 0, 0);
        let drawn: Vec<_> = (0..200).map(|_| rng.between(-1, 1)).collect();
        assert!(drawn.iter().all(|n| (-1..=1).contains(n)));
        assert!([-1, 0, 1].iter().all(|n| drawn.contains(n)));
        assert_eq!(rng.between(5, 5), 5);
    }

    #[test]
    fn images_have_streams_of_their_own() {
        let first = |split, index| Rng::of_image(7, split, index).next();
        assert_ne!(first(0, 1), first(1, 0));
        assert_ne!(first(0, 0), first(0, 1));
        assert_eq!(first(1, 5), first(1, 5));
    }
}
