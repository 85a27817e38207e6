//! Memory of a long training. 300 steps, or 2,000 with `EVENKEEL_TEST_LONG=1`.

mod support;

use std::time::Duration;
use std::{env, fs};

use support::net::numbers;
use support::{Rank, start};
use tch::nn::{self, BatchNormConfig, ModuleT};
use tch::{Device, Kind};
use tch_distributed::{Ddp, DdpOptions, GlooOptions, Interface, ProcessGroup, Store, SyncBatchNorm, SyncGroup};

const TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn rank() {
    support::rank_process(&[("steps", steps)]);
}

#[test]
fn memory_is_flat_over_many_steps() {
    start("steps", 2).pass();
}

/// Resident memory, in bytes.
fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096.0
}

fn steps(rank: &Rank) {
    let steps = if env::var_os("EVENKEEL_TEST_LONG").is_some_and(|long| long == "1") { 2000 } else { 300 };
    tch::set_num_threads(1);
    let group = rank.group(TIMEOUT);
    let store = Store::file(&rank.dir.join("norm"), Some(2), TIMEOUT).expect("a store");
    let options = GlooOptions::new(Interface::Name("lo".into()), TIMEOUT);
    let norm = ProcessGroup::gloo(&store, rank.rank, 2, &options).and_then(SyncGroup::new).expect("both come");

    // A megabyte of gradients: one set of them a step that is not given back is a multiple of what is allowed.
    let vs = nn::VarStore::new(Device::Cpu);
    let net = nn::seq_t()
        .add(nn::linear(vs.root() / "first", 64, 512, Default::default()))
        .add(SyncBatchNorm::new(vs.root() / "norm", &norm, 512, BatchNormConfig::default()))
        .add_fn(|xs| xs.relu())
        .add(nn::linear(vs.root() / "last", 512, 448, Default::default()));
    let options = DdpOptions { bucket_bytes: 300_000, find_unused_parameters: true, ..Default::default() };
    let mut ddp = Ddp::new(&group, &vs, &options).expect("both come");
    let rows = numbers(8 * 64, u64::from(rank.rank)).view([8, 64]);
    let mut highest_of_half = [0.0_f64; 2];
    for step in 0..steps {
        let loss = |scale: f64| (net.forward_t(&rows, true) * scale).square().mean(Kind::Float);
        ddp.no_sync(|ddp| {
            let loss = ddp.forward(|| loss(0.5)).expect("forward");
            ddp.backward(&loss).expect("backward");
        });
        let loss = ddp.forward(|| loss(1.0)).expect("forward");
        ddp.backward(&loss).expect("backward");
        ddp.zero_grad().expect("reset");
        let half = &mut highest_of_half[usize::from(step >= steps / 2)];
        *half = half.max(resident());
    }
    let [first, second] = highest_of_half;
    println!("resident memory: {first} bytes in the first half of {steps} steps, {second} in the second");
    // The allocator alone keeps a percent more at one time than at another.
    assert!(second <= first * 1.02, "{second} after {first} bytes");
}
