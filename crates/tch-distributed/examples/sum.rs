//! Sums the ranks' numbers. `sum 0 2 29500` and `sum 1 2 29500`, started side by side, both print 3.

use std::net::TcpListener;
use std::time::Duration;

use tch::Tensor;
use tch_distributed::{GlooOptions, Interface, ProcessGroup, ReduceOp, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<Vec<u16>, _>>()?;
    let [rank, world_size, port] = numbers[..] else { return Err("usage: sum RANK WORLD_SIZE PORT".into()) };
    let timeout = Duration::from_secs(10);

    // Rank 0 serves the store; the others try until it does.
    let store = if rank == 0 {
        Store::tcp_server(TcpListener::bind(("127.0.0.1", port))?, timeout)?
    } else {
        Store::tcp_client("127.0.0.1", port, timeout)?
    };
    let options = GlooOptions::new(Interface::Name("lo".into()), timeout);
    let group = ProcessGroup::gloo(&store.prefix("sum")?, rank.into(), world_size.into(), &options)?;

    let mut tensor = Tensor::from_slice(&[i64::from(rank) + 1]);
    group.all_reduce(&mut tensor, ReduceOp::Sum)?.wait()?;
    println!("{}", tensor.int64_value(&[0]));

    // Nobody leaves before all are done: rank 0 takes the store with it.
    group.barrier()?.wait()?;
    group.shutdown()?;
    Ok(())
}
