//! The training itself: epochs of steps, a validation after each, states to go on from.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_wire::Event;
use evenkeel_yolo::checkpoint::{Checkpoint, Value};
use evenkeel_yolo::data::gallery::Gallery;
use evenkeel_yolo::data::loader::{Loader, Wanted};
use evenkeel_yolo::data::order::Order;
use evenkeel_yolo::data::sample;
use evenkeel_yolo::data::set::{Problem, Set, Source};
use evenkeel_yolo::memory::attempt;
use evenkeel_yolo::metric::Figures;
use evenkeel_yolo::network::Network;
use evenkeel_yolo::schedule::Schedule;
use evenkeel_yolo::settings::{OptimizerChoice, SaveEvery};
use evenkeel_yolo::step::{Cut, Place, Report, Training};
use evenkeel_yolo::team::Team;
use evenkeel_yolo::validate::{self, Validation, validate};
use evenkeel_yolo::weights;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::job::Job;
use super::memory::memory;
use super::output::{self, File, Output};
use super::pictures::{self, Found};
use super::progress::{COLUMNS, Epoch};
use super::stop::Stop;
use super::{End, TrainError, group};
use crate::environment::{Device, Environment};
use crate::events::Events;

/// Steps whose images are ready or being made: enough for a step that takes longer than another.
const AHEAD: usize = 2;
/// Bytes of decoded pictures that a rank keeps of each split.
const KEPT: usize = 512 << 20;
/// Files that are named when many cannot be used.
const NAMED: usize = 5;

/// Trains.
///
/// # Errors
///
/// The data, the devices, the ranks or the disk failed; see [`TrainError`].
pub fn run(environment: &Environment, job: &Job, events: &Arc<Events>, stop: &Stop) -> Result<End, TrainError> {
    group::with_team(environment, job.memory, events, |team, device| {
        let sets = Sets::scan(environment, job, team, events)?;
        Run::new(environment, job, device, team, events, sets)?.train(stop)
    })
}

/// Validates the job's weights, without training.
///
/// # Errors
///
/// The data, the devices, the ranks or the weights failed; see [`TrainError`].
pub fn validation(environment: &Environment, job: &Job, events: &Arc<Events>) -> Result<End, TrainError> {
    group::with_team(environment, job.memory, events, |team, device| {
        let gallery = Sets::scan_one(environment, job, team, events, "validation", &job.told.data.val)?;
        let network =
            Network::new(job.scale, job.names.len() as i64, device, job.told.seed, job.settings.channels_last);
        if let Some(given) = &job.weights {
            weights::fill(&network, &given.tensors)?;
        }
        let plan = validate::Plan {
            gallery: &gallery,
            batch: validation_batch(job, team.rank()),
            threads: data_threads(environment, job),
            settings: &job.settings,
        };
        let found = validate(&network, &plan, team, &mut |_| ())?;
        tell_grey(&found.problems, events);
        if team.rank() == 0 {
            let Figures { precision, recall, ap50, ap50_95 } = found.outcome.mean;
            println!("P {precision:.4}, R {recall:.4}, mAP50 {ap50:.4}, mAP50-95 {ap50_95:.4}");
            events.emit(&Event::Metrics { epoch: 0, values: named(&found.outcome.mean) });
        }
        Ok(End::Done)
    })
}

/// Figures by the names that people know.
fn named(figures: &Figures) -> BTreeMap<String, f64> {
    let values = [
        ("metrics/precision(B)", figures.precision),
        ("metrics/recall(B)", figures.recall),
        ("metrics/mAP50(B)", figures.ap50),
        ("metrics/mAP50-95(B)", figures.ap50_95),
    ];
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Images of a rank's validation batch at first: no gradients are kept, so twice its micro-batch's fit.
fn validation_batch(job: &Job, rank: u32) -> usize {
    (2 * job.cut.largest_of(rank)).max(1) as usize
}

/// Processors of this host for each of its ranks.
fn cores(environment: &Environment) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) / environment.local_world_size as usize
}

/// A device of one core has one thread beside the one that computes, which waits most of the time.
fn data_threads(environment: &Environment, job: &Job) -> usize {
    let cores = cores(environment);
    let fitting = match environment.device {
        Device::Cpu => cores / 8,
        Device::Cuda => cores.min(8),
    };
    job.settings.workers.unwrap_or(fitting).max(1)
}

/// The splits of the data set.
pub struct Sets {
    pub train: Arc<Gallery>,
    pub val: Arc<Gallery>,
}

impl Sets {
    pub fn scan(environment: &Environment, job: &Job, team: &Team, events: &Events) -> Result<Self, TrainError> {
        let scan = |split: &str, entries: &[String]| Self::scan_one(environment, job, team, events, split, entries);
        Ok(Self { train: scan("training", &job.told.data.train)?, val: scan("validation", &job.told.data.val)? })
    }

    fn scan_one(
        environment: &Environment,
        job: &Job,
        team: &Team,
        events: &Events,
        split: &str,
        entries: &[String],
    ) -> Result<Arc<Gallery>, TrainError> {
        let source = Source {
            root: Path::new(&job.told.data.path),
            entries,
            classes: job.names.len() as u32,
            single_class: job.settings.single_cls,
            limit: job.told.max_images.map(|limit| limit as usize),
            cache: job.told.label_cache.as_deref().map(Path::new),
        };
        let set = Set::scan(&source, cores(environment), team)?;
        if team.rank() == 0 {
            tell_set(split, &set, events);
        }
        Ok(Arc::new(Gallery::new(Arc::new(set), job.told.imgsz, KEPT)))
    }
}

fn tell_set(split: &str, set: &Set, events: &Events) {
    println!(
        "{split}: {} images, {} of them without objects, {} left out",
        set.entries.len(),
        set.backgrounds,
        set.skipped()
    );
    for problem in &set.problems {
        println!("warning: {}", described(problem));
    }
    if set.skipped() > 0 {
        let names: Vec<String> = set.problems.iter().filter(|it| it.skipped).take(NAMED).map(described).collect();
        let more = set.skipped() - names.len();
        let more = if more > 0 { format!(" and {more} more, see the log of rank 0") } else { String::new() };
        let message = format!("{} images of the {split} split are left out: {}{more}", set.skipped(), names.join("; "));
        events.emit(&Event::Note { message });
    }
}

/// Tells of pictures that broke when they were decoded.
fn tell_grey(problems: &[Problem], events: &Events) {
    for message in problems.iter().map(|problem| format!("grey stands for {}", described(problem))) {
        println!("warning: {message}");
        events.emit(&Event::Note { message });
    }
}

fn described(problem: &Problem) -> String {
    format!("`{}`: {}", problem.path.display(), problem.why)
}

/// What a state holds beside its tensors.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    model: String,
    classes: usize,
    target: u32,
    seed: u64,
    steps_per_epoch: u32,
    data: u64,
    cut: Vec<Vec<u32>>,
    /// Steps that are done.
    step: u64,
    /// Whether the last step ended an epoch whose validation is still to come.
    epoch_open: bool,
    /// Side of the images in pixels; states did not always have it.
    #[serde(default)]
    imgsz: Option<u32>,
    seconds: f64,
    /// Sums of the epoch's losses so far.
    sums: [f64; 3],
    optimizer_updates: u64,
    average_updates: u64,
    assumed: Vec<i64>,
    scaler: Option<(f64, u32)>,
    best: Option<Best>,
}

/// The epoch that detected best.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Best {
    epoch: u32,
    #[serde(flatten)]
    figures: Figures,
}

struct Run<'a> {
    environment: &'a Environment,
    job: &'a Job,
    team: &'a Team,
    events: &'a Arc<Events>,
    sets: Sets,
    /// Fingerprint of the training split, which takes a look at every label.
    data: u64,
    order: Order,
    training: Training<'a>,
    output: Option<Output>,
    step: u64,
    sums: [f64; 3],
    best: Option<Best>,
    epoch_open: bool,
    /// Seconds that earlier processes trained.
    before: f64,
    began: Instant,
    saved: Instant,
    validation_batch: usize,
    epoch_began: Instant,
    /// The step that is being made, for faults.
    current: Rc<Cell<u64>>,
}

impl<'a> Run<'a> {
    fn new(
        environment: &'a Environment,
        job: &'a Job,
        device: tch::Device,
        team: &'a Team,
        events: &'a Arc<Events>,
        sets: Sets,
    ) -> Result<Self, TrainError> {
        let settings = &job.settings;
        let order = Order::new(sets.train.set().entries.len() as u32, job.cut.target(), job.told.seed)?;
        let classes = job.names.len();
        let schedule = Schedule::new(settings, job.told.epochs, order.steps().into(), classes);
        let network = Network::new(job.scale, classes as i64, device, job.told.seed, settings.channels_last);
        if let Some(given) = &job.weights {
            let (taken, all) = weights::transfer(&network, &given.tensors)?;
            if team.rank() == 0 {
                println!("{taken} of {all} tensors are taken from `{}`", job.told.model);
            }
        }
        if team.rank() == 0 {
            tell_start(job, &schedule, &sets, &order);
        }
        let mut training = Training::new(network, schedule, settings, job.cut.clone(), job.told.step_down);
        if let Some(half) = job.half {
            training.mix(half);
        }
        if settings.overlap && team.size() > 1 {
            training.overlap_with(team)?;
        }
        let output = if team.rank() == 0 { Some(Output::open(Path::new(&job.told.output))?) } else { None };
        let now = Instant::now();
        let mut run = Self {
            environment,
            job,
            team,
            events,
            data: sets.train.set().fingerprint(),
            sets,
            order,
            training,
            output,
            step: 0,
            sums: [0.0; 3],
            best: None,
            epoch_open: false,
            before: 0.0,
            began: now,
            saved: now,
            validation_batch: validation_batch(job, team.rank()),
            epoch_began: now,
            current: Rc::default(),
        };
        run.go_on()?;
        if let Some(output) = &run.output {
            let done = run.step / u64::from(order.steps()) - u64::from(run.epoch_open);
            output.begin_table(done as u32, &COLUMNS)?;
        }
        Ok(run)
    }

    fn steps_per_epoch(&self) -> u64 {
        self.order.steps().into()
    }

    fn epoch(&self) -> u32 {
        (self.step / self.steps_per_epoch()) as u32
    }

    /// The epoch before which this process ends, from 0.
    fn until_epoch(&self) -> u32 {
        self.job.told.until_epoch.unwrap_or(u32::MAX).min(self.job.told.epochs)
    }

    fn is_leader(&self) -> bool {
        self.team.rank() == 0
    }

    // -- going on -------------------------------------------------------------------------------------------------------

    /// Takes over the state that an earlier process left.
    fn go_on(&mut self) -> Result<(), TrainError> {
        let folder = PathBuf::from(&self.job.told.output);
        let state = Output::state(&folder)?;
        let step =
            state.as_ref().map(|state| self.take(state)).transpose().map_err(|why| Output::unfit(&folder, why))?;
        // All ranks read the same file; one that saw an older one would be a step behind for ever.
        if !self.team.agrees(step.map_or(0, |step| step + 1))? {
            return Err(Output::unfit(&folder, "the ranks see different states".into()).into());
        }
        if let (Some(step), true) = (step, self.is_leader()) {
            let message =
                format!("going on from step {step}, in epoch {} of {}", self.epoch() + 1, self.job.told.epochs);
            println!("{message}");
            self.events.emit(&Event::Note { message });
        }
        Ok(())
    }

    fn take(&mut self, state: &Checkpoint) -> Result<u64, String> {
        let progress = state.texts.get("progress").ok_or("it has no progress")?;
        let progress: Progress = serde_json::from_str(progress).map_err(|error| error.to_string())?;
        let own = self.progress();
        let differs =
            |what: &str, then: String, now: String| Err(format!("its {what} is {then}, this training's is {now}"));
        if progress.model != own.model || progress.classes != own.classes {
            let describe = |it: &Progress| format!("{} with {} classes", it.model, it.classes);
            return differs("model", describe(&progress), describe(&own));
        }
        if progress.target != own.target {
            return differs("target batch", progress.target.to_string(), own.target.to_string());
        }
        if progress.seed != own.seed {
            return differs("seed", progress.seed.to_string(), own.seed.to_string());
        }
        if (progress.data, progress.steps_per_epoch) != (own.data, own.steps_per_epoch) {
            return Err("the training images or their labels are not those that it was made with".into());
        }
        let _guard = tch::no_grad_guard();
        for (name, mut tensor) in self.tensors() {
            let found = state.tensors.get(&name).ok_or_else(|| format!("it has no `{name}`"))?;
            if found.size() != tensor.size() {
                return Err(format!("`{name}` has another size"));
            }
            tensor.copy_(found);
        }
        self.step = progress.step;
        self.epoch_open = progress.epoch_open;
        self.sums = progress.sums;
        self.best = progress.best;
        self.before = progress.seconds;
        let training = &mut self.training;
        training.optimizer.set_updates(progress.optimizer_updates);
        training.average.updates = progress.average_updates;
        training.sum.assume(&progress.assumed);
        if let (Some(scaler), Some((scale, steady))) = (&mut training.scaler, progress.scaler) {
            (scaler.scale, scaler.steady) = (scale, steady);
        }
        // A finer cut that memory asked for stays, if the ranks share the images as they did; that of larger images says nothing.
        if progress.imgsz.is_none_or(|side| side <= self.job.told.imgsz) {
            training.cut = training.cut.clone().finer(Cut(progress.cut));
        }
        // Figures of another size do not compare, and patience begins anew with it; a training that had ended early stays ended.
        if progress.imgsz.is_some_and(|side| side != self.job.told.imgsz) && !self.is_stale() {
            self.best = None;
        }
        Ok(self.step)
    }

    fn progress(&self) -> Progress {
        let training = &self.training;
        Progress {
            model: self.job.scale.to_string(),
            classes: self.job.names.len(),
            target: self.job.cut.target(),
            seed: self.job.told.seed,
            steps_per_epoch: self.order.steps(),
            data: self.data,
            cut: training.cut.0.clone(),
            step: self.step,
            epoch_open: self.epoch_open,
            imgsz: Some(self.job.told.imgsz),
            seconds: self.before + self.began.elapsed().as_secs_f64(),
            sums: self.sums,
            optimizer_updates: training.optimizer.state().1,
            average_updates: training.average.updates,
            assumed: training.sum.assumed(),
            scaler: training.scaler.map(|scaler| (scaler.scale, scaler.steady)),
            best: self.best,
        }
    }

    /// Everything that the next step depends on: the tensors themselves, not copies.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        let training = &self.training;
        let mut all: Vec<(&str, Tensor)> = vec![
            ("network.parameters", training.network.parameters.shallow_clone()),
            ("network.statistics", training.network.statistics.shallow_clone()),
            ("average.parameters", training.average.network.parameters.shallow_clone()),
            ("average.statistics", training.average.network.statistics.shallow_clone()),
        ];
        all.extend(training.optimizer.state().0);
        all.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
    }

    fn state_file(&self) -> File {
        let progress = serde_json::to_string(&self.progress()).expect("plain data");
        Output::state_file(values(&self.tensors()), BTreeMap::from([("progress".to_owned(), progress)]))
    }

    /// The averaged weights, with what somebody needs to use them.
    fn weights_file(&self, name: &'static str) -> File {
        let names = serde_json::to_string(&self.job.names).expect("plain data");
        let texts = [
            ("model", self.job.scale.to_string()),
            ("names", names),
            ("imgsz", self.job.told.imgsz.to_string()),
            ("epoch", (self.epoch()).to_string()),
        ];
        let texts = texts.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        File { name, values: values(&self.training.average.network.variables()), texts }
    }

    // -- steps ----------------------------------------------------------------------------------------------------------

    fn train(mut self, stop: &Stop) -> Result<End, TrainError> {
        let total = u64::from(self.job.told.epochs) * self.steps_per_epoch();
        let until = u64::from(self.until_epoch()) * self.steps_per_epoch();
        if self.epoch_open {
            self.end_epoch()?;
        }
        self.training.set_probe(Box::new(self.probe()));
        let mut loader = self.loader();
        while self.step < until && !self.is_stale() {
            let began = Instant::now();
            let batch = loader.next().expect("a batch for every step");
            tell_grey(&batch.problems, self.events);
            self.current.set(self.step);
            if let Some(limit) = self.job.told.micro_from_step.get(&self.step) {
                self.training.cut = self.training.cut.at_most(*limit).unwrap_or_else(|| self.training.cut.clone());
            }
            let report = self.training.step(self.step, &batch, self.team, stop.asked())?;
            self.tell(&report, began.elapsed());
            self.step += 1;
            self.sums.iter_mut().zip(report.terms).for_each(|(sum, term)| *sum += term);
            self.epoch_open = self.step % self.steps_per_epoch() == 0;
            if report.stop {
                self.save()?;
                self.finish()?;
                if self.is_leader() {
                    let message = format!("stopped after step {} of {total}; the run goes on from there", self.step);
                    println!("{message}");
                    self.events.emit(&Event::Note { message });
                }
                return Ok(End::Stopped);
            }
            if self.epoch_open {
                self.end_epoch()?;
            } else if self.is_due() {
                self.save()?;
            }
        }
        drop(loader);
        self.finish()?;
        if self.step < total && !self.is_stale() {
            if self.is_leader() {
                let (until, told) = (self.until_epoch(), &self.job.told);
                println!(
                    "{until} of {} epochs are done, the last at {} px; the run goes on from there",
                    told.epochs, told.imgsz
                );
            }
            return Ok(End::Done);
        }
        if self.is_leader() && self.job.settings.plots {
            self.tell_undrawn(pictures::results(Path::new(&self.job.told.output)));
        }
        self.tell_best();
        Ok(End::Done)
    }

    /// This rank's images of all steps to come.
    fn loader(&self) -> Loader {
        let (order, side, seed) = (self.order, self.job.told.imgsz, self.job.told.seed);
        let (target, start) = (self.job.cut.target() as usize, self.job.cut.start(self.team.rank()) as usize);
        let share = self.job.cut.share(self.team.rank()) as usize;
        let (first, steps, epochs) = (self.step, self.steps_per_epoch(), self.job.told.epochs);
        let wanted = (0..self.until_epoch()).skip((first / steps) as usize).flat_map(move |epoch| {
            let images = order.epoch(epoch);
            let skipped = first.saturating_sub(u64::from(epoch) * steps) as usize;
            let of_step = move |step: &[u32]| Wanted {
                numbers: step[start..start + share].to_vec(),
                epoch,
                width: side,
                height: side,
            };
            images.chunks_exact(target).skip(skipped).map(of_step).collect::<Vec<_>>()
        });
        let (gallery, settings) = (self.sets.train.clone(), self.job.settings.clone());
        // As in the official trainer, a training that is no longer than that has none.
        let mosaics_until = epochs.saturating_sub(settings.close_mosaic);
        let make = move |wanted: &Wanted, number: u32| {
            sample::training(&gallery, number, wanted.epoch, seed, wanted.epoch < mosaics_until, &settings)
        };
        Loader::new(wanted, data_threads(self.environment, self.job), AHEAD, make)
    }

    /// What a test wants to fail is asked for before each place.
    fn probe(&self) -> impl FnMut(Place) + 'static {
        let (current, faults) = (self.current.clone(), self.job.faults.clone());
        move |place| faults.borrow_mut().at(current.get(), place)
    }

    fn tell(&self, report: &Report, time: Duration) {
        for down in &report.step_downs {
            // The rank itself knows the reason, and tells it for all.
            let Some(message) = &down.message else { continue };
            println!(
                "rank {} ran out of memory in step {}: {message}; micro-batches of {} became {}, the step is repeated",
                down.rank, self.step, down.from, down.to
            );
            let (step, message) = (self.step, message.clone());
            self.events.emit(&Event::SteppedDown { step, from: down.from, to: down.to, message });
        }
        let terms = ["box_loss", "cls_loss", "dfl_loss"].into_iter().zip(report.terms);
        self.events.emit(&Event::Step {
            epoch: self.epoch(),
            epochs: self.job.told.epochs,
            step: self.step,
            steps_per_epoch: self.steps_per_epoch(),
            images: self.job.cut.share(self.team.rank()).into(),
            loss: Some(report.loss),
            terms: terms.map(|(name, value)| (name.to_owned(), value)).collect(),
            lr: report.rates.weights,
            memory_bytes: self.peak_memory(),
            time_ms: time.as_secs_f64() * 1e3,
        });
    }

    /// The most bytes that tensors took on a GPU, or on a CPU device with a cap; that the whole process had on one without.
    fn peak_memory(&self) -> Option<u64> {
        let device = self.training.network.device();
        if self.job.memory.is_some() || device != tch::Device::Cpu {
            return memory(device).ok().map(|memory| memory.peak);
        }
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }

    // -- epochs ---------------------------------------------------------------------------------------------------------

    /// Whether so many epochs brought nothing better that the training ends early.
    fn is_stale(&self) -> bool {
        let patience = self.job.settings.patience;
        let since = self.best.map_or(0, |best| self.epoch().saturating_sub(best.epoch + 1));
        patience > 0 && !self.epoch_open && since >= patience
    }

    /// Validates the epoch that the last step ended, and keeps what it brought.
    fn end_epoch(&mut self) -> Result<(), TrainError> {
        let epoch = self.epoch() - 1;
        let last = epoch + 1 == self.job.told.epochs;
        let steps = self.steps_per_epoch() as f64;
        let train = self.sums.map(|sum| sum / steps);
        let seconds = self.before + self.began.elapsed().as_secs_f64();
        let images = f64::from(self.order.steps() * self.job.cut.target());
        let rate = images / self.epoch_began.elapsed().as_secs_f64().max(1e-9);
        let validation = if self.job.settings.val || last { Some(self.validate(epoch)?) } else { None };
        let rates = self.training.schedule.rates(self.step - 1);
        let figures = validation.as_ref().map(|found| (found.outcome.mean, found.terms));
        let told = Epoch { epoch, seconds, train, validation: figures, rates };
        let mut best = false;
        if let Some((figures, _)) = figures {
            if self.best.is_none_or(|best| figures.ap50_95 > best.figures.ap50_95) {
                self.best = Some(Best { epoch, figures });
                best = true;
            }
        }
        if let Some(output) = &self.output {
            output.add_row(&told.row())?;
            println!("{}", told.line(self.job.told.epochs, rate));
            if figures.is_some() {
                self.events.emit(&Event::Metrics { epoch, values: told.values() });
            }
        }
        if let (Some(found), true) = (&validation, best) {
            if let Some(output) = &self.output {
                output.write_classes(found, &self.job.names)?;
            }
            self.draw(found);
        }
        (self.sums, self.epoch_open) = ([0.0; 3], false);
        let mut files = Vec::new();
        if self.is_leader() {
            files.push(self.weights_file(output::LAST));
            if best {
                files.push(self.weights_file(output::BEST));
            }
        }
        let event = Event::Checkpoint {
            epoch,
            path: self.is_leader().then(|| output::LAST.to_owned()),
            weights_sha256: self.training.network.hash(),
            best,
        };
        self.save_with(files, Some(event))?;
        self.epoch_began = Instant::now();
        Ok(())
    }

    fn validate(&mut self, epoch: u32) -> Result<Validation, TrainError> {
        let plan = validate::Plan {
            gallery: &self.sets.val,
            batch: self.validation_batch,
            threads: data_threads(self.environment, self.job),
            settings: &self.job.settings,
        };
        let found = validate(&self.training.average.network, &plan, self.team, &mut self.probe())?;
        tell_grey(&found.problems, self.events);
        if found.batch < self.validation_batch {
            let (before, now) = (self.validation_batch, found.batch);
            let message =
                format!("out of memory in the validation of epoch {}: batches of {before} became {now}", epoch + 1);
            println!("{message}");
            self.events.emit(&Event::Note { message });
            self.validation_batch = found.batch;
        }
        Ok(found)
    }

    /// Draws what the best validation so far found. Pictures are worth no failure.
    fn draw(&self, validation: &Validation) {
        if !self.is_leader() || !self.job.settings.plots {
            return;
        }
        let found = Found {
            network: &self.training.average.network,
            gallery: &self.sets.val,
            names: &self.job.names,
            tally: &validation.tally,
            settings: &self.job.settings,
        };
        let drawn = attempt(|| pictures::validation(Path::new(&self.job.told.output), &found));
        self.tell_undrawn(drawn.unwrap_or_else(|error| Err(error.to_string())));
    }

    fn tell_undrawn(&self, drawn: Result<(), String>) {
        if let Err(error) = drawn {
            println!("warning: a picture was not drawn: {error}");
        }
    }

    /// The last figures told are the run's: they must be those of the weights that it leaves.
    fn tell_best(&self) {
        let (Some(best), true) = (self.best, self.is_leader()) else { return };
        let message = format!(
            "{} is of epoch {}: mAP50 {:.4}, mAP50-95 {:.4}",
            output::BEST.trim_start_matches("weights/"),
            best.epoch + 1,
            best.figures.ap50,
            best.figures.ap50_95
        );
        println!("{message}");
        self.events.emit(&Event::Note { message });
        self.events.emit(&Event::Metrics { epoch: best.epoch, values: named(&best.figures) });
    }

    // -- files ----------------------------------------------------------------------------------------------------------

    /// Whether it is time for a state in the middle of an epoch.
    fn is_due(&self) -> bool {
        match self.job.settings.save_every {
            SaveEvery::Steps(steps) => self.step % steps == 0,
            SaveEvery::Minutes(minutes) => self.saved.elapsed() >= Duration::from_secs(60 * minutes),
        }
    }

    fn save(&mut self) -> Result<(), TrainError> {
        self.save_with(Vec::new(), None)
    }

    /// Writes files and then the state, and tells `event` when they are on the disk; ranks that write nothing tell it at once.
    fn save_with(&mut self, mut files: Vec<File>, event: Option<Event>) -> Result<(), TrainError> {
        self.saved = Instant::now();
        if self.is_leader() {
            files.push(self.state_file());
        }
        match &mut self.output {
            Some(output) => Ok(output.write(files, self.events, event)?),
            None => {
                event.iter().for_each(|event| self.events.emit(event));
                Ok(())
            }
        }
    }

    /// Waits until everything is on the disk.
    fn finish(&mut self) -> Result<(), TrainError> {
        Ok(self.output.as_mut().map_or(Ok(()), Output::finish)?)
    }
}

fn tell_start(job: &Job, schedule: &Schedule, sets: &Sets, order: &Order) {
    let (images, target) = (sets.train.set().entries.len() as u32, job.cut.target());
    let left = images - order.steps() * target;
    let optimizer = match schedule.optimizer {
        OptimizerChoice::AdamW => "AdamW",
        OptimizerChoice::Sgd | OptimizerChoice::Auto => "SGD",
    };
    println!(
        "{}, {} classes, {} px: {} epochs of {} steps of {target} images{}; {optimizer}, lr {}, momentum {}",
        job.scale,
        job.names.len(),
        job.told.imgsz,
        job.told.epochs,
        order.steps(),
        if left > 0 { format!(", {left} of {images} left out by chance in each") } else { String::new() },
        schedule.lr0,
        schedule.momentum
    );
}

fn values(tensors: &[(String, Tensor)]) -> Vec<Value> {
    tensors.iter().map(|(name, tensor)| Value::of(name, tensor)).collect()
}
