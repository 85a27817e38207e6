//! Process groups: ranks that are connected, and what they do together.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::ptr::{self, NonNull};
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::ffi::{self, Slice};
use crate::reduce::ReduceOp;
use crate::store::Store;
use crate::work::Work;

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

/// Ranks that are connected. All of them must start the same collectives in the same order, on tensors of the same shape
/// and kind: gloo ends the *process* (SIGABRT, from a thread of its own) that is sent more bytes than it expects, and no
/// rank can see that beforehand.
///
/// Dropping a group waits for its collectives to end, at most for the group's timeout; so does [`ProcessGroup::shutdown`],
/// which can tell of a failure.
#[derive(Debug)]
pub struct ProcessGroup {
    raw: NonNull<ffi::GroupHandle>,
    rank: u32,
    world_size: u32,
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
        let raw = NonNull::new(raw).ok_or_else(|| Error::Other("libtorch gave no group".into()))?;
        Ok(Self { raw, rank, world_size, _not_sync: PhantomData })
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

    /// Replaces `tensor` on every rank by the reduction over all ranks. Shape and kind must agree between the ranks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] or [`Error::Unsupported`] for a tensor or an operation that the backend does not take,
    /// before anything is sent.
    pub fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<Work> {
        let handle = checked(tensor, "all_reduce")?;
        let kind = tensor.kind();
        if !op.fits(kind) {
            return Err(Error::Unsupported(format!("all_reduce: {op:?} of {kind:?} tensors")));
        }
        self.start("all_reduce", |group, out| {
            // SAFETY: group and tensor are alive for the call; the operation takes a reference to the tensor.
            unsafe { ffi::tchd_group_all_reduce(group, handle, op.code(), out) }
        })
    }

    /// Replaces `tensor` on every rank by that of rank `root`. Shape and kind must agree between the ranks.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_reduce`], and for a root out of range.
    pub fn broadcast(&self, tensor: &mut Tensor, root: u32) -> Result<Work> {
        let (root, _) = ranks(root, self.world_size)?;
        let handle = checked(tensor, "broadcast")?;
        self.start("broadcast", |group, out| {
            // SAFETY: group and tensor are alive for the call; the operation takes a reference to the tensor.
            unsafe { ffi::tchd_group_broadcast(group, handle, root, out) }
        })
    }

    /// Replaces `tensors` on every rank by those of rank `root`, many in one message. Their number, shapes and kinds must
    /// agree between the ranks; kinds may be mixed, and a tensor need not be contiguous. Blocks until all are there.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::broadcast`], and what [`Work::wait`] returns.
    pub fn broadcast_coalesced(&self, tensors: &mut [Tensor], root: u32) -> Result<()> {
        let (root, _) = ranks(root, self.world_size)?;
        let mut handles = Vec::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            handles.push(sendable(tensor, &format!("broadcast_coalesced, tensor {i}"))?);
        }
        if handles.is_empty() {
            return Ok(());
        }
        // SAFETY: group and tensors are alive for the call, which blocks; `handles` holds `handles.len()` of them.
        let status =
            unsafe { ffi::tchd_group_broadcast_coalesced(self.raw.as_ptr(), handles.as_ptr(), handles.len(), root) };
        ffi::check(status, || "broadcast_coalesced".into())
    }

    /// Ends on a rank only when all ranks have started it and their earlier collectives have ended.
    ///
    /// # Errors
    ///
    /// As the backend fails to start it.
    pub fn barrier(&self) -> Result<Work> {
        self.start("barrier", |group, out| {
            // SAFETY: the group is alive for the call.
            unsafe { ffi::tchd_group_barrier(group, out) }
        })
    }

    /// A barrier whose error names who is missing: on rank 0 the first missing rank, or with `all` every one.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] or [`Error::Other`] with libtorch's words on rank 0; on other ranks those of a lost rank 0.
    pub fn monitored_barrier(&self, timeout: Duration, all: bool) -> Result<()> {
        // SAFETY: the group is alive for the call, which blocks.
        let status = unsafe { ffi::tchd_group_monitored_barrier(self.raw.as_ptr(), ffi::millis(timeout), all) };
        ffi::check(status, || "monitored barrier".into())
    }

    /// Ends the group: waits for its collectives, closes its connections.
    ///
    /// # Errors
    ///
    /// What libtorch throws while it closes.
    pub fn shutdown(self) -> Result<()> {
        let raw = std::mem::ManuallyDrop::new(self).raw;
        // SAFETY: `raw` was this group's alone, and `ManuallyDrop` keeps the drop below from running too.
        let status = unsafe { ffi::tchd_group_drop(raw.as_ptr()) };
        ffi::check(status, || "shut down".into())
    }

    pub(crate) fn as_ptr(&self) -> *const ffi::GroupHandle {
        self.raw.as_ptr()
    }

    fn start(
        &self,
        doing: &'static str,
        call: impl FnOnce(*const ffi::GroupHandle, *mut *mut ffi::WorkHandle) -> ffi::Status,
    ) -> Result<Work> {
        let mut work = ptr::null_mut();
        ffi::check(call(self.raw.as_ptr(), &mut work), || doing.into())?;
        Work::new(work, doing)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: `raw` is ours and not used again; works hold references to what they need.
        let status = unsafe { ffi::tchd_group_drop(self.raw.as_ptr()) };
        // Whoever wants to know calls `shutdown`; `check` frees the message there might be.
        let _ = ffi::check(status, String::new);
    }
}

fn ranks(rank: u32, world_size: u32) -> Result<(i32, i32)> {
    match (i32::try_from(rank), i32::try_from(world_size)) {
        (Ok(rank), Ok(size)) if rank < size => Ok((rank, size)),
        _ => Err(Error::InvalidArgument(format!("rank {rank} in a world of {world_size}"))),
    }
}

/// The tensor's handle, after what can be known on this rank has been checked: also that it lies in one piece.
fn checked(tensor: &Tensor, doing: &str) -> Result<*const ffi::TensorHandle> {
    let handle = sendable(tensor, doing)?;
    if !tensor.is_contiguous() {
        return Err(Error::InvalidArgument(format!("{doing}: a tensor that is not contiguous")));
    }
    Ok(handle)
}

/// The tensor's handle, if its device and kind are those that the group takes.
pub(crate) fn sendable(tensor: &Tensor, doing: &str) -> Result<*const ffi::TensorHandle> {
    if !tensor.defined() {
        return Err(Error::InvalidArgument(format!("{doing}: an undefined tensor")));
    }
    if tensor.is_sparse() {
        return Err(Error::Unsupported(format!("{doing}: sparse tensors")));
    }
    let (device, kind) = (tensor.device(), tensor.kind());
    if device != Device::Cpu {
        return Err(Error::Unsupported(format!(
            "{doing}: a tensor on {device:?} in a gloo group, which takes CPU tensors"
        )));
    }
    let takes =
        [Kind::Uint8, Kind::Int8, Kind::Int, Kind::Int64, Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double];
    if !takes.contains(&kind) {
        return Err(Error::Unsupported(format!("{doing}: {kind:?} tensors in a gloo group")));
    }
    Ok(tensor.as_ptr().cast())
}
