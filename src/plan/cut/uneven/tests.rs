//! That what the module's first lines say is so.

use super::*;
use crate::job::SplitWish;

fn ask(target: u32, workers: Vec<Worker>, max_accumulation: Option<u32>) -> Ask {
    Ask {
        target,
        workers,
        all: true,
        micro: None,
        max_accumulation,
        split: SplitWish::Uneven,
        uneven_counts: true,
        uneven_micro: true,
        all_reduce_seconds: 0.0,
    }
}

/// For workers, deadlines and limits of many sorts, and every target that is far enough below the sum of the tops.
#[test]
fn what_is_far_enough_below_the_tops_is_always_reached() {
    let worker = |overhead: f64, per_image: f64, most: u32| Worker { overhead, per_image, most };
    let sorts = [
        worker(0.0, 1.0, 4),
        worker(0.5, 1.0, 7),
        worker(2.0, 0.3, 3),
        worker(0.1, 0.0, 5),
        worker(0.2, 0.7, 30),
        worker(1.0, 3.0, 1),
    ];
    let mut reached = 0;
    for one in 0..sorts.len() {
        for other in 0..sorts.len() {
            for third in [None, Some(1), Some(3), Some(5)] {
                let workers: Vec<Worker> = [one, other].into_iter().chain(third).map(|sort| sorts[sort]).collect();
                for limit in [None, Some(3), Some(9)] {
                    for deadline in [4.0, 9.5, 31.0] {
                        reached += every_target(&workers, limit, deadline);
                    }
                }
            }
        }
    }
    assert!(reached > 10_000, "{reached}");
}

fn every_target(workers: &[Worker], limit: Option<u32>, deadline: f64) -> usize {
    let count = u32::try_from(workers.len()).expect("few");
    let targets = (count..200).filter(|target| {
        let ask = ask(*target, workers.to_vec(), limit);
        let tops = Tops::new(&ask, deadline);
        let most = tops.0.iter().max_by_key(|top| top.count).expect("some").images();
        let far = tops.sum() >= u64::from(*target + most);
        if !far || tops.0.iter().any(|top| top.count == 0) {
            return false;
        }
        let images = give(tops.0.iter().map(Share::images).collect(), &tops, tops.sum() - u64::from(*target));
        assert_eq!(images.iter().sum::<u32>(), *target, "{ask:?} {deadline}");
        for (worker, images) in workers.iter().zip(images) {
            let share = share(&ask, worker, deadline, images);
            assert!(images > 0 && share.images() == images, "{images} of {worker:?} in {deadline}, {ask:?}");
        }
        true
    });
    targets.count()
}

/// Too large for the search image by image: the missing ones are first taken in large steps.
#[test]
fn a_large_target_on_few_workers_is_cut_exactly() {
    for target in [999_983, 1_000_000, 786_433] {
        for most in [31, 1000, 70_000] {
            let workers = [0.001, 0.0017, 0.0023].map(|per_image| Worker { overhead: 0.01, per_image, most });
            let cut = best(&ask(target, workers.to_vec(), None)).expect("a cut");
            assert_eq!(cut.shares.iter().map(Share::images).sum::<u32>(), target);
            let rate: f64 = workers.iter().map(|worker| f64::from(most) / worker.seconds(1, most)).sum();
            assert!(cut.seconds < 1.1 * f64::from(target) / rate, "{} {}", cut.seconds, f64::from(target) / rate);
        }
    }
}
