//! What a rank is told when a peer is late, dead, or never there, and how soon.

mod support;

use std::time::{Duration, Instant};

use support::{Rank, start, start_some};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Error, GlooOptions, Interface, ProcessGroup, ReduceOp};

const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(25);

#[test]
fn rank() {
    support::rank_process(&[
        ("late", late),
        ("lost", lost),
        ("lost_idle", lost_idle),
        ("absent", absent),
        ("unmonitored", unmonitored),
    ]);
}

#[test]
fn a_late_peer_is_a_timeout_in_time() {
    start("late", 2).pass();
}

#[test]
fn a_killed_peer_is_a_lost_peer_within_a_second() {
    for world_size in 2..=3 {
        let mut ranks = start("lost", world_size);
        for rank in 0..world_size {
            ranks.await_point(rank, "connected");
        }
        ranks.kill(1);
        for (rank, outcome) in ranks.outcomes().iter().enumerate().filter(|(rank, _)| *rank != 1) {
            outcome.assert_passed(rank);
        }
    }
}

#[test]
fn a_peer_killed_between_collectives_is_lost_at_the_next() {
    let mut ranks = start("lost_idle", 2);
    ranks.await_point(0, "idle");
    ranks.kill(1);
    ranks.outcomes()[0].assert_passed(0);
}

#[test]
fn a_rank_that_never_comes_ends_the_connecting() {
    for outcome in start_some("absent", 3, [0, 2]).outcomes() {
        outcome.assert_passed(0);
    }
}

#[test]
fn a_monitored_barrier_names_who_is_missing() {
    start("unmonitored", 3).pass();
}

fn ones() -> Tensor {
    Tensor::ones([1000], (Kind::Float, Device::Cpu))
}

fn late(rank: &Rank) {
    let group = rank.group(SHORT);
    if rank.rank == 1 {
        rank.await_peer(0, "gave-up");
        return;
    }
    let start = Instant::now();
    let error = group.all_reduce(&mut ones(), ReduceOp::Sum).and_then(|work| work.wait()).expect_err("rank 1 is late");
    let took = start.elapsed();
    rank.reach("gave-up");
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    assert!(took >= SHORT && took < SHORT + Duration::from_millis(500), "{took:?}");
}

/// Every rank sends to and receives from every other, so that each one is the dead rank's neighbour.
fn lost(rank: &Rank) {
    let group = rank.group(LONG);
    if rank.rank == 1 {
        rank.reach("connected");
        // Ends by SIGKILL: nobody reaches this point.
        rank.await_peer(9, "never");
        return;
    }
    let work = group.all_reduce(&mut ones(), ReduceOp::Sum).expect("it starts");
    rank.reach("connected");
    let error = work.wait().expect_err("rank 1 dies");
    let told = rank.since_kill();
    assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
    assert!(told < Duration::from_secs(1), "{told:?}");
}

fn lost_idle(rank: &Rank) {
    let group = rank.group(LONG);
    group.barrier().and_then(|work| work.wait()).expect("both are here");
    rank.reach("idle");
    if rank.rank == 1 {
        rank.await_peer(9, "never");
        return;
    }
    // The kill comes at any time from now on: before the collective, or while it waits for the dead.
    let error = group.all_reduce(&mut ones(), ReduceOp::Sum).and_then(|work| work.wait()).expect_err("rank 1 dies");
    let told = rank.since_kill();
    assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
    assert!(told < Duration::from_secs(1), "{told:?}");
}

fn absent(rank: &Rank) {
    let start = Instant::now();
    let options = GlooOptions::new(Interface::Name("lo".into()), SHORT);
    let error = ProcessGroup::gloo(&rank.store(SHORT), rank.rank, 3, &options).expect_err("rank 1 never comes");
    let took = start.elapsed();
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    assert!(took < SHORT * 2 + Duration::from_millis(500), "{took:?}");
}

fn unmonitored(rank: &Rank) {
    let group = rank.group(LONG);
    match rank.rank {
        0 => {
            let start = Instant::now();
            let error = group.monitored_barrier(SHORT, true).expect_err("rank 2 stays away");
            rank.reach("named");
            assert!(error.to_string().to_lowercase().contains("ranks 2 failed"), "{error:?}");
            assert!(start.elapsed() < SHORT + Duration::from_millis(500), "{:?}", start.elapsed());
        }
        1 => {
            // Rank 0 tells its peers of the failure only by leaving.
            let _ = group.monitored_barrier(SHORT, true);
            rank.await_peer(0, "named");
        }
        _ => rank.await_peer(0, "named"),
    }
}
