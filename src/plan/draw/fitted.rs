//! With knowledge of time and memory: the fastest exact cut that fits on every device, validation included.

use super::{
    Drawee, Drawn, GIVEN_UP, PlanError, Split, may_idle, names, near, number, of_all, own_ranks, pinned, sizes,
    split_of,
};
use crate::inventory::Device;
use crate::job::{Job, SplitWish};
use crate::plan::batch::{Demand, LARGEST_TARGET};
use crate::plan::cut::{Ask, Choice, PREFERENCE, Worker, choose};
use crate::plan::memory::{Images, MemoryModel};
use crate::plan::{Abilities, Change, Knowledge, Known, TimeModel, Way, counted, words};

/// What a micro-batch takes where nobody knows: in no unit, alike on all devices, and a little for each, so that few large ones
/// are taken for faster than many small ones.
const ASSUMED: TimeModel = TimeModel { overhead_seconds: 1.0, seconds_per_image: 1.0 };

/// A device and what is known of it.
struct Candidate<'a> {
    device: &'a Device,
    known: Known,
    worker: Worker,
}

pub(super) fn draw<'a>(
    job: &Job,
    target: u32,
    devices: &'a [Device],
    abilities: &Abilities,
    knowledge: &Knowledge,
) -> Result<Drawn<'a>, PlanError> {
    let given = number(devices);
    let own = own_ranks(job, given)?;
    let devices = &devices[..own.unwrap_or(given) as usize];
    let all = own.is_some() || !may_idle(job);
    if job.batch.split == SplitWish::Uneven && !abilities.uneven_micro {
        return Err(PlanError::CannotDiffer);
    }
    let images = knowledge.images(job.imgsz.largest(), abilities.validation);
    let (candidates, timed) = candidates(devices, knowledge, images);
    check_memory(job, &candidates, all, images, knowledge)?;
    let ask = Ask {
        target,
        workers: candidates.iter().map(|candidate| candidate.worker).collect(),
        all,
        micro: pinned(job),
        max_accumulation: job.batch.max_accumulation,
        split: job.batch.split,
        uneven_counts: abilities.uneven_counts,
        uneven_micro: abilities.uneven_micro,
        all_reduce_seconds: if timed { knowledge.all_reduce_seconds.max(0.0) } else { 0.0 },
    };
    let cpu = devices[0].id.uuid().is_none();
    check_idle(&ask, cpu)?;
    let choice = choose(&ask).ok_or_else(|| refusal(&ask, cpu))?;

    let drawee = |(candidate, share): (&Candidate<'a>, _)| {
        let Candidate { device, known, .. } = *candidate;
        let share: crate::plan::cut::Share = share;
        Drawee { device, share, memory: known.memory.map(|model| model.predict(share.micro, images)) }
    };
    let ranks = candidates.iter().zip(choice.cut.shares.iter().copied()).filter(|(_, share)| share.count > 0);
    let ranks: Vec<Drawee<'a>> = ranks.map(drawee).collect();
    let split = split_of(&ranks.iter().map(|drawee| drawee.share).collect::<Vec<_>>());
    let used = u32::try_from(ranks.len()).unwrap_or(u32::MAX);
    let mut reasons = vec![format!("{} for {}", of_all(used, given), words::wish(&job.device))];
    reasons.extend(reasons_of(&ask, &choice, &ranks, split, timed));
    let mut warnings = Vec::new();
    if let Some(ranks) = own.filter(|ranks| *ranks < given) {
        warnings.push(format!(
            "{} idle: the program starts {}",
            counted(given - ranks, "device"),
            counted(ranks, "rank")
        ));
    }
    warnings.extend(idle(&candidates, &choice));
    if !timed && !words::alike(devices) {
        warnings.push("the devices are not alike: every step waits for the slowest of them".into());
    }
    Ok(Drawn { ranks, split: Some(split), seconds: timed.then_some(choice.cut.seconds), reasons, warnings })
}

/// The devices, and whether the time of all of them is known: what is measured on one says nothing beside a guess.
fn candidates<'a>(devices: &'a [Device], knowledge: &Knowledge, images: Images) -> (Vec<Candidate<'a>>, bool) {
    let known: Vec<Known> = devices.iter().map(|device| knowledge.of(&device.kind())).collect();
    let timed = known.iter().all(|known| known.time.is_some());
    let candidate = |(device, known): (&'a Device, Known)| {
        let time = known.time.filter(|_| timed).unwrap_or(ASSUMED);
        let most = match (&known.memory, device.memory_budget_bytes) {
            (Some(model), Some(budget)) => model.most_images(knowledge.usable(budget), images, LARGEST_TARGET),
            _ => LARGEST_TARGET,
        };
        // A model fitted to noise may say that an image takes no time, or less.
        let worker =
            Worker { overhead: time.overhead_seconds.max(0.0), per_image: time.seconds_per_image.max(0.0), most };
        Candidate { device, known, worker }
    };
    (devices.iter().zip(known).map(candidate).collect(), timed)
}

/// Refuses devices on which not one image fits, or not the micro-batch that is asked for, where they have to be used.
fn check_memory(
    job: &Job,
    candidates: &[Candidate<'_>],
    all: bool,
    images: Images,
    knowledge: &Knowledge,
) -> Result<(), PlanError> {
    let micro = pinned(job).unwrap_or(1);
    let small = |candidate: &&Candidate<'_>| candidate.worker.most < micro;
    let count = candidates.iter().filter(small).count();
    if count == 0 || (!all && count < candidates.len()) {
        return Ok(());
    }
    // Where all are needed, the one that is furthest off; else the one that comes nearest: it lacks least.
    let order = |candidate: &&Candidate<'_>| candidate.worker.most;
    let found = if all { candidates.iter().min_by_key(order) } else { candidates.iter().max_by_key(order) };
    let candidate = found.expect("counted");
    let (Some(model), Some(budget)) = (candidate.known.memory, candidate.device.memory_budget_bytes) else {
        return Ok(());
    };
    Err(PlanError::DoesNotFit {
        micro,
        imgsz: images.side,
        device: candidate.device.name.clone(),
        budget_bytes: budget,
        parts: model.predict(micro, images),
        one_fits: candidate.worker.most > 0,
        ways: ways(candidate, &model, budget, micro, images, knowledge),
    })
}

/// Changes with which a micro-batch fits.
fn ways(
    candidate: &Candidate<'_>,
    model: &MemoryModel,
    budget: u64,
    micro: u32,
    images: Images,
    knowledge: &Knowledge,
) -> Vec<Way> {
    let needs = |model: &MemoryModel, micro: u32, images: Images| model.predict(micro, images).peak_bytes();
    let mut ways = Vec::new();
    let usable = knowledge.usable(budget);
    let mut propose = |change: Change, needs_bytes: u64| {
        if needs_bytes <= usable {
            ways.push(Way { change, needs_bytes });
        }
    };
    if micro > 1 && candidate.worker.most > 0 {
        let most = candidate.worker.most;
        propose(Change::Words(format!("`batch.micro` of {most} at most")), needs(model, most, images));
    }
    for lighter in &knowledge.lighter {
        if let Some(model) = lighter.memory.get(&candidate.device.kind()) {
            propose(Change::Words(format!("`{}`", lighter.change)), needs(model, micro, images));
        }
    }
    let smaller = (1..images.side.div_ceil(32)).rev().map(|side| Images { side: side * 32, ..images });
    if let Some(smaller) = smaller.into_iter().find(|images| needs(model, micro, *images) <= usable) {
        propose(Change::ImageSize(smaller.side), needs(model, micro, smaller));
    }
    for (validation, change) in [(1, "a validation batch no larger than the micro-batch"), (0, "no validation")] {
        let images = Images { validation, ..images };
        propose(Change::Words(change.to_owned()), needs(model, micro, images));
        if needs(model, micro, images) <= usable {
            break;
        }
    }
    let whole = needs(model, micro, images);
    let cap = if candidate.device.memory_cap_bytes.is_some() { "a higher `memory` cap" } else { "a larger device" };
    ways.push(Way { change: Change::Words(cap.to_owned()), needs_bytes: whole });
    ways
}

/// A device or two may stay idle for the sake of the target, not most of them: as where nothing is known.
fn check_idle(ask: &Ask, cpu: bool) -> Result<(), PlanError> {
    let free = ask.micro.is_none() && (ask.uneven_counts || ask.uneven_micro);
    if ask.all || free {
        return Ok(());
    }
    let demand = Demand {
        target: ask.target,
        micro: ask.micro,
        max_accumulation: None,
        uneven_counts: ask.uneven_counts,
        uneven_micro: false,
        split: SplitWish::Auto,
    };
    let useful = ask.workers.iter().filter(|worker| worker.most >= ask.micro.unwrap_or(1)).count();
    let useful = u32::try_from(useful).unwrap_or(u32::MAX);
    match demand.most_ranks(useful) {
        Some(ranks) if ranks * 2 >= useful.min(ask.target) => Ok(()),
        _ => Err(refusal(ask, cpu)),
    }
}

/// Why there is no cut.
fn refusal(ask: &Ask, cpu: bool) -> PlanError {
    let ranks = u32::try_from(ask.workers.len()).unwrap_or(u32::MAX);
    let near = near::alternatives(ask);
    let (target, micro) = (ask.target, ask.micro);
    match ask.max_accumulation {
        Some(max_accumulation) if near::capacity(ask) < u64::from(target) => PlanError::TooFewMicroBatches {
            target,
            micro,
            max_accumulation,
            ranks,
            capacity: near::capacity(ask),
            near,
            needed: near::accumulation(ask),
        },
        _ => PlanError::DoesNotSplit { target, micro, ranks, near, cpu },
    }
}

fn reasons_of(ask: &Ask, choice: &Choice, ranks: &[Drawee<'_>], split: Split, timed: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    let shares: Vec<_> = ranks.iter().map(|drawee| drawee.share).collect();
    let (sizes, target) = (sizes(&shares), ask.target);
    let how = match (ask.micro, split, timed) {
        (Some(_), ..) => "as `batch.micro` says",
        (None, Split::Uniform, true) => "the fastest that fit",
        (None, Split::Uneven, true) => "so that all devices end together",
        (None, _, false) => "the largest that fit",
    };
    reasons.push(format!("micro-batches of {sizes} images, {how}: they add up to {target} exactly"));
    if split == Split::Uneven {
        let instead = match choice.uniform_seconds.filter(|_| timed) {
            Some(seconds) if ask.split == SplitWish::Auto => {
                let percent = (seconds / choice.cut.seconds - 1.0) * 100.0;
                format!("unequal micro-batches are {percent:.0} % faster than equal ones")
            }
            _ => "micro-batches are unequal".to_owned(),
        };
        reasons.push(format!("{instead}; given up: {GIVEN_UP}"));
    } else if let Some(uneven) = choice.uneven_seconds.filter(|uneven| timed && uneven * 1.005 < choice.cut.seconds) {
        let (percent, least) = ((choice.cut.seconds / uneven - 1.0) * 100.0, (PREFERENCE - 1.0) * 100.0);
        reasons.push(format!(
            "equal micro-batches give nothing up; unequal ones would be {percent:.1} % faster, and are taken from {least:.0} % on"
        ));
    }
    reasons.push(if timed {
        format!("a step is predicted to take {:.3} s", choice.cut.seconds)
    } else {
        "time is not predicted: the devices are taken to be alike".to_owned()
    });
    let unknown = ranks.iter().filter(|drawee| drawee.memory.is_none()).map(|drawee| drawee.device);
    let unknown = names(unknown);
    reasons.push(if unknown.is_empty() {
        "memory is predicted: of training and validation the phase that needs more".to_owned()
    } else {
        format!("memory is not predicted on {unknown}: what a rank will need there is unknown")
    });
    reasons
}

/// Who stays idle, and why.
fn idle(candidates: &[Candidate<'_>], choice: &Choice) -> Vec<String> {
    let idle = || candidates.iter().zip(&choice.cut.shares).filter(|(_, share)| share.count == 0);
    let tell = |small: bool, why: &str| {
        let which = || idle().filter(|(candidate, _)| (candidate.worker.most == 0) == small);
        let count = u32::try_from(which().count()).unwrap_or(u32::MAX);
        let names = names(which().map(|(candidate, _)| candidate.device));
        (count > 0).then(|| format!("{} idle ({names}): {why}", counted(count, "device")))
    };
    let small = tell(true, "not one image fits into its memory");
    small.into_iter().chain(tell(false, "no exact split that uses more of them is faster")).collect()
}
