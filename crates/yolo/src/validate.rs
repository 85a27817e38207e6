//! How good a network is on a set: its detections against the objects, shared among the ranks.

use std::ops::Range;
use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::data::gallery::Gallery;
use crate::data::loader::{Batch, Loader, Wanted};
use crate::data::sample;
use crate::data::set::Problem;
use crate::loss::{Assignment, Objects, loss};
use crate::memory::{OutOfMemory, attempt};
use crate::metric::{Outcome, Tally};
use crate::model::Levels;
use crate::network::Network;
use crate::nms::{self, Detection, Limits};
use crate::settings::Settings;
use crate::step::{Place, gains, input};
use crate::team::Team;

/// A validation of all ranks.
#[derive(Debug)]
pub struct Validation {
    /// Precision, recall and average precision.
    pub outcome: Outcome,
    /// Everything that was found, of all ranks.
    pub tally: Tally,
    /// Weighted losses of boxes, classes and distances over the whole set, as in training.
    pub terms: [f64; 3],
    /// Pictures that this rank could not read.
    pub problems: Vec<Problem>,
    /// Images of this rank's batches at the end, which memory may have made smaller.
    pub batch: usize,
}

/// Why there is no validation.
#[derive(Debug, thiserror::Error)]
pub enum ValidationError {
    /// Even one image is too much.
    #[error("rank {rank} has not enough memory to validate a single image")]
    OutOfMemory {
        /// The lowest rank that ran out.
        rank: u32,
        /// What its libtorch said, if it is this rank.
        source: Option<OutOfMemory>,
    },
    /// The ranks lost each other.
    #[error("the ranks lost each other in a validation")]
    Team(#[from] tch_distributed::Error),
}

/// How to validate.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The set, at the size of the validation.
    pub gallery: &'a Arc<Gallery>,
    /// Images of a batch at most.
    pub batch: usize,
    /// Threads that read images.
    pub threads: usize,
    /// The training's settings.
    pub settings: &'a Settings,
}

/// Validates a network. Every rank has its part of the set; the outcome is the same on all, and the same for any number of them but for the
/// order of equally sure detections. `probe` is called before each batch.
///
/// # Errors
///
/// A rank has not enough memory for one image, or is lost. Where there is only too little for a batch, the rank halves it and goes on.
pub fn validate(
    network: &Network,
    plan: &Plan<'_>,
    team: &Team,
    probe: &mut dyn FnMut(Place),
) -> Result<Validation, ValidationError> {
    let order = order(plan.gallery);
    let share = |rank: u32| order.len() * rank as usize / team.size() as usize;
    let own = &order[share(team.rank())..share(team.rank() + 1)];
    let mut part = Part {
        network,
        plan,
        tally: Tally::new(network.model.classes() as usize),
        sums: [0.0; 4],
        batch: plan.batch.max(1),
    };
    let outcome = part.all(own, probe);
    // All ranks hear of one that could not, and only then say what they found.
    let largest = team.largest(&[team.call(outcome.is_err())])?[0];
    if let Some(rank) = team.caller(largest) {
        return Err(ValidationError::OutOfMemory { rank, source: outcome.err() });
    }
    let mut tally = Tally::new(network.model.classes() as usize);
    for bytes in team.gather(&part.tally.to_bytes())? {
        tally.join(Tally::from_bytes(&bytes));
    }
    let mut sums = Tensor::from_slice(&part.sums);
    team.sum(&mut sums)?;
    let sums = Vec::<f64>::try_from(sums).expect("four numbers");
    let terms = [sums[0], sums[1], sums[2]].map(|term| term / sums[3].max(1.0));
    Ok(Validation { outcome: tally.outcome(), tally, terms, problems: outcome.unwrap_or_default(), batch: part.batch })
}

/// The set's numbers by the size of their frames, so that batches are of one size.
fn order(gallery: &Gallery) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..gallery.set().entries.len() as u32).collect();
    numbers.sort_by_key(|number| sample::frame(gallery.entry(*number), gallery.side()));
    numbers
}

struct Part<'a> {
    network: &'a Network,
    plan: &'a Plan<'a>,
    tally: Tally,
    sums: [f64; 4],
    batch: usize,
}

impl Part<'_> {
    fn all(&mut self, own: &[u32], probe: &mut dyn FnMut(Place)) -> Result<Vec<Problem>, OutOfMemory> {
        let gallery = self.plan.gallery.clone();
        let frame = |number: u32| sample::frame(gallery.entry(number), gallery.side());
        let wanted: Vec<Wanted> = own
            .chunk_by(|a, b| frame(*a) == frame(*b))
            .flat_map(|equal| equal.chunks(self.plan.batch.max(1)))
            .map(|numbers| {
                let (width, height) = frame(numbers[0]);
                Wanted { numbers: numbers.to_vec(), epoch: 0, width, height }
            })
            .collect();
        let read = move |_: &Wanted, number: u32| sample::validation(&gallery, number);
        let mut problems = Vec::new();
        for batch in Loader::new(wanted.into_iter(), self.plan.threads, 2, read) {
            let images = batch.objects.len();
            let mut done = 0;
            while done < images {
                let end = images.min(done + self.batch);
                let outcome = attempt(|| {
                    probe(Place::Validation);
                    detect(self.network, self.plan.settings, &batch, done..end)
                });
                match outcome {
                    Ok((tally, sums)) => {
                        self.tally.join(tally);
                        self.sums.iter_mut().zip(sums).for_each(|(sum, more)| *sum += more);
                        done = end;
                    }
                    Err(error) if self.batch == 1 => return Err(error),
                    Err(_) => self.batch = (end - done).div_ceil(2),
                }
            }
            problems.extend(batch.problems);
        }
        Ok(problems)
    }
}

/// What is found in some images of a batch, and the sums of the loss's terms and their divisor.
#[must_use]
pub fn detect(network: &Network, settings: &Settings, batch: &Batch, range: Range<usize>) -> (Tally, [f64; 4]) {
    let _guard = tch::no_grad_guard();
    let device = network.device();
    let images = input(&batch.images(range.clone()), device, settings.channels_last);
    let levels = network.model.forward(&images, false);
    let objects = &batch.objects[range];
    let terms = loss(&levels, &Objects::new(objects, device), &Assignment::default());
    let sums = Tensor::cat(&[terms.each(&gains(settings)), terms.scores.view(1)], 0).to_kind(Kind::Double);
    let sums = Vec::<f64>::try_from(sums).expect("four numbers");
    let limits = Limits {
        confidence: settings.conf as f32,
        overlap: settings.iou as f32,
        detections: settings.max_det,
        ..Limits::default()
    };
    let mut tally = Tally::new(network.model.classes() as usize);
    for (found, objects) in detections(&levels, &limits).iter().zip(objects) {
        tally.add(found, objects);
    }
    (tally, [sums[0], sums[1], sums[2], sums[3]])
}

/// What the head's words mean: the detections of each image, surest first.
#[must_use]
pub fn detections(levels: &Levels, limits: &Limits) -> Vec<Vec<Detection>> {
    let (_, anchors, classes) = levels.scores.size3().expect("images, anchors, classes");
    let (anchors, classes) = (anchors as usize, classes as usize);
    let values = |tensor: Tensor| Vec::<f32>::try_from(tensor.flatten(0, -1).contiguous()).expect("floats");
    let (boxes, scores) = (values(levels.boxes()), values(levels.scores.sigmoid()));
    let by_image = boxes.chunks_exact(anchors * 4).zip(scores.chunks_exact(anchors * classes));
    by_image.map(|(boxes, scores)| nms::detections(boxes, scores, classes, limits)).collect()
}
