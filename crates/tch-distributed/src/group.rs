//! Process groups: ranks that are connected. What they do together is in `collective.rs` and `point_to_point.rs`.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ptr::{self, NonNull};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ffi::{self, Slice};
use crate::store::Store;
use crate::work::{Finish, RawWork, Work};

/// Where gloo's sockets are bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// A network interface by name, such as `lo` or `eth0`.
    Name(String),
    /// The interface that holds this address.
    Address(IpAddr),
}

/// How a gloo group is made.
#[derive(Clone, Debug)]
pub struct GlooOptions {
    /// The interface that this rank's peers reach it at.
    pub interface: Interface,
    /// How long connecting and each collective may take.
    pub timeout: Duration,
    /// Collectives that run at the same time; later ones queue.
    pub threads: u32,
}

impl GlooOptions {
    /// Two threads, as in torch.
    #[must_use]
    pub fn new(interface: Interface, timeout: Duration) -> Self {
        Self { interface, timeout, threads: 2 }
    }
}

/// Who carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// gloo, over TCP, for tensors in the host's memory.
    Gloo,
    /// NCCL, for tensors on the GPU of this index.
    Nccl {
        /// Index of the CUDA device that the group is bound to.
        device: u32,
    },
}

/// Ranks that are connected. All of them must start the same collectives in the same order, on tensors of the same shape
/// and kind: gloo ends the *process* (SIGABRT, from a thread of its own) that is sent more bytes than it expects, and no
/// rank can see that beforehand.
///
/// # Failure
///
/// A gloo group closes itself on the first operation that fails by a deadline or a lost connection, whether or not somebody
/// waits for it. Its peers meet the closed connections and do the same, so that all ranks know within milliseconds, those
/// too that had no business with the rank that died. Operations under way end with an error, and later ones are refused
/// with the first failure. There is no way back: a new group needs a new store or [`Store::prefix`].
///
/// NCCL has a watchdog of its own, which ends the *process* after a timeout; recovery there is a new process.
///
/// # End
///
/// Dropping a group waits for its operations to end, at most for the group's timeout; so does [`ProcessGroup::shutdown`],
/// which can tell of a failure. [`ProcessGroup::abort`] does not wait.
#[derive(Debug)]
pub struct ProcessGroup {
    raw: NonNull<ffi::GroupHandle>,
    rank: u32,
    world_size: u32,
    backend: Backend,
    /// Threads that wait for sends and receives, of which some may have ended.
    waiters: RefCell<Vec<JoinHandle<()>>>,
    // The counter that matches collectives between ranks is not guarded.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

// SAFETY: c10d counts references atomically, gloo's connections are served by threads of their own, and nothing in the
// group belongs to the thread that made it. Two threads at once would race for its counters: hence no Sync.
unsafe impl Send for ProcessGroup {}

impl ProcessGroup {
    /// Connects `world_size` ranks by gloo. Blocks until all are connected. Groups that share a store need a
    /// [`Store::prefix`] each.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a rank out of range, no threads, or an interface that is not there;
    /// [`Error::Timeout`] when a rank does not come.
    pub fn gloo(store: &Store, rank: u32, world_size: u32, options: &GlooOptions) -> Result<Self> {
        let (raw_rank, raw_size) = ranks(rank, world_size)?;
        let threads = i32::try_from(options.threads)
            .ok()
            .filter(|threads| *threads > 0)
            .ok_or_else(|| Error::InvalidArgument(format!("{} threads for a gloo group", options.threads)))?;
        let (interface, address) = match &options.interface {
            Interface::Name(name) if name.is_empty() => {
                return Err(Error::InvalidArgument("an interface without a name".into()));
            }
            Interface::Name(name) => (name.clone(), String::new()),
            Interface::Address(address) => (String::new(), address.to_string()),
        };
        let mut raw = ptr::null_mut();
        // SAFETY: the store is alive and the group takes a reference of its own; names are borrowed for the call; `raw`
        // outlives it.
        let status = unsafe {
            ffi::tchd_group_gloo(
                store.as_ptr(),
                raw_rank,
                raw_size,
                Slice::new(interface.as_bytes()),
                Slice::new(address.as_bytes()),
                threads,
                ffi::millis(options.timeout),
                &mut raw,
            )
        };
        ffi::check(status, || format!("gloo group over `{interface}{address}`, rank {rank} of {world_size}"))?;
        Self::new(raw, rank, world_size, Backend::Gloo)
    }

    /// Takes over a group that the shim has made.
    pub(crate) fn new(raw: *mut ffi::GroupHandle, rank: u32, world_size: u32, backend: Backend) -> Result<Self> {
        let raw = NonNull::new(raw).ok_or_else(|| Error::Other("libtorch gave no group".into()))?;
        Ok(Self { raw, rank, world_size, backend, waiters: RefCell::default(), _not_sync: PhantomData })
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Number of ranks.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        self.world_size
    }

    pub(crate) fn as_ptr(&self) -> *const ffi::GroupHandle {
        self.raw.as_ptr()
    }

    /// Who carries the messages.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Where the tensors of this group's collectives lie.
    #[must_use]
    pub fn device(&self) -> tch::Device {
        match self.backend {
            Backend::Gloo => tch::Device::Cpu,
            Backend::Nccl { device } => tch::Device::Cuda(device as usize),
        }
    }

    /// The failure that closed a gloo group; `None` while it is sound, and always `None` for NCCL. Does not block.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        // SAFETY: the group is alive for the call, which looks under a lock.
        let status = unsafe { ffi::tchd_group_failure(self.raw.as_ptr()) };
        ffi::check(status, || "process group".into()).err()
    }

    /// Ends the group: waits for its operations, closes its connections.
    ///
    /// # Errors
    ///
    /// What closed the group before, or what libtorch throws while it closes. The group is gone in any case.
    pub fn shutdown(self) -> Result<()> {
        self.join_waiters();
        let failure = self.failure();
        // SAFETY: the group is alive for the call.
        let status = unsafe { ffi::tchd_group_shutdown(self.raw.as_ptr()) };
        let shut = ffi::check(status, || "shut down".into());
        let closed = self.close("shut down");
        failure.map_or(Ok(()), Err).and(shut).and(closed)
    }

    /// Ends the group at once: operations under way fail here, and soon on the other ranks.
    ///
    /// On NCCL this is `ncclCommAbort`, which can itself hang where the GPUs do: end the process after it.
    ///
    /// # Errors
    ///
    /// What libtorch throws while it closes. The group is gone in any case.
    pub fn abort(self) -> Result<()> {
        // SAFETY: the group is alive for the call.
        let status = unsafe { ffi::tchd_group_abort(self.raw.as_ptr()) };
        let aborted = ffi::check(status, || "abort".into());
        self.join_waiters();
        aborted.and(self.close("abort"))
    }

    fn close(self, doing: &str) -> Result<()> {
        let mut group = std::mem::ManuallyDrop::new(self);
        drop(std::mem::take(&mut group.waiters));
        // SAFETY: `raw` was this group's alone, and `ManuallyDrop` keeps the drop below from running too.
        let status = unsafe { ffi::tchd_group_drop(group.raw.as_ptr()) };
        ffi::check(status, || doing.into())
    }

    /// Sends and receives end by the group's timeout at the latest, or when the group closes.
    fn join_waiters(&self) {
        for waiter in self.waiters.take() {
            // It cannot panic; and if it did, the outcome would be missing where it is waited for.
            let _ = waiter.join();
        }
    }

    /// Keeps a thread until it, or the group, has ended.
    pub(crate) fn keep_waiter(&self, waiter: JoinHandle<()>) {
        let mut waiters = self.waiters.borrow_mut();
        waiters.retain(|waiter| !waiter.is_finished());
        waiters.push(waiter);
    }

    /// Starts an operation of the backend's.
    pub(crate) fn start(
        &self,
        doing: &'static str,
        finish: Option<Finish>,
        call: impl FnOnce(*const ffi::GroupHandle, *mut *mut ffi::WorkHandle) -> ffi::Status,
    ) -> Result<Work> {
        Ok(Work::new(self.start_raw(doing, call)?, doing, finish))
    }

    pub(crate) fn start_raw(
        &self,
        doing: &'static str,
        call: impl FnOnce(*const ffi::GroupHandle, *mut *mut ffi::WorkHandle) -> ffi::Status,
    ) -> Result<RawWork> {
        let mut work = ptr::null_mut();
        ffi::check(call(self.raw.as_ptr(), &mut work), || doing.into())?;
        RawWork::new(work, doing)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.join_waiters();
        // SAFETY: `raw` is ours and not used again; works hold references to what they need.
        let status = unsafe { ffi::tchd_group_drop(self.raw.as_ptr()) };
        // Whoever wants to know calls `shutdown`; `check` frees the message there might be.
        let _ = ffi::check(status, String::new);
    }
}

/// A rank as c10d wants it, after a look at its range.
pub(crate) fn ranks(rank: u32, world_size: u32) -> Result<(i32, i32)> {
    match (i32::try_from(rank), i32::try_from(world_size)) {
        (Ok(rank), Ok(size)) if rank < size => Ok((rank, size)),
        _ => Err(Error::InvalidArgument(format!("rank {rank} in a world of {world_size}"))),
    }
}
