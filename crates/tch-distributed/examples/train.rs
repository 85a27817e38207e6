//! Trains a classifier of points in a plane by two processes. `train 0 2 29500` and `train 1 2 29500`, started side by side,
//! print the same falling losses and the same weights.

use std::net::TcpListener;
use std::time::Duration;

use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Ddp, DdpOptions, GlooOptions, Interface, ProcessGroup, ReduceOp, Store};

/// Points of a step, over all ranks: no number that every world size divides.
const BATCH: i64 = 33;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<Vec<u16>, _>>()?;
    let [rank, world_size, port] = numbers[..] else { return Err("usage: train RANK WORLD_SIZE PORT".into()) };
    let timeout = Duration::from_secs(10);

    // Rank 0 serves the store; the others try until it does.
    let store = if rank == 0 {
        Store::tcp_server(TcpListener::bind(("127.0.0.1", port))?, timeout)?
    } else {
        Store::tcp_client("127.0.0.1", port, timeout)?
    };
    let options = GlooOptions::new(Interface::Name("lo".into()), timeout);
    let group = ProcessGroup::gloo(&store.prefix("train")?, rank.into(), world_size.into(), &options)?;

    // Every process makes the model as it likes: `Ddp::new` gives all of them the weights of rank 0.
    let vs = nn::VarStore::new(Device::Cpu);
    let net = nn::seq()
        .add(nn::linear(vs.root() / "hidden", 2, 16, Default::default()))
        .add_fn(|xs| xs.tanh())
        .add(nn::linear(vs.root() / "last", 16, 2, Default::default()));
    let mut optimizer = nn::Sgd::default().build(&vs, 0.5)?;
    let mut ddp = Ddp::new(&group, &vs, &DdpOptions::default())?;

    // This rank's part of every batch: the ranks at the front take what is left over.
    let (rank, world_size) = (i64::from(rank), i64::from(world_size));
    let start = BATCH / world_size * rank + rank.min(BATCH % world_size);
    let images = BATCH / world_size + i64::from(rank < BATCH % world_size);

    for epoch in 0..5 {
        let mut sum = Tensor::zeros([1], (Kind::Double, Device::Cpu));
        for step in 0..20 {
            // The same seed, so the same batch, in all processes; class 1 lies inside a circle.
            tch::manual_seed(step);
            let points = Tensor::randn([BATCH, 2], (Kind::Float, Device::Cpu)).narrow(0, start, images);
            let classes = points.square().sum_dim_intlist(1, false, None).lt(1.4).to_kind(Kind::Int64);

            let loss = ddp.forward(|| net.forward(&points).cross_entropy_for_logits(&classes))?;
            sum += loss.detach() * images as f64;
            let loss = ddp.scale_loss(&loss, images as u64, BATCH as u64)?;
            ddp.backward(&loss)?;
            optimizer.step();
            ddp.zero_grad()?;
        }
        group.all_reduce(&mut sum, ReduceOp::Sum)?.wait()?;
        println!("epoch {epoch}: loss {:.4}", sum.double_value(&[0]) / (20 * BATCH) as f64);
    }
    let weights = vs.variables()["last.weight"].norm().double_value(&[]);
    println!("norm of the last layer's weight: {weights:.9}");

    // The reducer goes before its group; nobody leaves before all are done, as rank 0 takes the store with it.
    drop(ddp);
    group.barrier()?.wait()?;
    group.shutdown()?;
    Ok(())
}
