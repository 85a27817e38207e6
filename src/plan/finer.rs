//! A plan with smaller micro-batches: what is left to do when those of the plan did not fit.

use super::{Plan, Rank, YoloTerms};

impl Plan {
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
            // It was of another cut.
            rank.memory.predicted_bytes = None;
        }
        finer.yolo = finer.yolo_terms();
        Some(finer)
    }

    /// The split in yolo's terms, which has them where every rank runs as many micro-batches of one size.
    fn yolo_terms(&self) -> Option<YoloTerms> {
        let first = &self.ranks.first()?.micro_batches;
        let micro = *first.first()?;
        let alike = self.ranks.iter().all(|rank| rank.micro_batches == *first) && first.iter().all(|it| *it == micro);
        let (batch, accumulate) = (micro * self.world_size, u32::try_from(first.len()).ok()?);
        alike.then_some(YoloTerms { batch, nbs: batch * accumulate, accumulate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Memory, Split, VERSION};

    fn plan(cut: &[&[u32]]) -> Plan {
        let ranks = (0..).zip(cut).map(|(rank, micro_batches)| Rank {
            rank,
            local_rank: rank,
            host: "local".into(),
            device: format!("cpu:{rank}"),
            micro_batches: micro_batches.to_vec(),
            images_per_step: Some(micro_batches.iter().sum()),
            memory: Memory { predicted_bytes: None, budget_bytes: None },
        });
        let mut plan = Plan {
            version: VERSION,
            target_batch: Some(cut.iter().copied().flatten().sum()),
            world_size: cut.len() as u32,
            split: Some(Split::Uniform),
            ranks: ranks.collect(),
            containers: cut.len() as u32,
            yolo: None,
            preflight: None,
            reasons: Vec::new(),
            warnings: Vec::new(),
        };
        plan.yolo = plan.yolo_terms();
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
