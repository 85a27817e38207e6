//! Death in the middle of a stream of operations: every victim, in worlds of 2 to 4 processes. All survivors stay alive until
//! all have been told, so that none is told by another's end.

mod support;

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use support::{Rank, Ranks, start};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Error, GlooOptions, Interface, ProcessGroup, ReduceOp, Result, Store};

const LONG: Duration = Duration::from_secs(25);
const SHORT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(1);

#[test]
fn rank() {
    support::rank_process(&[
        ("killed", killed),
        ("unwaited", unwaited),
        ("stopped", stopped),
        ("store_host", store_host),
        ("store_alone", store_alone),
        ("aborts", aborts),
    ]);
}

#[test]
fn every_survivor_of_a_kill_is_told_within_a_second() {
    each_victim(|world_size, victim| {
        let mut ranks = start("killed", world_size);
        await_all(&ranks, world_size, "streaming");
        ranks.kill(victim);
        survivors_pass(ranks, victim);
    });
}

#[test]
fn survivors_that_wait_for_nothing_are_told_at_the_next_operation() {
    each_victim(|world_size, victim| {
        let mut ranks = start("unwaited", world_size);
        await_all(&ranks, world_size, "started");
        ranks.kill(victim);
        survivors_pass(ranks, victim);
    });
}

#[test]
fn every_survivor_of_a_stop_is_told_by_the_timeout() {
    each_victim(|world_size, victim| {
        let mut ranks = start("stopped", world_size);
        await_all(&ranks, world_size, "streaming");
        ranks.stop(victim);
        for rank in (0..world_size).filter(|rank| *rank != victim) {
            ranks.await_point(rank, "told");
        }
        ranks.end(victim);
        survivors_pass(ranks, victim);
    });
}

#[test]
fn the_death_of_the_stores_host_is_told_within_a_second() {
    for world_size in 2..=4 {
        let mut ranks = start("store_host", world_size);
        await_all(&ranks, world_size, "streaming");
        ranks.kill(0);
        survivors_pass(ranks, 0);
    }
}

#[test]
fn a_group_outlives_a_store_that_no_rank_of_it_serves() {
    let mut ranks = start("store_alone", 4);
    await_all(&ranks, 4, "waiting");
    ranks.kill(3);
    survivors_pass(ranks, 3);
}

#[test]
fn a_rank_that_aborts_ends_the_group_for_all() {
    for world_size in 2..=4 {
        start("aborts", world_size).pass();
    }
}

fn each_victim(case: impl Fn(u32, u32)) {
    for world_size in 2..=4 {
        for victim in 0..world_size {
            case(world_size, victim);
        }
    }
}

fn await_all(ranks: &Ranks, world_size: u32, point: &str) {
    for rank in 0..world_size {
        ranks.await_point(rank, point);
    }
}

fn survivors_pass(ranks: Ranks, victim: u32) {
    for (rank, outcome) in ranks.outcomes().iter().enumerate().filter(|(rank, _)| *rank != victim as usize) {
        outcome.assert_passed(rank);
        for told in outcome.output.lines().filter(|line| line.starts_with("told after")) {
            println!("victim {victim}, rank {rank} {told}");
        }
    }
}

/// One round of operations in which every rank has business with others, but not each with all at any moment.
fn round(group: &ProcessGroup) -> Result<()> {
    let (own, ranks) = (group.rank(), group.world_size());
    let values = || Tensor::ones([10_000], (Kind::Float, Device::Cpu));
    group.all_reduce(&mut values(), ReduceOp::Sum)?.wait()?;
    group.broadcast(&mut values(), ranks - 1)?.wait()?;
    let mut outputs: Vec<_> = (0..ranks).map(|_| values()).collect();
    group.all_gather(&mut outputs, &values())?.wait()?;
    group.reduce_scatter(&mut values(), &outputs, ReduceOp::Max)?.wait()?;
    group.reduce(&mut values(), 0, ReduceOp::Sum)?.wait()?;
    let send = group.send(&values(), (own + 1) % ranks, 3)?;
    group.recv(&mut values(), (own + ranks - 1) % ranks, 3)?.wait()?;
    send.wait()?;
    group.barrier()?.wait()
}

/// Works until a failure, and says when it has begun.
fn stream(rank: &Rank, group: &ProcessGroup) -> Error {
    tch::set_num_threads(1);
    for count in 0.. {
        if let Err(error) = round(group) {
            return error;
        }
        if count == 10 {
            rank.reach("streaming");
        }
    }
    unreachable!("the world would have ended before")
}

/// Stays until every survivor has been told, then looks at what the group makes of it.
fn stay(rank: &Rank, group: ProcessGroup, victim: impl Fn(u32) -> bool) {
    rank.reach("told");
    for peer in (0..rank.world_size).filter(|peer| !victim(*peer)) {
        rank.await_peer(peer, "told");
    }
    let refused = group.barrier().expect_err("the group is closed");
    assert!(refused.to_string().contains("the group is closed since"), "{refused:?}");
    let start = Instant::now();
    group.shutdown().expect_err("it is told again");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// Who is dead is known by who has not been told: the test waits for the points of the others.
fn dead(rank: &Rank) -> impl Fn(u32) -> bool + use<> {
    let path = rank.dir.join("victim");
    let victim: u32 = std::fs::read_to_string(path).expect("the test wrote it").parse().expect("a rank");
    move |peer| peer == victim
}

fn killed(rank: &Rank) {
    let group = rank.group(LONG);
    let error = stream(rank, &group);
    let told = rank.since_kill();
    assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
    assert!(told < SOON, "{told:?}: {error}");
    println!("told after {told:?}");
    stay(rank, group, dead(rank));
}

/// All ranks have a collective under way that cannot end; nobody waits for it.
fn unwaited(rank: &Rank) {
    let group = rank.group(LONG);
    let mut values = Tensor::ones([1000], (Kind::Float, Device::Cpu));
    let recv = group.recv(&mut values, (rank.rank + 1) % rank.world_size, 9).expect("it starts");
    rank.reach("started");
    // Not waiting: computing. The group closes by itself.
    while group.failure().is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    let told = rank.since_kill();
    assert!(told < SOON, "{told:?}");
    let error = group.all_reduce(&mut values, ReduceOp::Sum).expect_err("the group is closed");
    assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
    let error = recv.wait().expect_err("nobody sent");
    assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
    stay(rank, group, dead(rank));
}

fn stopped(rank: &Rank) {
    let group = rank.group(SHORT);
    let error = stream(rank, &group);
    let told = rank.since_kill();
    // The first to know by the deadline closes its connections, which the others meet.
    assert!(matches!(error, Error::Timeout(_) | Error::PeerLost(_)), "{error:?}");
    assert!(told < SHORT + Duration::from_millis(500), "{told:?}: {error}");
    println!("told after {told:?}");
    stay(rank, group, dead(rank));
}

/// A store over TCP that `host` serves.
fn tcp_store(rank: &Rank, host: u32) -> Store {
    let path = rank.dir.join("port");
    if rank.rank == host {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        std::fs::write(path, listener.local_addr().expect("bound").port().to_string()).expect("writable");
        let store = Store::tcp_server(listener, LONG).expect("a server");
        rank.reach("serving");
        return store;
    }
    rank.await_peer(host, "serving");
    let port = std::fs::read_to_string(path).expect("written").parse().expect("a port");
    Store::tcp_client("127.0.0.1", port, LONG).expect("it serves")
}

fn lo() -> GlooOptions {
    GlooOptions::new(Interface::Name("lo".into()), LONG)
}

/// A thread that waits for a key nobody sets; it answers how long after the kill it was told.
fn wait_in_vain(rank: &Rank, store: Store) -> thread::JoinHandle<Duration> {
    let rank = Rank { dir: rank.dir.clone(), ..*rank };
    thread::spawn(move || {
        let error = store.wait(&["never"], LONG).expect_err("the host dies");
        assert!(matches!(error, Error::Network(_) | Error::PeerLost(_)), "{error:?}");
        rank.since_kill()
    })
}

/// Rank 0 serves the store and dies: those in a collective and those that wait for the store are told.
fn store_host(rank: &Rank) {
    let group = ProcessGroup::gloo(&tcp_store(rank, 0), rank.rank, rank.world_size, &lo()).expect("all come");
    let waiting = wait_in_vain(rank, tcp_store_again(rank));
    let error = stream(rank, &group);
    let told = rank.since_kill();
    assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
    assert!(told < SOON, "{told:?}");
    let told = waiting.join().expect("no panic");
    assert!(told < SOON, "{told:?}");
    stay(rank, group, |peer| peer == 0);
}

fn tcp_store_again(rank: &Rank) -> Store {
    let port = std::fs::read_to_string(rank.dir.join("port")).expect("written").parse().expect("a port");
    Store::tcp_client("127.0.0.1", port, LONG).expect("it serves")
}

/// The last process serves the store and is no rank of the group.
fn store_alone(rank: &Rank) {
    let host = rank.world_size - 1;
    let store = tcp_store(rank, host);
    if rank.rank == host {
        rank.reach("waiting");
        rank.await_peer(99, "never");
        return;
    }
    let group = ProcessGroup::gloo(&store, rank.rank, host, &lo()).expect("all come");
    let waiting = wait_in_vain(rank, tcp_store_again(rank));
    rank.reach("waiting");
    let told = waiting.join().expect("no panic");
    assert!(told < SOON, "{told:?}");
    let error = store.get("never").expect_err("the host is dead");
    assert!(matches!(error, Error::Network(_) | Error::PeerLost(_)), "{error:?}");
    round(&group).expect("connected ranks need no store");
    group.shutdown().expect("sound");
}

/// The last rank aborts while the others wait for it.
fn aborts(rank: &Rank) {
    let group = rank.group(LONG);
    round(&group).expect("sound");
    let mut values = Tensor::ones([1000], (Kind::Float, Device::Cpu));
    if rank.rank + 1 == rank.world_size {
        let recv = group.recv(&mut values, 0, 5).expect("it starts");
        for peer in 0..rank.rank {
            rank.await_peer(peer, "waiting");
        }
        let start = Instant::now();
        group.abort().expect("it ends");
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        let error = recv.wait().expect_err("aborted");
        assert!(error.to_string().contains("abort"), "{error:?}");
        rank.reach("aborted");
        return;
    }
    let work = group.all_reduce(&mut values, ReduceOp::Sum).expect("it starts");
    rank.reach("waiting");
    let error = work.wait().expect_err("the last rank aborts");
    assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
    // Nobody leaves before: an end would be told in the same way.
    for peer in 0..rank.rank {
        rank.await_peer(peer, "waiting");
    }
    rank.await_peer(rank.world_size - 1, "aborted");
}
