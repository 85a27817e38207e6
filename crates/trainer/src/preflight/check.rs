//! Does an all-reduce add up, and how fast?

use std::time::Instant;

use tch::{Device, Kind, TchError, Tensor};
use tch_distributed::{ProcessGroup, ReduceOp};

/// Lengths of the tensors that are checked: single elements, odd ones, and enough to be cut into many messages.
const LENGTHS: [i64; 5] = [1, 3, 1000, 65_537, 262_144];
/// Period of the pattern: prime, so that a shifted block does not fit its place.
const PERIOD: i64 = 97;
/// Elements (f32) of the tensor whose all-reduce is timed: 16 MB.
const TIMED_LENGTH: i64 = 4_000_000;
/// Timed all-reduces, after one that warms the connections up and is checked.
const TIMED_ROUNDS: usize = 3;

/// What an all-reduce did wrong.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It failed.
    #[error("failed to all-reduce")]
    Collective(#[from] tch_distributed::Error),
    /// It succeeded with a wrong answer.
    #[error("all-reduce of {length} {kind} elements is wrong in {wrong}: element {index} is {found}, not {expected}")]
    Wrong {
        /// Elements in all.
        length: i64,
        /// Type of the elements.
        kind: &'static str,
        /// Elements that are wrong.
        wrong: i64,
        /// The first of them.
        index: i64,
        /// What it is.
        found: f64,
        /// What it should have been.
        expected: f64,
    },
    /// A tensor could not be made or compared.
    #[error("failed to prepare a tensor")]
    Tensor(#[from] TchError),
}

/// All-reduces tensors in which every rank has values of its own, and compares every element with the sum that is
/// known beforehand. All values are integers small enough to be exact in f32 up to some 500 ranks.
pub fn values(group: &ProcessGroup, device: Device) -> Result<(), CheckError> {
    let ranks = i64::from(group.world_size());
    let own = i64::from(group.rank()) + 1;
    for (kind, name) in [(Kind::Int64, "i64"), (Kind::Float, "f32")] {
        for length in LENGTHS {
            let pattern = Tensor::f_arange(length, (Kind::Int64, Device::Cpu))?
                .f_remainder(PERIOD)?
                .f_add_scalar(1)?
                .f_to_kind(kind)?
                .f_to_device(device)?;
            let mut tensor = pattern.f_mul_scalar(own)?;
            group.all_reduce(&mut tensor, ReduceOp::Sum)?.wait()?;
            compare(&tensor, &pattern.f_mul_scalar(ranks * (ranks + 1) / 2)?, name)?;
        }
    }
    Ok(())
}

/// Bytes of a tensor over the time that its all-reduce takes; the median of a few rounds.
pub fn bandwidth(group: &ProcessGroup, device: Device) -> Result<f64, CheckError> {
    let ranks = i64::from(group.world_size());
    let mut tensor = Tensor::f_full([TIMED_LENGTH], i64::from(group.rank()) + 1, (Kind::Float, device))?;
    group.all_reduce(&mut tensor, ReduceOp::Sum)?.wait()?;
    compare(&tensor, &Tensor::f_full_like(&tensor, ranks * (ranks + 1) / 2)?, "f32")?;
    // Zeros stay zeros, however often they are added up.
    let _ = tensor.f_zero_()?;
    let mut seconds = Vec::with_capacity(TIMED_ROUNDS);
    for _ in 0..TIMED_ROUNDS {
        // A rank that comes late would be counted as slow transport.
        group.barrier()?.wait()?;
        settle(device);
        let start = Instant::now();
        group.all_reduce(&mut tensor, ReduceOp::Sum)?.wait()?;
        settle(device);
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok((TIMED_LENGTH * 4) as f64 / seconds[TIMED_ROUNDS / 2])
}

/// On a GPU a wait orders work there and does not hold up the host: this does.
fn settle(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

fn compare(tensor: &Tensor, expected: &Tensor, kind: &'static str) -> Result<(), CheckError> {
    if tensor.f_equal(expected)? {
        return Ok(());
    }
    let differing = tensor.f_ne_tensor(expected)?.f_nonzero()?;
    let index = differing.f_int64_value(&[0, 0])?;
    Err(CheckError::Wrong {
        length: tensor.size()[0],
        kind,
        wrong: differing.size()[0],
        index,
        found: tensor.f_double_value(&[index])?,
        expected: expected.f_double_value(&[index])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_element_is_found_and_told() {
        let expected = Tensor::from_slice(&[3.0f32, 6.0, 9.0]);
        assert!(compare(&expected.copy(), &expected, "f32").is_ok());
        let error =
            compare(&Tensor::from_slice(&[3.0f32, 6.5, f32::NAN]), &expected, "f32").expect_err("two are wrong");
        let text = "all-reduce of 3 f32 elements is wrong in 2: element 1 is 6.5, not 6";
        assert_eq!(error.to_string(), text);
    }
}
