//! The C surface of the shim; csrc/shim.h says what each function does.

use std::ffi::{CStr, c_char, c_void};
use std::time::Duration;

use crate::error::{Error, Result};

macro_rules! opaque {
    ($($name:ident)*) => {$(
        #[repr(C)]
        pub(crate) struct $name {
            _private: [u8; 0],
        }
    )*};
}
opaque!(StoreHandle GroupHandle WorkHandle TensorHandle DdpHandle SyncGroupHandle);

#[repr(C)]
pub(crate) struct Status {
    kind: i32,
    message: *mut c_char,
}

/// Borrowed bytes; valid for as long as what they were made from.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Slice {
    data: *const u8,
    len: usize,
}

impl Slice {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), len: bytes.len() }
    }
}

#[repr(C)]
pub(crate) struct Bytes {
    data: *mut u8,
    len: usize,
}

impl Bytes {
    pub(crate) const EMPTY: Self = Self { data: std::ptr::null_mut(), len: 0 };

    /// Copies the bytes and gives the shim's memory back.
    ///
    /// # Safety
    ///
    /// `self` is [`Self::EMPTY`] or was filled by a successful call into the shim.
    pub(crate) unsafe fn into_vec(self) -> Vec<u8> {
        if self.data.is_null() {
            return Vec::new();
        }
        // SAFETY: the shim allocated at least `len` bytes at `data` and wrote them.
        let copy = unsafe { std::slice::from_raw_parts(self.data, self.len) }.to_vec();
        // SAFETY: `data` came from the shim's malloc and is given back once, since `self` is consumed.
        unsafe { tchd_free(self.data.cast()) };
        copy
    }
}

/// Mirrors `tchd_ddp_options`.
#[repr(C)]
pub(crate) struct DdpOptions {
    pub(crate) first_bucket_bytes: i64,
    pub(crate) bucket_bytes: i64,
    pub(crate) find_unused_parameters: bool,
    pub(crate) static_graph: bool,
    pub(crate) gradient_as_bucket_view: bool,
    pub(crate) hook: u8,
}

unsafe extern "C" {
    pub(crate) fn tchd_tensor_identity(tensor: *const TensorHandle) -> *const c_void;
    pub(crate) fn tchd_group_broadcast_coalesced(
        group: *const GroupHandle,
        tensors: *const *const TensorHandle,
        count: usize,
        root: i32,
    ) -> Status;
    pub(crate) fn tchd_ddp_new(
        group: *const GroupHandle,
        options: *const DdpOptions,
        parameters: *const *const TensorHandle,
        names: *const Slice,
        parameter_count: usize,
        buffers: *const *const TensorHandle,
        buffer_count: usize,
        out: *mut *mut DdpHandle,
    ) -> Status;
    pub(crate) fn tchd_ddp_before_forward(ddp: *mut DdpHandle, synchronise: bool, send_buffers: bool) -> Status;
    pub(crate) fn tchd_ddp_after_forward(
        ddp: *mut DdpHandle,
        outputs: *const *const TensorHandle,
        count: usize,
    ) -> Status;
    pub(crate) fn tchd_ddp_backward(ddp: *mut DdpHandle, loss: *const TensorHandle) -> Status;
    pub(crate) fn tchd_ddp_zero_grad(ddp: *mut DdpHandle) -> Status;
    pub(crate) fn tchd_ddp_bucket_bytes(
        ddp: *const DdpHandle,
        sizes: *mut u64,
        capacity: usize,
        count: *mut usize,
    ) -> Status;
    pub(crate) fn tchd_ddp_fail(ddp: *mut DdpHandle) -> Status;
    pub(crate) fn tchd_ddp_drop(ddp: *mut DdpHandle) -> Status;
    pub(crate) fn tchd_sync_group_new(group: *const GroupHandle, out: *mut *mut SyncGroupHandle) -> Status;
    pub(crate) fn tchd_sync_group_drop(group: *mut SyncGroupHandle) -> Status;
    pub(crate) fn tchd_sync_batch_norm(
        group: *mut SyncGroupHandle,
        input: *const TensorHandle,
        weight: *const TensorHandle,
        bias: *const TensorHandle,
        running_mean: *const TensorHandle,
        running_var: *const TensorHandle,
        momentum: f64,
        eps: f64,
        out: *mut *mut TensorHandle,
    ) -> Status;
}

unsafe extern "C" {
    pub(crate) fn tchd_free(memory: *mut c_void);
    pub(crate) fn tchd_torch_version() -> *const c_char;
    pub(crate) fn tchd_set_log_level(level: i32);
    pub(crate) fn tchd_load_library(name: *const c_char) -> Status;

    pub(crate) fn tchd_store_tcp(
        host: Slice,
        port: u16,
        listen_fd: i32,
        timeout_ms: i64,
        out: *mut *mut StoreHandle,
    ) -> Status;
    pub(crate) fn tchd_store_file(path: Slice, world_size: i32, timeout_ms: i64, out: *mut *mut StoreHandle) -> Status;
    pub(crate) fn tchd_store_prefix(store: *const StoreHandle, prefix: Slice, out: *mut *mut StoreHandle) -> Status;
    pub(crate) fn tchd_store_set(store: *const StoreHandle, key: Slice, value: Slice) -> Status;
    pub(crate) fn tchd_store_get(store: *const StoreHandle, key: Slice, out: *mut Bytes) -> Status;
    pub(crate) fn tchd_store_add(store: *const StoreHandle, key: Slice, amount: i64, out: *mut i64) -> Status;
    pub(crate) fn tchd_store_compare_set(
        store: *const StoreHandle,
        key: Slice,
        expected: Slice,
        desired: Slice,
        out: *mut Bytes,
    ) -> Status;
    pub(crate) fn tchd_store_check(
        store: *const StoreHandle,
        keys: *const Slice,
        count: usize,
        out: *mut bool,
    ) -> Status;
    pub(crate) fn tchd_store_wait(
        store: *const StoreHandle,
        keys: *const Slice,
        count: usize,
        timeout_ms: i64,
    ) -> Status;
    pub(crate) fn tchd_store_delete(store: *const StoreHandle, key: Slice, out: *mut bool) -> Status;
    pub(crate) fn tchd_store_num_keys(store: *const StoreHandle, out: *mut i64) -> Status;
    pub(crate) fn tchd_store_drop(store: *mut StoreHandle) -> Status;

    pub(crate) fn tchd_group_gloo(
        store: *const StoreHandle,
        rank: i32,
        world_size: i32,
        interface: Slice,
        address: Slice,
        threads: i32,
        timeout_ms: i64,
        out: *mut *mut GroupHandle,
    ) -> Status;
    pub(crate) fn tchd_group_all_reduce(
        group: *const GroupHandle,
        tensor: *const TensorHandle,
        op: u8,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_broadcast(
        group: *const GroupHandle,
        tensor: *const TensorHandle,
        root: i32,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_barrier(group: *const GroupHandle, out: *mut *mut WorkHandle) -> Status;
    pub(crate) fn tchd_group_monitored_barrier(
        group: *const GroupHandle,
        timeout_ms: i64,
        wait_all_ranks: bool,
    ) -> Status;
    #[cfg(feature = "nccl")]
    pub(crate) fn tchd_cuda_memory(device: i32, forget: bool, out: *mut u64) -> Status;
    #[cfg(feature = "nccl")]
    pub(crate) fn tchd_nccl_load(library: Slice) -> Status;
    #[cfg(feature = "nccl")]
    pub(crate) fn tchd_group_nccl(
        store: *const StoreHandle,
        rank: i32,
        world_size: i32,
        device: i32,
        high_priority_stream: bool,
        timeout_ms: i64,
        out: *mut *mut GroupHandle,
    ) -> Status;
    pub(crate) fn tchd_group_reduce(
        group: *const GroupHandle,
        tensor: *const TensorHandle,
        root: i32,
        op: u8,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_all_gather(
        group: *const GroupHandle,
        outputs: *const *const TensorHandle,
        count: usize,
        input: *const TensorHandle,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_all_gather_into_tensor(
        group: *const GroupHandle,
        output: *const TensorHandle,
        input: *const TensorHandle,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_gather(
        group: *const GroupHandle,
        outputs: *const *const TensorHandle,
        count: usize,
        input: *const TensorHandle,
        root: i32,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_scatter(
        group: *const GroupHandle,
        output: *const TensorHandle,
        inputs: *const *const TensorHandle,
        count: usize,
        root: i32,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_reduce_scatter_tensor(
        group: *const GroupHandle,
        output: *const TensorHandle,
        input: *const TensorHandle,
        op: u8,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_all_to_all_single(
        group: *const GroupHandle,
        output: *const TensorHandle,
        output_splits: *const i64,
        input: *const TensorHandle,
        input_splits: *const i64,
        count: usize,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_send(
        group: *const GroupHandle,
        tensor: *const TensorHandle,
        peer: i32,
        tag: i32,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_recv(
        group: *const GroupHandle,
        tensor: *const TensorHandle,
        peer: i32,
        tag: i32,
        out: *mut *mut WorkHandle,
    ) -> Status;
    pub(crate) fn tchd_group_failure(group: *const GroupHandle) -> Status;
    pub(crate) fn tchd_group_abort(group: *const GroupHandle) -> Status;
    pub(crate) fn tchd_group_shutdown(group: *const GroupHandle) -> Status;
    pub(crate) fn tchd_group_drop(group: *mut GroupHandle) -> Status;

    pub(crate) fn tchd_work_wait(work: *const WorkHandle, timeout_ms: i64) -> Status;
    pub(crate) fn tchd_work_is_completed(work: *const WorkHandle, out: *mut bool) -> Status;
    pub(crate) fn tchd_work_exception(work: *const WorkHandle) -> Status;
    pub(crate) fn tchd_work_drop(work: *mut WorkHandle) -> Status;
}

/// The shim's answer as a result; `doing` says what was asked of it, and is called only for an error.
pub(crate) fn check(status: Status, doing: impl FnOnce() -> String) -> Result<()> {
    if status.kind == 0 {
        return Ok(());
    }
    let mut message = doing();
    if !status.message.is_null() {
        // SAFETY: a non-null message of the shim is a zero-terminated string that stays until it is given back.
        let text = unsafe { CStr::from_ptr(status.message) }.to_string_lossy();
        message.push_str(": ");
        message.push_str(text.trim());
        drop(text);
        // SAFETY: the message came from the shim's malloc and is given back once, since `status` is consumed.
        unsafe { tchd_free(status.message.cast()) };
    }
    Err(Error::new(status.kind, message))
}

/// Milliseconds for c10d: at least one, because zero means "no deadline" there, and at most a year, because c10d adds
/// it to the time of day.
pub(crate) fn millis(timeout: Duration) -> i64 {
    const YEAR: i64 = 365 * 24 * 3600 * 1000;
    i64::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(YEAR).clamp(1, YEAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_never_no_timeout() {
        assert_eq!(millis(Duration::ZERO), 1);
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_micros(1500)), 2);
        assert_eq!(millis(Duration::MAX), 365 * 24 * 3600 * 1000);
    }
}
