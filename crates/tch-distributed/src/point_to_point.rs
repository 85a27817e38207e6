//! Messages from one rank to another.

use tch::Tensor;

use crate::error::{Error, Result};
use crate::ffi;
use crate::group::{Backend, ProcessGroup, ranks};
use crate::waiter::Waiter;
use crate::work::Work;

impl ProcessGroup {
    /// Sends `tensor` to rank `to`, which receives it with the same tag into a tensor of the same size and kind. Messages of
    /// one tag arrive in the order they were sent.
    ///
    /// On gloo each send and receive under way has a thread that waits for it, so that it can be looked at and goes on when
    /// its `Work` is dropped. NCCL knows no tags: there the order alone tells messages apart, and `tag` must be 0.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] or [`Error::Unsupported`] for a tensor that the backend does not take, for a rank out of
    /// range or this one, and for a tag above `i32::MAX - 1`.
    pub fn send(&self, tensor: &Tensor, to: u32, tag: u32) -> Result<Work> {
        const DOING: &str = "send";
        let (to, tag) = self.message(to, tag, DOING)?;
        let handle = self.checked(tensor, DOING)?;
        self.start_message(DOING, |group, out| {
            // SAFETY: group and tensor are alive for the call; the operation takes a reference to the tensor.
            unsafe { ffi::tchd_group_send(group, handle, to, tag, out) }
        })
    }

    /// Fills `tensor` with what rank `from` sends with the same tag.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::send`].
    pub fn recv(&self, tensor: &mut Tensor, from: u32, tag: u32) -> Result<Work> {
        const DOING: &str = "recv";
        let (from, tag) = self.message(from, tag, DOING)?;
        let handle = self.checked(tensor, DOING)?;
        self.start_message(DOING, |group, out| {
            // SAFETY: group and tensor are alive for the call; the operation takes a reference to the tensor.
            unsafe { ffi::tchd_group_recv(group, handle, from, tag, out) }
        })
    }

    fn message(&self, peer: u32, tag: u32, doing: &str) -> Result<(i32, i32)> {
        let Ok((raw, _)) = ranks(peer, self.world_size()) else {
            return Err(Error::InvalidArgument(format!("{doing}: rank {peer} in a world of {}", self.world_size())));
        };
        if peer == self.rank() {
            return Err(Error::InvalidArgument(format!("{doing}: rank {peer} to itself")));
        }
        if self.backend() != Backend::Gloo && tag != 0 {
            return Err(Error::Unsupported(format!("{doing}: tag {tag}, as NCCL knows no tags")));
        }
        // The highest tag is the shim's own, for closing a group.
        match i32::try_from(tag) {
            Ok(tag) if tag < i32::MAX => Ok((raw, tag)),
            _ => Err(Error::InvalidArgument(format!("{doing}: tag {tag}; {} is the highest", i32::MAX - 1))),
        }
    }

    fn start_message(
        &self,
        doing: &'static str,
        call: impl FnOnce(*const ffi::GroupHandle, *mut *mut ffi::WorkHandle) -> ffi::Status,
    ) -> Result<Work> {
        if self.backend() != Backend::Gloo {
            return self.start(doing, None, call);
        }
        let (waiter, thread) = Waiter::start(self.start_raw(doing, call)?, doing)?;
        self.keep_waiter(thread);
        Ok(Work::waited_for(waiter, doing))
    }
}
