//! A plan with smaller micro-batches: what is left to do when those of the plan did not fit.

use super::cut::Share;
use super::{Plan, Rank, words};

impl Plan {
    /// What each rank computes of a step; nothing for a program that batches as it likes.
    fn shares(&self) -> Vec<Share> {
        let share = |rank: &Rank| Share {
            count: rank.micro_batches.len() as u32,
            micro: rank.micro_batches.first().copied().unwrap_or(0),
        };
        self.ranks.iter().map(share).collect()
    }

    /// Images of a rank's micro-batches; 0 for a program that batches as it likes.
    #[must_use]
    pub fn micro_batch_of(&self, rank: u32) -> u32 {
        self.ranks.get(rank as usize).and_then(|rank| rank.micro_batches.first().copied()).unwrap_or(0)
    }

    /// The same images on every rank, where `failed` images at once do not fit on `rank`, which may have stepped down below the plan by itself:
    /// ranks that were given as much as it get half of `failed` at most, the most that divides the shares of all of these. Ranks that were
    /// given another size are other devices. `None` where one image does not fit, and for a program that batches as it likes.
    #[must_use]
    pub fn without(&self, rank: u32, failed: u32) -> Option<Self> {
        let images = |rank: &Rank| rank.micro_batches.iter().sum::<u32>();
        if self.ranks.iter().any(|rank| images(rank) == 0) {
            return None;
        }
        let given = self.micro_batch_of(rank);
        self.cut_again(failed / 2, |rank| rank.micro_batches.first() == Some(&given))
    }

    /// The same images on every rank in micro-batches of at most `limit`, from 1; nothing for a program that batches as it likes.
    #[must_use]
    pub fn at_most(&self, limit: u32) -> Option<Self> {
        self.target_batch?;
        self.cut_again(limit, |rank| rank.micro_batches.first().is_some_and(|micro| *micro > limit))
    }

    /// Cuts the shares of those ranks again that are `too_large`, alike.
    fn cut_again(&self, limit: u32, too_large: impl Fn(&Rank) -> bool) -> Option<Self> {
        let images = |rank: &Rank| rank.micro_batches.iter().sum::<u32>();
        let size = (1..=limit)
            .rev()
            .find(|size| self.ranks.iter().filter(|rank| too_large(rank)).all(|rank| images(rank) % size == 0))?;
        let mut finer = self.clone();
        for rank in finer.ranks.iter_mut().filter(|rank| too_large(rank)) {
            rank.micro_batches = vec![size; (images(rank) / size) as usize];
            // They were of another cut.
            (rank.memory.predicted_bytes, rank.memory.parts) = (None, None);
        }
        finer.predicted_step_seconds = None;
        finer.yolo = words::yolo_terms(&finer.shares());
        Some(finer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Memory, Split, VERSION, YoloTerms};

    fn plan(cut: &[&[u32]]) -> Plan {
        let ranks = (0..).zip(cut).map(|(rank, micro_batches)| Rank {
            rank,
            local_rank: rank,
            host: "local".into(),
            device: format!("cpu:{rank}"),
            micro_batches: micro_batches.to_vec(),
            images_per_step: Some(micro_batches.iter().sum()),
            memory: Memory { predicted_bytes: None, budget_bytes: None, parts: None },
        });
        let mut plan = Plan {
            version: VERSION,
            target_batch: Some(cut.iter().copied().flatten().sum()),
            world_size: cut.len() as u32,
            split: Some(Split::Uniform),
            predicted_step_seconds: None,
            amp: None,
            ranks: ranks.collect(),
            containers: cut.len() as u32,
            yolo: None,
            preflight: None,
            reasons: Vec::new(),
            warnings: Vec::new(),
        };
        plan.yolo = words::yolo_terms(&plan.shares());
        plan
    }

    fn cut(plan: &Plan) -> Vec<Vec<u32>> {
        plan.ranks.iter().map(|rank| rank.micro_batches.clone()).collect()
    }

    #[test]
    fn every_rank_keeps_its_images() {
        let finer = plan(&[&[16], &[16]]).without(0, 16).expect("fits");
        assert_eq!(cut(&finer), [[8, 8], [8, 8]]);
        assert_eq!(finer.yolo, Some(YoloTerms { batch: 16, nbs: 32, accumulate: 2 }));
        assert_eq!(finer.target_batch, Some(32));
        assert_eq!(
            cut(&plan(&[&[16], &[16]]).without(1, 8).expect("fits")),
            [[4; 4], [4; 4]],
            "it had stepped down to 8"
        );
        // 5 divides no 14.
        assert_eq!(cut(&plan(&[&[10, 4], &[10, 4]]).without(1, 10).expect("fits")), [[2; 7], [2; 7]]);
        assert_eq!(cut(&plan(&[&[8, 8], &[8]]).without(0, 8).expect("fits")), [vec![4; 4], vec![4; 2]]);
    }

    #[test]
    fn ranks_of_another_size_keep_theirs() {
        assert_eq!(cut(&plan(&[&[16], &[4, 4]]).without(0, 16).expect("fits")), [[8, 8], [4, 4]]);
        assert_eq!(cut(&plan(&[&[16], &[4, 4]]).without(1, 4).expect("fits")), [vec![16], vec![2; 4]]);
    }

    #[test]
    fn only_what_is_too_large_is_cut() {
        assert_eq!(cut(&plan(&[&[64, 64], &[8]]).at_most(32).expect("cut")), [vec![32; 4], vec![8]]);
        assert_eq!(cut(&plan(&[&[100], &[100]]).at_most(32).expect("cut")), [[25; 4], [25; 4]]);
        let small = plan(&[&[16], &[16]]);
        assert_eq!(cut(&small.at_most(32).expect("as it is")), cut(&small));
    }

    #[test]
    fn nothing_is_smaller_than_one_image() {
        assert_eq!(plan(&[&[1], &[1]]).without(1, 1), None);
        let mut own = plan(&[&[4]]);
        own.ranks[0].micro_batches.clear();
        assert_eq!(own.without(0, 4), None);
    }
}
