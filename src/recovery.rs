//! What follows a failure: another generation, with which plan, or the end of the run. Pure.

use evenkeel_wire::FailureClass;

use crate::failure::Diagnosis;
use crate::job::{Job, OnOom, Trainer};
use crate::plan::Plan;

/// What follows a failure.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Another generation, with this plan.
    Again {
        /// The plan of the next generation.
        plan: Box<Plan>,
        /// What a person is told, as one line.
        because: String,
    },
    /// The run ends. What speaks against going on, where the person may have expected it.
    Over(Option<String>),
}

/// What follows `diagnosis` in a run that was started again `restarts` times already, the last time with `plan`.
///
/// A device that ran out of memory is answered with smaller micro-batches: the same launch again would fail again at the same place. A gang that
/// stood still, and one that an engine took along when it went, is started again as it was.
/// Memory of the host, /dev/shm and lost devices are no question of the batch, and of no other.
#[must_use]
pub fn after(diagnosis: &Diagnosis, job: &Job, plan: &Plan, restarts: u32) -> Next {
    if diagnosis.class == FailureClass::Stalled || diagnosis.engine_away {
        return as_it_was(diagnosis, job, plan, restarts);
    }
    if diagnosis.class != FailureClass::OutOfMemoryDevice || job.batch.target.is_none() {
        return Next::Over(None);
    }
    if let Some(held) = diagnosis.held_by_others {
        return Next::Over(Some(format!(
            "other processes held {held:.1} GiB of the card, which no smaller batch gives back"
        )));
    }
    let failed = match (job.trainer, diagnosis.retry_below) {
        (_, Some(images)) => images,
        // It stepped down by itself as far as that goes; what it could not do, it said.
        (Trainer::Native, None) => return Next::Over(None),
        (_, None) => plan.micro_batch_of(diagnosis.rank),
    };
    if job.batch.on_oom == OnOom::Fail {
        return Next::Over(Some(format!(
            "micro-batches of {failed} are what the job asks for; with `batch.on_oom: step_down` smaller ones are tried"
        )));
    }
    if let Some(why) = too_often(job, restarts) {
        return Next::Over(Some(why));
    }
    // Half at most, as a trainer does that steps down by itself: every start takes time.
    let Some(mut finer) = plan.without(diagnosis.rank, failed) else {
        return Next::Over(Some("a single image does not fit".to_owned()));
    };
    let now = finer.micro_batch_of(diagnosis.rank);
    let target = job.batch.target.unwrap_or_default();
    let because = format!(
        "rank {} ran out of memory with micro-batches of {failed}; starting again with {now}, {target} images a step as before",
        diagnosis.rank
    );
    finer.reasons.push(format!("micro-batches of {now}: those of {failed} did not fit on rank {}", diagnosis.rank));
    Next::Again { plan: Box::new(finer), because }
}

fn as_it_was(diagnosis: &Diagnosis, job: &Job, plan: &Plan, restarts: u32) -> Next {
    if let Some(why) = too_often(job, restarts) {
        return Next::Over(Some(why));
    }
    let what = if diagnosis.engine_away { "was lost with the engine" } else { "stood still" };
    let because =
        format!("rank {} {what} ({}); starting again from the last checkpoint", diagnosis.rank, diagnosis.message);
    Next::Again { plan: Box::new(plan.clone()), because }
}

fn too_often(job: &Job, restarts: u32) -> Option<String> {
    (restarts >= job.max_restarts)
        .then(|| format!("it was started again {restarts} times already, which is all that `max_restarts` allows"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;
    use crate::inventory::{Device, DeviceId};
    use crate::job;
    use crate::plan::{self, Abilities};

    const JOB: &str = "data: d\ndevice: cpu:2\nbatch: 32\n";

    fn parsed(text: &str) -> Job {
        let bases = job::Bases { folder: "/".into(), home: None };
        job::parse("job.yaml".as_ref(), text.to_owned(), &[], &bases).expect("a sound job").job
    }

    fn planned(job: &Job) -> Plan {
        let device = |index| Device {
            id: DeviceId::Cpu { index },
            name: format!("cpu:{index}"),
            memory_budget_bytes: None,
            memory_cap_bytes: None,
            cpus: Some(1.0),
            compute_capability: None,
            model: None,
        };
        let devices = [device(0), device(1)];
        plan::plan(job, &devices, &Abilities::of(job.trainer), None).expect("a plan")
    }

    fn diagnosis(class: FailureClass, retry_below: Option<u32>) -> Diagnosis {
        let (message, advice) = (String::new(), String::new());
        let (engine_away, held_by_others) = (false, None);
        Diagnosis {
            rank: 1,
            class,
            message,
            retry_below,
            engine_away,
            held_by_others,
            advice,
            exit: ExitCode::OutOfMemory,
        }
    }

    fn next(more: &str, class: FailureClass, retry_below: Option<u32>, restarts: u32) -> Next {
        let job = parsed(&format!("{JOB}{more}"));
        after(&diagnosis(class, retry_below), &job, &planned(&job), restarts)
    }

    fn again(next: Next) -> Vec<Vec<u32>> {
        match next {
            Next::Again { plan, .. } => plan.ranks.iter().map(|rank| rank.micro_batches.clone()).collect(),
            Next::Over(why) => panic!("{why:?}"),
        }
    }

    #[test]
    fn a_device_that_ran_out_gets_half() {
        let out = FailureClass::OutOfMemoryDevice;
        assert_eq!(again(next("trainer: ultralytics\n", out, None, 0)), [[8, 8], [8, 8]]);
        // It had stepped down by itself before.
        assert_eq!(again(next("args: {overlap: true}\n", out, Some(8), 0)), [[4; 4], [4; 4]]);
    }

    #[test]
    fn nothing_else_is_answered_with_a_smaller_batch() {
        use FailureClass::{Code, DeviceLost, OutOfMemoryHost, SharedMemory};
        for class in [Code, DeviceLost, OutOfMemoryHost, SharedMemory, FailureClass::Collective] {
            assert_eq!(next("trainer: ultralytics\n", class, None, 0), Next::Over(None), "{class:?}");
        }
        // Ours has done what it could.
        assert_eq!(next("", FailureClass::OutOfMemoryDevice, None, 0), Next::Over(None));
    }

    #[test]
    fn what_stood_still_or_was_lost_with_the_engine_is_started_again_as_it_was() {
        let job = parsed(JOB);
        let plan = planned(&job);
        let stalled = diagnosis(FailureClass::Stalled, None);
        let lost = Diagnosis { engine_away: true, ..diagnosis(FailureClass::Infrastructure, None) };
        for diagnosis in [stalled, lost] {
            let Next::Again { plan: same, .. } = after(&diagnosis, &job, &plan, 0) else { panic!("over") };
            assert_eq!(*same, plan);
            assert!(matches!(after(&diagnosis, &job, &plan, job.max_restarts), Next::Over(Some(_))));
        }
        assert_eq!(next("", FailureClass::Infrastructure, None, 0), Next::Over(None));
    }

    #[test]
    fn memory_that_a_stranger_took_is_not_made_up_for() {
        let job = parsed(&format!("{JOB}trainer: ultralytics\n"));
        let diagnosis = Diagnosis { held_by_others: Some(20.0), ..diagnosis(FailureClass::OutOfMemoryDevice, None) };
        let next = after(&diagnosis, &job, &planned(&job), 0);
        assert!(matches!(&next, Next::Over(Some(why)) if why.contains("20.0 GiB")), "{next:?}");
    }

    #[test]
    fn what_speaks_against_it_is_said() {
        let out = FailureClass::OutOfMemoryDevice;
        let why = |more: &str, below, restarts| match next(more, out, below, restarts) {
            Next::Over(Some(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(why("trainer: ultralytics\n", None, 10).contains("10 times already"));
        assert!(why("trainer: ultralytics\nmax_restarts: 0\n", None, 0).contains("`max_restarts`"));
        assert!(why("", Some(1), 0).contains("a single image"));
        let job = parsed("data: d\ntrainer: ultralytics\nbatch: {target: 32, micro: 16}\n");
        let next = after(&diagnosis(out, None), &job, &planned(&job), 0);
        assert!(matches!(&next, Next::Over(Some(why)) if why.contains("`batch.on_oom: step_down`")), "{next:?}");
    }
}
