//! Trial steps: how much memory micro-batches of a size need and how long they take, found out before a training is planned.
//!
//! They are steps as the training makes them, all ranks together, with images of the set. What does not depend on luck is made the worst that
//! can happen: the image with the most labels that any mosaic has is in every micro-batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_wire::Event;
use evenkeel_wire::trainer_job::Trial;
use evenkeel_yolo::data::gallery::Gallery;
use evenkeel_yolo::data::loader::Batch;
use evenkeel_yolo::data::order::Order;
use evenkeel_yolo::data::sample::{self, Sample};
use evenkeel_yolo::memory::attempt;
use evenkeel_yolo::network::Network;
use evenkeel_yolo::schedule::Schedule;
use evenkeel_yolo::step::{Cut, StepError, Training};
use evenkeel_yolo::team::Team;
use evenkeel_yolo::validate::detect;
use tch::Tensor;

use super::job::Job;
use super::memory::{forget_peak, memory};
use super::run::Sets;
use super::stop::Stop;
use super::{End, TrainError, group};
use crate::environment::Environment;
use crate::events::Events;

/// A time is taken of at least so many steps and seconds: a device that may use half a processor gets it in slices of a tenth of a second.
const STEPS: u32 = 2;
const SECONDS: f64 = 0.3;
/// Steps of a size at most.
const MOST_STEPS: u32 = 8;
/// A step that takes so long is large enough: what a larger one takes is known from there.
const LONG: f64 = 4.0;
/// Images of which a micro-batch is made; they repeat in a large one.
const POOL: u32 = 16;
/// Labels of mosaics that are counted in search of the most, about: some seconds' work.
const COUNTED: u64 = 20_000_000;
/// From so many labels on it matters how many there are.
const MANY: u32 = 8;

/// Makes the trial's steps, and tells what was found.
pub fn run(
    environment: &Environment,
    job: &Job,
    trial: &Trial,
    events: &Arc<Events>,
    stop: &Stop,
) -> Result<End, TrainError> {
    group::with_team(environment, job.memory, events, |team, device| {
        let sets = Sets::scan(environment, job, team, events)?;
        let heaviest = heaviest(&sets.train, job, team)?;
        let mut bench = Bench::new(job, device, team, events, stop, sets, heaviest)?;
        match trial.sizes.get(team.rank() as usize) {
            Some(size) => bench.confirm(*size),
            None => bench.search(trial),
        }
    })
}

/// The number of the training image whose mosaic has the most labels, and its epoch. The ranks share the count.
fn heaviest(gallery: &Gallery, job: &Job, team: &Team) -> Result<(u32, u32), TrainError> {
    let entries = &gallery.set().entries;
    let images = entries.len() as u64;
    let labels: u64 = entries.iter().map(|entry| entry.labels.len() as u64).sum();
    let each = 4 * labels / images.max(1) + 10;
    let mosaics = (COUNTED / each).min(images * u64::from(job.told.epochs)).max(images.min(1000));
    let with_mosaic = has_mosaics(job);
    let count = |at: u64| {
        let (number, epoch) = ((at % images) as u32, (at / images) as u32);
        sample::count(gallery, number, epoch, job.told.seed, with_mosaic, &job.settings) as u64
    };
    let own = (u64::from(team.rank())..mosaics).step_by(team.size() as usize).map(|at| (count(at), at)).max();
    // The count in the upper half, so that the largest number is that of the most labels.
    let own = own.map_or(0, |(count, at)| ((count << 32) | (at & u64::from(u32::MAX))) as i64);
    let at = team.largest(&[own])?[0] as u64 & u64::from(u32::MAX);
    Ok(((at % images) as u32, (at / images) as u32))
}

/// Whether any epoch has mosaics.
fn has_mosaics(job: &Job) -> bool {
    job.told.epochs > job.settings.close_mosaic
}

/// Everything that trial steps need.
struct Bench<'a> {
    job: &'a Job,
    team: &'a Team,
    events: &'a Arc<Events>,
    stop: &'a Stop,
    training: Training<'a>,
    /// Training images, the heaviest first.
    pool: Vec<Sample>,
    /// Images of the validation, of the largest frame.
    val: Vec<Sample>,
    frame: (u32, u32),
    /// How many images the validation has in all.
    val_images: usize,
    step: u64,
}

/// How a size did.
enum Outcome {
    /// The most memory, in bytes, and the seconds of a pass.
    Fits { peak: u64, seconds: f64 },
    /// This rank has not enough memory.
    RanOut,
    /// Another one has not.
    PeerRanOut,
}

/// How long a step took: its computation up to the meeting of the ranks, and all of it.
struct Times {
    computing: Duration,
    whole: Duration,
}

impl<'a> Bench<'a> {
    fn new(
        job: &'a Job,
        device: tch::Device,
        team: &'a Team,
        events: &'a Arc<Events>,
        stop: &'a Stop,
        sets: Sets,
        heaviest: (u32, u32),
    ) -> Result<Self, TrainError> {
        let (settings, classes) = (&job.settings, job.names.len());
        let images = sets.train.set().entries.len() as u32;
        // The training's own: by the number of its steps it chooses an optimizer, each of which needs another memory.
        let order = Order::new(images, job.cut.target(), job.told.seed)?;
        let schedule = Schedule::new(settings, job.told.epochs, order.steps().into(), classes);
        let network = Network::new(job.scale, classes as i64, device, job.told.seed, settings.channels_last);
        let cut = Cut(vec![vec![1]; team.size() as usize]);
        let mut training = Training::new(network, schedule, settings, cut, false);
        training.timed = true;
        if let Some(half) = job.half {
            training.mix(half);
        }
        if settings.overlap && team.size() > 1 {
            training.overlap_with(team)?;
        }
        let drawn =
            |number, epoch| sample::training(&sets.train, number, epoch, job.told.seed, has_mosaics(job), settings);
        let others = (1..POOL.min(images)).map(|at| drawn(at * (images / POOL.min(images)), 0));
        let pool = std::iter::once(drawn(heaviest.0, heaviest.1)).chain(others).collect();
        let (frame, val) = largest_frame(&sets.val);
        let val_images = sets.val.set().entries.len();
        Ok(Self { job, team, events, stop, training, pool, val, frame, val_images, step: 0 })
    }

    /// Tells what is needed whatever the size. `start` is the most memory until the first step, in bytes.
    fn tell_fixed(&self, start: u64) -> Result<(), TrainError> {
        let bytes = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        let network = |network: &Network| bytes(&network.parameters) + bytes(&network.statistics);
        let training = &self.training;
        self.events.emit(&Event::Fixed {
            context_bytes: memory(training.network.device())?.context,
            weights_bytes: network(&training.network) + network(&training.average.network),
            gradients_and_optimizer_bytes: bytes(&training.sum.gradients())
                + training.optimizer.state().0.iter().map(|(_, tensor)| bytes(tensor)).sum::<u64>(),
            start_bytes: start,
        });
        Ok(())
    }

    /// Tries one size: the last word before a training.
    fn confirm(&mut self, size: u32) -> Result<End, TrainError> {
        if self.stopped()? {
            return Ok(End::Stopped);
        }
        self.tell_fixed(memory(self.training.network.device())?.peak)?;
        if let Outcome::Fits { .. } = self.train(size, false)? {
            self.validate(2 * size)?;
        }
        Ok(End::Done)
    }

    /// Tries larger and larger sizes. Ranks take part until the last of them has found enough.
    fn search(&mut self, trial: &Trial) -> Result<End, TrainError> {
        let limit = trial.limits.get(self.team.rank() as usize).copied().flatten().unwrap_or(u64::MAX);
        let start = memory(self.training.network.device())?.peak;
        self.tell_fixed(start)?;
        let (mut size, mut before, mut enough) = (1, None, false);
        loop {
            if self.stopped()? {
                return Ok(End::Stopped);
            }
            let next = match self.train(size, false)? {
                Outcome::Fits { peak, seconds } => {
                    if before.is_none() {
                        // Kernels, their workspaces and what NCCL takes are there only now.
                        self.tell_fixed(start)?;
                    }
                    // Twice as many images more than the last time, which then are at least as large.
                    let more = before.map_or(0, |before| 2 * peak.saturating_sub(before));
                    enough |= 2 * size > trial.most || peak + more > limit || seconds >= LONG;
                    before = Some(peak);
                    (!enough).then_some(2 * size)
                }
                Outcome::RanOut => {
                    enough = true;
                    size = (size / 2).max(1);
                    None
                }
                // The same once more, when the other one has gone back.
                Outcome::PeerRanOut => Some(size),
            };
            // Where not even one image fits, nothing is left to be found.
            let nothing = before.is_none() && enough;
            let votes = self.team.largest(&[i64::from(next.is_some()), i64::from(nothing)])?;
            if votes[1] > 0 {
                return Ok(End::Done);
            }
            if votes[0] == 0 {
                break;
            }
            size = next.unwrap_or(size);
        }
        // All have the same heaviest image.
        if self.pool[0].objects.len() as u32 > MANY {
            self.train(size, true)?;
        }
        self.validate(2 * size)?;
        Ok(End::Done)
    }

    fn stopped(&self) -> Result<bool, TrainError> {
        Ok(self.team.largest(&[i64::from(self.stop.asked())])?[0] > 0)
    }

    /// Steps of micro-batches of `size`, each rank its own.
    fn train(&mut self, size: u32, few_labels: bool) -> Result<Outcome, TrainError> {
        let mut sizes = vec![0; self.team.size() as usize];
        sizes[self.team.rank() as usize] = i64::from(size);
        let sizes = self.team.largest(&sizes)?;
        // With overlap, what a rank computes alone ends before its last backward pass: one of its own says how long that takes.
        let overlap = self.job.settings.overlap && self.team.size() > 1;
        let cut = |passes: usize| Cut(sizes.iter().map(|size| vec![*size as u32; passes]).collect());
        let images = size as usize * if overlap { 2 } else { 1 };
        let samples = self.pool.iter().cycle().take(images).cloned();
        let samples = samples.map(|mut sample| {
            sample.objects.truncate(if few_labels { 1 } else { usize::MAX });
            sample
        });
        let side = self.job.told.imgsz;
        let batch = Batch::new(samples.collect::<Vec<_>>(), side, side);
        let labels = batch.objects.iter().map(Vec::len).max();
        forget_peak(self.training.network.device())?;
        let (mut steps, mut pass, mut rest) = (0, 0.0, 0.0);
        let mut wanted = 1 + STEPS;
        while steps < wanted {
            let times = self.step(&batch, cut(1)).and_then(|one| {
                let two = if overlap { Some(self.step(&batch, cut(2))?) } else { None };
                Ok((one, two))
            });
            let (one, two) = match times {
                Ok(times) => times,
                Err(StepError::OutOfMemory { source, voted: true, .. }) => {
                    if source.is_none() {
                        return Ok(Outcome::PeerRanOut);
                    }
                    self.tell(false, size, labels, None, 0.0, 0.0);
                    return Ok(Outcome::RanOut);
                }
                Err(error) => {
                    // The peers do not know, and wait for something else by now: the trial ends here.
                    if let StepError::OutOfMemory { .. } | StepError::OutOfMemoryInOverlap { .. } = &error {
                        self.tell(false, size, labels, None, 0.0, 0.0);
                    }
                    return Err(error.into());
                }
            };
            let computing = two.map_or(one.computing, |two| two.computing.saturating_sub(one.computing));
            if steps == 0 {
                // The first is slower than those that follow: memory is new, and kernels are chosen.
                let own = ((SECONDS / computing.as_secs_f64().max(1e-3)).ceil() as u32).clamp(STEPS, MOST_STEPS);
                wanted = 1 + self.team.largest(&[own.into()])?[0] as u32;
            } else {
                pass += computing.as_secs_f64();
                rest += one.whole.saturating_sub(computing).as_secs_f64();
            }
            steps += 1;
        }
        let counted = f64::from(steps - 1);
        let peak = memory(self.training.network.device())?.peak;
        self.tell(false, size, labels, Some(peak), pass / counted, rest / counted);
        Ok(Outcome::Fits { peak, seconds: pass / counted })
    }

    fn step(&mut self, batch: &Batch, cut: Cut) -> Result<Times, StepError> {
        self.training.cut = cut;
        self.step += 1;
        let began = Instant::now();
        let report = self.training.step(self.step, batch, self.team, false)?;
        Ok(Times { computing: report.computing, whole: began.elapsed() })
    }

    /// A batch of a validation: `size` images, if there are so many.
    fn validate(&mut self, size: u32) -> Result<(), TrainError> {
        let (width, height) = self.frame;
        let size = self.val_images.min(size as usize) as u32;
        let samples: Vec<Sample> = self.val.iter().cycle().take(size as usize).cloned().collect();
        if samples.is_empty() {
            return Ok(());
        }
        let batch = Batch::new(samples, width, height);
        let labels = batch.objects.iter().map(Vec::len).max();
        let network = &self.training.average.network;
        forget_peak(network.device())?;
        let began = Instant::now();
        let outcome = attempt(|| detect(network, &self.job.settings, &batch, 0..size as usize));
        let peak = match outcome {
            Ok(_) => Some(memory(network.device())?.peak),
            Err(_) => None,
        };
        self.tell(true, size, labels, peak, began.elapsed().as_secs_f64(), 0.0);
        Ok(())
    }

    fn tell(
        &self,
        validation: bool,
        images: u32,
        labels: Option<usize>,
        peak_bytes: Option<u64>,
        seconds: f64,
        reduce_seconds: f64,
    ) {
        let (labels, imgsz) = (labels.unwrap_or(0) as u32, self.job.told.imgsz);
        let what = if validation { "validation" } else { "training" };
        match peak_bytes {
            Some(peak) => println!("{what} of {images} images, {labels} labels: {peak} bytes, {seconds:.4} s"),
            None => println!("{what} of {images} images, {labels} labels: out of memory"),
        }
        self.events.emit(&Event::Tried { validation, images, labels, imgsz, peak_bytes, seconds, reduce_seconds });
    }
}

/// The largest frame of a validation, and some images of that size, the one with the most labels first.
fn largest_frame(gallery: &Gallery) -> ((u32, u32), Vec<Sample>) {
    let numbers = 0..gallery.set().entries.len() as u32;
    let frame = |number: u32| sample::frame(gallery.entry(number), gallery.side());
    let area = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
    let Some(largest) = numbers.clone().map(frame).max_by_key(|frame| area(*frame)) else {
        return ((0, 0), Vec::new());
    };
    let mut equal: Vec<u32> = numbers.filter(|number| frame(*number) == largest).collect();
    equal.sort_by_key(|number| std::cmp::Reverse(gallery.entry(*number).labels.len()));
    equal.truncate(POOL as usize);
    (largest, equal.into_iter().map(|number| sample::validation(gallery, number)).collect())
}
