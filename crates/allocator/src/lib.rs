//! libtorch's memory for CPU tensors, with what a GPU's allocator has: blocks are kept for reuse, every byte is counted, and a cap is kept
//! by an exception (`c10::OutOfMemoryError`) at the tensor that does not fit, after which the program can go on with smaller ones.
//!
//! RLIMIT_DATA cannot do this: freed memory stays in the heap and counts on, and whatever else allocates meets the limit as well. What
//! libtorch does not allocate as tensors (oneDNN's scratch memory, threads' stacks, this program's own data) is not counted here.

/// Bytes that tensors take, in whole pages where they are large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In use now.
    pub in_use: u64,
    /// The most that were in use at once.
    pub peak: u64,
    /// Kept for reuse, in blocks that may be an eighth larger than what they were taken for.
    pub kept: u64,
}

unsafe extern "C" {
    fn ek_allocator_install(cap: u64);
    fn ek_allocator_usage(in_use: *mut u64, peak: *mut u64, kept: *mut u64);
    fn ek_allocator_forget_peak();
    fn ek_allocator_fail_after(allocations: u64);
}

/// Has all CPU tensors from here on allocated by this crate, at most `cap` bytes at once. Tensors that exist are freed as they were
/// allocated. Call it before other threads use tensors; calling it again sets another cap.
pub fn install(cap: Option<u64>) {
    // SAFETY: the allocator is a static that is never destroyed. libtorch keeps the pointer in a table that every allocation reads; that
    // no thread allocates at this moment is said above.
    unsafe { ek_allocator_install(cap.unwrap_or(u64::MAX)) }
}

/// What tensors take of this allocator's memory.
#[must_use]
pub fn usage() -> Usage {
    let (mut in_use, mut peak, mut kept) = (0, 0, 0);
    // SAFETY: three numbers are written to three numbers that outlive the call; the allocator has a lock.
    unsafe { ek_allocator_usage(&mut in_use, &mut peak, &mut kept) };
    Usage { in_use, peak, kept }
}

/// Has [`Usage::peak`] begin anew, with what is in use now.
pub fn forget_peak() {
    // SAFETY: sets a number under the allocator's lock.
    unsafe { ek_allocator_forget_peak() }
}

/// Lets so many more allocations succeed, and the one after them fail, once, however small it is: for tests of what happens then.
pub fn fail_after(allocations: u64) {
    // SAFETY: sets a number under the allocator's lock.
    unsafe { ek_allocator_fail_after(allocations) }
}
