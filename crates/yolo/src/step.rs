//! An optimizer step of exactly T images, by all ranks, whatever they have to be cut into.
//!
//! Every rank computes its micro-batches without a word to the others. Then the ranks vote with a few integers: whether one of them ran out
//! of memory, and how large the values were. Only if all is well are gradients added over the ranks, and only then does anything change that
//! outlives the step: so a step that failed is simply computed again, in smaller micro-batches.

use tch::{Device, Kind, Tensor};

use crate::average::Average;
use crate::data::loader::Batch;
use crate::loss::{Assignment, Gains, Objects, loss};
use crate::memory::{OutOfMemory, attempt};
use crate::network::Network;
use crate::optimizer::{Optimizer, length};
use crate::schedule::{Rates, Schedule};
use crate::settings::{Normalizer, Reduction, Settings};
use crate::sum::{Exceeded, Sum};
use crate::team::Team;

/// Share of a step's statistics in the running ones, as in the official network.
const MOMENTUM: f64 = 0.03;
/// Attempts at an update of the weights, which needs next to no memory.
const UPDATES: usize = 3;

/// How a step is cut: the images of every micro-batch, by rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut(pub Vec<Vec<u32>>);

impl Cut {
    /// Images of the step, T.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.0.iter().flatten().sum()
    }

    /// Images of a rank.
    #[must_use]
    pub fn share(&self, rank: u32) -> u32 {
        self.0.get(rank as usize).map_or(0, |own| own.iter().sum())
    }

    /// Where a rank's images begin among those of the step.
    #[must_use]
    pub fn start(&self, rank: u32) -> u32 {
        (0..rank).map(|before| self.share(before)).sum()
    }

    /// Images of the largest micro-batch.
    #[must_use]
    pub fn largest(&self) -> u32 {
        self.0.iter().flatten().copied().max().unwrap_or(0)
    }

    /// The same images on every rank in micro-batches of at most half the largest: of the most images that divide every rank's share.
    /// `None` where the largest has one image.
    #[must_use]
    pub fn smaller(&self) -> Option<Self> {
        self.at_most(self.largest() / 2)
    }

    /// The same images on every rank in micro-batches of at most `limit`: those of ranks that have larger ones become as large as they can,
    /// on all ranks alike. `None` for a limit of 0.
    #[must_use]
    pub fn at_most(&self, limit: u32) -> Option<Self> {
        if self.largest() <= limit {
            return Some(self.clone());
        }
        let shares: Vec<u32> = (0..).zip(&self.0).map(|(rank, _)| self.share(rank)).collect();
        let size = (1..=limit).rev().find(|size| shares.iter().all(|share| share % size == 0))?;
        let cut = |own: &Vec<u32>, share: u32| {
            let small = own.iter().all(|images| *images <= size);
            if small { own.clone() } else { vec![size; (share / size) as usize] }
        };
        Some(Self(self.0.iter().zip(shares).map(|(own, share)| cut(own, share)).collect()))
    }
}

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

/// What is trained, and how.
pub struct Training {
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
    /// The loss scale of mixed precision in half floats.
    pub scaler: Option<Scaler>,
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
        source: tch_distributed::Error,
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
}

impl Training {
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
        let scaler = (settings.amp && network.device() != Device::Cpu).then(Scaler::default);
        let settings = settings.clone();
        Self { network, average, optimizer, schedule, sum, cut, may_step_down, scaler, probe: None, settings }
    }

    /// Has `probe` called before each place of a step.
    pub fn set_probe(&mut self, probe: Probe) {
        self.probe = Some(probe);
    }

    /// Calls the probe, if there is one.
    fn at(&mut self, place: Place) {
        if let Some(probe) = &mut self.probe {
            probe(place);
        }
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
        let vote = loop {
            let outcome = attempt(|| self.compute(batch, team.rank()));
            let mut vote = vec![team.call(outcome.is_err()), i64::from(stop)];
            vote.extend(self.sum.seen());
            let vote = team.largest(&vote).map_err(lost)?;
            if let Some(rank) = team.caller(vote[0]) {
                let message = outcome.err();
                step_downs.push(self.step_down(rank, message)?);
                continue;
            }
            match self.sum.agree(&vote[2..]) {
                Ok(()) => break vote,
                Err(Exceeded) => continue,
            }
        };
        self.sum.finish(team, &vote[2..]).map_err(lost)?;
        let mut report = self.finish(step)?;
        report.step_downs = step_downs;
        report.stop = vote[1] > 0;
        Ok(report)
    }

    /// Forward, loss and backward of all of this rank's micro-batches.
    fn compute(&mut self, batch: &Batch, rank: u32) {
        let micro_batches = self.cut.0.iter().map(Vec::len).sum::<usize>() as u64;
        self.sum.begin(micro_batches);
        let mut start = 0;
        for images in self.cut.0[rank as usize].clone() {
            self.micro_batch(batch, start, images as usize);
            start += images as usize;
        }
    }

    fn micro_batch(&mut self, batch: &Batch, start: usize, images: usize) {
        let device = self.network.device();
        self.at(Place::Forward);
        self.network.model.norms().clear();
        let input = input(&batch.images.narrow(0, start as i64, images as i64), device, self.settings.channels_last);
        let levels = tch::autocast(self.scaler.is_some(), || self.network.model.forward(&input, true));
        self.at(Place::Loss);
        let objects = Objects::new(&batch.objects[start..start + images], device);
        let gains = gains(&self.settings);
        let (total, terms) = tch::autocast(false, || {
            let terms = loss(&levels, &objects, &Assignment::default());
            let weight = match self.settings.normalizer {
                Normalizer::Step => Tensor::from(1.0_f32).to_device(device),
                Normalizer::Micro => images as f64 / terms.divisor(),
            };
            let each = terms.each(&gains) * weight;
            let total = each.sum(Kind::Float);
            (total, Tensor::cat(&[each.detach(), terms.scores.detach().view(1)], 0))
        });
        self.at(Place::Backward);
        match &self.scaler {
            Some(scaler) => (total * scaler.scale).backward(),
            None => total.backward(),
        }
        let _guard = tch::no_grad_guard();
        self.sum.add(&(self.network.model.norms().batch() * images as f64), &terms);
    }

    fn step_down(&mut self, rank: u32, own: Option<OutOfMemory>) -> Result<StepDown, StepError> {
        let from = self.cut.largest();
        let out = |reason: String| StepError::OutOfMemory { reason, source: own.clone() };
        if !self.may_step_down {
            return Err(out(format!(
                "rank {rank} has not enough memory for micro-batches of {from}, which the job asks for"
            )));
        }
        let Some(smaller) = self.cut.smaller() else {
            return Err(out(format!("rank {rank} has not enough memory for a single image")));
        };
        let to = smaller.largest();
        self.cut = smaller;
        Ok(StepDown { rank, from, to, message: own.map(|own| own.0) })
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
        let report = Report { loss: terms.iter().sum(), terms, rates, gradient, step_downs: Vec::new(), stop: false };
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
                self.at(Place::Update);
                self.optimizer.update(&mut self.network, rates);
            });
            match outcome {
                Ok(()) => return Ok(()),
                Err(_) if tries < UPDATES => {}
                Err(source) => {
                    let reason = format!("an update of the weights found no memory, {UPDATES} times over");
                    return Err(StepError::OutOfMemory { reason, source: Some(source) });
                }
            }
        }
    }
}

impl std::fmt::Debug for Training {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Training").field("cut", &self.cut).finish_non_exhaustive()
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

/// The factor by which a loss is multiplied so that gradients in half floats do not vanish: as large as goes, halved where one overflows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaler {
    /// The factor.
    pub scale: f64,
    /// Steps since it last changed.
    pub steady: u32,
}

impl Default for Scaler {
    fn default() -> Self {
        // A step's loss is not yet divided by its target scores when it is scaled.
        Self { scale: 1024.0, steady: 0 }
    }
}

impl Scaler {
    /// Steps without overflow after which the factor doubles.
    const PATIENCE: u32 = 2000;

    /// Whether a step's gradients are good for an update; adapts the factor for the next step.
    fn judge(&mut self, finite: bool) -> bool {
        self.steady = if finite { self.steady + 1 } else { 0 };
        if !finite {
            self.scale = (self.scale / 2.0).max(f64::MIN_POSITIVE);
        } else if self.steady == Self::PATIENCE {
            self.scale *= 2.0;
            self.steady = 0;
        }
        finite
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finer_cut_leaves_every_image_where_it_is() {
        let smaller = |cut: &[&[u32]]| {
            let cut = Cut(cut.iter().map(|own| own.to_vec()).collect());
            cut.smaller().map(|finer| {
                assert!((0..cut.0.len() as u32).all(|rank| finer.share(rank) == cut.share(rank)));
                finer.0
            })
        };
        assert_eq!(smaller(&[&[16, 16], &[16]]), Some(vec![vec![8; 4], vec![8; 2]]));
        assert_eq!(smaller(&[&[6], &[6, 6]]), Some(vec![vec![3; 2], vec![3; 4]]));
        assert_eq!(smaller(&[&[7], &[14]]), Some(vec![vec![7], vec![7; 2]]));
        assert_eq!(smaller(&[&[5]]), Some(vec![vec![1; 5]]));
        assert_eq!(smaller(&[&[1], &[1]]), None);
        assert_eq!(Cut(vec![vec![16], vec![8; 2]]).at_most(8), Some(Cut(vec![vec![8; 2], vec![8; 2]])));
        assert_eq!(Cut(vec![vec![4]]).at_most(8), Some(Cut(vec![vec![4]])));
    }

    #[test]
    fn a_share_begins_where_the_one_before_ends() {
        let cut = Cut(vec![vec![4, 4, 4], vec![4]]);
        assert_eq!((cut.target(), cut.start(0), cut.start(1), cut.share(1)), (16, 0, 12, 4));
    }
}
