//! Values of every collective, in worlds of 1 to 4 processes, for every kind and for sizes from nothing to a million,
//! against values computed here. One group a world does it all.
//!
//! With `TCHD_DEVICE=cuda` the same over NCCL, a GPU a rank, in worlds up to the number of GPUs (`make test-gpu`); with `TCHD_SHARE=1`
//! beside it in worlds of 1 to 3, whose ranks share what GPUs there are.

mod support;

use std::time::Duration;

use support::{Rank, start};
use tch::{Device, Kind, Tensor};
use tch_distributed::{Backend, Error, ProcessGroup, ReduceOp, Work};

const TIMEOUT: Duration = Duration::from_secs(30);
const KINDS: [Kind; 8] =
    [Kind::Uint8, Kind::Int8, Kind::Int, Kind::Int64, Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double];
const LENGTHS: [i64; 4] = [0, 1, 3, 1_000_000];
/// Values repeat after so many elements; a prime, so that a shifted block does not fit its place.
const PERIOD: i64 = 97;

#[test]
fn rank() {
    support::rank_process(&[("grid", grid)]);
}

#[test]
fn every_collective_gives_the_right_values() {
    let largest = match (on_gpus(), support::shares_a_gpu()) {
        (false, _) => 4,
        (true, false) => gpus(),
        (true, true) => 3,
    };
    for world_size in 1..=largest {
        start("grid", world_size).pass();
        println!("{world_size} ranks: every value right");
    }
}

fn on_gpus() -> bool {
    std::env::var("TCHD_DEVICE").is_ok_and(|device| device == "cuda")
}

/// How many GPUs libtorch sees, four at most.
fn gpus() -> u32 {
    tch_distributed::load_cuda().expect("libtorch's CUDA half");
    let gpus = u32::try_from(tch::Cuda::device_count()).expect("a number");
    assert!(gpus > 0, "libtorch sees no GPU");
    gpus.min(4)
}

fn group(rank: &Rank) -> ProcessGroup {
    if !on_gpus() {
        return rank.group(TIMEOUT);
    }
    #[cfg(feature = "nccl")]
    {
        let device = if support::shares_a_gpu() { rank.rank % gpus() } else { rank.rank };
        let options = tch_distributed::NcclOptions::new(device, TIMEOUT);
        ProcessGroup::nccl(&rank.store(TIMEOUT), rank.rank, rank.world_size, &options).expect("all ranks come")
    }
    #[cfg(not(feature = "nccl"))]
    panic!("built without the feature `nccl`")
}

fn grid(rank: &Rank) {
    // The ranks share few cores, and helper threads would spin for each other.
    tch::set_num_threads(1);
    let group = group(rank);
    let device = match group.backend() {
        Backend::Nccl { device } => Device::Cuda(device as usize),
        _ => Device::Cpu,
    };
    let world = World { group, own: rank.rank, ranks: rank.world_size, device };
    for kind in KINDS {
        for length in LENGTHS {
            world.reductions(kind, length);
            world.broadcast(kind, length);
            world.gathers(kind, length);
            world.scatter(kind, length);
            world.all_to_all(kind, length);
            world.all_to_all_single(kind, length);
            world.messages(kind, length);
            world.group.barrier().and_then(|work| work.wait()).expect("barrier");
        }
    }
    world.group.shutdown().expect("all is done");
}

/// Element `i` of block `block` of a rank's values: 1, 2 or 3, so that products and bit patterns differ and fit every kind.
fn element(rank: u32, block: u32, i: i64) -> i64 {
    let (rank, block) = (i64::from(rank), i64::from(block));
    ((i * (rank + 2) + 31 * block + 7 * rank) % PERIOD * 11 + rank + block) % 3 + 1
}

fn done(work: Result<Work, Error>, what: &str) {
    work.and_then(|work| work.wait()).unwrap_or_else(|error| panic!("{what}: {error}"));
}

fn same(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.kind(), expected.kind(), "{what}");
    if !found.equal(expected) {
        let first = |tensor: &Tensor| tensor.flatten(0, -1).slice(0, 0, 8, 1).to_kind(Kind::Double);
        panic!("{what}: {:?} begins {:?}, not {:?}", found.size(), first(found), first(expected));
    }
}

struct World {
    group: ProcessGroup,
    own: u32,
    ranks: u32,
    device: Device,
}

impl World {
    /// A tensor whose element `i` is `value(i % PERIOD)`.
    fn tensor(&self, length: i64, kind: Kind, value: impl Fn(i64) -> f64) -> Tensor {
        let period = Tensor::from_slice(&(0..PERIOD).map(value).collect::<Vec<_>>());
        let whole = period.to_kind(kind).repeat([length / PERIOD + 1]).narrow(0, 0, length).contiguous();
        whole.to_device(self.device)
    }

    /// Values that no collective leaves behind.
    fn blank(&self, length: i64, kind: Kind) -> Tensor {
        self.tensor(length, kind, |_| 99.0)
    }

    fn input(&self, rank: u32, block: u32, length: i64, kind: Kind) -> Tensor {
        self.tensor(length, kind, |i| element(rank, block, i) as f64)
    }

    /// What the ranks' blocks of this number reduce to.
    fn reduced(&self, op: ReduceOp, block: u32, length: i64, kind: Kind) -> Tensor {
        let values = |i| (0..self.ranks).map(move |rank| element(rank, block, i));
        let fold = |i: i64| -> f64 {
            let whole = match op {
                ReduceOp::Sum => values(i).sum(),
                ReduceOp::Product => values(i).product(),
                ReduceOp::Min => values(i).min().expect("a rank"),
                ReduceOp::Max => values(i).max().expect("a rank"),
                ReduceOp::BitAnd => values(i).reduce(|a, b| a & b).expect("a rank"),
                ReduceOp::BitOr => values(i).reduce(|a, b| a | b).expect("a rank"),
                ReduceOp::BitXor => values(i).reduce(|a, b| a ^ b).expect("a rank"),
                ReduceOp::Avg => return values(i).sum::<i64>() as f64 / f64::from(self.ranks),
                ReduceOp::PreMulSum(factor) => return values(i).sum::<i64>() as f64 * factor,
            };
            whole as f64
        };
        self.tensor(length, kind, fold)
    }

    fn reductions(&self, kind: Kind, length: i64) {
        let float = matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double);
        let bits = !float && self.device == Device::Cpu;
        let ops = [
            (ReduceOp::Sum, true),
            (ReduceOp::Product, true),
            (ReduceOp::Min, true),
            (ReduceOp::Max, true),
            (ReduceOp::BitAnd, bits),
            (ReduceOp::BitOr, bits),
            (ReduceOp::BitXor, bits),
            (ReduceOp::Avg, float),
            (ReduceOp::PreMulSum(0.5), float),
        ];
        for (op, fits) in ops {
            let what = format!("{op:?} of {length} {kind:?} on {} ranks", self.ranks);
            if !fits {
                self.refused(op, kind, length, &what);
                continue;
            }
            // An average by three is rounded to the kind, in an order that is the backend's.
            let check = |found: &Tensor, expected: &Tensor, what: &str| {
                if op == ReduceOp::Avg {
                    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
                    assert!(found.allclose(&expected, 0.01, 0.0, false), "{what}");
                } else {
                    same(found, expected, what);
                }
            };
            let expected = |block| self.reduced(op, block, length, kind);

            let mut found = self.input(self.own, 0, length, kind);
            done(self.group.all_reduce(&mut found, op), &what);
            check(&found, &expected(0), &format!("all_reduce: {what}"));

            for root in self.roots(length) {
                let mut found = self.input(self.own, 1, length, kind);
                done(self.group.reduce(&mut found, root, op), &what);
                if self.own == root {
                    check(&found, &expected(1), &format!("reduce to {root}: {what}"));
                }
            }

            let inputs: Vec<_> = (0..self.ranks).map(|block| self.input(self.own, block, length, kind)).collect();
            let mut found = self.blank(length, kind);
            done(self.group.reduce_scatter(&mut found, &inputs, op), &what);
            check(&found, &expected(self.own), &format!("reduce_scatter: {what}"));

            let input = Tensor::cat(&inputs, 0);
            let mut found = self.blank(length, kind);
            done(self.group.reduce_scatter_tensor(&mut found, &input, op), &what);
            check(&found, &expected(self.own), &format!("reduce_scatter_tensor: {what}"));
            for (block, input) in (0..).zip(&inputs) {
                same(input, &self.input(self.own, block, length, kind), "the inputs stay as they were");
            }
        }
    }

    /// What the backend cannot do is told before anything is sent: the group works on.
    fn refused(&self, op: ReduceOp, kind: Kind, length: i64, what: &str) {
        let mut one = self.input(self.own, 0, length, kind);
        let all: Vec<_> = (0..self.ranks).map(|block| self.input(self.own, block, length, kind)).collect();
        let joined = Tensor::cat(&all, 0);
        for answer in [
            self.group.all_reduce(&mut one, op),
            self.group.reduce(&mut one, 0, op),
            self.group.reduce_scatter(&mut one, &all, op),
            self.group.reduce_scatter_tensor(&mut one, &joined, op),
        ] {
            assert!(matches!(answer, Err(Error::Unsupported(_))), "{what}: {answer:?}");
        }
        same(&one, &self.input(self.own, 0, length, kind), what);
    }

    /// All ranks where that is cheap, one where it is not.
    fn roots(&self, length: i64) -> std::ops::Range<u32> {
        if length < 1000 { 0..self.ranks } else { self.ranks - 1..self.ranks }
    }

    fn broadcast(&self, kind: Kind, length: i64) {
        for root in self.roots(length) {
            let mut found = self.input(self.own, 0, length, kind);
            done(self.group.broadcast(&mut found, root), "broadcast");
            same(&found, &self.input(root, 0, length, kind), &format!("broadcast from {root}: {kind:?} {length}"));
        }
    }

    fn gathers(&self, kind: Kind, length: i64) {
        let input = self.input(self.own, 0, length, kind);
        let expected: Vec<_> = (0..self.ranks).map(|rank| self.input(rank, 0, length, kind)).collect();
        let blanks = || (0..self.ranks).map(|_| self.blank(length, kind)).collect::<Vec<_>>();
        let all = |found: &[Tensor], what: &str| {
            for (found, expected) in found.iter().zip(&expected) {
                same(found, expected, &format!("{what}: {kind:?} {length} on {} ranks", self.ranks));
            }
        };
        let mut found = blanks();
        done(self.group.all_gather(&mut found, &input), "all_gather");
        all(&found, "all_gather");

        let mut joined = self.blank(length * i64::from(self.ranks), kind);
        done(self.group.all_gather_into_tensor(&mut joined, &input), "all_gather_into_tensor");
        same(&joined, &Tensor::cat(&expected, 0), &format!("all_gather_into_tensor: {kind:?} {length}"));

        for root in self.roots(length) {
            let mut found = if self.own == root { blanks() } else { Vec::new() };
            done(self.group.gather(&mut found, &input, root), "gather");
            all(&found, "gather");
        }
        same(&input, &self.input(self.own, 0, length, kind), "the input stays as it was");
    }

    fn scatter(&self, kind: Kind, length: i64) {
        for root in self.roots(length) {
            let blocks = if self.own == root { self.ranks } else { 0 };
            let inputs: Vec<_> = (0..blocks).map(|block| self.input(root, block, length, kind)).collect();
            let mut found = self.blank(length, kind);
            done(self.group.scatter(&mut found, &inputs, root), "scatter");
            let expected = self.input(root, self.own, length, kind);
            same(&found, &expected, &format!("scatter from {root}: {kind:?} {length} on {} ranks", self.ranks));
        }
    }

    /// Rows that one rank sends to another: unlike each other, and none at all between some.
    fn rows(from: u32, to: u32, length: i64) -> i64 {
        if (from + 2 * to) % 3 == 1 { 0 } else { length + i64::from(to) }
    }

    fn all_to_all(&self, kind: Kind, length: i64) {
        let (own, ranks) = (self.own, self.ranks);
        let inputs: Vec<_> = (0..ranks).map(|to| self.input(own, to, Self::rows(own, to, length), kind)).collect();
        let mut found: Vec<_> = (0..ranks).map(|from| self.blank(Self::rows(from, own, length), kind)).collect();
        done(self.group.all_to_all(&mut found, &inputs), "all_to_all");
        for (from, found) in (0..).zip(&found) {
            let expected = self.input(from, own, Self::rows(from, own, length), kind);
            same(found, &expected, &format!("all_to_all from {from}: {kind:?} {length} on {ranks} ranks"));
        }
    }

    fn all_to_all_single(&self, kind: Kind, length: i64) {
        let (own, ranks) = (self.own, self.ranks);
        let what = format!("all_to_all_single: {kind:?} {length} on {ranks} ranks");
        // Equal blocks.
        let input = Tensor::cat(&(0..ranks).map(|to| self.input(own, to, length, kind)).collect::<Vec<_>>(), 0);
        let mut found = self.blank(length * i64::from(ranks), kind);
        done(self.group.all_to_all_single(&mut found, &input, &[], &[]), &what);
        let expected: Vec<_> = (0..ranks).map(|from| self.input(from, own, length, kind)).collect();
        same(&found, &Tensor::cat(&expected, 0), &what);
        // Unequal ones, in rows of two elements.
        let splits = |rows: &dyn Fn(u32) -> i64| (0..ranks).map(rows).collect::<Vec<_>>();
        let (out, into) = (splits(&|to| Self::rows(own, to, length)), splits(&|from| Self::rows(from, own, length)));
        let joined = |block: &dyn Fn(u32) -> Tensor| Tensor::cat(&(0..ranks).map(block).collect::<Vec<_>>(), 0);
        let input = joined(&|to| self.input(own, to, 2 * Self::rows(own, to, length), kind)).view([-1, 2]);
        let expected = joined(&|from| self.input(from, own, 2 * Self::rows(from, own, length), kind)).view([-1, 2]);
        let mut found = self.blank(expected.numel() as i64, kind).view([-1, 2]);
        done(self.group.all_to_all_single(&mut found, &input, &into, &out), &what);
        same(&found, &expected, &what);
    }

    /// Round the ring, with two messages under way whose tags tell them apart, received in the other order. NCCL knows no
    /// tags: there it is one message at a time, from the even ranks first.
    fn messages(&self, kind: Kind, length: i64) {
        if self.ranks == 1 {
            return;
        }
        let (next, previous) = ((self.own + 1) % self.ranks, (self.own + self.ranks - 1) % self.ranks);
        let group = &self.group;
        if self.device != Device::Cpu {
            let mut found = self.blank(length, kind);
            let sent = self.input(self.own, 0, length, kind);
            let (send, recv) = (
                || done(group.send(&sent, next, 0), "send"),
                |found: &mut Tensor| {
                    done(group.recv(found, previous, 0), "recv");
                },
            );
            if self.own % 2 == 0 {
                send();
                recv(&mut found);
            } else {
                recv(&mut found);
                send();
            }
            return same(&found, &self.input(previous, 0, length, kind), &format!("recv: {kind:?} {length}"));
        }
        let tensors = [0, 1].map(|block| self.input(self.own, block, length, kind));
        let sends = [0, 1].map(|tag| group.send(&tensors[tag as usize], next, tag).expect("send"));
        let mut found = [0, 1].map(|_| self.blank(length, kind));
        for tag in [1, 0] {
            done(group.recv(&mut found[tag as usize], previous, tag), "recv");
        }
        for (send, (block, found)) in sends.into_iter().zip((0..).zip(&found)) {
            send.wait().expect("send");
            same(found, &self.input(previous, block, length, kind), &format!("recv {block}: {kind:?} {length}"));
        }
    }
}
