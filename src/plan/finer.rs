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

    /// Images of the largest micro-batch; 0 for a program that batches as it likes.
    #[must_use]
    pub fn largest_micro_batch(&self) -> u32 {
        self.ranks.iter().flat_map(|rank| &rank.micro_batches).copied().max().unwrap_or(0)
    }

    /// The same images on every rank, in micro-batches of at most `limit`: those of ranks that have larger ones become as large as they can,
    /// on all of these ranks alike. `None` for a limit of 0, and for a program that batches as it likes.
    #[must_use]
    pub fn at_most(&self, limit: u32) -> Option<Self> {
        let images = |rank: &Rank| rank.micro_batches.iter().sum::<u32>();
        if self.ranks.iter().any(|rank| images(rank) == 0) {
            return None;
        }
        let too_large = |rank: &Rank| rank.micro_batches.iter().any(|micro| *micro > limit);
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
        let finer = plan(&[&[16], &[16]]).at_most(8).expect("fits");
        assert_eq!(cut(&finer), [[8, 8], [8, 8]]);
        assert_eq!(finer.yolo, Some(YoloTerms { batch: 16, nbs: 32, accumulate: 2 }));
        assert_eq!(finer.target_batch, Some(32));
        // 12 has no divisor between 6 and 5 but 6.
        assert_eq!(cut(&plan(&[&[12], &[12]]).at_most(5).expect("fits")), [[4; 3], [4; 3]]);
        assert_eq!(cut(&plan(&[&[8, 8], &[8]]).at_most(4).expect("fits")), [vec![4; 4], vec![4; 2]]);
    }

    #[test]
    fn ranks_with_small_ones_keep_them() {
        assert_eq!(cut(&plan(&[&[16], &[4, 4]]).at_most(8).expect("fits")), [[8, 8], [4, 4]]);
    }

    #[test]
    fn nothing_is_smaller_than_one_image() {
        assert_eq!(plan(&[&[1], &[1]]).at_most(0), None);
        let mut own = plan(&[&[4]]);
        own.ranks[0].micro_batches.clear();
        assert_eq!(own.at_most(2), None);
    }
}
