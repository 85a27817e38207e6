//! An operation under way.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ffi;
use crate::waiter::Waiter;

/// What is left to do on this rank when the operation has ended well, such as copying a result to its place.
pub(crate) type Finish = Box<dyn FnOnce() -> Result<()> + Send>;

/// An operation that has been started. It runs on whether or not somebody waits; until [`Work::wait`] has returned `Ok` the
/// contents of its tensors are unspecified, and they stay so after an error. The operation keeps its tensors' memory; that
/// memory must not be resized while it runs.
///
/// On NCCL, `wait` orders the current CUDA stream after the operation and does not hold up the host; `wait_timeout` does.
#[must_use = "an operation is done, and its failure known, only after `wait`"]
pub struct Work {
    state: State,
    doing: &'static str,
    finish: RefCell<Option<Finish>>,
    // Not Sync until every backend's work is known to allow it.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

enum State {
    /// The backend completes it.
    Backend(RawWork),
    /// A thread of ours waits for it.
    Waiter(Waiter),
}

impl Work {
    pub(crate) fn new(raw: RawWork, doing: &'static str, finish: Option<Finish>) -> Self {
        Self { state: State::Backend(raw), doing, finish: RefCell::new(finish), _not_sync: PhantomData }
    }

    pub(crate) fn waited_for(waiter: Waiter, doing: &'static str) -> Self {
        Self { state: State::Waiter(waiter), doing, finish: RefCell::new(None), _not_sync: PhantomData }
    }

    /// Waits until the operation has ended; the group's timeout bounds it.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when a peer took longer than the group allows, [`Error::PeerLost`] when one is gone, others as
    /// the backend fails. A gloo group is closed after any of these: see [`ProcessGroup`](crate::ProcessGroup).
    pub fn wait(&self) -> Result<()> {
        match &self.state {
            State::Backend(raw) => raw.wait(0, self.doing)?,
            State::Waiter(waiter) => waiter.wait(None)?,
        }
        self.finish()
    }

    /// Waits for at most `timeout`. The operation goes on after a timeout of this kind and can be waited for again.
    ///
    /// # Errors
    ///
    /// As [`Work::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<()> {
        match &self.state {
            State::Backend(raw) => raw.wait(ffi::millis(timeout), self.doing)?,
            State::Waiter(waiter) => waiter.wait(Some(timeout))?,
        }
        self.finish()
    }

    /// Whether the operation has ended, well or badly. Does not block. Results are in their place only after
    /// [`Work::wait`], which then returns at once.
    ///
    /// # Errors
    ///
    /// Whatever the backend says about a work it cannot look at.
    pub fn is_completed(&self) -> Result<bool> {
        match &self.state {
            State::Backend(raw) => raw.is_completed(self.doing),
            State::Waiter(waiter) => Ok(waiter.outcome().is_some()),
        }
    }

    /// The failure of an operation that has ended; `None` while it runs, and when it ended well. Does not block.
    #[must_use]
    pub fn exception(&self) -> Option<Error> {
        match &self.state {
            State::Backend(raw) => raw.exception(self.doing),
            State::Waiter(waiter) => waiter.outcome()?.err(),
        }
    }

    fn finish(&self) -> Result<()> {
        // Taken out first: it runs once, whatever it answers.
        let finish = self.finish.borrow_mut().take();
        finish.map_or(Ok(()), |finish| finish())
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("doing", &self.doing).finish_non_exhaustive()
    }
}

/// The backend's work behind a [`Work`].
#[derive(Debug)]
pub(crate) struct RawWork {
    raw: NonNull<ffi::WorkHandle>,
}

// SAFETY: c10d's Work is reference-counted atomically and guards its state with a mutex; nothing in it belongs to the
// thread that started it.
unsafe impl Send for RawWork {}

impl RawWork {
    /// Takes over a work that the shim has made.
    pub(crate) fn new(raw: *mut ffi::WorkHandle, doing: &str) -> Result<Self> {
        let raw = NonNull::new(raw).ok_or_else(|| Error::Other(format!("{doing}: libtorch gave no work")))?;
        Ok(Self { raw })
    }

    /// Waits; `timeout_ms` of 0 is as long as the group lets it run.
    pub(crate) fn wait(&self, timeout_ms: i64, doing: &str) -> Result<()> {
        // SAFETY: `raw` is a live work of ours; the shim only reads through it.
        let status = unsafe { ffi::tchd_work_wait(self.raw.as_ptr(), timeout_ms) };
        ffi::check(status, || doing.into())
    }

    fn is_completed(&self, doing: &str) -> Result<bool> {
        let mut completed = false;
        // SAFETY: `raw` is a live work of ours, and `completed` outlives the call.
        let status = unsafe { ffi::tchd_work_is_completed(self.raw.as_ptr(), &mut completed) };
        ffi::check(status, || doing.into())?;
        Ok(completed)
    }

    fn exception(&self, doing: &str) -> Option<Error> {
        // SAFETY: `raw` is a live work of ours; the shim only reads through it.
        let status = unsafe { ffi::tchd_work_exception(self.raw.as_ptr()) };
        ffi::check(status, || doing.into()).err()
    }
}

impl Drop for RawWork {
    fn drop(&mut self) {
        // SAFETY: `raw` is ours and not used again. The operation under way holds references of its own to its tensors
        // and its connections.
        let status = unsafe { ffi::tchd_work_drop(self.raw.as_ptr()) };
        // Letting go of a reference has nothing to report; `check` frees the message there might be.
        let _ = ffi::check(status, String::new);
    }
}
