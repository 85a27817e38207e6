//! Memory of the device that a rank computes on.

use tch::Device;

use super::group::GroupError;

/// What a device's memory holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The most that tensors took; on a GPU, that its allocator held for them.
    pub peak: u64,
    /// Everything else on a GPU: its runtime, the communication, and other processes, if there are any.
    pub context: u64,
}

/// What `device`'s memory holds.
///
/// # Errors
///
/// A GPU does not say.
pub fn memory(device: Device) -> Result<Memory, GroupError> {
    match device {
        Device::Cuda(index) => cuda(index, false),
        _ => Ok(Memory { peak: evenkeel_allocator::usage().peak, context: 0 }),
    }
}

/// Has the peak begin anew.
///
/// # Errors
///
/// A GPU does not do it.
pub fn forget_peak(device: Device) -> Result<(), GroupError> {
    match device {
        Device::Cuda(index) => cuda(index, true).map(drop),
        _ => {
            evenkeel_allocator::forget_peak();
            Ok(())
        }
    }
}

#[cfg(feature = "nccl")]
fn cuda(index: usize, forget: bool) -> Result<Memory, GroupError> {
    let found = tch_distributed::cuda_memory(u32::try_from(index).unwrap_or(u32::MAX), forget);
    let found = found.map_err(|error| GroupError::Device(error.to_string()))?;
    let context = found.total.saturating_sub(found.free).saturating_sub(found.reserved);
    Ok(Memory { peak: found.reserved_peak, context })
}

#[cfg(not(feature = "nccl"))]
fn cuda(_: usize, _: bool) -> Result<Memory, GroupError> {
    Err(GroupError::Device("this program was built without CUDA's part, which tells of a GPU's memory".to_owned()))
}
