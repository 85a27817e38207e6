//! The Rust half of `tests/python`: one rank that trains what a rank in Python trains, beside it or together with it.
//!
//! `beside_python MODEL FOLDER RANK WORLD_SIZE STORE`: MODEL is `norm` (with batch normalisation) or `plain`; FOLDER holds the
//! initial weights and the data as raw f32, and gets the weights of this rank at the end; STORE is `serve`, or the port of
//! a store that another rank serves, or `file`.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use tch::nn::{self, ModuleT, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Ddp, DdpOptions, GlooOptions, Interface, Peers, ProcessGroup, ReduceOp, Store};

const STEPS: i64 = 20;
const TIMEOUT: Duration = Duration::from_secs(60);
type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, folder, rank, world_size, place] = &args[..] else {
        return Err("usage: beside_python MODEL FOLDER RANK WORLD_SIZE STORE".into());
    };
    let (folder, rank, world_size) = (Path::new(folder), rank.parse::<u32>()?, world_size.parse::<u32>()?);
    tch::set_num_threads(1);

    let store = store(place, folder, world_size)?;
    // The names that Python's `init_process_group` gives its default group on a store that it is handed (on one that it
    // makes itself there is the prefix `default_pg` before them).
    let store = store.prefix("0/")?.prefix("cpu/")?;
    let options = GlooOptions::new(Interface::Name("lo".into()), TIMEOUT);
    let group = ProcessGroup::gloo(&store, rank, world_size, &options)?;

    let mut sum = Tensor::from_slice(&[f64::from(rank + 1), 2.0_f64.powi(rank as i32)]);
    group.all_reduce(&mut sum, ReduceOp::Sum)?.wait()?;
    let (numbers, powers) = (f64::from(world_size * (world_size + 1) / 2), 2.0_f64.powi(world_size as i32) - 1.0);
    if sum != Tensor::from_slice(&[numbers, powers]) {
        return Err(format!("an all-reduce of {world_size} ranks gave {sum:?}").into());
    }

    let vs = nn::VarStore::new(Device::Cpu);
    let net = net(&vs, model == "norm");
    if rank == 0 {
        for (name, variable) in vs.variables() {
            let values = read(&folder.join(format!("{name}.initial")))?.view(variable.size().as_slice());
            variable.detach().copy_(&values);
        }
    }
    let mut optimizer = nn::sgd(0.9, 0.0, 1e-4, false).build(&vs, 0.05)?;
    let layers = ["conv1", "norm1", "conv2", "norm2", "last"];
    let names = layers.iter().flat_map(|layer| ["weight", "bias"].map(|variable| format!("{layer}.{variable}")));
    let order = names.filter(|name| vs.variables().contains_key(name)).collect();
    let options = DdpOptions { peers: Peers::Python(order), ..Default::default() };
    let mut ddp = Ddp::new(&group, &vs, &options)?;

    let images = read(&folder.join("images"))?.view([STEPS, i64::from(world_size), -1, 3, 16, 16]);
    let labels = read(&folder.join("labels"))?.to_kind(Kind::Int64).view([STEPS, i64::from(world_size), -1]);
    for step in 0..STEPS {
        let (images, labels) = (images.get(step).get(rank.into()), labels.get(step).get(rank.into()));
        let loss = ddp.forward(|| net.forward_t(&images, true).cross_entropy_for_logits(&labels))?;
        ddp.backward(&loss)?;
        optimizer.step();
        ddp.zero_grad()?;
    }
    for (name, variable) in vs.variables() {
        let values = Vec::<f32>::try_from(variable.detach().flatten(0, -1))?;
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        fs::write(folder.join(format!("{name}.rank-{rank}")), bytes)?;
    }
    drop(ddp);
    group.barrier()?.wait()?;
    group.shutdown()?;
    Ok(())
}

fn store(place: &str, folder: &Path, world_size: u32) -> Result<Store, Failure> {
    Ok(match place {
        "serve" => {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            // Renamed, so that nobody reads half a number.
            fs::write(folder.join("port.new"), listener.local_addr()?.port().to_string())?;
            fs::rename(folder.join("port.new"), folder.join("port"))?;
            Store::tcp_server(listener, TIMEOUT)?
        }
        "file" => Store::file(&folder.join("store"), Some(world_size), TIMEOUT)?,
        port => Store::tcp_client("127.0.0.1", port.parse()?, TIMEOUT)?,
    })
}

/// Layers in the order, and of the names, of the model in Python.
fn net(vs: &nn::VarStore, norm: bool) -> nn::SequentialT {
    let root = vs.root();
    let padded = |stride| nn::ConvConfig { padding: 1, stride, ..Default::default() };
    let mut net = nn::seq_t().add(nn::conv2d(&root / "conv1", 3, 8, 3, padded(1)));
    if norm {
        net = net.add(nn::batch_norm2d(&root / "norm1", 8, Default::default()));
    }
    net = net.add_fn(Tensor::relu).add(nn::conv2d(&root / "conv2", 8, 16, 3, padded(2)));
    if norm {
        net = net.add(nn::batch_norm2d(&root / "norm2", 16, Default::default()));
    }
    net.add_fn(|xs| xs.relu().flatten(1, -1)).add(nn::linear(&root / "last", 16 * 64, 10, Default::default()))
}

fn read(path: &Path) -> Result<Tensor, Failure> {
    let bytes = fs::read(path).map_err(|error| format!("failed to read `{}`: {error}", path.display()))?;
    let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Ok(Tensor::from_slice(&bytes.chunks_exact(4).map(number).collect::<Vec<f32>>()))
}
