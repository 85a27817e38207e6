//! What becomes of the others when a rank fails in a step of DDP.

mod support;

use std::time::{Duration, Instant};

use support::net::{Batch, Net, distance};
use support::{Rank, start};
use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Ddp, DdpOptions, Error};

const LONG: Duration = Duration::from_secs(25);

#[test]
fn rank() {
    support::rank_process(&[
        ("killed", killed),
        ("late", late),
        ("throws", throws),
        ("throws_alone", throws_alone),
        ("misuse", misuse),
    ]);
}

#[test]
fn a_peer_killed_inside_an_overlapped_backward_is_lost_within_a_second() {
    for world_size in 2..=3 {
        let mut ranks = start("killed", world_size);
        // The buckets of the survivors are on their way, those of the victim are not all, at any time in the next seconds.
        ranks.await_point(1, "backward");
        std::thread::sleep(Duration::from_millis(200));
        ranks.kill(1);
        for (rank, outcome) in ranks.outcomes().iter().enumerate().filter(|(rank, _)| *rank != 1) {
            outcome.assert_passed(rank);
        }
    }
}

#[test]
fn a_peer_that_does_not_come_is_a_timeout() {
    start("late", 2).pass();
}

#[test]
fn a_rank_whose_backward_throws_neither_hangs_nor_lets_others_hang() {
    start("throws", 2).pass();
}

#[test]
fn a_failure_without_synchronisation_is_this_ranks_own() {
    start("throws_alone", 2).pass();
}

#[test]
fn what_is_no_loss_is_refused() {
    start("misuse", 1).pass();
}

/// Wide layers: with many rows their backward pass takes seconds, with one row it takes milliseconds.
fn wide() -> (nn::VarStore, Vec<nn::Linear>) {
    let vs = nn::VarStore::new(Device::Cpu);
    let layers =
        (0..12).map(|i| nn::linear(vs.root() / format!("{i}"), 512, 512, Default::default())).collect::<Vec<_>>();
    (vs, layers)
}

fn small() -> DdpOptions {
    DdpOptions { first_bucket_bytes: 1 << 20, bucket_bytes: 1 << 20, ..Default::default() }
}

fn killed(rank: &Rank) {
    let group = rank.group(LONG);
    tch::set_num_threads(1);
    let (vs, layers) = wide();
    let mut ddp = Ddp::new(&group, &vs, &small()).expect("all ranks come");
    for step in 0..3 {
        let last = step == 2;
        let rows = if last && rank.rank == 1 { 40_000 } else { 1 };
        let rows = Tensor::ones([rows, 512], (Kind::Float, Device::Cpu));
        let loss = ddp
            .forward(|| {
                // Without tanh the values would grow from layer to layer; it is cheap beside the products.
                let out = layers.iter().fold(rows, |xs, layer| layer.forward(&xs).tanh());
                out.mean(Kind::Float)
            })
            .expect("all are here");
        if last && rank.rank == 1 {
            rank.reach("backward");
        }
        let answer = ddp.backward(&loss);
        if !last {
            answer.expect("all are here");
            ddp.zero_grad().expect("reset");
            continue;
        }
        assert_ne!(rank.rank, 1, "killed too late: the backward pass is over");
        let error = answer.expect_err("rank 1 dies");
        let told = rank.since_kill();
        assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
        assert!(told < Duration::from_secs(1), "{told:?}");
    }
    let start = Instant::now();
    drop(ddp);
    drop(group);
    assert!(start.elapsed() < Duration::from_secs(1), "dropping took {:?}", start.elapsed());
}

fn late(rank: &Rank) {
    let short = Duration::from_secs(1);
    let group = rank.group(short);
    let net = Net::new(1);
    let options = DdpOptions { find_unused_parameters: true, ..small() };
    let mut ddp = Ddp::new(&group, &net.vs, &options).expect("both come");
    let batch = Batch::new(2, 0);
    if rank.rank == 1 {
        rank.await_peer(0, "gave-up");
        return;
    }
    let loss = ddp.forward(|| net.loss(&batch)).expect("forward");
    let start = Instant::now();
    let error = ddp.backward(&loss).expect_err("rank 1 stays away");
    rank.reach("gave-up");
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    assert!(start.elapsed() < short + Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(ddp.forward(|| net.loss(&batch)).expect_err("it refuses to go on"), error);
}

/// A loss whose backward pass throws after the layers at the end have had their gradients: a weight that it needs is changed
/// under it, and its version tells.
fn broken_loss(net: &Net, batch: &Batch) -> Tensor {
    let loss = net.loss(batch);
    tch::no_grad(|| {
        let mut needed = net.vs.variables()["second.weight"].shallow_clone();
        needed += 1.0;
    });
    loss
}

fn throws(rank: &Rank) {
    let group = rank.group(LONG);
    let net = Net::new(1);
    for (name, variable) in net.vs.variables() {
        if name.starts_with("branch") {
            let _ = variable.set_requires_grad(false);
        }
    }
    let options = DdpOptions { first_bucket_bytes: 100, bucket_bytes: 100, ..Default::default() };
    let mut ddp = Ddp::new(&group, &net.vs, &options).expect("both come");
    let batch = Batch::new(2, 0);
    for _ in 0..2 {
        let loss = ddp.forward(|| net.loss(&batch)).expect("forward");
        ddp.backward(&loss).expect("backward");
        ddp.zero_grad().expect("reset");
    }
    let start = Instant::now();
    let loss = ddp.forward(|| if rank.rank == 1 { broken_loss(&net, &batch) } else { net.loss(&batch) });
    let error = ddp.backward(&loss.expect("forward")).expect_err("rank 1 cannot go on");
    if rank.rank == 1 {
        assert!(error.to_string().contains("inplace"), "{error:?}");
    } else {
        assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
    }
    assert_eq!(ddp.forward(|| net.loss(&batch)).expect_err("it refuses to go on"), error);
    drop(ddp);
    drop(group);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

fn throws_alone(rank: &Rank) {
    let group = rank.group(LONG);
    let net = Net::new(1);
    let options = DdpOptions { find_unused_parameters: true, ..small() };
    let mut ddp = Ddp::new(&group, &net.vs, &options).expect("both come");
    let batch = Batch::new(2, 0);
    let weights = net.vs.variables()["second.weight"].copy();
    let error = ddp.no_sync(|ddp| {
        let loss = ddp.forward(|| broken_loss(&net, &batch)).expect("forward");
        ddp.backward(&loss).expect_err("the weight has changed")
    });
    assert!(error.to_string().contains("inplace"), "{error:?}");
    net.vs.variables()["second.weight"].detach().copy_(&weights);
    ddp.zero_grad().expect("reset");
    let loss = ddp.forward(|| net.loss(&batch)).expect("the group is as good as before");
    ddp.backward(&loss).expect("both are here");
    let found = distance(&net.gradients(), &net.alone(|net| net.loss(&batch)));
    assert!(found <= 1e-6, "{found}");
}

fn misuse(rank: &Rank) {
    let group = rank.group(LONG);
    let net = Net::new(1);
    let mut ddp = Ddp::new(&group, &net.vs, &small()).expect("it comes");
    for tensor in
        [Tensor::new(), Tensor::from(1.0), Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true)]
    {
        let error = ddp.backward(&tensor).expect_err("no loss");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    }
}
