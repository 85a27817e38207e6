//! An optimizer step of exactly T images, by all ranks, whatever they have to be cut into.
//!
//! Every rank computes its micro-batches without a word to the others. Then the ranks vote with a few integers: whether one of them ran out
//! of memory, and how large the values were. Only if all is well are gradients added over the ranks, and only then does anything change that
//! outlives the step: so a step that failed is simply computed again, in smaller micro-batches.
//!
//! With overlap the gradients are added over the ranks while each one's last backward pass still runs. The vote then comes before that pass, and
//! only memory that runs out within it cannot be mended here: peers wait for gradients that never come, and all have to be started again.

mod cut;
mod scaler;

use std::ops::Range;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use tch_distributed::{Ddp, DdpOptions, Error};

use crate::average::Average;
use crate::data::loader::Batch;
use crate::loss::{Assignment, Gains, Objects, loss};
use crate::memory::{OutOfMemory, attempt};
use crate::network::Network;
use crate::optimizer::{Optimizer, length};
use crate::precision::{Autocast, Half};
use crate::schedule::{Rates, Schedule};
use crate::settings::{Normalizer, Reduction, Settings};
use crate::sum::{Exceeded, Sum};
use crate::team::Team;

pub use cut::Cut;
pub use scaler::Scaler;

/// Share of a step's statistics in the running ones, as in the official network.
const MOMENTUM: f64 = 0.03;
/// Attempts at an update of the weights, which needs next to no memory.
const UPDATES: usize = 3;

/// Where in a step something is about to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The network's forward pass.
    Forward,
    /// Assignment and loss.
    Loss,
    /// The backward pass.
    Backward,
    /// The update of the weights.
    Update,
    /// A batch of a validation.
    Validation,
}

/// Called before each [`Place`], where a test can have memory run out.
pub type Probe = Box<dyn FnMut(Place)>;

/// What is trained, and how. `'t` is that of the ranks with which the reduction overlaps.
pub struct Training<'t> {
    /// The network.
    pub network: Network,
    /// Its moving average.
    pub average: Average,
    /// What turns gradients into weights.
    pub optimizer: Optimizer,
    /// The rates of every step.
    pub schedule: Schedule,
    /// Sums over micro-batches and ranks.
    pub sum: Sum,
    /// How the next step is cut.
    pub cut: Cut,
    /// Whether the cut may become finer where memory runs out.
    pub may_step_down: bool,
    /// Whether [`Report::computing`] waits for a GPU, which goes on alone otherwise.
    pub timed: bool,
    /// The loss scale of mixed precision in IEEE's half floats.
    pub scaler: Option<Scaler>,
    half: Option<Half>,
    overlap: Option<Ddp<'t>>,
    probe: Option<Probe>,
    settings: Settings,
}

/// Why a step could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// No smaller micro-batch is left, or none is allowed.
    #[error("{reason}")]
    OutOfMemory {
        /// What was tried, and on which rank.
        reason: String,
        /// What this rank's libtorch said, if it was this rank.
        source: Option<OutOfMemory>,
        /// Whether all ranks know of it, and could go on together with something else.
        voted: bool,
    },
    /// Memory ran out while peers waited for this rank's gradients. All ranks have to start again from the last state, with smaller
    /// micro-batches.
    #[error(
        "rank {rank} ran out of memory in a micro-batch of {images} while gradients were on their way; only a new start with smaller ones \
         can help: {source}"
    )]
    OutOfMemoryInOverlap {
        /// This rank.
        rank: u32,
        /// Images of its micro-batch.
        images: u32,
        /// What libtorch said.
        source: OutOfMemory,
    },
    /// A term of the loss is infinite or no number.
    #[error("the loss of step {step} is not finite: {terms:?}")]
    Diverged {
        /// The step, from 0.
        step: u64,
        /// Boxes, classes, distances.
        terms: [f64; 3],
    },
    /// The ranks lost each other.
    #[error("the ranks lost each other in step {step}")]
    Team {
        /// The step, from 0.
        step: u64,
        /// How.
        source: Error,
    },
}

/// A micro-batch was too large somewhere, and the step was made with smaller ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDown {
    /// The lowest rank that ran out of memory.
    pub rank: u32,
    /// Images of the largest micro-batch before.
    pub from: u32,
    /// And after.
    pub to: u32,
    /// What libtorch said, on the rank itself.
    pub message: Option<String>,
}

/// What a step was like; the same on all ranks, but for messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The loss: the weighted terms' sum.
    pub loss: f64,
    /// Weighted loss of boxes, classes and distances, as the official trainer shows them.
    pub terms: [f64; 3],
    /// What the step was made with.
    pub rates: Rates,
    /// Length of the gradient before clipping.
    pub gradient: f64,
    /// Micro-batches that became smaller on the way.
    pub step_downs: Vec<StepDown>,
    /// Whether a rank was asked to end.
    pub stop: bool,
    /// How long this rank computed its micro-batches, before it met the others; with overlap all but the last backward pass.
    pub computing: Duration,
}

/// A micro-batch whose backward pass is still to come.
struct Pending {
    loss: Tensor,
    images: u32,
}

impl<'t> Training<'t> {
    /// Bytes of gradients that are sent together, when overlapped: a small model has to have several such parts, or there is nothing to overlap.
    const BUCKET: u64 = 4 << 20;

    /// A training of `network`, cut as `cut` says.
    #[must_use]
    pub fn new(mut network: Network, schedule: Schedule, settings: &Settings, cut: Cut, may_step_down: bool) -> Self {
        let parameters = network.parameters.size1().expect("flat");
        let (_, channels) = network.statistics.size2().expect("means and variances");
        // In this order, what is only needed on the way never exceeds what stays.
        let average = Average::new(&network);
        let sum = Sum::new(parameters, channels, network.device(), settings.reduce == Reduction::Exact);
        network.prepare_gradients(sum.gradients());
        let optimizer = Optimizer::new(&schedule, settings.weight_decay, &network);
        let settings = settings.clone();
        Self {
            network,
            average,
            optimizer,
            schedule,
            sum,
            cut,
            may_step_down,
            timed: false,
            scaler: None,
            half: None,
            overlap: None,
            probe: None,
            settings,
        }
    }

    /// Computes in mixed precision from here on.
    pub fn mix(&mut self, half: Half) {
        self.half = Some(half);
        self.scaler = (half == Half::Fp16).then(Scaler::default);
    }

    /// Reduces gradients while they are computed, from here on. All ranks have to call this together.
    ///
    /// # Errors
    ///
    /// A peer is lost or late, or has another model.
    ///
    /// # Panics
    ///
    /// Sums are to be exact, which takes them in integers when they are whole.
    pub fn overlap_with(&mut self, team: &'t Team) -> tch_distributed::Result<()> {
        assert!(self.settings.reduce != Reduction::Exact, "exact sums are of whole gradients");
        let options = DdpOptions { bucket_bytes: Self::BUCKET, broadcast_buffers: false, ..DdpOptions::default() };
        let group = team.group(self.network.device());
        self.overlap = group.map(|group| Ddp::new(group, self.network.store(), &options)).transpose()?;
        Ok(())
    }

    /// Has `probe` called before each place of a step.
    pub fn set_probe(&mut self, probe: Probe) {
        self.probe = Some(probe);
    }

    /// Makes step `step`, from 0, with this rank's images of it. `stop` says whether this rank was asked to end; the report says whether
    /// any was.
    ///
    /// # Errors
    ///
    /// Memory ran out and no smaller micro-batch is left; the loss is not finite; a peer is lost.
    pub fn step(&mut self, step: u64, batch: &Batch, team: &Team, stop: bool) -> Result<Report, StepError> {
        let mut step_downs = Vec::new();
        let lost = |source| StepError::Team { step, source };
        let (vote, pending, computing) = loop {
            let began = Instant::now();
            let outcome = attempt(|| self.compute(batch, team.rank()));
            let mut vote = vec![team.call(outcome.is_err()), i64::from(stop)];
            vote.extend(self.sum.seen());
            if let (true, Device::Cuda(index)) = (self.timed, self.network.device()) {
                tch::Cuda::synchronize(index as i64);
            }
            let computing = began.elapsed();
            let vote = team.largest(&vote).map_err(lost)?;
            if let Some(rank) = team.caller(vote[0]) {
                step_downs.push(self.step_down(rank, outcome.err())?);
                continue;
            }
            match self.sum.agree(&vote[2..]) {
                Ok(()) => break (vote, outcome.ok().flatten(), computing),
                Err(Exceeded) => continue,
            }
        };
        match pending {
            Some(pending) => self.overlapped(step, &pending, team)?,
            None => self.sum.finish(team, &vote[2..]).map_err(lost)?,
        }
        let mut report = self.finish(step)?;
        report.step_downs = step_downs;
        report.stop = vote[1] > 0;
        report.computing = computing;
        Ok(report)
    }

    /// Forward, loss and backward of all of this rank's micro-batches; with overlap without the last backward pass.
    fn compute(&mut self, batch: &Batch, rank: u32) -> Option<Pending> {
        let micro_batches = self.cut.0.iter().map(Vec::len).sum::<usize>() as u64;
        self.sum.begin(micro_batches);
        let own = self.cut.0[rank as usize].clone();
        let mut start = 0;
        for (number, images) in own.iter().enumerate() {
            let range = start..start + *images as usize;
            start = range.end;
            let forward = Forward {
                network: &self.network,
                half: self.half,
                scale: self.scaler.map(|scaler| scaler.scale),
                settings: &self.settings,
            };
            let (loss, terms) = forward.loss(batch, range, &mut self.probe);
            let pending = self.overlap.is_some() && number + 1 == own.len();
            if !pending {
                at(&mut self.probe, Place::Backward);
                loss.backward();
            }
            let _guard = tch::no_grad_guard();
            self.sum.add(&(self.network.model.norms().batch() * f64::from(*images)), &terms);
            if pending {
                return Some(Pending { loss, images: *images });
            }
        }
        None
    }

    /// The last backward pass, in which gradients are added over the ranks as they come, and what else is added.
    fn overlapped(&mut self, step: u64, pending: &Pending, team: &Team) -> Result<(), StepError> {
        let ddp = self.overlap.as_mut().expect("only with overlap is something pending");
        let probe = &mut self.probe;
        let outcome = attempt(|| {
            at(probe, Place::Backward);
            // Told only now that a pass is to be reduced: one that was given up before the vote would leave the reducer waiting for it.
            let loss = ddp.forward(|| pending.loss.shallow_clone())?;
            ddp.backward(&loss)
        });
        let out = match outcome {
            Ok(Ok(())) => return self.sum.finish_averaged(team).map_err(|source| StepError::Team { step, source }),
            Ok(Err(Error::OutOfMemory(message))) => OutOfMemory::new(&message),
            Ok(Err(source)) => return Err(StepError::Team { step, source }),
            Err(out) => out,
        };
        let rank = team.rank();
        if self.may_step_down && pending.images > 1 {
            return Err(StepError::OutOfMemoryInOverlap { rank, images: pending.images, source: out });
        }
        let reason = self.no_smaller(rank, pending.images);
        Err(StepError::OutOfMemory { reason, source: Some(out), voted: false })
    }

    fn step_down(&mut self, rank: u32, own: Option<OutOfMemory>) -> Result<StepDown, StepError> {
        let from = self.cut.largest_of(rank);
        let Some(smaller) = self.cut.without(from).filter(|_| self.may_step_down) else {
            return Err(StepError::OutOfMemory { reason: self.no_smaller(rank, from), source: own, voted: true });
        };
        let to = smaller.largest_of(rank);
        self.cut = smaller;
        Ok(StepDown { rank, from, to, message: own.map(|own| own.0) })
    }

    /// Why nothing smaller than micro-batches of `images` is tried.
    fn no_smaller(&self, rank: u32, images: u32) -> String {
        if self.may_step_down {
            format!("rank {rank} has not enough memory for a single image")
        } else {
            format!("rank {rank} has not enough memory for micro-batches of {images}, which the job asks for")
        }
    }

    /// From the sums over all ranks to new weights, statistics and average.
    fn finish(&mut self, step: u64) -> Result<Report, StepError> {
        let _guard = tch::no_grad_guard();
        let target = f64::from(self.cut.target());
        let terms = Vec::<f64>::try_from(self.sum.terms().to_kind(Kind::Double)).expect("a few numbers");
        let (divisor, factor) = match self.settings.normalizer {
            Normalizer::Step => (terms[3].max(1.0), target / terms[3].max(1.0)),
            Normalizer::Micro => (target, 1.0),
        };
        let terms = [terms[0] / divisor, terms[1] / divisor, terms[2] / divisor];
        let rates = self.schedule.rates(step);
        let factor = factor / self.scaler.as_ref().map_or(1.0, |scaler| scaler.scale);
        let mut gradients = self.sum.gradients();
        let gradient = length(&gradients) * factor;
        let report = Report {
            loss: terms.iter().sum(),
            terms,
            rates,
            gradient,
            step_downs: Vec::new(),
            stop: false,
            computing: Duration::ZERO,
        };
        if !report.loss.is_finite() {
            return Err(StepError::Diverged { step, terms });
        }
        let statistics = self.sum.statistics().view_as(&self.network.statistics) / target;
        let _ = self.network.statistics.lerp_(&statistics, MOMENTUM);
        if self.scaler.as_mut().is_none_or(|scaler| scaler.judge(gradient.is_finite())) {
            let _ = gradients.g_mul_scalar_(factor * (self.settings.clip / (gradient + 1e-6)).min(1.0));
            self.update(&rates)?;
        }
        self.average.follow(&self.network);
        Ok(report)
    }

    fn update(&mut self, rates: &Rates) -> Result<(), StepError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = attempt(|| {
                at(&mut self.probe, Place::Update);
                self.optimizer.update(&mut self.network, rates);
            });
            match outcome {
                Ok(()) => return Ok(()),
                Err(_) if tries < UPDATES => {}
                Err(source) => {
                    let reason = format!("an update of the weights found no memory, {UPDATES} times over");
                    return Err(StepError::OutOfMemory { reason, source: Some(source), voted: false });
                }
            }
        }
    }
}

impl std::fmt::Debug for Training<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Training").field("cut", &self.cut).finish_non_exhaustive()
    }
}

/// Calls the probe, if there is one.
fn at(probe: &mut Option<Probe>, place: Place) {
    if let Some(probe) = probe {
        probe(place);
    }
}

/// What a forward pass needs to know.
#[derive(Clone, Copy)]
struct Forward<'a> {
    network: &'a Network,
    half: Option<Half>,
    scale: Option<f64>,
    settings: &'a Settings,
}

impl Forward<'_> {
    /// The number whose gradients are wanted, and the terms of the loss, of some images of a batch.
    fn loss(self, batch: &Batch, images: Range<usize>, probe: &mut Option<Probe>) -> (Tensor, Tensor) {
        let device = self.network.device();
        at(probe, Place::Forward);
        self.network.model.norms().clear();
        let input = input(&batch.images(images.clone()), device, self.settings.channels_last);
        let levels = {
            let _autocast = self.half.map(|half| Autocast::begin(half, device));
            self.network.model.forward(&input, true)
        };
        at(probe, Place::Loss);
        let objects = Objects::new(&batch.objects[images.clone()], device);
        let gains = gains(self.settings);
        let terms = loss(&levels, &objects, &Assignment::default());
        let weight = match self.settings.normalizer {
            Normalizer::Step => Tensor::from(1.0_f32).to_device(device),
            Normalizer::Micro => images.len() as f64 / terms.divisor(),
        };
        let each = terms.each(&gains) * weight;
        let total = each.sum(Kind::Float);
        let total = self.scale.map_or(total.shallow_clone(), |scale| total * scale);
        (total, Tensor::cat(&[each.detach(), terms.scores.detach().view(1)], 0))
    }
}

/// The weights of the loss's terms.
#[must_use]
pub fn gains(settings: &Settings) -> Gains {
    Gains { boxes: settings.boxes, classes: settings.cls, distances: settings.dfl }
}

/// Images as the network takes them, from 0 to 1 on `device`, from bytes with the channels innermost.
pub fn input(images: &Tensor, device: Device, channels_last: bool) -> Tensor {
    let images = images.to_device(device);
    let images = if channels_last { images } else { images.contiguous() };
    images.to_kind(Kind::Float) / 255.0
}
