//! Tensors on their way to a backend: what can be known on this rank is checked here, before anything is sent.

use tch::{Device, Kind, TchError, Tensor};

use crate::error::{Error, Result};
use crate::ffi;
use crate::group::{Backend, ProcessGroup};

/// Elements that every backend can send.
const KINDS: [Kind; 8] =
    [Kind::Uint8, Kind::Int8, Kind::Int, Kind::Int64, Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double];

impl ProcessGroup {
    /// The tensor's handle, after a look at its memory, device and kind.
    pub(crate) fn checked(&self, tensor: &Tensor, doing: &str) -> Result<*const ffi::TensorHandle> {
        let handle = self.sendable(tensor, doing)?;
        if !tensor.is_contiguous() {
            return Err(Error::InvalidArgument(format!("{doing}: a tensor that is not contiguous")));
        }
        Ok(handle)
    }

    /// As [`Self::checked`], for what c10d packs into buffers of its own: the tensor need not lie in one piece.
    pub(crate) fn sendable(&self, tensor: &Tensor, doing: &str) -> Result<*const ffi::TensorHandle> {
        if !tensor.defined() {
            return Err(Error::InvalidArgument(format!("{doing}: an undefined tensor")));
        }
        if tensor.is_sparse() {
            return Err(Error::Unsupported(format!("{doing}: sparse tensors")));
        }
        let (device, kind) = (tensor.device(), tensor.kind());
        match self.backend() {
            Backend::Gloo if device != Device::Cpu => {
                return Err(Error::Unsupported(format!(
                    "{doing}: a tensor on {device:?} in a gloo group, which takes CPU tensors"
                )));
            }
            Backend::Nccl { device: bound } if device != Device::Cuda(bound as usize) => {
                return Err(Error::InvalidArgument(format!(
                    "{doing}: a tensor on {device:?} in an NCCL group that is bound to CUDA device {bound}"
                )));
            }
            Backend::Gloo | Backend::Nccl { .. } => {}
        }
        if !KINDS.contains(&kind) {
            return Err(Error::Unsupported(format!("{doing}: {kind:?} tensors")));
        }
        Ok(tensor.as_ptr().cast())
    }

    /// Handles of a list with one tensor a rank, each like `like`.
    pub(crate) fn checked_list(
        &self,
        list: &[Tensor],
        like: &Tensor,
        doing: &str,
    ) -> Result<Vec<*const ffi::TensorHandle>> {
        self.check_length(list.len(), doing)?;
        let handle = |tensor: &Tensor| {
            let handle = self.checked(tensor, doing)?;
            same_kind(tensor, like, doing)?;
            if tensor.size() != like.size() {
                let (found, wanted) = (tensor.size(), like.size());
                return Err(Error::InvalidArgument(format!("{doing}: shape {found:?} in a list of {wanted:?}")));
            }
            Ok(handle)
        };
        list.iter().map(handle).collect()
    }

    /// As [`Self::checked_list`] on the root; nothing on the others.
    pub(crate) fn checked_at_root(
        &self,
        list: &[Tensor],
        like: &Tensor,
        root: u32,
        doing: &str,
    ) -> Result<Vec<*const ffi::TensorHandle>> {
        if root == self.rank() {
            return self.checked_list(list, like, doing);
        }
        if list.is_empty() {
            return Ok(Vec::new());
        }
        Err(Error::InvalidArgument(format!(
            "{doing}: a list of {} tensors on rank {}, which is not the root",
            list.len(),
            self.rank()
        )))
    }

    pub(crate) fn check_length(&self, length: usize, doing: &str) -> Result<()> {
        if length == self.world_size() as usize {
            return Ok(());
        }
        Err(Error::InvalidArgument(format!("{doing}: a list of {length} tensors for {} ranks", self.world_size())))
    }

    /// Whether `whole` has a block of the size of `block` for every rank.
    pub(crate) fn check_blocks(&self, whole: &Tensor, block: &Tensor, doing: &str) -> Result<()> {
        let (whole, block) = (elements(whole), elements(block));
        if block.checked_mul(i64::from(self.world_size())) == Some(whole) {
            return Ok(());
        }
        Err(Error::InvalidArgument(format!(
            "{doing}: {whole} elements for {} ranks with {block} each",
            self.world_size()
        )))
    }

    /// Rows that each rank gets of a tensor: those that are wished, or equal ones.
    pub(crate) fn splits(&self, tensor: &Tensor, wished: &[i64], doing: &str) -> Result<Vec<i64>> {
        let ranks = i64::from(self.world_size());
        let size = tensor.size();
        let Some(&rows) = size.first() else {
            return Err(Error::InvalidArgument(format!("{doing}: a tensor without dimensions has no rows")));
        };
        if wished.is_empty() {
            if rows % ranks != 0 {
                return Err(Error::InvalidArgument(format!("{doing}: {rows} rows do not split into {ranks}")));
            }
            return Ok(vec![rows / ranks; self.world_size() as usize]);
        }
        let sum = wished.iter().try_fold(0i64, |sum, split| sum.checked_add(*split).filter(|_| *split >= 0));
        if wished.len() != self.world_size() as usize || sum != Some(rows) {
            return Err(Error::InvalidArgument(format!("{doing}: splits {wished:?} of {rows} rows for {ranks} ranks")));
        }
        Ok(wished.to_vec())
    }
}

/// A tensor to be filled when an operation has ended: another handle of the caller's.
pub(crate) struct Shared(Tensor);

impl Shared {
    pub(crate) fn of(tensor: &Tensor) -> Self {
        Self(tensor.shallow_clone())
    }

    pub(crate) fn list(tensors: &[Tensor]) -> Vec<Self> {
        tensors.iter().map(Self::of).collect()
    }

    /// Copies `count` elements of `from`, which has one dimension.
    pub(crate) fn fill(self, from: &Tensor, start: i64, count: i64, doing: &str) -> Result<()> {
        let copy = || {
            let block = from.f_narrow(0, start, count)?;
            self.0.f_view(count)?.f_copy_(&block)
        };
        tch::no_grad(copy).map_err(|error| failed(&error, doing))
    }
}

pub(crate) fn elements(tensor: &Tensor) -> i64 {
    // The product of sizes that fit into memory.
    tensor.size().iter().product()
}

pub(crate) fn same_kind(a: &Tensor, b: &Tensor, doing: &str) -> Result<()> {
    if a.kind() == b.kind() {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("{doing}: {:?} beside {:?} tensors", a.kind(), b.kind())))
}

/// The same elements in one dimension.
pub(crate) fn flat(tensor: &Tensor, doing: &str) -> Result<Tensor> {
    tch::no_grad(|| tensor.f_view(elements(tensor))).map_err(|error| failed(&error, doing))
}

/// A copy of the elements in one dimension.
pub(crate) fn copied(tensor: &Tensor, doing: &str) -> Result<Tensor> {
    let copy = || tensor.f_detach_copy()?.f_view(elements(tensor));
    tch::no_grad(copy).map_err(|error| failed(&error, doing))
}

/// A copy of all tensors' elements in one dimension.
pub(crate) fn joined(tensors: &[Tensor], doing: &str) -> Result<Tensor> {
    let join = || {
        let flat = tensors
            .iter()
            .map(|tensor| tensor.f_view(elements(tensor)))
            .collect::<std::result::Result<Vec<_>, TchError>>()?;
        Tensor::f_cat(&flat, 0)
    };
    tch::no_grad(join).map_err(|error| failed(&error, doing))
}

/// Memory for `count` elements in one dimension, on the device and of the kind of `like`.
pub(crate) fn blank(count: i64, like: &Tensor, doing: &str) -> Result<Tensor> {
    Tensor::f_empty([count], (like.kind(), like.device())).map_err(|error| failed(&error, doing))
}

pub(crate) fn multiply(tensor: &mut Tensor, factor: f64, doing: &str) -> Result<()> {
    tch::no_grad(|| tensor.f_mul_scalar_(factor)).map(drop).map_err(|error| failed(&error, doing))
}

fn failed(error: &TchError, doing: &str) -> Error {
    let text = error.to_string();
    // libtorch's message goes on with a C++ backtrace.
    let line = text.lines().next().unwrap_or_default();
    let message = format!("{doing}: {line}");
    if text.contains("can't allocate memory") || text.contains("out of memory") {
        Error::OutOfMemory(message)
    } else {
        Error::Other(message)
    }
}
