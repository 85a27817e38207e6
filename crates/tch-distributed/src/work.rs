//! A collective under way.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ffi;

/// A collective that has been started. It runs on whether or not somebody waits; until [`Work::wait`] has returned `Ok`
/// the contents of its tensor are unspecified, and they stay so after an error.
#[must_use = "a collective is done, and its failure known, only after `wait`"]
#[derive(Debug)]
pub struct Work {
    raw: NonNull<ffi::WorkHandle>,
    doing: &'static str,
    // Not Sync until every backend's work is known to allow it.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

// SAFETY: c10d's Work is reference-counted atomically and guards its state with a mutex; nothing in it belongs to the
// thread that started it.
unsafe impl Send for Work {}

impl Work {
    /// Takes over a work that the shim has made.
    pub(crate) fn new(raw: *mut ffi::WorkHandle, doing: &'static str) -> Result<Self> {
        let raw = NonNull::new(raw).ok_or_else(|| Error::Other(format!("{doing}: libtorch gave no work")))?;
        Ok(Self { raw, doing, _not_sync: PhantomData })
    }

    /// Waits until the collective has ended; the group's timeout bounds it.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when a peer took longer than the group allows, [`Error::PeerLost`] when one is gone, others as
    /// the backend fails.
    pub fn wait(&self) -> Result<()> {
        self.wait_millis(0)
    }

    /// Waits for at most `timeout`. The collective goes on after a timeout of this kind and can be waited for again.
    ///
    /// # Errors
    ///
    /// As [`Work::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<()> {
        self.wait_millis(ffi::millis(timeout))
    }

    /// Whether the collective has ended, well or badly. Does not block.
    ///
    /// # Errors
    ///
    /// Whatever the backend says about a work it cannot look at.
    pub fn is_completed(&self) -> Result<bool> {
        let mut completed = false;
        // SAFETY: `raw` is a live work of ours, and `completed` outlives the call.
        let status = unsafe { ffi::tchd_work_is_completed(self.raw.as_ptr(), &mut completed) };
        ffi::check(status, || self.doing.into())?;
        Ok(completed)
    }

    fn wait_millis(&self, timeout_ms: i64) -> Result<()> {
        // SAFETY: `raw` is a live work of ours; the shim only reads through it.
        let status = unsafe { ffi::tchd_work_wait(self.raw.as_ptr(), timeout_ms) };
        ffi::check(status, || self.doing.into())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: `raw` is ours and not used again. The operation under way holds references of its own to its tensor
        // and its connections.
        let status = unsafe { ffi::tchd_work_drop(self.raw.as_ptr()) };
        // Letting go of a reference has nothing to report; `check` frees the message there might be.
        let _ = ffi::check(status, || self.doing.into());
    }
}
