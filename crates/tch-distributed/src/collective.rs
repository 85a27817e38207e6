//! Collectives: what all ranks of a group do together, each started by every rank in the same order.
//!
//! What a tensor is checked for before anything is sent is in `tensors.rs`. gloo lacks reduce-scatter and the list form of
//! all-to-all: these are composed here of an all-reduce of a copy, and of an all-to-all of one buffer.

use std::time::Duration;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::ffi;
use crate::group::{Backend, ProcessGroup, ranks};
use crate::reduce::ReduceOp;
use crate::tensors::{self, Shared};
use crate::work::Work;

impl ProcessGroup {
    /// Replaces `tensor` on every rank by the reduction over all ranks. Shape and kind must agree between the ranks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] or [`Error::Unsupported`] for a tensor or an operation that the backend does not take,
    /// before anything is sent.
    pub fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<Work> {
        const DOING: &str = "all_reduce";
        let handle = self.checked(tensor, DOING)?;
        self.check_op(op, tensor.kind(), DOING)?;
        self.premultiply(tensor, op, DOING)?;
        self.start(DOING, None, |group, out| {
            // SAFETY: group and tensor are alive for the call; the operation takes a reference to the tensor.
            unsafe { ffi::tchd_group_all_reduce(group, handle, op.code(), out) }
        })
    }

    /// Replaces `tensor` on rank `root` by the reduction over all ranks; on the others its contents are unspecified
    /// afterwards. Shape and kind must agree between the ranks.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_reduce`], and for a root out of range.
    pub fn reduce(&self, tensor: &mut Tensor, root: u32, op: ReduceOp) -> Result<Work> {
        const DOING: &str = "reduce";
        let root = self.peer(root, DOING)?;
        let handle = self.checked(tensor, DOING)?;
        self.check_op(op, tensor.kind(), DOING)?;
        self.premultiply(tensor, op, DOING)?;
        self.start(DOING, None, |group, out| {
            // SAFETY: group and tensor are alive for the call; the operation takes a reference to the tensor.
            unsafe { ffi::tchd_group_reduce(group, handle, root, op.code(), out) }
        })
    }

    /// Replaces `tensor` on every rank by that of rank `root`. Shape and kind must agree between the ranks.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_reduce`], and for a root out of range.
    pub fn broadcast(&self, tensor: &mut Tensor, root: u32) -> Result<Work> {
        const DOING: &str = "broadcast";
        let root = self.peer(root, DOING)?;
        let handle = self.checked(tensor, DOING)?;
        self.start(DOING, None, |group, out| {
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
        const DOING: &str = "broadcast_coalesced";
        let root = self.peer(root, DOING)?;
        let handle = |(i, tensor)| self.sendable(tensor, &format!("{DOING}, tensor {i}"));
        let handles = tensors.iter().enumerate().map(handle).collect::<Result<Vec<_>>>()?;
        if handles.is_empty() {
            return Ok(());
        }
        // SAFETY: group and tensors are alive for the call, which blocks; `handles` holds `handles.len()` of them.
        let status =
            unsafe { ffi::tchd_group_broadcast_coalesced(self.as_ptr(), handles.as_ptr(), handles.len(), root) };
        ffi::check(status, || DOING.into())
    }

    /// Fills `outputs[r]` with the `input` of rank r, on every rank. As many outputs as ranks, all of the input's shape and
    /// kind, which agree between the ranks.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_reduce`], and for a list of another length or another shape or kind in it.
    pub fn all_gather(&self, outputs: &mut [Tensor], input: &Tensor) -> Result<Work> {
        const DOING: &str = "all_gather";
        let from = self.checked(input, DOING)?;
        let into = self.checked_list(outputs, input, DOING)?;
        self.start(DOING, None, |group, out| {
            // SAFETY: group and tensors are alive for the call, and `into` is as long as is said; the operation takes
            // references to the tensors.
            unsafe { ffi::tchd_group_all_gather(group, into.as_ptr(), into.len(), from, out) }
        })
    }

    /// Fills `output` with the inputs of all ranks, one after the other, on every rank. The output has world size times the
    /// input's elements, in any shape; the input's shape and kind agree between the ranks.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_reduce`], and for an output of another size or kind.
    pub fn all_gather_into_tensor(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        const DOING: &str = "all_gather_into_tensor";
        self.checked(input, DOING)?;
        self.checked(output, DOING)?;
        tensors::same_kind(output, input, DOING)?;
        self.check_blocks(output, input, DOING)?;
        let (into, from) = (tensors::flat(output, DOING)?, tensors::flat(input, DOING)?);
        self.start(DOING, None, |group, out| {
            // SAFETY: group and tensors are alive for the call; the operation takes references to the tensors.
            unsafe { ffi::tchd_group_all_gather_into_tensor(group, into.as_ptr().cast(), from.as_ptr().cast(), out) }
        })
    }

    /// Fills `outputs[r]` on rank `root` with the `input` of rank r. `outputs` is as for [`ProcessGroup::all_gather`] on
    /// the root and empty on the others.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_gather`], and for a root out of range.
    pub fn gather(&self, outputs: &mut [Tensor], input: &Tensor, root: u32) -> Result<Work> {
        const DOING: &str = "gather";
        let raw_root = self.peer(root, DOING)?;
        let from = self.checked(input, DOING)?;
        let into = self.checked_at_root(outputs, input, root, DOING)?;
        self.start(DOING, None, |group, out| {
            // SAFETY: group and tensors are alive for the call, and `into` is as long as is said; the operation takes
            // references to the tensors.
            unsafe { ffi::tchd_group_gather(group, into.as_ptr(), into.len(), from, raw_root, out) }
        })
    }

    /// Fills `output` on rank r with `inputs[r]` of rank `root`. `inputs` has as many tensors as there are ranks on the
    /// root, all of the output's shape and kind, and is empty on the others.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_gather`], and for a root out of range.
    pub fn scatter(&self, output: &mut Tensor, inputs: &[Tensor], root: u32) -> Result<Work> {
        const DOING: &str = "scatter";
        let raw_root = self.peer(root, DOING)?;
        let into = self.checked(output, DOING)?;
        let from = self.checked_at_root(inputs, output, root, DOING)?;
        self.start(DOING, None, |group, out| {
            // SAFETY: group and tensors are alive for the call, and `from` is as long as is said; the operation takes
            // references to the tensors.
            unsafe { ffi::tchd_group_scatter(group, into, from.as_ptr(), from.len(), raw_root, out) }
        })
    }

    /// Fills `output` on rank r with the reduction of all ranks' `inputs[r]`. As many inputs as ranks, all of the output's
    /// shape and kind, which agree between the ranks. The inputs stay as they are.
    ///
    /// gloo has no reduce-scatter: there it is an all-reduce of a copy, of which each rank keeps its part.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_gather`], and for an operation that the backend does not take.
    pub fn reduce_scatter(&self, output: &mut Tensor, inputs: &[Tensor], op: ReduceOp) -> Result<Work> {
        const DOING: &str = "reduce_scatter";
        self.checked(output, DOING)?;
        self.checked_list(inputs, output, DOING)?;
        self.check_op(op, output.kind(), DOING)?;
        let buffer = tensors::joined(inputs, DOING)?;
        self.scatter_reduced(output, buffer, op, DOING)
    }

    /// Fills `output` on rank r with the reduction of the r-th of as many equal blocks of `input` as there are ranks. The
    /// input has world size times the output's elements, in any shape, and stays as it is.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_gather_into_tensor`], and for an operation that the backend does not take.
    pub fn reduce_scatter_tensor(&self, output: &mut Tensor, input: &Tensor, op: ReduceOp) -> Result<Work> {
        const DOING: &str = "reduce_scatter_tensor";
        self.checked(output, DOING)?;
        self.checked(input, DOING)?;
        tensors::same_kind(output, input, DOING)?;
        self.check_blocks(input, output, DOING)?;
        self.check_op(op, output.kind(), DOING)?;
        let buffer = tensors::copied(input, DOING)?;
        self.scatter_reduced(output, buffer, op, DOING)
    }

    /// Sends `inputs[r]` to rank r and fills `outputs[r]` with what rank r sends here. As many tensors as ranks in both
    /// lists, of one kind; `outputs[r]` has the number of elements that rank r sends.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_gather`].
    pub fn all_to_all(&self, outputs: &mut [Tensor], inputs: &[Tensor]) -> Result<Work> {
        const DOING: &str = "all_to_all";
        self.check_length(outputs.len(), DOING)?;
        self.check_length(inputs.len(), DOING)?;
        for tensor in outputs.iter().chain(inputs) {
            self.checked(tensor, DOING)?;
            tensors::same_kind(tensor, &inputs[0], DOING)?;
        }
        let counts = |list: &[Tensor]| list.iter().map(tensors::elements).collect::<Vec<_>>();
        let (into_counts, from_counts) = (counts(outputs), counts(inputs));
        let from = tensors::joined(inputs, DOING)?;
        let into = tensors::blank(into_counts.iter().sum(), &from, DOING)?;
        let copies = Shared::list(outputs);
        let blocks = into.shallow_clone();
        let splits = into_counts.clone();
        let finish = Box::new(move || {
            let mut start = 0;
            for (copy, count) in copies.into_iter().zip(splits) {
                copy.fill(&blocks, start, count, DOING)?;
                start += count;
            }
            Ok(())
        });
        self.start(DOING, Some(finish), |group, out| {
            // SAFETY: group, tensors and counts are alive for the call, and both lists of counts are as long as is said;
            // the operation takes references to the tensors.
            unsafe {
                ffi::tchd_group_all_to_all_single(
                    group,
                    into.as_ptr().cast(),
                    into_counts.as_ptr(),
                    from.as_ptr().cast(),
                    from_counts.as_ptr(),
                    from_counts.len(),
                    out,
                )
            }
        })
    }

    /// Sends the r-th block of `input` to rank r and fills the r-th block of `output` with what rank r sends here. Blocks
    /// are cut along the first dimension, into as many rows as the splits say: one number a rank, adding up to the first
    /// dimension. Both splits empty: equal blocks. Other dimensions and kinds agree, also between the ranks.
    ///
    /// # Errors
    ///
    /// As [`ProcessGroup::all_reduce`], and for splits that do not add up.
    pub fn all_to_all_single(
        &self,
        output: &mut Tensor,
        input: &Tensor,
        output_splits: &[i64],
        input_splits: &[i64],
    ) -> Result<Work> {
        const DOING: &str = "all_to_all_single";
        let (into, from) = (self.checked(output, DOING)?, self.checked(input, DOING)?);
        tensors::same_kind(output, input, DOING)?;
        let into_splits = self.splits(output, output_splits, DOING)?;
        let from_splits = self.splits(input, input_splits, DOING)?;
        if output.size()[1..] != input.size()[1..] {
            return Err(Error::InvalidArgument(format!(
                "{DOING}: rows of shape {:?} into rows of shape {:?}",
                &input.size()[1..],
                &output.size()[1..]
            )));
        }
        self.start(DOING, None, |group, out| {
            // SAFETY: group, tensors and splits are alive for the call, and there is a split for every rank in both lists;
            // the operation takes references to the tensors.
            unsafe {
                ffi::tchd_group_all_to_all_single(
                    group,
                    into,
                    into_splits.as_ptr(),
                    from,
                    from_splits.as_ptr(),
                    from_splits.len(),
                    out,
                )
            }
        })
    }

    /// Ends on a rank only when all ranks have started it and their earlier collectives have ended.
    ///
    /// # Errors
    ///
    /// As the backend fails to start it.
    pub fn barrier(&self) -> Result<Work> {
        self.start("barrier", None, |group, out| {
            // SAFETY: the group is alive for the call.
            unsafe { ffi::tchd_group_barrier(group, out) }
        })
    }

    /// A barrier whose error names who is missing: on rank 0 the first missing rank, or with `all` every one. It blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] or [`Error::Other`] with libtorch's words on rank 0; on other ranks those of a lost rank 0.
    /// [`Error::Unsupported`] on NCCL.
    pub fn monitored_barrier(&self, timeout: Duration, all: bool) -> Result<()> {
        const DOING: &str = "monitored barrier";
        if self.backend() != Backend::Gloo {
            return Err(Error::Unsupported(format!("{DOING}: only gloo has one")));
        }
        // SAFETY: the group is alive for the call, which blocks.
        let status = unsafe { ffi::tchd_group_monitored_barrier(self.as_ptr(), ffi::millis(timeout), all) };
        ffi::check(status, || DOING.into())
    }

    /// Reduces `buffer`, which is ours, and leaves this rank's block of it in `output`.
    fn scatter_reduced(&self, output: &mut Tensor, buffer: Tensor, op: ReduceOp, doing: &'static str) -> Result<Work> {
        let mut buffer = buffer;
        self.premultiply(&mut buffer, op, doing)?;
        let handle = buffer.as_ptr().cast();
        if self.backend() != Backend::Gloo {
            let into = tensors::flat(output, doing)?;
            return self.start(doing, None, |group, out| {
                // SAFETY: group and tensors are alive for the call; the operation takes references to the tensors.
                unsafe { ffi::tchd_group_reduce_scatter_tensor(group, into.as_ptr().cast(), handle, op.code(), out) }
            });
        }
        let count = tensors::elements(output);
        let start = count * i64::from(self.rank());
        let copy = Shared::of(output);
        let reduced = buffer.shallow_clone();
        let finish = Box::new(move || copy.fill(&reduced, start, count, doing));
        self.start(doing, Some(finish), |group, out| {
            // SAFETY: group and tensor are alive for the call; the operation takes a reference to the tensor.
            unsafe { ffi::tchd_group_all_reduce(group, handle, op.code(), out) }
        })
    }

    fn peer(&self, rank: u32, doing: &str) -> Result<i32> {
        let of_world = |_| Error::InvalidArgument(format!("{doing}: rank {rank} in a world of {}", self.world_size()));
        ranks(rank, self.world_size()).map(|(rank, _)| rank).map_err(of_world)
    }

    fn check_op(&self, op: ReduceOp, kind: Kind, doing: &str) -> Result<()> {
        if !op.fits(kind) {
            return Err(Error::Unsupported(format!("{doing}: {op:?} of {kind:?} tensors")));
        }
        if op.bitwise() && self.backend() != Backend::Gloo {
            return Err(Error::Unsupported(format!("{doing}: {op:?} on NCCL")));
        }
        Ok(())
    }

    fn premultiply(&self, tensor: &mut Tensor, op: ReduceOp, doing: &str) -> Result<()> {
        let ReduceOp::PreMulSum(factor) = op else { return Ok(()) };
        // A group that will refuse should not have touched the values.
        self.failure().map_or(Ok(()), Err)?;
        tensors::multiply(tensor, factor, doing)
    }
}
