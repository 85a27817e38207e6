//! Batch normalisation over the batches of all ranks.

use std::borrow::Borrow;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use tch::nn::{self, BatchNormConfig, ModuleT};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::ffi;
use crate::group::ProcessGroup;

/// A process group that batch-normalisation layers share and nothing else uses. Clones are the same group.
///
/// It is one of its own because its collectives are in the midst of those of [`Ddp`](crate::Ddp), which may be large.
#[derive(Clone, Debug)]
pub struct SyncGroup {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    raw: NonNull<ffi::SyncGroupHandle>,
    // Only kept: dropped when the last layer and the last graph that came from one have gone.
    group: ProcessGroup,
}

// SAFETY: everything that is done through `raw` starts its collectives under the shim's mutex, reference counts are atomic,
// and a process group may go from thread to thread.
unsafe impl Send for Shared {}
// SAFETY: as above; of the process group, only rank, world size and backend are read, which never change.
unsafe impl Sync for Shared {}

impl Shared {
    fn sendable(&self, tensor: &Tensor, doing: &str) -> Result<*const ffi::TensorHandle> {
        self.group.sendable(tensor, doing)
    }
}

impl SyncGroup {
    /// Takes a group for batch normalisation.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new(group: ProcessGroup) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the group is alive for the call, the shim takes a reference of its own, and `raw` outlives the call.
        let status = unsafe { ffi::tchd_sync_group_new(group.as_ptr(), &mut raw) };
        ffi::check(status, || "group for batch normalisation".into())?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::Other("libtorch gave no group".into()))?;
        Ok(Self { shared: Arc::new(Shared { raw, group }) })
    }

    /// Number of ranks.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        self.shared.group.world_size()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: `raw` is ours and not used again; graphs that still need the group hold references of their own.
        let status = unsafe { ffi::tchd_sync_group_drop(self.raw.as_ptr()) };
        // Letting go of a reference has nothing to report; `check` frees the message there might be.
        let _ = ffi::check(status, String::new);
    }
}

/// Batch normalisation whose mean and variance are those of all ranks' batches together, so that the result does not depend
/// on how a batch is cut. Variables have the names and shapes of tch's [`nn::BatchNorm`] (`weight`, `bias`, `running_mean`,
/// `running_var`, each `[C]`), so weights of one serve the other.
///
/// In training, every rank must run the layer in the same order, forward and backward; a rank's batch may be of any size,
/// also 0. The running statistics, with the variance divided by n - 1 as in PyTorch, are then the same on every rank.
/// Outside of training nothing is sent. On the CPU, training computes in double precision whatever the input's kind.
#[derive(Debug)]
pub struct SyncBatchNorm {
    group: SyncGroup,
    momentum: f64,
    eps: f64,
    /// Running mean, `[C]`.
    pub running_mean: Tensor,
    /// Running variance, `[C]`.
    pub running_var: Tensor,
    /// Scale, `[C]`, if affine.
    pub ws: Option<Tensor>,
    /// Shift, `[C]`, if affine.
    pub bs: Option<Tensor>,
}

impl SyncBatchNorm {
    /// A layer for `channels` channels, for inputs of any number of dimensions from 2 to 5.
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, group: &SyncGroup, channels: i64, config: BatchNormConfig) -> Self {
        let path = path.borrow();
        let (ws, bs) = if config.affine {
            let ws = path.var("weight", &[channels], config.ws_init);
            (Some(ws), Some(path.var("bias", &[channels], config.bs_init)))
        } else {
            (None, None)
        };
        Self {
            group: group.clone(),
            momentum: config.momentum,
            eps: config.eps,
            running_mean: path.zeros_no_train("running_mean", &[channels]),
            running_var: path.ones_no_train("running_var", &[channels]),
            ws,
            bs,
        }
    }

    /// Normalises `xs` of shape `[N, C]` or `[N, C, ...]` with up to three more dimensions, f16, bf16, f32 or f64. The
    /// result has its shape and kind.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for another shape, or when all ranks together have fewer than two values a channel in
    /// training; [`Error::Unsupported`] for another kind or device; what a collective fails with.
    pub fn f_forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let handle = self.group.shared.sendable(xs, "batch normalisation")?;
        let channels = self.running_mean.size1().map_err(|error| Error::InvalidArgument(error.to_string()))?;
        let shape = xs.size();
        if !(2..=5).contains(&shape.len()) || shape[1] != channels {
            return Err(Error::InvalidArgument(format!(
                "batch normalisation of {channels} channels over an input of shape {shape:?}"
            )));
        }
        if !matches!(xs.kind(), Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double) {
            return Err(Error::Unsupported(format!("batch normalisation of {:?}", xs.kind())));
        }
        if !train {
            return self.evaluate(xs);
        }
        let optional = |tensor: &Option<Tensor>| {
            tensor.as_ref().map_or(ptr::null(), |tensor| tensor.as_ptr().cast::<ffi::TensorHandle>())
        };
        let mut out = ptr::null_mut();
        // SAFETY: group and tensors are alive for the call, and the graph takes references to what its backward pass
        // needs; weight and bias are both given or both null; `out` outlives the call.
        let status = unsafe {
            ffi::tchd_sync_batch_norm(
                self.group.shared.raw.as_ptr(),
                handle,
                optional(&self.ws),
                optional(&self.bs),
                self.running_mean.as_ptr().cast(),
                self.running_var.as_ptr().cast(),
                self.momentum,
                self.eps,
                &mut out,
            )
        };
        ffi::check(status, || "batch normalisation".into())?;
        if out.is_null() {
            return Err(Error::Other("libtorch gave no tensor".into()));
        }
        // SAFETY: the shim made this tensor on the heap, as tch does, for us alone to own.
        Ok(unsafe { Tensor::from_ptr(out.cast()) })
    }

    fn evaluate(&self, xs: &Tensor) -> Result<Tensor> {
        xs.f_batch_norm(
            self.ws.as_ref(),
            self.bs.as_ref(),
            Some(&self.running_mean),
            Some(&self.running_var),
            false,
            self.momentum,
            self.eps,
            false,
        )
        .map_err(|error| Error::Other(error.to_string()))
    }
}

impl ModuleT for SyncBatchNorm {
    /// As [`SyncBatchNorm::f_forward_t`].
    ///
    /// # Panics
    ///
    /// Where that returns an error.
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.f_forward_t(xs, train).unwrap_or_else(|error| panic!("{error}"))
    }
}
