//! NCCL groups: for the GPUs of NVIDIA's, behind the cargo feature `nccl`.

use std::ptr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ffi::{self, Slice};
use crate::group::{Backend, ProcessGroup, ranks};
use crate::store::Store;

/// The library made of csrc/nccl.cpp. Only it refers to `libtorch_cuda`, so the program starts without.
static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libtchd_nccl.so"));

/// How an NCCL group is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NcclOptions {
    /// How long a collective may take before NCCL's watchdog ends the process.
    pub timeout: Duration,
    /// Whether collectives run on CUDA streams of high priority, ahead of computation that waits for the same GPU.
    pub high_priority_stream: bool,
    /// Index of the CUDA device that the group is bound to, as the process sees it (`cuda:0` is 0). Every tensor of every
    /// operation lies on it.
    pub device: u32,
}

impl NcclOptions {
    /// Streams of normal priority, as in torch.
    #[must_use]
    pub fn new(device: u32, timeout: Duration) -> Self {
        Self { timeout, high_priority_stream: false, device }
    }
}

/// Loads the library; doing it again does nothing.
fn load() -> Result<()> {
    crate::load_cuda()?;
    // SAFETY: the library's bytes live as long as the program. It is our own, and loading it runs nothing but the
    // initialisers of libtorch's headers.
    ffi::check(unsafe { ffi::tchd_nccl_load(Slice::new(LIBRARY)) }, || "load the NCCL part".into())
}

/// Memory of a CUDA device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaMemory {
    /// All of it.
    pub total: u64,
    /// What nobody uses.
    pub free: u64,
    /// What this process's libtorch holds for tensors.
    pub reserved: u64,
    /// The most that it held.
    pub reserved_peak: u64,
}

/// What CUDA device `device` has, and what libtorch holds of it. With `forget` it first gives back what no tensor uses, and
/// [`CudaMemory::reserved_peak`] begins anew.
///
/// # Errors
///
/// [`Error::Unsupported`] where libtorch's CUDA libraries are missing, or CUDA's own error.
pub fn cuda_memory(device: u32, forget: bool) -> Result<CudaMemory> {
    load()?;
    let index = i32::try_from(device).map_err(|_| Error::InvalidArgument(format!("CUDA device {device}")))?;
    let mut found = [0; 4];
    // SAFETY: four numbers are written to four numbers that outlive the call.
    let status = unsafe { ffi::tchd_cuda_memory(index, forget, found.as_mut_ptr()) };
    ffi::check(status, || format!("memory of CUDA device {device}"))?;
    let [total, free, reserved, reserved_peak] = found;
    Ok(CudaMemory { total, free, reserved, reserved_peak })
}

impl ProcessGroup {
    /// Connects `world_size` ranks by NCCL, each with a GPU of its own. Blocks until all are connected. Groups that share a
    /// store need a [`Store::prefix`] each. Loads libtorch's CUDA half first, as [`load_cuda`](crate::load_cuda) does; a
    /// program that asks tch about CUDA before that is told that there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where libtorch's CUDA libraries or a GPU are missing, with the reason;
    /// [`Error::InvalidArgument`] for a rank or a device out of range; [`Error::Timeout`] and [`Error::PeerLost`] when the
    /// ranks do not connect.
    pub fn nccl(store: &Store, rank: u32, world_size: u32, options: &NcclOptions) -> Result<Self> {
        let (raw_rank, raw_size) = ranks(rank, world_size)?;
        load()?;
        let devices = tch::Cuda::device_count();
        if devices < 1 {
            return Err(Error::Unsupported("NCCL: libtorch sees no GPU".into()));
        }
        let device = i32::try_from(options.device).ok().filter(|device| i64::from(*device) < devices);
        let device = device
            .ok_or_else(|| Error::InvalidArgument(format!("NCCL: CUDA device {} of {devices}", options.device)))?;
        let mut raw = ptr::null_mut();
        // SAFETY: the store is alive and the group takes a reference of its own; `raw` outlives the call.
        let status = unsafe {
            ffi::tchd_group_nccl(
                store.as_ptr(),
                raw_rank,
                raw_size,
                device,
                options.high_priority_stream,
                ffi::millis(options.timeout),
                &mut raw,
            )
        };
        ffi::check(status, || format!("NCCL group on CUDA device {device}, rank {rank} of {world_size}"))?;
        Self::new(raw, rank, world_size, Backend::Nccl { device: options.device })
    }
}
