//! How the images of a step are cut into micro-batches.

/// How a step is cut: the images of every micro-batch, by rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut(pub Vec<Vec<u32>>);

impl Cut {
    /// Images of the step, T.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.0.iter().flatten().sum()
    }

    /// Images of a rank.
    #[must_use]
    pub fn share(&self, rank: u32) -> u32 {
        self.0.get(rank as usize).map_or(0, |own| own.iter().sum())
    }

    /// Where a rank's images begin among those of the step.
    #[must_use]
    pub fn start(&self, rank: u32) -> u32 {
        (0..rank).map(|before| self.share(before)).sum()
    }

    /// Images of the largest micro-batch.
    #[must_use]
    pub fn largest(&self) -> u32 {
        self.0.iter().flatten().copied().max().unwrap_or(0)
    }

    /// Images of a rank's largest micro-batch.
    #[must_use]
    pub fn largest_of(&self, rank: u32) -> u32 {
        self.0.get(rank as usize).and_then(|own| own.iter().copied().max()).unwrap_or(0)
    }

    /// The same images on every rank, where micro-batches of `failed` images do not fit: ranks whose largest are of that size get ones of half
    /// that at most, of the most images that divide the shares of all of these. Ranks that were given other sizes are other devices. `None`
    /// where one image does not fit.
    #[must_use]
    pub fn without(&self, failed: u32) -> Option<Self> {
        self.cut_again(failed / 2, |largest| largest == failed)
    }

    /// The same images on every rank in micro-batches of at most `limit`: those of ranks that have larger ones become as large as they can,
    /// on all of these alike. `None` for a limit of 0.
    #[must_use]
    pub fn at_most(&self, limit: u32) -> Option<Self> {
        self.cut_again(limit, |largest| largest > limit)
    }

    /// Cuts the shares of those ranks again that `which` holds for, by their largest micro-batch.
    fn cut_again(&self, limit: u32, which: impl Fn(u32) -> bool) -> Option<Self> {
        let chosen: Vec<u32> = (0..self.0.len() as u32).filter(|rank| which(self.largest_of(*rank))).collect();
        if chosen.is_empty() {
            return Some(self.clone());
        }
        let size = (1..=limit).rev().find(|size| chosen.iter().all(|rank| self.share(*rank) % size == 0))?;
        let mut again = self.clone();
        for rank in chosen {
            again.0[rank as usize] = vec![size; (self.share(rank) / size) as usize];
        }
        Some(again)
    }

    /// The finer of two cuts that give every rank the same images; this one, if the other gives them otherwise.
    #[must_use]
    pub fn finer(self, other: Self) -> Self {
        let ranks = self.0.len();
        let alike = ranks == other.0.len() && (0..ranks as u32).all(|rank| self.share(rank) == other.share(rank));
        if alike && other.largest() < self.largest() { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finer_cut_leaves_every_image_where_it_is() {
        let smaller = |cut: &[&[u32]]| {
            let cut = Cut(cut.iter().map(|own| own.to_vec()).collect());
            cut.without(cut.largest()).map(|finer| {
                assert!((0..cut.0.len() as u32).all(|rank| finer.share(rank) == cut.share(rank)));
                finer.0
            })
        };
        assert_eq!(smaller(&[&[16, 16], &[16]]), Some(vec![vec![8; 4], vec![8; 2]]));
        assert_eq!(smaller(&[&[6], &[6, 6]]), Some(vec![vec![3; 2], vec![3; 4]]));
        assert_eq!(smaller(&[&[7], &[14]]), Some(vec![vec![7], vec![7; 2]]));
        assert_eq!(smaller(&[&[16], &[4, 4]]), Some(vec![vec![8; 2], vec![4; 2]]));
        assert_eq!(smaller(&[&[5]]), Some(vec![vec![1; 5]]));
        assert_eq!(smaller(&[&[1], &[1]]), None);
        assert_eq!(Cut(vec![vec![16], vec![8; 2]]).at_most(8), Some(Cut(vec![vec![8; 2], vec![8; 2]])));
        let uneven = Cut(vec![vec![16], vec![4, 4], vec![4]]);
        assert_eq!(
            uneven.without(4),
            Some(Cut(vec![vec![16], vec![2; 4], vec![2; 2]])),
            "the large device keeps its own"
        );
        assert_eq!(Cut(vec![vec![4]]).at_most(8), Some(Cut(vec![vec![4]])));
    }

    #[test]
    fn of_two_cuts_of_the_same_shares_the_finer_is_taken() {
        let (coarse, fine) = (Cut(vec![vec![4], vec![4]]), Cut(vec![vec![2; 2]; 2]));
        assert_eq!(coarse.clone().finer(fine.clone()), fine);
        assert_eq!(fine.clone().finer(coarse.clone()), fine);
        assert_eq!(coarse.clone().finer(Cut(vec![vec![2; 3], vec![2]])), coarse);
    }

    #[test]
    fn a_share_begins_where_the_one_before_ends() {
        let cut = Cut(vec![vec![4, 4, 4], vec![4]]);
        assert_eq!((cut.target(), cut.start(0), cut.start(1), cut.share(1)), (16, 0, 12, 4));
        assert_eq!((cut.largest_of(0), cut.largest_of(1), cut.largest_of(2)), (4, 4, 0));
    }
}
