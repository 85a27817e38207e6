//! PyTorch's own distributed runtime (c10d) for programs on [`tch`]: stores, process groups, collectives and the DDP
//! reducer of libtorch, without Python.
//!
//! A [`Store`] is where ranks meet: a small key-value service. A [`ProcessGroup`] connects them, by gloo or (feature `nccl`)
//! by NCCL; its operations return a [`Work`] to wait for. Every failure is an [`Error`] that tells a deadline from a lost peer; no C++ exception
//! crosses into Rust. Ranks written in Python and ranks written in Rust can share a store and a group.
//!
//! # Two processes
//!
//! The program `examples/sum.rs`, which the tests run, is this:
//!
//! ```no_run
#![doc = include_str!("../examples/sum.rs")]
//! ```
//!
//! # Training
//!
//! [`Ddp`] trains one model by all ranks of a group: each takes its part of the batch, and gradients are averaged while the
//! backward pass runs. [`SyncBatchNorm`] takes its statistics over all of them. The program `examples/train.rs`, which the
//! tests run, is this:
//!
//! ```no_run
#![doc = include_str!("../examples/train.rs")]
//! ```
//!
//! # libtorch
//!
//! Exactly version 2.11.0 is needed, where `LIBTORCH` (or torch-sys's other variables) says; the build fails otherwise.
//! The wheel's folder `torch` serves, and no Python is run.
//!
//! A program links `libtorch_cpu` and `libc10` only. The linker is given torch-sys's `torch`, `torch_cuda` and `gomp`
//! too, but nothing refers to them directly, and rustc passes `--as-needed`: so the program starts where of the CUDA
//! wheels only `libcudart` and `libcupti` are present (`libtorch_cpu` itself needs them). Where all of them are, it uses
//! CUDA after [`load_cuda`]. The program's run path must name the folder of `libtorch_cpu.so`, and a build script's
//! link arguments do not reach dependents: a program's own build script takes the folder from
//! `DEP_TCH_DISTRIBUTED_SHIM_LIB` and prints `cargo::rustc-link-arg=-Wl,-rpath,...`.
//!
//! # Failures
//!
//! A gloo group closes itself on the first failure, so that every rank hears of a death at once and not only the dead rank's
//! neighbours: see [`ProcessGroup`]. NCCL hangs, or ends the process by its watchdog; whoever needs to survive that starts it
//! in a process that can be killed.
//!
//! # Threads
//!
//! A [`Store`] may be used by many threads, one operation at a time: a thread that waits for a key holds up the others.
//! Collectives of a [`ProcessGroup`] must start in the same order on all ranks, so a group is used by one thread at a
//! time (`Send`, not `Sync`).

mod agree;
mod ddp;
mod collective;
mod error;
mod ffi;
mod group;
#[cfg(feature = "nccl")]
mod nccl;
mod point_to_point;
mod reduce;
mod store;
mod sync_batch_norm;
mod tensors;
mod waiter;
mod work;

pub use ddp::{Compression, Ddp, DdpOptions, Outputs, Peers};
pub use error::{Error, Result};
pub use group::{Backend, GlooOptions, Interface, ProcessGroup};
#[cfg(feature = "nccl")]
pub use nccl::{CudaMemory, NcclOptions, cuda_memory};
pub use reduce::ReduceOp;
pub use store::Store;
pub use sync_batch_norm::{SyncBatchNorm, SyncGroup};
pub use work::Work;

use std::ffi::CStr;

/// Version of libtorch that this crate was compiled against, such as `2.11.0`.
#[must_use]
pub fn torch_version() -> &'static str {
    // SAFETY: the shim returns a string literal, which is zero-terminated and lives as long as the program.
    let version = unsafe { CStr::from_ptr(ffi::tchd_torch_version()) };
    version.to_str().unwrap_or("unknown")
}

/// How much libtorch itself writes to stderr. It says there what it also returns as an error, with a C++ backtrace each
/// time; a program that reports errors in its own way may want less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum LogLevel {
    /// Everything that is no debugging.
    Info = 0,
    /// Warnings and errors; libtorch's own choice.
    Warning = 1,
    /// Errors.
    Error = 2,
    /// Only what ends the process.
    Fatal = 3,
}

/// Sets what libtorch writes to stderr, in the whole process, whatever `TORCH_CPP_LOG_LEVEL` says.
pub fn set_log_level(level: LogLevel) {
    // SAFETY: writes one integer. c10d's threads may read it at the same time, without order, as libtorch itself does.
    unsafe { ffi::tchd_set_log_level(level as i32) }
}

/// Loads libtorch's CUDA half (`libtorch_cuda.so` and what it needs), so that `tch` sees the GPUs. Call it before the
/// first question about CUDA; calling it again does nothing.
///
/// # Errors
///
/// [`Error::Unsupported`], with the loader's reason, where the libraries are not all there.
pub fn load_cuda() -> Result<()> {
    // SAFETY: the name is a zero-terminated literal. Loading runs the library's initialisers, which libtorch is built
    // to have run at any time.
    let status = unsafe { ffi::tchd_load_library(c"libtorch_cuda.so".as_ptr()) };
    ffi::check(status, || "load CUDA".into())
}
