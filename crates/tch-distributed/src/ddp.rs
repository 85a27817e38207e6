//! Distributed data parallelism: every rank holds the whole model and takes its part of the batch; gradients are averaged
//! over the ranks while the backward pass still runs.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use tch::{Kind, Tensor, nn};

use crate::agree::{self, Variable};
use crate::error::{Error, Result};
use crate::ffi::{self, Slice};
use crate::group::ProcessGroup;

/// Kind that gradients are sent in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Their own.
    #[default]
    None,
    /// Half precision: half the bytes of f32, 11 bits of mantissa, nothing above 65,504.
    Fp16,
    /// bfloat16: half the bytes of f32, 8 bits of mantissa, the range of f32.
    Bf16,
}

/// What the other ranks run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Peers {
    /// This crate. Names, shapes and kinds of all variables are compared before anything else, and every rank is told
    /// which one differs. Parameters are reduced in the order they were made.
    #[default]
    Rust,
    /// Some run Python's `DistributedDataParallel`. Holds the names of the parameters, as the variable store has them, in
    /// the order of Python's `named_parameters()`: tch makes a layer's bias before its weight, Python after it.
    ///
    /// Only what Python compares is compared: number, shapes and kinds of the parameters; rank 0 is not told of a
    /// difference but by the end of its peers. The buffers must be the same and, by name, in the same order: an
    /// `nn.BatchNorm2d` of Python's has one (`num_batches_tracked`) that tch's lacks.
    Python(Vec<String>),
}

/// How gradients are reduced. [`DdpOptions::default`] is what Python's `DistributedDataParallel` does without arguments.
#[derive(Clone, Debug)]
pub struct DdpOptions {
    /// Bytes of the bucket that is sent first; small, so that sending starts early. 1 MiB.
    pub first_bucket_bytes: u64,
    /// Bytes of every other bucket (`bucket_cap_mb`). 25 MiB.
    pub bucket_bytes: u64,
    /// Before each backward pass, look in the graph for parameters that take no part, so as not to wait for their
    /// gradients. Needed where ranks or steps use different parts of the model; costs a walk of the graph and one more
    /// collective. A parameter that no rank used keeps the gradient it had.
    pub find_unused_parameters: bool,
    /// The same parameters take part in every pass, in the same order. Parameters that never do need no search then, and
    /// parts of the model may be evaluated again in the backward pass (checkpointing). The first pass must be synchronised.
    pub static_graph: bool,
    /// Gradients are views of the buckets: saves one copy of all gradients. They cannot be reset by
    /// [`tch::Tensor::zero_grad`] or [`nn::Optimizer::zero_grad`]; use [`Ddp::zero_grad`].
    pub gradient_as_bucket_view: bool,
    /// Before each synchronised forward pass, replace the buffers (variables that are not trained, such as running
    /// statistics) by those of rank 0.
    pub broadcast_buffers: bool,
    /// Kind that gradients are sent in.
    pub compression: Compression,
    /// What the other ranks run.
    pub peers: Peers,
}

impl Default for DdpOptions {
    fn default() -> Self {
        Self {
            first_bucket_bytes: 1024 * 1024,
            bucket_bytes: 25 * 1024 * 1024,
            find_unused_parameters: false,
            static_graph: false,
            gradient_as_bucket_view: false,
            broadcast_buffers: true,
            compression: Compression::None,
            peers: Peers::Rust,
        }
    }
}

/// What a forward pass returns: the tensors that the backward pass may start from.
pub trait Outputs {
    /// Handles of these tensors.
    fn tensors(&self) -> Vec<Tensor>;
}

impl Outputs for Tensor {
    fn tensors(&self) -> Vec<Tensor> {
        vec![self.shallow_clone()]
    }
}

impl Outputs for Vec<Tensor> {
    fn tensors(&self) -> Vec<Tensor> {
        self.iter().map(Tensor::shallow_clone).collect()
    }
}

impl<const N: usize> Outputs for [Tensor; N] {
    fn tensors(&self) -> Vec<Tensor> {
        self.iter().map(Tensor::shallow_clone).collect()
    }
}

impl<A: Outputs, B: Outputs> Outputs for (A, B) {
    fn tensors(&self) -> Vec<Tensor> {
        let mut all = self.0.tensors();
        all.extend(self.1.tensors());
        all
    }
}

/// Averages gradients over the ranks of a group: libtorch's own reducer, the one of Python's `DistributedDataParallel`.
///
/// A step is [`Ddp::forward`], [`Ddp::backward`], the optimizer, [`Ddp::zero_grad`]; all ranks must take the same steps.
/// Gradients are averaged, not summed: a rank whose batch is smaller or larger than the others' weights its loss by
/// [`Ddp::scale_loss`].
///
/// While gradients are on their way, the group's collectives belong to the reducer: start no others between `forward` and
/// the end of `backward`. An error between them ends the group, so that no peer waits for this rank's gradients, and the
/// `Ddp` refuses to go on; what is left to do is to drop it, then the group, and to begin again with a new group. An error
/// in a pass that is not synchronised ([`Ddp::no_sync`]) concerns this rank alone: gradients are unspecified, and the pass
/// may be made again.
#[derive(Debug)]
pub struct Ddp<'g> {
    raw: NonNull<ffi::DdpHandle>,
    // Keeps the group where it is: the reducer starts collectives on it from this thread.
    group: &'g ProcessGroup,
    names: Vec<String>,
    broadcast_buffers: bool,
    synchronise: bool,
    // Python's `require_forward_param_sync`: the pass before was a synchronised one.
    after_synchronised: bool,
    static_graph: bool,
    // A synchronised forward pass has been made.
    passed: bool,
    // A synchronised forward pass has been made whose backward pass has not ended.
    pending: bool,
    failed: Option<Error>,
}

impl<'g> Ddp<'g> {
    /// Compares the variables of all ranks, gives all of them the state of rank 0 (parameters and buffers), and registers
    /// a hook with each parameter that requires a gradient now. Blocks until all ranks have come.
    ///
    /// The parameters are those of `variables`, in the order they were made; those made or thawed later are not reduced.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when there is nothing to train, or when a rank's variables differ from those of rank 0,
    /// naming both; [`Error::Unsupported`] for a variable that the group's backend cannot send; what a collective fails
    /// with.
    pub fn new(group: &'g ProcessGroup, variables: &nn::VarStore, options: &DdpOptions) -> Result<Self> {
        let State { parameters, buffers } = State::of(variables, &options.peers)?;
        let bytes = |bytes: u64, what: &str| {
            i64::try_from(bytes)
                .ok()
                .filter(|bytes| *bytes > 0)
                .ok_or_else(|| Error::InvalidArgument(format!("{what} of {bytes} bytes")))
        };
        let raw_options = ffi::DdpOptions {
            first_bucket_bytes: bytes(options.first_bucket_bytes, "a first bucket")?,
            bucket_bytes: bytes(options.bucket_bytes, "buckets")?,
            find_unused_parameters: options.find_unused_parameters,
            static_graph: options.static_graph,
            gradient_as_bucket_view: options.gradient_as_bucket_view,
            hook: match options.compression {
                Compression::None => 0,
                Compression::Fp16 => 1,
                Compression::Bf16 => 2,
            },
        };
        if options.peers == Peers::Rust {
            let own = |trainable| move |(name, tensor): &(String, Tensor)| Variable::new(name, tensor, trainable);
            let all: Vec<_> = parameters.iter().map(own(true)).chain(buffers.iter().map(own(false))).collect();
            agree::agree(group, &all)?;
        }
        let handles = |all: &[(String, Tensor)]| {
            all.iter()
                .map(|(name, tensor)| group.sendable(tensor, &format!("variable `{name}`")))
                .collect::<Result<Vec<_>>>()
        };
        let (parameter_handles, buffer_handles) = (handles(&parameters)?, handles(&buffers)?);
        let names: Vec<String> = parameters.iter().map(|(name, _)| name.clone()).collect();
        let slices: Vec<Slice> = names.iter().map(|name| Slice::new(name.as_bytes())).collect();
        let mut raw = ptr::null_mut();
        // SAFETY: group, tensors and names are alive for the call; the arrays are as long as said (one name a parameter);
        // the reducer takes references to what it keeps; `raw` outlives the call.
        let status = unsafe {
            ffi::tchd_ddp_new(
                group.as_ptr(),
                &raw_options,
                parameter_handles.as_ptr(),
                slices.as_ptr(),
                parameter_handles.len(),
                buffer_handles.as_ptr(),
                buffer_handles.len(),
                &mut raw,
            )
        };
        ffi::check(status, || "ddp".into()).map_err(|error| name_parameter(error, &names))?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::Other("libtorch gave no reducer".into()))?;
        Ok(Self {
            raw,
            group,
            names,
            broadcast_buffers: options.broadcast_buffers,
            synchronise: true,
            after_synchronised: true,
            static_graph: options.static_graph,
            passed: false,
            pending: false,
            failed: None,
        })
    }

    /// Runs `forward`, with the reducer made ready before it and told the outputs after it. Return from it what the
    /// backward pass starts from: best the loss itself. An output that no backward pass comes from must not be among them.
    ///
    /// With gradients off ([`tch::no_grad`]) nothing is made ready and nothing sent.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when a parameter got no gradient in the pass before; [`Error::Unsupported`] for a pass
    /// under [`Ddp::no_sync`] as the first of a static graph; what a collective fails with.
    pub fn forward<T: Outputs>(&mut self, forward: impl FnOnce() -> T) -> Result<T> {
        self.refuse_after_failure()?;
        if self.static_graph && !self.synchronise && !self.passed {
            return Err(Error::Unsupported(
                "ddp: a pass without synchronisation before the first one with it, under static_graph, which counts \
                 gradients in its first pass"
                    .into(),
            ));
        }
        let send_buffers = self.broadcast_buffers && self.after_synchronised;
        self.pending = true;
        // SAFETY: `raw` is a live reducer of ours.
        let status = unsafe { ffi::tchd_ddp_before_forward(self.raw.as_ptr(), self.synchronise, send_buffers) };
        self.note(status, "before the forward pass")?;
        let output = forward();
        self.after_synchronised = self.synchronise;
        self.pending = self.synchronise;
        if self.synchronise {
            self.passed = true;
            let outputs = output.tensors();
            let handles: Vec<_> = outputs.iter().map(|tensor| tensor.as_ptr().cast()).collect();
            // SAFETY: `raw` is a live reducer of ours, and `outputs` keeps the tensors alive for the call.
            let status = unsafe { ffi::tchd_ddp_after_forward(self.raw.as_ptr(), handles.as_ptr(), handles.len()) };
            self.note(status, "before the backward pass")?;
        }
        Ok(output)
    }

    /// Runs the backward pass from `loss`, a single number. When it returns, every parameter that took part holds the
    /// average of the ranks' gradients, the same bits on every rank; after a [`Ddp::no_sync`] forward pass, this rank's
    /// own, added to what it held.
    ///
    /// [`Tensor::backward`] does the same but cannot tell a lost peer from a mistake, and panics.
    ///
    /// # Errors
    ///
    /// [`Error::PeerLost`] and [`Error::Timeout`] when a rank has gone or does not come; [`Error::InvalidArgument`] for a
    /// tensor that is no loss; whatever an operation of the model fails with.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        self.refuse_after_failure()?;
        if !loss.defined() || loss.numel() != 1 || !loss.requires_grad() {
            return Err(Error::InvalidArgument("backward from a tensor that is not one number with a gradient".into()));
        }
        // SAFETY: the tensor is alive for the call. The hooks of this reducer run inside it, on a group that is borrowed,
        // hence on the thread that may use it.
        let status = unsafe { ffi::tchd_ddp_backward(self.raw.as_ptr(), loss.as_ptr().cast()) };
        self.note(status, "backward pass")?;
        self.pending = false;
        Ok(())
    }

    /// Runs `accumulate` with synchronisation off: forward passes in it, and the backward passes that follow from them,
    /// leave gradients to this rank, where they add up. The first pass after it sends the sums. All ranks may do this
    /// any number of times each, but must do the same number of synchronised passes.
    pub fn no_sync<T>(&mut self, accumulate: impl FnOnce(&mut Self) -> T) -> T {
        /// Turns synchronisation on again, after a panic as well.
        struct Restore<'a, 'g>(&'a mut Ddp<'g>, bool);
        impl Drop for Restore<'_, '_> {
            fn drop(&mut self) {
                self.0.synchronise = self.1;
            }
        }
        let before = self.synchronise;
        let restore = Restore(self, before);
        restore.0.synchronise = false;
        accumulate(&mut *restore.0)
    }

    /// Resets the gradients: to undefined, or, where they are views of the buckets, to zero in place. Does what an
    /// optimizer's `zero_grad` does, and works with [`DdpOptions::gradient_as_bucket_view`].
    ///
    /// # Errors
    ///
    /// Whatever libtorch says.
    pub fn zero_grad(&mut self) -> Result<()> {
        // SAFETY: `raw` is a live reducer of ours; it holds the parameters.
        let status = unsafe { ffi::tchd_ddp_zero_grad(self.raw.as_ptr()) };
        ffi::check(status, || "zero_grad".into())
    }

    /// Weights a *mean* loss over this rank's `images` so that the average over ranks is the mean over all `total` images
    /// of the step: `loss * images * world_size / total`. A loss that is a sum needs `loss * world_size / total` instead.
    ///
    /// A rank without images takes part with a loss of its own that depends on the parameters; its weight is 0.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a total of 0 or less than this rank's images.
    pub fn scale_loss(&self, loss: &Tensor, images: u64, total: u64) -> Result<Tensor> {
        if total == 0 || images > total {
            return Err(Error::InvalidArgument(format!("a batch of {images} images out of {total}")));
        }
        let weight = images as f64 * f64::from(self.group.world_size()) / total as f64;
        Ok(loss * weight)
    }

    /// Bytes of each bucket, in the order they are sent. Changes once, before the second or third forward pass, when the
    /// buckets are rebuilt in the order in which gradients arrived.
    ///
    /// # Errors
    ///
    /// Whatever libtorch says.
    pub fn bucket_bytes(&self) -> Result<Vec<u64>> {
        // No bucket is without a parameter.
        let mut sizes = vec![0; self.names.len()];
        let mut count = 0;
        // SAFETY: `raw` is a live reducer of ours, which writes at most `sizes.len()` numbers.
        let status =
            unsafe { ffi::tchd_ddp_bucket_bytes(self.raw.as_ptr(), sizes.as_mut_ptr(), sizes.len(), &mut count) };
        ffi::check(status, || "buckets".into())?;
        sizes.truncate(count);
        Ok(sizes)
    }

    fn refuse_after_failure(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// The shim's answer as a result. A failure while gradients are on their way ends the group: the reducer would wait
    /// for gradients that never come, and so would the peers.
    fn note(&mut self, status: ffi::Status, doing: &str) -> Result<()> {
        let answer = ffi::check(status, || format!("ddp, {doing}"));
        answer.map_err(|error| {
            let error = match error {
                Error::Other(message) if message.contains("Expected to have finished reduction") => {
                    Error::InvalidArgument(message)
                }
                error => error,
            };
            if self.pending {
                // SAFETY: `raw` is a live reducer of ours.
                let status = unsafe { ffi::tchd_ddp_fail(self.raw.as_ptr()) };
                // The failure before it is the one to tell of; `check` frees the message there might be.
                let _ = ffi::check(status, String::new);
                self.failed = Some(error.clone());
            }
            error
        })
    }
}

impl Drop for Ddp<'_> {
    fn drop(&mut self) {
        // SAFETY: `raw` is ours and not used again; the group is still borrowed, so it lives. Collectives under way hold
        // references to their buckets.
        let status = unsafe { ffi::tchd_ddp_drop(self.raw.as_ptr()) };
        // Hooks that cannot be removed are nothing a caller could act on; `check` frees the message.
        let _ = ffi::check(status, String::new);
    }
}

/// The variables of a store, in the order in which ranks agree on them.
struct State {
    /// Those that require a gradient.
    parameters: Vec<(String, Tensor)>,
    /// The others, by name.
    buffers: Vec<(String, Tensor)>,
}

impl State {
    fn of(variables: &nn::VarStore, peers: &Peers) -> Result<Self> {
        // A store lists what is trainable without names, and what has a name without an order.
        let mut named: HashMap<*const c_void, (String, Tensor)> = HashMap::new();
        for (name, tensor) in variables.variables() {
            named.insert(identity(&tensor), (name, tensor));
        }
        let mut parameters = Vec::new();
        for (i, tensor) in variables.trainable_variables().iter().filter(|tensor| tensor.requires_grad()).enumerate() {
            // A tensor that is trainable twice is reduced once.
            match named.remove(&identity(tensor)) {
                Some(variable) => parameters.push(variable),
                None if parameters.iter().any(|(_, known)| identity(known) == identity(tensor)) => {}
                None => parameters.push((format!("parameter {i}"), tensor.shallow_clone())),
            }
        }
        for (name, tensor) in &parameters {
            if !matches!(tensor.kind(), Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double) {
                return Err(Error::Unsupported(format!("variable `{name}`: gradients of {:?}", tensor.kind())));
            }
        }
        if parameters.is_empty() {
            return Err(Error::InvalidArgument("no variable requires a gradient".into()));
        }
        if let Peers::Python(order) = peers {
            sort(&mut parameters, order)?;
        }
        let mut buffers: Vec<_> = named.into_values().collect();
        buffers.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { parameters, buffers })
    }
}

/// Puts `parameters` into `order`, which must name each of them and nothing else.
fn sort(parameters: &mut [(String, Tensor)], order: &[String]) -> Result<()> {
    let places: HashMap<&str, usize> = order.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    if let Some((name, _)) = parameters.iter().find(|(name, _)| !places.contains_key(name.as_str())) {
        return Err(Error::InvalidArgument(format!("parameter `{name}` is not in Python's order")));
    }
    if let Some(name) = order.iter().find(|name| !parameters.iter().any(|(known, _)| known == *name)) {
        return Err(Error::InvalidArgument(format!("Python's order has `{name}`, which no parameter has for a name")));
    }
    parameters.sort_by_key(|(name, _)| places[name.as_str()]);
    Ok(())
}

fn identity(tensor: &Tensor) -> *const c_void {
    // SAFETY: the tensor is alive; only its address is read.
    unsafe { ffi::tchd_tensor_identity(tensor.as_ptr().cast()) }
}

/// libtorch says `params[3]`; whoever reads it wants the name.
fn name_parameter(error: Error, names: &[String]) -> Error {
    let named = |message: String| {
        let number = message.split("params[").nth(1).and_then(|rest| rest.split(']').next()?.parse::<usize>().ok());
        match number.and_then(|number| names.get(number)) {
            Some(name) => format!("{message} (params[{}] is `{name}`)", number.unwrap_or_default()),
            None => message,
        }
    };
    match error {
        Error::Other(message) if message.contains("params") => Error::InvalidArgument(named(message)),
        error => error,
    }
}
