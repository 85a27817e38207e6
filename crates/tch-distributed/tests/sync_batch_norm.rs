//! Batch normalisation over the batches of several processes against libtorch's own over one batch. Where it is about the
//! last places of a float, libtorch's own computes in double: its sums in single precision are less exact than ours.

mod support;

use std::sync::mpsc;
use std::time::Duration;

use support::net::{gap, numbers};
use support::{Rank, start};
use tch::nn::{self, BatchNormConfig, ModuleT};
use tch::{Device, Kind, Tensor};
use tch_distributed::{
    Ddp, DdpOptions, Error, GlooOptions, Interface, ProcessGroup, ReduceOp, SyncBatchNorm, SyncGroup,
};

const TIMEOUT: Duration = Duration::from_secs(30);
const CHANNELS: i64 = 4;

#[test]
fn rank() {
    support::rank_process(&[
        ("whole_batch", whole_batch),
        ("half_kinds", half_kinds),
        ("running", running),
        ("evaluation", evaluation),
        ("too_few", too_few),
        ("arguments", arguments),
        ("other_thread", other_thread),
        ("under_ddp", under_ddp),
        ("lost", lost),
    ]);
}

#[test]
fn forward_and_gradients_are_those_of_the_whole_batch() {
    for world_size in 1..=4 {
        start("whole_batch", world_size).pass();
    }
}

#[test]
fn half_kinds_are_normalised_in_single_precision() {
    start("half_kinds", 2).pass();
}

#[test]
fn running_statistics_are_those_of_the_whole_batch() {
    for world_size in 1..=3 {
        start("running", world_size).pass();
    }
}

#[test]
fn evaluation_sends_nothing() {
    start("evaluation", 2).pass();
}

#[test]
fn one_value_a_channel_is_refused_on_every_rank() {
    start("too_few", 2).pass();
}

#[test]
fn unfit_inputs_are_refused() {
    start("arguments", 1).pass();
}

#[test]
fn the_backward_pass_may_run_on_another_thread() {
    start("other_thread", 2).pass();
}

#[test]
fn gradients_under_ddp_are_those_of_one_process() {
    start("under_ddp", 3).pass();
}

#[test]
fn a_killed_peer_is_a_lost_peer_in_the_backward_pass() {
    let mut ranks = start("lost", 2);
    for rank in 0..2 {
        ranks.await_point(rank, "forward");
    }
    ranks.kill(1);
    ranks.outcomes()[0].assert_passed(0);
}

/// How many images each rank has: uneven, and in the larger worlds one has none.
fn sizes(world_size: u32) -> &'static [i64] {
    match world_size {
        1 => &[3],
        2 => &[5, 2],
        3 => &[3, 0, 4],
        _ => &[1, 6, 0, 2],
    }
}

fn own(rank: &Rank, whole: &Tensor) -> (i64, i64, Tensor) {
    let sizes = sizes(rank.world_size);
    let start = sizes[..rank.rank as usize].iter().sum();
    let images = sizes[rank.rank as usize];
    (start, images, whole.narrow(0, start, images))
}

fn group(rank: &Rank) -> SyncGroup {
    SyncGroup::new(rank.group(TIMEOUT)).expect("a group")
}

fn config(affine: bool) -> BatchNormConfig {
    BatchNormConfig { affine, ..Default::default() }
}

/// Weights and bias of any value.
fn set(ws: &Option<Tensor>, bs: &Option<Tensor>) {
    if let (Some(ws), Some(bs)) = (ws, bs) {
        let kind = ws.kind();
        ws.detach().copy_(&numbers(CHANNELS, 5).to_kind(kind));
        bs.detach().copy_(&numbers(CHANNELS, 6).to_kind(kind));
    }
}

fn one_process(vs: &nn::VarStore, dimensions: usize, affine: bool) -> nn::BatchNorm {
    let layer = match dimensions {
        2 | 3 => nn::batch_norm1d(vs.root(), CHANNELS, config(affine)),
        4 => nn::batch_norm2d(vs.root(), CHANNELS, config(affine)),
        _ => nn::batch_norm3d(vs.root(), CHANNELS, config(affine)),
    };
    set(&layer.ws, &layer.bs);
    layer
}

fn shape(images: i64, dimensions: usize) -> Vec<i64> {
    [images, CHANNELS, 3, 2, 5][..dimensions].to_vec()
}

/// Values far from zero, with a spread that differs between the channels.
fn input(images: i64, dimensions: usize, kind: Kind, seed: u64) -> Tensor {
    let shape = shape(images, dimensions);
    let spread = Tensor::from_slice(&[0.5, 1.0, 2.0, 3.0]).view([1, CHANNELS, 1, 1, 1]);
    let spread = spread.view([&[1, CHANNELS][..], &vec![1; dimensions - 2]].concat().as_slice());
    let values = numbers(shape.iter().product(), seed).view(shape.as_slice()).to_kind(Kind::Double);
    (values * spread + 0.7).to_kind(kind)
}

fn whole_batch(rank: &Rank) {
    let group = group(rank);
    let sum = sum_group(rank);
    let total = sizes(rank.world_size).iter().sum();
    for kind in [Kind::Float, Kind::Double] {
        for dimensions in 2..=5 {
            for affine in [true, false] {
                let place = format!("{kind:?}, {dimensions} dimensions, affine {affine}");
                let mut alone_vs = nn::VarStore::new(Device::Cpu);
                let alone = one_process(&alone_vs, dimensions, affine);
                alone_vs.set_kind(Kind::Double);
                let mut vs = nn::VarStore::new(Device::Cpu);
                let layer = SyncBatchNorm::new(vs.root(), &group, CHANNELS, config(affine));
                vs.set_kind(kind);
                set(&layer.ws, &layer.bs);
                let whole = input(total, dimensions, kind, 1);
                let slope = input(total, dimensions, kind, 2);
                let (start, images, part) = own(rank, &whole);
                let whole = whole.to_kind(Kind::Double).copy().set_requires_grad(true);
                let expected = alone.forward_t(&whole, true);
                (&expected * &slope).sum(Kind::Double).backward();

                let part = part.copy().set_requires_grad(true);
                let found = layer.forward_t(&part, true);
                assert_eq!(found.kind(), kind);
                (&found * slope.narrow(0, start, images)).sum(kind).backward();

                let tolerance = if kind == Kind::Float { 1e-6 } else { 1e-12 };
                let close = |what: &str, a: &Tensor, b: &Tensor, scale: f64| {
                    let gap = gap(a, b);
                    assert!(gap <= tolerance * scale, "{what} differs by {gap}: {place}");
                };
                close("the output", &found, &expected.narrow(0, start, images), 1.0);
                close("the gradient", &part.grad(), &whole.grad().narrow(0, start, images), 1.0);
                for (own, one) in [(&layer.ws, &alone.ws), (&layer.bs, &alone.bs)] {
                    let (Some(own), Some(one)) = (own, one) else { continue };
                    let mut gradient = own.grad();
                    sum.all_reduce(&mut gradient, ReduceOp::Sum).and_then(|work| work.wait()).expect("a sum");
                    // A sum over the batch: to the last place of its own size.
                    let scale = one.grad().abs().max().double_value(&[]).max(1.0);
                    close("a parameter's gradient", &gradient, &one.grad(), scale);
                }
                close("the running mean", &layer.running_mean, &alone.running_mean, 1.0);
                close("the running variance", &layer.running_var, &alone.running_var, 1.0);
            }
        }
    }
}

/// Another group of the same ranks.
fn sum_group(rank: &Rank) -> ProcessGroup {
    let store =
        tch_distributed::Store::file(&rank.dir.join("second"), Some(rank.world_size), TIMEOUT).expect("a store");
    let options = GlooOptions::new(Interface::Name("lo".into()), TIMEOUT);
    ProcessGroup::gloo(&store, rank.rank, rank.world_size, &options).expect("all ranks come")
}

fn half_kinds(rank: &Rank) {
    let group = group(rank);
    for (kind, precision) in [(Kind::BFloat16, 1.0 / 128.0), (Kind::Half, 1.0 / 1024.0)] {
        let vs = nn::VarStore::new(Device::Cpu);
        let layer = SyncBatchNorm::new(vs.root(), &group, CHANNELS, config(true));
        set(&layer.ws, &layer.bs);
        let alone_vs = nn::VarStore::new(Device::Cpu);
        let alone = one_process(&alone_vs, 4, true);
        let whole = input(7, 4, kind, 3);
        let (start, images, part) = own(rank, &whole);
        // The same rounded values in single precision: all that may differ is the rounding of the result.
        let whole = whole.to_kind(Kind::Float).set_requires_grad(true);
        let expected = alone.forward_t(&whole, true);
        expected.square().sum(Kind::Float).backward();
        let part = part.copy().set_requires_grad(true);
        let found = layer.forward_t(&part, true);
        assert_eq!(found.kind(), kind);
        let largest = expected.abs().max().double_value(&[]);
        assert!(gap(&found, &expected.narrow(0, start, images)) <= largest * precision);
        found.to_kind(Kind::Float).square().sum(Kind::Float).backward();
        assert_eq!(part.grad().kind(), kind);
        // The upstream gradient, twice the rounded output, is itself off by as much.
        let allowed = 8.0 * precision * whole.grad().abs().max().double_value(&[]).max(1.0);
        assert!(gap(&part.grad(), &whole.grad().narrow(0, start, images)) <= allowed);
        assert!(gap(&layer.running_mean, &alone.running_mean) <= 1e-6, "in single precision");
        assert!(gap(&layer.running_var, &alone.running_var) <= 1e-6, "in single precision");
    }
}

fn running(rank: &Rank) {
    let group = group(rank);
    let vs = nn::VarStore::new(Device::Cpu);
    let config = BatchNormConfig { momentum: 0.3, eps: 1e-3, ..Default::default() };
    let layer = SyncBatchNorm::new(vs.root(), &group, CHANNELS, config);
    let alone_vs = nn::VarStore::new(Device::Cpu);
    let alone = nn::batch_norm2d(alone_vs.root(), CHANNELS, config);
    set(&layer.ws, &layer.bs);
    set(&alone.ws, &alone.bs);
    let total = sizes(rank.world_size).iter().sum();
    for step in 0..5 {
        let whole = input(total, 4, Kind::Float, step);
        let (start, images, part) = own(rank, &whole);
        let found = layer.forward_t(&part, true);
        let expected = alone.forward_t(&whole, true);
        assert!(gap(&found, &expected.narrow(0, start, images)) <= 1e-6);
        assert!(gap(&layer.running_mean, &alone.running_mean) <= 1e-6, "step {step}");
        assert!(gap(&layer.running_var, &alone.running_var) <= 1e-6, "step {step}");
    }
    // Variables of one layer serve the other.
    let mut names: Vec<_> = vs.variables().into_keys().collect();
    let mut expected: Vec<_> = alone_vs.variables().into_keys().collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    let whole = input(total, 4, Kind::Float, 9);
    assert!(gap(&layer.forward_t(&whole, false), &alone.forward_t(&whole, false)) <= 1e-6);
}

fn evaluation(rank: &Rank) {
    let group = group(rank);
    assert_eq!(group.world_size(), 2);
    let vs = nn::VarStore::new(Device::Cpu);
    let layer = SyncBatchNorm::new(vs.root(), &group, CHANNELS, config(true));
    if rank.rank == 0 {
        let before = layer.running_mean.copy();
        let alone_vs = nn::VarStore::new(Device::Cpu);
        let alone = one_process(&alone_vs, 4, true);
        set(&layer.ws, &layer.bs);
        let whole = input(3, 4, Kind::Float, 0).set_requires_grad(true);
        let found = layer.forward_t(&whole, false);
        assert_eq!(gap(&found, &alone.forward_t(&whole, false)), 0.0);
        found.sum(Kind::Float).backward();
        assert_eq!(layer.running_mean, before);
    }
}

fn too_few(rank: &Rank) {
    let group = group(rank);
    let vs = nn::VarStore::new(Device::Cpu);
    let layer = SyncBatchNorm::new(vs.root(), &group, CHANNELS, config(true));
    // One image of one value a channel on rank 0, none on rank 1.
    let images = 1 - i64::from(rank.rank);
    let error = layer.f_forward_t(&input(images, 2, Kind::Float, 0), true).expect_err("one value has no variance");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    let error = layer.f_forward_t(&input(0, 2, Kind::Float, 0), true).expect_err("no value has no mean");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    // One on each rank is enough.
    let found = layer.f_forward_t(&input(1, 2, Kind::Float, u64::from(rank.rank)), true).expect("two values");
    assert!(found.isfinite().all().int64_value(&[]) == 1);
}

fn arguments(rank: &Rank) {
    let group = group(rank);
    let vs = nn::VarStore::new(Device::Cpu);
    let layer = SyncBatchNorm::new(vs.root(), &group, CHANNELS, config(true));
    let float = (Kind::Float, Device::Cpu);
    for shape in [&[4][..], &[2, 3], &[2, 3, 4, 4], &[1, 4, 1, 1, 1, 1]] {
        let error = layer.f_forward_t(&Tensor::ones(shape, float), true).expect_err("refused");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    }
    let error = layer.f_forward_t(&Tensor::ones([2, 4], (Kind::Int64, Device::Cpu)), true).expect_err("refused");
    assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| layer.forward_t(&Tensor::new(), true))).is_err());
}

/// The layer, its output and its group go to a thread that outlives them here.
fn other_thread(rank: &Rank) {
    let group = group(rank);
    let vs = nn::VarStore::new(Device::Cpu);
    let layer = SyncBatchNorm::new(vs.root(), &group, CHANNELS, config(true));
    let xs = input(3, 4, Kind::Float, u64::from(rank.rank)).set_requires_grad(true);
    let ys = layer.forward_t(&xs, true).square().sum(Kind::Float);
    let (send, receive) = mpsc::channel::<(SyncBatchNorm, Tensor)>();
    let thread = std::thread::spawn(move || {
        let (layer, ys) = receive.recv().expect("the layer");
        drop(layer);
        ys.backward();
    });
    drop(group);
    send.send((layer, ys)).expect("the thread waits");
    thread.join().expect("a backward pass");
    assert!(xs.grad().defined());
}

/// Convolution, batch normalisation, and another of both, in uneven batches.
fn under_ddp(rank: &Rank) {
    let sync = group(rank);
    let reduce = sum_group(rank);
    let sizes = sizes(rank.world_size);
    let total: i64 = sizes.iter().sum();
    let images = input(total, 4, Kind::Float, 4);
    let (_, own_images, part) = own(rank, &images);

    let build = |vs: &nn::VarStore, sync: Option<&SyncGroup>| {
        let mut net = nn::seq_t();
        for i in 0..2 {
            let path = vs.root() / format!("{i}");
            let padded = nn::ConvConfig { padding: 1, bias: false, ..Default::default() };
            net = net.add(nn::conv2d(&path / "conv", CHANNELS, CHANNELS, 3, padded));
            let norm = &path / "norm";
            net = match sync {
                Some(group) => net.add(SyncBatchNorm::new(norm, group, CHANNELS, config(true))),
                None => net.add(nn::batch_norm2d(norm, CHANNELS, config(true))),
            };
            net = net.add_fn(|xs| xs.tanh());
        }
        for (i, variable) in vs.trainable_variables().iter().enumerate() {
            let values = numbers(variable.numel() as i64, i as u64) + 0.1;
            variable.detach().copy_(&values.view(variable.size().as_slice()));
        }
        net
    };
    let vs = nn::VarStore::new(Device::Cpu);
    let net = build(&vs, Some(&sync));
    let alone_vs = nn::VarStore::new(Device::Cpu);
    let alone = build(&alone_vs, None);
    let options = DdpOptions { broadcast_buffers: false, bucket_bytes: 300, ..Default::default() };
    let mut ddp = Ddp::new(&reduce, &vs, &options).expect("all ranks come");
    let loss_of = |net: &nn::SequentialT, images: &Tensor| net.forward_t(images, true).square().mean(Kind::Float);
    for step in 0..3 {
        let loss = ddp.forward(|| loss_of(&net, &part)).expect("forward");
        let loss = ddp.scale_loss(&loss, own_images as u64, total as u64).expect("a part");
        ddp.backward(&loss).expect("backward");
        loss_of(&alone, &images).backward();
        for (name, one) in alone_vs.variables() {
            let mine = &vs.variables()[&name];
            if one.requires_grad() {
                let found = gap(&mine.grad(), &one.grad());
                assert!(found <= 1e-6, "the gradient of `{name}` differs by {found} in step {step}");
            }
            let found = gap(mine, &one);
            assert!(found <= 1e-6, "`{name}` differs by {found} in step {step}");
        }
        for vs in [&vs, &alone_vs] {
            tch::no_grad(|| {
                for mut variable in vs.trainable_variables() {
                    variable -= variable.grad() * 0.05;
                    let _ = variable.grad().zero_();
                }
            });
        }
    }
}

fn lost(rank: &Rank) {
    let group = group(rank);
    let reduce = sum_group(rank);
    let vs = nn::VarStore::new(Device::Cpu);
    let layer = SyncBatchNorm::new(vs.root(), &group, CHANNELS, config(true));
    let mut ddp = Ddp::new(&reduce, &vs, &DdpOptions::default()).expect("both come");
    let xs = input(3, 4, Kind::Float, u64::from(rank.rank)).set_requires_grad(true);
    let loss = ddp.forward(|| layer.forward_t(&xs, true).square().sum(Kind::Float)).expect("both are here");
    rank.reach("forward");
    if rank.rank == 1 {
        // Ends by SIGKILL: nobody reaches this point.
        rank.await_peer(9, "never");
        return;
    }
    let error = ddp.backward(&loss).expect_err("rank 1 dies");
    let told = rank.since_kill();
    assert!(matches!(error, Error::PeerLost(_)), "{error:?}");
    assert!(told < Duration::from_secs(1), "{told:?}");
}
