//! Values of the collectives, in worlds of 1 to 3 processes, against values computed here.

mod support;

use std::time::Duration;

use support::{Rank, start};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Error, ReduceOp};

const TIMEOUT: Duration = Duration::from_secs(20);
const KINDS: [Kind; 8] =
    [Kind::Uint8, Kind::Int8, Kind::Int, Kind::Int64, Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double];
const LENGTHS: [i64; 4] = [0, 1, 3, 1000];

#[test]
fn rank() {
    support::rank_process(&[
        ("all_reduce", all_reduce),
        ("broadcast", broadcast),
        ("barrier", barrier),
        ("any_order", any_order),
        ("arguments", arguments),
    ]);
}

#[test]
fn all_reduce_gives_the_reduction_of_all_ranks() {
    for world_size in 1..=3 {
        start("all_reduce", world_size).pass();
    }
}

#[test]
fn broadcast_gives_the_roots_values() {
    for world_size in 1..=3 {
        start("broadcast", world_size).pass();
    }
}

#[test]
fn a_barrier_holds_until_all_have_come() {
    start("barrier", 3).pass();
}

#[test]
fn objects_may_be_dropped_in_any_order() {
    start("any_order", 2).pass();
}

#[test]
fn what_cannot_be_sent_is_refused_before_it_is() {
    start("arguments", 1).pass();
}

/// Element `i` of a rank's tensor: 1, 2 or 3, so that products and bit patterns differ and fit every kind.
fn element(rank: u32, i: i64) -> i64 {
    (i64::from(rank) + i) % 3 + 1
}

fn tensor(rank: u32, length: i64, kind: Kind) -> Tensor {
    let values: Vec<i64> = (0..length).map(|i| element(rank, i)).collect();
    Tensor::from_slice(&values).to_kind(kind)
}

fn all_reduce(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let world_size = i64::from(rank.world_size);
    type Fold = fn(i64, i64) -> i64;
    let folds: [(ReduceOp, Fold); 7] = [
        (ReduceOp::Sum, |a, b| a + b),
        (ReduceOp::Product, |a, b| a * b),
        (ReduceOp::Min, i64::min),
        (ReduceOp::Max, i64::max),
        (ReduceOp::BitAnd, |a, b| a & b),
        (ReduceOp::BitOr, |a, b| a | b),
        (ReduceOp::BitXor, |a, b| a ^ b),
    ];
    for kind in KINDS {
        let float = matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double);
        for length in LENGTHS {
            for (op, fold) in folds {
                let mut tensor = tensor(rank.rank, length, kind);
                let answer = group.all_reduce(&mut tensor, op);
                if float && matches!(op, ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor) {
                    assert!(matches!(answer, Err(Error::Unsupported(_))), "{op:?} {kind:?}");
                    continue;
                }
                answer.and_then(|work| work.wait()).unwrap_or_else(|error| panic!("{op:?} {kind:?}: {error}"));
                let expected: Vec<i64> = (0..length)
                    .map(|i| (0..rank.world_size).map(|rank| element(rank, i)).reduce(fold).expect("a rank"))
                    .collect();
                let found = Vec::<i64>::try_from(tensor.to_kind(Kind::Int64)).expect("a vector");
                assert_eq!(found, expected, "{op:?} {kind:?} {length}");
            }
            let mut tensor = tensor(rank.rank, length, kind);
            match group.all_reduce(&mut tensor, ReduceOp::Avg) {
                Err(Error::Unsupported(_)) if !float => {}
                answer => {
                    answer.and_then(|work| work.wait()).unwrap_or_else(|error| panic!("Avg {kind:?}: {error}"));
                    let expected: Vec<f64> = (0..length)
                        .map(|i| {
                            (0..rank.world_size).map(|rank| element(rank, i)).sum::<i64>() as f64 / world_size as f64
                        })
                        .collect();
                    let found = Vec::<f64>::try_from(tensor.to_kind(Kind::Double)).expect("a vector");
                    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.01;
                    assert!(found.iter().zip(&expected).all(close), "Avg {kind:?}: {found:?}, not {expected:?}");
                }
            }
        }
    }
    group.shutdown().expect("all is done");
}

fn broadcast(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    for root in 0..rank.world_size {
        for kind in KINDS {
            for length in LENGTHS {
                let mut found = tensor(rank.rank, length, kind);
                group.broadcast(&mut found, root).and_then(|work| work.wait()).expect("broadcast");
                assert_eq!(found, tensor(root, length, kind), "{kind:?} {length} from {root}");
            }
        }
    }
}

fn barrier(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    for round in 0..3 {
        // A different rank is late each time; the others must not pass before it.
        if rank.rank == round {
            let work = group.barrier().expect("a barrier starts");
            for peer in (0..rank.world_size).filter(|peer| *peer != rank.rank) {
                rank.await_peer(peer, &format!("waits-{round}"));
            }
            work.wait().expect("all have come");
        } else {
            rank.reach(&format!("waits-{round}"));
            group.barrier().and_then(|work| work.wait()).expect("all come");
        }
    }
    // Nobody passes while one rank stays away.
    if rank.rank == 0 {
        for peer in 1..rank.world_size {
            rank.await_peer(peer, "held-up");
        }
        group.barrier().and_then(|work| work.wait()).expect("all have come");
    } else {
        let work = group.barrier().expect("a barrier starts");
        let early = work.wait_timeout(Duration::from_millis(100)).expect_err("rank 0 stays away");
        assert!(matches!(early, Error::Timeout(_)), "{early}");
        assert!(!work.is_completed().expect("a look"));
        rank.reach("held-up");
        work.wait().expect("rank 0 comes");
        assert!(work.is_completed().expect("a look"));
    }
    group.monitored_barrier(TIMEOUT, true).expect("all are here");
}

fn any_order(rank: &Rank) {
    let store = rank.store(TIMEOUT);
    let prefix = store.prefix("a").and_then(|store| store.prefix("b")).expect("prefixes");
    let options = tch_distributed::GlooOptions::new(tch_distributed::Interface::Name("lo".into()), TIMEOUT);
    let group = tch_distributed::ProcessGroup::gloo(&prefix, rank.rank, 2, &options).expect("both come");
    // The stores go first, then the tensor, then the group under a collective that runs, then the work.
    drop(store);
    drop(prefix);
    let mut tensor = tensor(rank.rank, 1_000_000, Kind::Float);
    let copy = tensor.shallow_clone();
    let first = group.all_reduce(&mut tensor, ReduceOp::Sum).expect("it starts");
    let second = group.barrier().expect("it starts");
    drop(tensor);
    std::thread::spawn(move || drop(group)).join().expect("a group may be dropped by another thread");
    first.wait().expect("it was done before the group went");
    assert_eq!(copy.double_value(&[0]), (element(0, 0) + element(1, 0)) as f64);
    drop(first);
    drop(second);
}

fn arguments(rank: &Rank) {
    use tch_distributed::{GlooOptions, Interface, ProcessGroup};
    let store = rank.store(TIMEOUT);
    let lo = GlooOptions::new(Interface::Name("lo".into()), TIMEOUT);
    let group = ProcessGroup::gloo(&store, 0, 1, &lo).expect("one rank is all");
    let invalid = |answer: Result<(), Error>| {
        let error = answer.expect_err("refused");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
        error.to_string()
    };
    let unsupported = |answer: Result<(), Error>| {
        let error = answer.expect_err("refused");
        assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
    };
    let float = (Kind::Float, Device::Cpu);
    let mut turned = Tensor::zeros([2, 3], float).tr();
    invalid(group.all_reduce(&mut turned, ReduceOp::Sum).map(drop));
    invalid(group.broadcast(&mut Tensor::new(), 0).map(drop));
    invalid(group.broadcast(&mut Tensor::zeros([1], float), 1).map(drop));
    for kind in [Kind::Bool, Kind::Int16, Kind::ComplexFloat] {
        unsupported(group.all_reduce(&mut Tensor::zeros([1], (kind, Device::Cpu)), ReduceOp::Sum).map(drop));
    }
    unsupported(group.all_reduce(&mut Tensor::zeros([1], (Kind::Int, Device::Cpu)), ReduceOp::Avg).map(drop));
    unsupported(group.all_reduce(&mut Tensor::zeros([2, 2], float).to_sparse_sparse_dim(2), ReduceOp::Sum).map(drop));

    invalid(ProcessGroup::gloo(&store, 1, 1, &lo).map(drop));
    invalid(ProcessGroup::gloo(&store, 0, 0, &lo).map(drop));
    invalid(ProcessGroup::gloo(&store, 0, 1, &GlooOptions { threads: 0, ..lo.clone() }).map(drop));
    let nowhere = GlooOptions::new(Interface::Name("no-such-if".into()), TIMEOUT);
    let error = ProcessGroup::gloo(&store.prefix("p").expect("a prefix"), 0, 1, &nowhere).expect_err("no interface");
    assert!(error.to_string().contains("no-such-if"), "{error:?}");

    invalid(store.set("", b"x"));
    invalid(store.set(&"k".repeat(5000), b"x"));
    invalid(store.set("big", &vec![0; 8 * 1024 * 1024 + 1]));
    invalid(store.wait(&[], TIMEOUT));
    invalid(tch_distributed::Store::file(&rank.dir.join("other"), Some(0), TIMEOUT).map(drop));

    // Both answers are right, depending on the machine; neither may end the process.
    if let Err(error) = tch_distributed::load_cuda() {
        assert!(matches!(&error, Error::Unsupported(message) if message.contains(".so")), "{error:?}");
    }
}
