//! Memory of the device that a rank computes on.

use tch::Device;

/// What a device's memory holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The most that tensors took; on a GPU, that its allocator held for them.
    pub peak: u64,
    /// Everything else on a GPU: its runtime, the communication, and other processes, if there are any.
    pub context: u64,
}

/// What `device`'s memory holds. Nothing where that cannot be known.
#[must_use]
pub fn memory(device: Device) -> Option<Memory> {
    match device {
        Device::Cuda(index) => cuda(index, false),
        _ => Some(Memory { peak: evenkeel_allocator::usage().peak, context: 0 }),
    }
}

/// Has the peak begin anew.
pub fn forget_peak(device: Device) {
    match device {
        Device::Cuda(index) => drop(cuda(index, true)),
        _ => evenkeel_allocator::forget_peak(),
    }
}

#[cfg(feature = "nccl")]
fn cuda(index: usize, forget: bool) -> Option<Memory> {
    let found = tch_distributed::cuda_memory(u32::try_from(index).ok()?, forget).ok()?;
    let context = found.total.saturating_sub(found.free).saturating_sub(found.reserved);
    Some(Memory { peak: found.reserved_peak, context })
}

#[cfg(not(feature = "nccl"))]
fn cuda(_: usize, _: bool) -> Option<Memory> {
    None
}
