//! Gradients of several processes against those of one, for every way that `Ddp` has of coming by them.

mod support;

use std::time::Duration;

use support::net::{Batch, Net, distance, gap, numbers};
use support::{Rank, start};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Compression, Ddp, DdpOptions, Error, ProcessGroup};

const TIMEOUT: Duration = Duration::from_secs(30);
const TOLERANCE: f64 = 1e-6;

#[test]
fn rank() {
    support::rank_process(&[
        ("even", even),
        ("uneven", uneven),
        ("unused", unused),
        ("forgotten", forgotten),
        ("accumulation", accumulation),
        ("views", views),
        ("compression", compression),
        ("buckets", buckets),
        ("buffers", buffers),
        ("frozen", frozen),
        ("other_shape", other_shape),
        ("other_name", other_name),
        ("other_role", other_role),
        ("nothing", nothing),
        ("any_order", any_order),
        ("coalesced", coalesced),
        ("no_grad", no_grad),
    ]);
}

#[test]
fn gradients_are_those_of_one_process_with_the_whole_batch() {
    for world_size in 1..=4 {
        start("even", world_size).pass();
    }
}

#[test]
fn uneven_batches_weigh_by_their_images() {
    for world_size in 2..=4 {
        start("uneven", world_size).pass();
    }
}

#[test]
fn parameters_may_be_unused_here_or_everywhere() {
    for world_size in 1..=3 {
        start("unused", world_size).pass();
    }
}

#[test]
fn a_parameter_that_is_unused_without_leave_is_named() {
    start("forgotten", 2).pass();
}

#[test]
fn gradients_accumulate_without_synchronisation() {
    for world_size in 1..=3 {
        start("accumulation", world_size).pass();
    }
}

#[test]
fn views_of_buckets_are_reset_step_by_step() {
    start("views", 2).pass();
}

#[test]
fn compressed_gradients_are_exact_to_their_kind() {
    start("compression", 2).pass();
}

#[test]
fn buckets_are_rebuilt_by_size_in_the_order_of_arrival() {
    start("buckets", 2).pass();
}

#[test]
fn buffers_are_those_of_rank_0() {
    start("buffers", 2).pass();
}

#[test]
fn frozen_parameters_are_left_alone() {
    start("frozen", 2).pass();
}

#[test]
fn ranks_with_other_variables_are_refused_by_name() {
    start("other_shape", 3).pass();
    start("other_name", 2).pass();
    start("other_role", 2).pass();
}

#[test]
fn a_model_without_parameters_is_refused() {
    start("nothing", 1).pass();
}

#[test]
fn objects_may_be_dropped_in_any_order() {
    start("any_order", 2).pass();
}

#[test]
fn a_coalesced_broadcast_gives_the_roots_values() {
    start("coalesced", 3).pass();
}

#[test]
fn without_gradients_nothing_is_sent() {
    start("no_grad", 2).pass();
}

/// Buckets so small that the model fills several, and that they are rebuilt.
fn small() -> DdpOptions {
    DdpOptions { first_bucket_bytes: 200, bucket_bytes: 2000, ..Default::default() }
}

/// Every combination of the three ways to build and fill buckets.
fn ways() -> Vec<DdpOptions> {
    let mut all = Vec::new();
    for find_unused_parameters in [false, true] {
        for static_graph in [false, true] {
            for gradient_as_bucket_view in [false, true] {
                all.push(DdpOptions { find_unused_parameters, static_graph, gradient_as_bucket_view, ..small() });
            }
        }
    }
    all
}

/// Weights that differ between the ranks until `Ddp` has given all of them those of rank 0.
fn net(rank: &Rank) -> Net {
    Net::new(u64::from(rank.rank) + 1)
}

/// `Net` of the tests uses all of its parameters but `branch`, which is frozen where that would be in the way.
fn whole(rank: &Rank) -> Net {
    let net = net(rank);
    for (name, variable) in net.vs.variables() {
        if name.starts_with("branch") {
            let _ = variable.set_requires_grad(false);
        }
    }
    net
}

fn even(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let images = 12 / i64::from(rank.world_size);
    for options in ways() {
        let net = whole(rank);
        let mut ddp = Ddp::new(&group, &net.vs, &options).expect("all ranks come");
        assert_eq!(distance(&named(&net), &named(&Net::new(1))), 0.0, "the state of rank 0");
        for step in 0..4 {
            let batch = Batch::new(12, step);
            let loss = ddp.forward(|| net.loss(&batch.part(i64::from(rank.rank) * images, images))).expect("forward");
            ddp.backward(&loss).expect("backward");
            let expected = net.alone(|net| net.loss(&batch));
            let expected = without_branch(expected);
            let found = distance(&net.gradients(), &expected);
            assert!(found <= TOLERANCE, "{found} in step {step}: {options:?}");
            net.descend(0.1);
            ddp.zero_grad().expect("reset");
        }
    }
    group.shutdown().expect("all is done");
}

fn named(net: &Net) -> Vec<(String, Tensor)> {
    let mut all: Vec<_> = net.vs.variables().into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn without_branch(gradients: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    gradients.into_iter().filter(|(name, _)| !name.starts_with("branch")).collect()
}

fn uneven(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    // The last world has a rank without images.
    let sizes: &[i64] = match rank.world_size {
        2 => &[7, 3],
        3 => &[1, 8, 2],
        _ => &[5, 0, 3, 4],
    };
    let total: i64 = sizes.iter().sum();
    let mine = sizes[rank.rank as usize];
    let start = sizes[..rank.rank as usize].iter().sum();
    for gradient_as_bucket_view in [false, true] {
        let net = whole(rank);
        let options = DdpOptions { gradient_as_bucket_view, ..small() };
        let mut ddp = Ddp::new(&group, &net.vs, &options).expect("all ranks come");
        for step in 0..3 {
            let batch = Batch::new(total, step);
            let loss = ddp.forward(|| net.loss(&batch.part(start, mine))).expect("forward");
            let loss = ddp.scale_loss(&loss, mine as u64, total as u64).expect("a part of the batch");
            ddp.backward(&loss).expect("backward");
            let found = distance(&net.gradients(), &without_branch(net.alone(|net| net.loss(&batch))));
            assert!(found <= TOLERANCE, "{found} in step {step}");
            net.descend(0.1);
            ddp.zero_grad().expect("reset");
        }
        for (images, total) in [(0, 0), (2, 1)] {
            let refused = ddp.scale_loss(&Tensor::from(1.0), images, total);
            assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{refused:?}");
        }
    }
}

/// In step 0 all ranks use `last`, in step 1 rank 0 alone uses `branch` instead, in step 2 all use `branch`.
fn unused(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let net = net(rank);
    let options = DdpOptions { find_unused_parameters: true, ..small() };
    let mut ddp = Ddp::new(&group, &net.vs, &options).expect("all ranks come");
    let world_size = i64::from(rank.world_size);
    for step in 0..3 {
        let branch = |rank: i64| step == 2 || step == 1 && rank == 0;
        let batch = Batch::new(4 * world_size, step);
        let loss_of = |net: &Net, rank: i64| {
            let part = batch.part(4 * rank, 4);
            net.forward(&part.images, branch(rank)).cross_entropy_for_logits(&part.labels)
        };
        let loss = ddp.forward(|| loss_of(&net, i64::from(rank.rank))).expect("forward");
        ddp.backward(&loss).expect("backward");
        // Without a gradient anywhere, a parameter has none here either: `gradients` compares the names.
        let expected = net.alone(|net| {
            (0..world_size).map(|rank| loss_of(net, rank)).reduce(|a, b| a + b).expect("a rank") / world_size
        });
        let found = distance(&net.gradients(), &expected);
        assert!(found <= TOLERANCE, "{found} in step {step}");
        net.descend(0.1);
        ddp.zero_grad().expect("reset");
    }
}

fn forgotten(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let net = net(rank);
    let mut ddp = Ddp::new(&group, &net.vs, &small()).expect("all ranks come");
    let batch = Batch::new(4, 0);
    let loss = ddp.forward(|| net.loss(&batch)).expect("forward");
    ddp.backward(&loss).expect("the reducer cannot know yet");
    let error = ddp.forward(|| net.loss(&batch)).expect_err("`branch` got no gradient");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    let again = ddp.forward(|| net.loss(&batch)).expect_err("it refuses to go on");
    assert_eq!(again, error);
    assert_eq!(ddp.backward(&loss).expect_err("it refuses to go on"), error);
    drop(ddp);
}

fn accumulation(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let world_size = i64::from(rank.world_size);
    for options in ways() {
        let net = whole(rank);
        let mut ddp = Ddp::new(&group, &net.vs, &options).expect("all ranks come");
        // Micro-batches of 2 images, as many on each rank as its number says, which is not the same.
        let micro_batches = |rank: i64, step: u64| {
            if options.static_graph && step == 0 { 1 } else { rank + 1 + i64::from(step % 2 == 1) }
        };
        if options.static_graph {
            let early = ddp.no_sync(|ddp| ddp.forward(|| net.loss(&Batch::new(2, 0))).map(drop));
            assert!(matches!(early, Err(Error::Unsupported(_))), "{early:?}");
        }
        for step in 0..4 {
            let micro = micro_batches(i64::from(rank.rank), step);
            let batch = Batch::new(2 * 5 * world_size, step);
            let part = |i: i64| batch.part(2 * (5 * i64::from(rank.rank) + i), 2);
            ddp.no_sync(|ddp| {
                for i in 0..micro - 1 {
                    let loss = ddp.forward(|| net.loss(&part(i))).expect("forward");
                    ddp.backward(&loss).expect("backward");
                }
            });
            if micro > 1 {
                let own = net.alone(|net| {
                    (0..micro - 1).map(|i| net.loss(&part(i))).reduce(|a, b| a + b).expect("a micro-batch")
                });
                let found = distance(&net.gradients(), &without_branch(own));
                assert!(found <= TOLERANCE, "{found} of this rank's own in step {step}: {options:?}");
            }
            let loss = ddp.forward(|| net.loss(&part(micro - 1))).expect("forward");
            ddp.backward(&loss).expect("backward");
            let expected = net.alone(|net| {
                let all =
                    (0..world_size).flat_map(|rank| (0..micro_batches(rank, step)).map(move |i| 2 * (5 * rank + i)));
                all.map(|start| net.loss(&batch.part(start, 2))).reduce(|a, b| a + b).expect("a rank") / world_size
            });
            let found = distance(&net.gradients(), &without_branch(expected));
            assert!(found <= TOLERANCE, "{found} in step {step}: {options:?}");
            net.descend(0.02);
            ddp.zero_grad().expect("reset");
        }
    }
}

/// The gradient stays where it is from step to step, and libtorch's own reset is known to refuse it.
fn views(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let net = whole(rank);
    let options = DdpOptions { gradient_as_bucket_view: true, ..small() };
    let mut ddp = Ddp::new(&group, &net.vs, &options).expect("all ranks come");
    let mut place = None;
    for step in 0..6 {
        let batch = Batch::new(6, step);
        let loss = ddp.forward(|| net.loss(&batch.part(3 * i64::from(rank.rank), 3))).expect("forward");
        ddp.backward(&loss).expect("backward");
        let found = distance(&net.gradients(), &without_branch(net.alone(|net| net.loss(&batch))));
        assert!(found <= TOLERANCE, "{found} in step {step}");
        let gradient = net.vs.trainable_variables()[0].grad();
        // Buckets are rebuilt before the second pass, and never again.
        if step >= 1 {
            assert_eq!(*place.get_or_insert(gradient.data_ptr()), gradient.data_ptr(), "step {step}");
        }
        net.descend(0.1);
        ddp.zero_grad().expect("reset");
        assert!(net.gradients().iter().all(|(_, gradient)| gradient.abs().max().double_value(&[]) == 0.0));
    }
    let mut gradient = net.vs.trainable_variables()[0].grad();
    assert!(gradient.f_detach_().is_err(), "a reset by detaching works now: `Ddp::zero_grad` may be simpler");
}

fn compression(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    // Half a unit of the last place of the mantissa, once for rounding to it and once for the sum in it.
    for (compression, precision) in [(Compression::Fp16, 1.0 / 1024.0), (Compression::Bf16, 1.0 / 128.0)] {
        for gradient_as_bucket_view in [false, true] {
            let net = whole(rank);
            let options = DdpOptions { compression, gradient_as_bucket_view, ..small() };
            let mut ddp = Ddp::new(&group, &net.vs, &options).expect("all ranks come");
            for step in 0..3 {
                let batch = Batch::new(6, step);
                let loss = ddp.forward(|| net.loss(&batch.part(3 * i64::from(rank.rank), 3))).expect("forward");
                ddp.backward(&loss).expect("backward");
                let gradients = net.gradients();
                let parts = [0, 1].map(|rank| net.alone(|net| net.loss(&batch.part(3 * rank, 3))));
                let expected = without_branch(net.alone(|net| net.loss(&batch)));
                let largest = parts.iter().flatten().map(|(_, part)| part.abs().max().double_value(&[]));
                let allowed = largest.fold(0.0, f64::max) * precision;
                let found = distance(&gradients, &expected);
                assert!(found <= allowed, "{found}, {allowed} allowed: {compression:?} in step {step}");
                assert!(found > TOLERANCE, "{compression:?} rounds nothing: {found}");
                net.descend(0.1);
                ddp.zero_grad().expect("reset");
            }
        }
    }
}

fn buckets(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let net = whole(rank);
    let mut ddp = Ddp::new(&group, &net.vs, &small()).expect("all ranks come");
    let parameters: u64 =
        net.vs.trainable_variables().iter().filter(|v| v.requires_grad()).map(|v| 4 * v.numel() as u64).sum();
    assert_eq!(ddp.bucket_bytes().expect("buckets"), [parameters], "one bucket until the order is known");
    let batch = Batch::new(3, 0);
    for _ in 0..2 {
        let loss = ddp.forward(|| net.loss(&batch)).expect("forward");
        ddp.backward(&loss).expect("backward");
    }
    let rebuilt = ddp.bucket_bytes().expect("buckets");
    assert!(rebuilt.len() > 2, "{rebuilt:?}");
    assert_eq!(rebuilt.iter().sum::<u64>(), parameters);
    // `last.bias` and `last.weight` come first and fill the first bucket of 200 bytes.
    assert!(rebuilt[0] <= 4 * (5 + 16 * 5), "{rebuilt:?}");
    drop(ddp);
    for (first_bucket_bytes, bucket_bytes) in [(0, 1), (1, 0), (u64::MAX, 1)] {
        let options = DdpOptions { first_bucket_bytes, bucket_bytes, ..Default::default() };
        let error = Ddp::new(&group, &net.vs, &options).expect_err("no such bucket");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    }
}

fn buffers(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    for (broadcast_buffers, after) in [(true, 20.0), (false, f64::from(rank.rank + 1) * 20.0)] {
        let net = whole(rank);
        let mut buffer = net.vs.root().zeros_no_train("buffer", &[3]);
        let _ = buffer.fill_(f64::from(rank.rank) + 5.0);
        let options = DdpOptions { broadcast_buffers, ..small() };
        let mut ddp = Ddp::new(&group, &net.vs, &options).expect("all ranks come");
        assert_eq!(buffer.double_value(&[2]), 5.0, "the state of rank 0");
        let _ = buffer.fill_(f64::from(rank.rank + 1) * 20.0);
        let batch = Batch::new(2, 0);
        let seen = ddp.forward(|| {
            assert_eq!(buffer.double_value(&[2]), after);
            net.loss(&batch)
        });
        ddp.backward(&seen.expect("forward")).expect("backward");
    }
}

fn frozen(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let net = whole(rank);
    let _ddp = Ddp::new(&group, &net.vs, &small()).expect("all ranks come");
    let branch = |net: &Net| net.vs.variables()["branch.weight"].copy();
    assert_eq!(branch(&net), branch(&Net::new(1)), "state of rank 0 although nothing trains it");
    let mut all = net.vs;
    all.freeze();
    let error = Ddp::new(&group, &all, &small()).expect_err("nothing to train");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
}

fn refused(rank: &Rank, change: impl Fn(&Net), expected: &[&str]) {
    let group = rank.group(TIMEOUT);
    let net = net(rank);
    // The highest rank differs; all are told, and of nothing else.
    if rank.rank + 1 == rank.world_size {
        change(&net);
    }
    let error = Ddp::new(&group, &net.vs, &small()).expect_err("one rank differs");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    let message = error.to_string();
    let culprit = format!("rank {} has", rank.world_size - 1);
    for part in expected.iter().copied().chain([culprit.as_str()]) {
        assert!(message.contains(part), "no `{part}` in `{message}`");
    }
    // The group is as good as before.
    group.barrier().and_then(|work| work.wait()).expect("all are here");
}

fn other_shape(rank: &Rank) {
    refused(rank, |net| replace(&net.vs, "hidden.bias", &numbers(3, 0)), &["`hidden.bias`", "[3]", "[16]"]);
}

/// Gives a variable another value of any shape and kind.
fn replace(vs: &tch::nn::VarStore, name: &str, value: &Tensor) {
    vs.variables().get_mut(name).expect("a variable").set_data(value);
}

fn other_name(rank: &Rank) {
    refused(rank, |net| drop(net.vs.root().zeros("more", &[1])), &["lacks", "`more`"]);
}

fn other_role(rank: &Rank) {
    refused(rank, |net| drop(net.vs.variables()["last.bias"].set_requires_grad(false)), &["`last.bias`"]);
}

fn nothing(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let vs = tch::nn::VarStore::new(Device::Cpu);
    let error = Ddp::new(&group, &vs, &DdpOptions::default()).expect_err("no parameters");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    let whole = vs.root().var("whole", &[2], tch::nn::Init::Const(0.0));
    let _ = whole.set_requires_grad(false);
    assert!(matches!(Ddp::new(&group, &vs, &DdpOptions::default()), Err(Error::InvalidArgument(_))));
    replace(&vs, "whole", &Tensor::zeros([2], (Kind::ComplexFloat, Device::Cpu)));
    let _ = whole.set_requires_grad(true);
    let error = Ddp::new(&group, &vs, &DdpOptions::default()).expect_err("gloo sends no complex numbers");
    assert!(matches!(&error, Error::Unsupported(message) if message.contains("`whole`")), "{error:?}");
}

fn any_order(rank: &Rank) {
    let group: ProcessGroup = rank.group(TIMEOUT);
    let batch = Batch::new(2, u64::from(rank.rank));
    // The reducer goes first, and a graph made under it goes on without.
    let net = whole(rank);
    let mut ddp = Ddp::new(&group, &net.vs, &small()).expect("all ranks come");
    let loss = ddp.forward(|| net.loss(&batch)).expect("forward");
    drop(ddp);
    loss.backward();
    let found = distance(&net.gradients(), &without_branch(net.alone(|net| net.loss(&batch))));
    assert!(found <= TOLERANCE, "{found}: this rank's own gradients");
    // The same under a static graph, whose first pass has a hook on the loss.
    for variable in net.vs.trainable_variables().iter().filter(|variable| variable.grad().defined()) {
        let _ = variable.grad().zero_();
    }
    let mut ddp = Ddp::new(&group, &net.vs, &DdpOptions { static_graph: true, ..small() }).expect("all ranks come");
    let loss = ddp.forward(|| net.loss(&batch)).expect("forward");
    drop(ddp);
    loss.backward();
    // The model goes first; its parameters live on in the reducer and in the graph.
    let net = whole(rank);
    let mut ddp = Ddp::new(&group, &net.vs, &small()).expect("all ranks come");
    let loss = ddp.forward(|| net.loss(&batch)).expect("forward");
    drop(net);
    ddp.backward(&loss).expect("backward");
    ddp.zero_grad().expect("reset");
    // Two reducers on one model, one after the other, and a second one while the first is there.
    let net = whole(rank);
    let first = Ddp::new(&group, &net.vs, &small()).expect("all ranks come");
    let second = Ddp::new(&group, &net.vs, &small()).expect("all ranks come");
    drop(first);
    drop(second);
    let mut third = Ddp::new(&group, &net.vs, &small()).expect("all ranks come");
    let loss = third.forward(|| net.loss(&batch)).expect("forward");
    third.backward(&loss).expect("backward");
    drop(third);
    drop(ddp);
    group.shutdown().expect("all is done");
}

fn coalesced(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let kinds = [Kind::Uint8, Kind::Int64, Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double];
    for root in 0..rank.world_size {
        let state = |rank: u32| -> Vec<Tensor> {
            let values = |i: i64, kind: Kind| ((numbers(1 + 300 * i, u64::from(rank) + 9) + 1.0) * 50.0).to_kind(kind);
            let mut all: Vec<_> = (0..).zip(kinds.iter().chain(&kinds)).map(|(i, kind)| values(i, *kind)).collect();
            // One that does not lie in one piece, and one that is empty.
            all.push(values(1, Kind::Float).narrow(0, 0, 300).view([30, 10]).tr());
            all.push(Tensor::zeros([0, 3], (Kind::Float, Device::Cpu)));
            all
        };
        let mut found = state(rank.rank);
        group.broadcast_coalesced(&mut found, root).expect("broadcast");
        for (found, expected) in found.iter().zip(state(root)) {
            assert_eq!(gap(found, &expected), 0.0, "{found:?} from {root}");
        }
    }
    group.broadcast_coalesced(&mut [], 0).expect("nothing to do");
    let one = || [Tensor::zeros([1], (Kind::Float, Device::Cpu))];
    assert!(matches!(group.broadcast_coalesced(&mut one(), rank.world_size), Err(Error::InvalidArgument(_))));
    let mut flags = [Tensor::zeros([1], (Kind::Bool, Device::Cpu))];
    assert!(matches!(group.broadcast_coalesced(&mut flags, 0), Err(Error::Unsupported(_))));
}

/// Only rank 0 evaluates: were anything sent, it would wait for rank 1.
fn no_grad(rank: &Rank) {
    let group = rank.group(TIMEOUT);
    let net = whole(rank);
    let mut ddp = Ddp::new(&group, &net.vs, &small()).expect("all ranks come");
    let batch = Batch::new(2, 0);
    let step = |ddp: &mut Ddp| {
        let loss = ddp.forward(|| net.loss(&batch)).expect("forward");
        ddp.backward(&loss).expect("backward");
    };
    step(&mut ddp);
    if rank.rank == 0 {
        let loss = tch::no_grad(|| ddp.forward(|| net.loss(&batch)).expect("forward"));
        let error = ddp.backward(&loss).expect_err("no gradient is known");
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    }
    step(&mut ddp);
    step(&mut ddp);
}
