//! How many images a second forward, loss and backward take, and nothing else: the bound of any trainer of this model on this machine.
//!
//!     bare IMAGES SIDE SECONDS cpu|cuda|cuda-benchmark
//!
//! With `cuda-benchmark` cuDNN tries its kernels for every convolution and keeps the fastest, which the trainer does not have it do.

use std::error::Error;
use std::time::{Duration, Instant};

use evenkeel_yolo::loss::{Assignment, Gains, Object, Objects, loss};
use evenkeel_yolo::network::Network;
use evenkeel_yolo::{Scale, step};
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [images, side, seconds, device] = &arguments[..] else {
        return Err("usage: bare IMAGES SIDE SECONDS cpu|cuda|cuda-benchmark".into());
    };
    let (images, side): (i64, i64) = (images.parse()?, side.parse()?);
    let limit = Duration::from_secs_f64(seconds.parse()?);
    let benchmark = device == "cuda-benchmark";
    let device = if device == "cpu" { Device::Cpu } else { Device::Cuda(0) };
    if device != Device::Cpu {
        tch_distributed::load_cuda()?;
        tch::Cuda::cudnn_set_benchmark(benchmark);
    }
    let mut network = Network::new(Scale::N, 3, device, 0, true);
    network.prepare_gradients(network.parameters.zeros_like());
    let bytes = Tensor::randint(256, [images, side, side, 3], (Kind::Uint8, Device::Cpu)).permute([0, 3, 1, 2]);
    let edge = side as f32;
    let object = |class| Object { class, corners: [edge * 0.2, edge * 0.3, edge * 0.6, edge * 0.8] };
    let objects = vec![vec![object(0), object(1)]; images as usize];
    let one = || {
        let levels = network.model.forward(&step::input(&bytes, device, true), true);
        let terms = loss(&levels, &Objects::new(&objects, device), &Assignment::default());
        terms.each(&Gains::default()).sum(Kind::Float).backward();
        terms.scores.double_value(&[])
    };
    for _ in 0..3 {
        one();
    }
    let (began, mut steps) = (Instant::now(), 0);
    while began.elapsed() < limit {
        one();
        steps += 1;
    }
    if device != Device::Cpu {
        // The last backward pass may still run.
        tch::Cuda::synchronize(0);
    }
    println!("{}", f64::from(steps) * images as f64 / began.elapsed().as_secs_f64());
    Ok(())
}
