//! Without knowledge of time and memory: the devices are taken to be alike and large enough, and a rank takes its part in one
//! micro-batch unless its size is pinned.

use super::{Drawee, Drawn, GIVEN_UP, may_idle, names, number, of_all, own_ranks, pinned, sizes, split_of};
use crate::inventory::{Device, DeviceRequest};
use crate::job::{Job, SplitWish};
use crate::plan::batch::Demand;
use crate::plan::cut::Share;
use crate::plan::{Abilities, PlanError, Split, counted, words};

pub(super) fn draw<'a>(job: &Job, devices: &'a [Device], abilities: &Abilities) -> Result<Drawn<'a>, PlanError> {
    let given = number(devices);
    let demand = job.batch.target.map(|target| Demand {
        target,
        micro: pinned(job),
        max_accumulation: job.batch.max_accumulation,
        uneven_counts: abilities.uneven_counts,
        uneven_micro: abilities.uneven_micro && pinned(job).is_none(),
        split: job.batch.split,
    });
    let cpu = devices[0].id.uuid().is_none();
    let used = world_size(job, given, demand.as_ref(), cpu)?;
    let (devices, idle) = devices.split_at(used as usize);
    let mut reasons = vec![format!("{} for {}", of_all(used, given), words::wish(&job.device))];
    let mut warnings = Vec::new();
    let shares = demand.map(|demand| demand.shares(used).ok_or_else(|| PlanError::does_not_split(&demand, used, cpu)));
    let shares: Option<Vec<Share>> = shares.transpose()?;
    if !idle.is_empty() {
        warnings.push(idle_sentence(job, demand.as_ref(), given, used, &names(idle.iter())));
    }
    let split = shares.as_deref().map(split_of);
    match (&demand, &shares) {
        (Some(demand), Some(shares)) => {
            let how = match (demand.micro, split) {
                (Some(_), _) => "as `batch.micro` says",
                (None, Some(Split::Uneven)) => "the target over the devices, which `batch.split` lets differ",
                (None, _) => "the target over the devices",
            };
            let (sizes, target) = (sizes(shares), demand.target);
            reasons.push(format!("micro-batches of {sizes} images, {how}: they add up to {target} exactly"));
        }
        _ => reasons.push("no `batch.target`: the program batches as it likes".into()),
    }
    if split == Some(Split::Uneven) {
        reasons.push(format!("given up by unequal micro-batches: {GIVEN_UP}"));
    }
    if !words::alike(devices) {
        warnings.push("the devices are not alike: every step waits for the slowest of them".into());
    }
    reasons.push("memory is not predicted: what a rank will need is unknown".into());
    let share = |rank: usize| shares.as_ref().map_or(Share::default(), |shares| shares[rank]);
    let drawee = |(rank, device)| Drawee { device, share: share(rank), memory: None };
    Ok(Drawn { ranks: devices.iter().enumerate().map(drawee).collect(), split, seconds: None, reasons, warnings })
}

/// How many of the devices are used.
fn world_size(job: &Job, given: u32, demand: Option<&Demand>, cpu: bool) -> Result<u32, PlanError> {
    if let Some(ranks) = own_ranks(job, given)? {
        return Ok(ranks);
    }
    if let Some(demand) = demand {
        demand.check_accumulation(given)?;
        if demand.split == SplitWish::Uneven && !demand.uneven_micro {
            return Err(PlanError::CannotDiffer);
        }
    }
    let Some((demand, fewer)) =
        demand.filter(|_| may_idle(job)).and_then(|demand| Some((demand, demand.most_ranks(given)?)))
    else {
        return Ok(given);
    };
    // A device or two may stay idle for the sake of the target. Most of a machine may not: whoever asks for 61 images on 4
    // cards wants to hear that 60 would use them all.
    if fewer * 2 < given.min(demand.target) {
        return Err(PlanError::does_not_split(demand, given, cpu));
    }
    Ok(fewer)
}

fn idle_sentence(job: &Job, demand: Option<&Demand>, given: u32, used: u32, names: &str) -> String {
    debug_assert!(job.device == DeviceRequest::Auto, "only then");
    let idle = counted(given - used, "device");
    if let Some(ranks) = job.nproc_per_node {
        return format!("{idle} idle ({names}): the program starts {}", counted(ranks, "rank"));
    }
    let mut sentence = format!("{idle} idle ({names}): the target batch does not split over {given}");
    if let Some(demand) = demand {
        let near = demand.alternatives(given);
        let targets: Vec<String> =
            [near.target_below, near.target_above].into_iter().flatten().map(|target| target.to_string()).collect();
        if !targets.is_empty() {
            sentence.push_str(&format!("; a target of {} does", targets.join(" or ")));
        }
        if near.uneven {
            sentence.push_str("; so does `batch.split=uneven`");
        }
    }
    sentence
}
