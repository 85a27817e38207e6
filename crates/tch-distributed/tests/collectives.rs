//! What operations promise beside their values: order, refusals, looking at them, dropping them. The values are in grid.rs.

mod support;

use std::time::Duration;

use support::{Rank, start};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Error, GlooOptions, Interface, ProcessGroup, ReduceOp};

const TIMEOUT: Duration = Duration::from_secs(20);
#[test]
fn rank() {
    support::rank_process(&[
        ("barrier", barrier),
        ("any_order", any_order),
        ("messages", messages),
        ("looks", looks),
        ("arguments", arguments),
    ]);
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
fn messages_go_on_without_their_work_and_may_be_waited_for_in_vain() {
    start("messages", 2).pass();
}

#[test]
fn an_operation_can_be_looked_at() {
    start("looks", 2).pass();
}

#[test]
fn what_cannot_be_sent_is_refused_before_it_is() {
    start("arguments", 1).pass();
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

/// Stores, a group on them, a tensor, a collective and a message under way: dropped in each of the 120 orders, some of them
/// by another thread.
fn any_order(rank: &Rank) {
    type Object = Box<dyn std::any::Any + Send>;
    let other = 1 - rank.rank;
    let base = rank.store(TIMEOUT);
    for (round, order) in permutations(5).into_iter().enumerate() {
        let store = base.prefix(&round.to_string()).expect("a prefix");
        let inner = store.prefix("inner").expect("a prefix");
        let options = GlooOptions::new(Interface::Name("lo".into()), TIMEOUT);
        let group = ProcessGroup::gloo(&inner, rank.rank, 2, &options).expect("both come");
        let mut tensor = Tensor::full([1000], i64::from(rank.rank) + 1, (Kind::Float, Device::Cpu));
        let (seen, from_other) = (tensor.shallow_clone(), Tensor::zeros([1000], (Kind::Float, Device::Cpu)));
        let all_reduce = group.all_reduce(&mut tensor, ReduceOp::Sum).expect("it starts");
        let message = if rank.rank == 0 {
            group.send(&Tensor::ones([1000], (Kind::Float, Device::Cpu)), other, 7).expect("it starts")
        } else {
            group.recv(&mut from_other.shallow_clone(), other, 7).expect("it starts")
        };
        let mut objects: Vec<Option<Object>> = vec![
            Some(Box::new((store, inner))),
            Some(Box::new(group)),
            Some(Box::new(tensor)),
            Some(Box::new(all_reduce)),
            Some(Box::new(message)),
        ];
        for (turn, index) in order.into_iter().enumerate() {
            let object = objects[index].take().expect("each is dropped once");
            if (round + turn) % 7 == 0 {
                std::thread::spawn(move || drop(object)).join().expect("any thread may drop them");
            } else {
                drop(object);
            }
        }
        // The group's end waited for both operations, whoever held their works.
        assert_eq!(seen.double_value(&[999]), 3.0, "round {round}");
        assert_eq!(from_other.double_value(&[999]), f64::from(rank.rank), "round {round}");
    }
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let insert = |shorter: Vec<usize>| {
        (0..=shorter.len()).map(move |place| {
            let mut longer = shorter.clone();
            longer.insert(place, count - 1);
            longer
        })
    };
    permutations(count - 1).into_iter().flat_map(insert).collect()
}

fn messages(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let float = (Kind::Float, Device::Cpu);
    if rank.rank == 0 {
        rank.await_peer(1, "waited-in-vain");
        // Larger than any socket's buffers, and nobody holds the works.
        for tag in 0..3 {
            drop(group.send(&Tensor::full([1_000_000], i64::from(tag) + 1, float), 1, tag).expect("it starts"));
        }
    } else {
        let mut last = Tensor::zeros([1_000_000], float);
        let early = group.recv(&mut last, 0, 2).expect("it starts");
        let error = early.wait_timeout(Duration::from_millis(50)).expect_err("nothing was sent");
        assert!(matches!(error, Error::Timeout(_)), "{error:?}");
        assert!(!early.is_completed().expect("a look"));
        assert!(early.exception().is_none());
        assert!(group.failure().is_none(), "{:?}", group.failure());
        rank.reach("waited-in-vain");
        for tag in [1, 0] {
            let mut found = Tensor::zeros([1_000_000], float);
            group.recv(&mut found, 0, tag).and_then(|work| work.wait()).expect("it was sent");
            assert_eq!(found, Tensor::full([1_000_000], i64::from(tag) + 1, float));
        }
        early.wait().expect("it was sent");
        assert!(early.is_completed().expect("a look"));
        early.wait_timeout(Duration::ZERO).expect("it has ended");
        assert_eq!(last, Tensor::full([1_000_000], 3, float));
    }
    group.shutdown().expect("all is done");
}

fn looks(rank: &Rank) {
    let group = rank.group(Duration::from_secs(1));
    let zeros = || Tensor::zeros([1000], (Kind::Float, Device::Cpu));
    if rank.rank == 1 {
        rank.await_peer(0, "looked");
        group.all_reduce(&mut zeros(), ReduceOp::Sum).and_then(|work| work.wait()).expect("rank 0 is here");
        // Rank 0 waits for one more, in vain.
        rank.await_peer(0, "failed");
        return;
    }
    let work = group.all_reduce(&mut zeros(), ReduceOp::Sum).expect("it starts");
    assert!(!work.is_completed().expect("a look"));
    assert!(work.exception().is_none());
    rank.reach("looked");
    work.wait().expect("rank 1 comes");
    assert!(work.is_completed().expect("a look"));
    assert!(work.exception().is_none());

    // Nobody waits for this one: its end and its reason are seen all the same, and the group is closed.
    let work = group.all_reduce(&mut zeros(), ReduceOp::Sum).expect("it starts");
    while !work.is_completed().expect("a look") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let exception = work.exception().expect("rank 1 did not come");
    assert!(matches!(exception, Error::Timeout(_)), "{exception:?}");
    assert_eq!(work.wait().expect_err("the same"), exception);
    for refused in [group.barrier(), group.send(&zeros(), 1, 0)] {
        let error = refused.expect_err("the group is closed");
        assert!(matches!(&error, Error::Timeout(message) if message.contains("the group is closed")), "{error:?}");
    }
    let mut kept = Tensor::ones([1], (Kind::Float, Device::Cpu));
    group.all_reduce(&mut kept, ReduceOp::PreMulSum(2.0)).expect_err("the group is closed");
    assert_eq!(kept.double_value(&[0]), 1.0);
    assert!(matches!(group.failure(), Some(Error::Timeout(_))), "{:?}", group.failure());
    assert!(matches!(group.shutdown(), Err(Error::Timeout(_))));
    rank.reach("failed");
}

fn arguments(rank: &Rank) {
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

    // Lists, sizes, kinds, roots, peers.
    let some = |length: i64| Tensor::zeros([length], float);
    let other_kind = || Tensor::zeros([3], (Kind::Double, Device::Cpu));
    let sum = ReduceOp::Sum;
    invalid(group.all_gather(&mut [], &some(3)).map(drop));
    invalid(group.all_gather(&mut [some(3), some(3)], &some(3)).map(drop));
    invalid(group.all_gather(&mut [some(2)], &some(3)).map(drop));
    invalid(group.all_gather(&mut [some(3).view([3, 1])], &some(3)).map(drop));
    invalid(group.all_gather(&mut [other_kind()], &some(3)).map(drop));
    invalid(group.all_gather_into_tensor(&mut some(4), &some(3)).map(drop));
    invalid(group.all_gather_into_tensor(&mut other_kind(), &some(3)).map(drop));
    invalid(group.gather(&mut [], &some(3), 0).map(drop));
    invalid(group.gather(&mut [some(3)], &some(3), 1).map(drop));
    invalid(group.scatter(&mut some(3), &[some(2)], 0).map(drop));
    invalid(group.scatter(&mut some(3), &[], 0).map(drop));
    invalid(group.reduce(&mut some(3), 1, sum).map(drop));
    invalid(group.reduce_scatter(&mut some(3), &[some(2)], sum).map(drop));
    invalid(group.reduce_scatter_tensor(&mut some(3), &some(4), sum).map(drop));
    unsupported(group.reduce_scatter_tensor(&mut some(3), &some(3), ReduceOp::BitOr).map(drop));
    invalid(group.all_to_all(&mut [some(3)], &[]).map(drop));
    invalid(group.all_to_all(&mut [other_kind()], &[some(3)]).map(drop));
    invalid(group.all_to_all_single(&mut some(3), &some(3), &[2], &[3]).map(drop));
    invalid(group.all_to_all_single(&mut some(3), &some(3), &[], &[4, -1]).map(drop));
    invalid(group.all_to_all_single(&mut some(3), &Tensor::zeros([3, 2], float), &[], &[]).map(drop));
    invalid(group.all_to_all_single(&mut some(3), &Tensor::zeros([], float), &[], &[]).map(drop));
    invalid(group.send(&some(3), 0, 0).map(drop));
    invalid(group.send(&some(3), 1, 0).map(drop));
    invalid(group.recv(&mut some(3), 0, 0).map(drop));
    // None of that has harmed the group.
    group.all_reduce(&mut some(3), sum).and_then(|work| work.wait()).expect("sound");

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
