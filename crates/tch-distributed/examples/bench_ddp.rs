//! The Rust half of `make bench-ddp`: one rank that trains ResNet-18 on noise and says how many steps a second it makes.
//!
//! `bench_ddp FOLDER RANK WORLD_SIZE DEVICE MODE WARM_UP STEPS`: ranks meet in FOLDER; DEVICE is `cpu` or `cuda`; MODE is
//! `overlap` (DDP), `after` (the backward pass, then one all-reduce of all gradients), or `alone` (no all-reduce).

use std::path::Path;
use std::time::{Duration, Instant};

use tch::nn::{self, ModuleT, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Ddp, DdpOptions, GlooOptions, Interface, ProcessGroup, ReduceOp, Store};

const TIMEOUT: Duration = Duration::from_secs(60);
const IMAGES: i64 = 8;
const SIZE: i64 = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, rank, world_size, device, mode, warm_up, steps] = &args[..] else {
        return Err("usage: bench_ddp FOLDER RANK WORLD_SIZE DEVICE MODE WARM_UP STEPS".into());
    };
    let (rank, world_size): (u32, u32) = (rank.parse()?, world_size.parse()?);
    let (warm_up, steps): (u32, u32) = (warm_up.parse()?, steps.parse()?);
    tch::set_num_threads(1);
    tch::manual_seed(rank.into());
    let store = Store::file(&Path::new(folder).join("store"), Some(world_size), TIMEOUT)?;
    let (group, device) = connect(&store, rank, world_size, device)?;

    let vs = nn::VarStore::new(device);
    let net = tch::vision::resnet::resnet18(&vs.root(), 1000);
    let mut optimizer = nn::sgd(0.9, 0.0, 1e-4, false).build(&vs, 0.01)?;
    let options = DdpOptions { broadcast_buffers: false, ..Default::default() };
    let mut ddp = Ddp::new(&group, &vs, &options)?;
    let images = Tensor::randn([IMAGES, 3, SIZE, SIZE], (Kind::Float, device));
    let labels = Tensor::randint(1000, [IMAGES], (Kind::Int64, device));
    let parameters = vs.trainable_variables();

    let mut start = Instant::now();
    for step in 0..warm_up + steps {
        if step == warm_up {
            group.barrier()?.wait()?;
            start = Instant::now();
        }
        let pass = |ddp: &mut Ddp| -> tch_distributed::Result<()> {
            let loss = ddp.forward(|| net.forward_t(&images, true).cross_entropy_for_logits(&labels))?;
            ddp.backward(&loss)
        };
        if mode == "overlap" {
            pass(&mut ddp)?;
        } else {
            ddp.no_sync(pass)?;
        }
        if mode == "after" {
            reduce(&group, &parameters)?;
        }
        optimizer.step();
        ddp.zero_grad()?;
    }
    group.barrier()?.wait()?;
    let rate = f64::from(steps) / start.elapsed().as_secs_f64();
    if rank == 0 {
        let count: usize = parameters.iter().map(Tensor::numel).sum();
        println!("{{\"steps_per_second\": {rate}, \"parameters\": {count}}}");
    }
    drop(ddp);
    group.shutdown()?;
    Ok(())
}

/// The group, and where this rank computes: on the CPU, or on the GPU of its own number.
fn connect(
    store: &Store,
    rank: u32,
    world_size: u32,
    device: &str,
) -> Result<(ProcessGroup, Device), Box<dyn std::error::Error>> {
    match device {
        "cpu" => {
            let options = GlooOptions::new(Interface::Name("lo".into()), TIMEOUT);
            Ok((ProcessGroup::gloo(store, rank, world_size, &options)?, Device::Cpu))
        }
        #[cfg(feature = "nccl")]
        "cuda" => {
            let options = tch_distributed::NcclOptions::new(rank, TIMEOUT);
            Ok((ProcessGroup::nccl(store, rank, world_size, &options)?, Device::Cuda(rank as usize)))
        }
        _ => Err(format!("no process group for device `{device}` in this build").into()),
    }
}

/// What one would write without DDP: all gradients as one tensor, averaged, and back.
fn reduce(group: &ProcessGroup, parameters: &[Tensor]) -> tch_distributed::Result<()> {
    let gradients: Vec<Tensor> = parameters.iter().map(|parameter| parameter.grad().flatten(0, -1)).collect();
    let mut all = Tensor::cat(&gradients, 0) / f64::from(group.world_size());
    group.all_reduce(&mut all, ReduceOp::Sum)?.wait()?;
    let mut start = 0;
    for mut gradient in gradients {
        let length = gradient.numel() as i64;
        gradient.copy_(&all.narrow(0, start, length));
        start += length;
    }
    Ok(())
}
