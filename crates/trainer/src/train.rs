//! Native training: one rank of it. The job file says what to train, torchrun's environment with whom, and the output folder what there is
//! already.

mod failing;
mod group;
mod job;
mod memory;
mod output;
mod pictures;
mod progress;
mod run;
mod stop;
mod trial;

use std::process::ExitCode;

use evenkeel_wire::{Event, FailureClass};
use evenkeel_yolo::data::set::SetError;
use evenkeel_yolo::memory::attempt;

use crate::failure::chain;
use crate::start::{self, lookup, refuse};

/// What lines to a person begin with.
const WHO: &str = "evenkeel";
/// Exit code of a process that SIGTERM ended, as shells have it.
const TERMINATED: u8 = 128 + 15;

/// Why a training failed; each kind has its failure class.
#[derive(Debug, thiserror::Error)]
enum TrainError {
    #[error(transparent)]
    Job(#[from] job::JobError),
    #[error(transparent)]
    Group(#[from] group::GroupError),
    #[error("the data set cannot be used")]
    Set(#[from] SetError),
    #[error(transparent)]
    Order(#[from] evenkeel_yolo::data::order::TooFewImages),
    #[error(transparent)]
    Step(#[from] evenkeel_yolo::step::StepError),
    #[error(transparent)]
    Validation(#[from] evenkeel_yolo::validate::ValidationError),
    #[error("failed to agree with the other ranks")]
    Team(#[from] tch_distributed::Error),
    #[error(transparent)]
    Output(#[from] output::OutputError),
    #[error("the model and what belongs to it do not fit into memory")]
    Memory(#[from] evenkeel_yolo::memory::OutOfMemory),
    #[error("failed to start from the given weights")]
    Weights(#[from] evenkeel_yolo::weights::Other),
}

impl TrainError {
    fn class(&self) -> FailureClass {
        use evenkeel_yolo::step::StepError;
        use evenkeel_yolo::validate::ValidationError;
        match self {
            Self::Job(_) | Self::Weights(_) => FailureClass::Code,
            Self::Group(error) => error.class(),
            Self::Set(SetError::Team(_)) => FailureClass::Collective,
            Self::Set(_) | Self::Order(_) => FailureClass::Data,
            Self::Memory(_)
            | Self::Step(StepError::OutOfMemory { .. } | StepError::OutOfMemoryInOverlap { .. })
            | Self::Validation(ValidationError::OutOfMemory { .. }) => FailureClass::OutOfMemoryDevice,
            // Buckets for gradients that are sent early are memory like any other.
            Self::Team(tch_distributed::Error::OutOfMemory(_))
            | Self::Step(StepError::Team { source: tch_distributed::Error::OutOfMemory(_), .. }) => {
                FailureClass::OutOfMemoryDevice
            }
            Self::Step(StepError::Diverged { .. }) => FailureClass::Diverged,
            Self::Step(StepError::Team { .. }) | Self::Validation(ValidationError::Team(_)) | Self::Team(_) => {
                FailureClass::Collective
            }
            Self::Output(_) => FailureClass::Infrastructure,
        }
    }

    /// The micro-batch below which another launch may go well.
    fn retry_below(&self) -> Option<u32> {
        match self {
            Self::Step(evenkeel_yolo::step::StepError::OutOfMemoryInOverlap { images, .. }) => Some(*images),
            _ => None,
        }
    }

    /// What a person may do about it, if that is not in the message.
    fn advice(&self) -> Option<&'static str> {
        use evenkeel_yolo::step::StepError;
        use evenkeel_yolo::validate::ValidationError;
        match self {
            Self::Memory(_)
            | Self::Team(tch_distributed::Error::OutOfMemory(_))
            | Self::Step(StepError::OutOfMemory { .. })
            | Self::Validation(ValidationError::OutOfMemory { .. }) => {
                Some("a smaller `imgsz`, a lighter model, `args.amp: true` on a GPU, or more memory would help")
            }
            Self::Step(StepError::Diverged { .. }) => {
                Some("try a lower `args.lr0` with an `args.optimizer` of your choice, or `args.amp: false`")
            }
            _ => None,
        }
    }
}

/// How a training ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All epochs are done, or those that this launch was to do.
    Done,
    /// It was asked to end, and left a state to go on from.
    Stopped,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// To train.
    Training,
    /// To say how good given weights are.
    Validation,
}

/// The subcommands.
pub fn main(doing: Doing) -> ExitCode {
    let (environment, events) = match start::begin(WHO) {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    let stop = match stop::Stop::listen() {
        Ok(stop) => stop,
        Err(error) => return refuse(WHO, Some(&events), &format!("failed to listen for SIGTERM: {error}")),
    };
    let job = match job::Job::read(lookup, &environment) {
        Ok(job) => job,
        Err(error) => return refuse(WHO, Some(&events), &chain(&error)),
    };
    // Steps and validations recover by themselves; this is for what comes before and between.
    let outcome = attempt(|| match doing {
        Doing::Training if job.told.trial.is_some() => {
            let trial = job.told.trial.clone().unwrap_or_default();
            trial::run(&environment, &job, &trial, &events, &stop)
        }
        Doing::Training => run::run(&environment, &job, &events, &stop),
        Doing::Validation => run::validation(&environment, &job, &events),
    })
    .unwrap_or_else(|error| Err(error.into()));
    match outcome {
        Ok(End::Done) => ExitCode::SUCCESS,
        // Peers stop as well; an orderly exit would wait for them.
        Ok(End::Stopped) => leave(TERMINATED),
        Err(error) => {
            let mut message = chain(&error);
            if let Some(advice) = error.advice() {
                message.push_str(&format!("; {advice}"));
            }
            eprintln!("{WHO}: {}: {message}", error.class().name());
            events.emit(&Event::Failure { class: error.class(), message, retry_below: error.retry_below() });
            leave(1)
        }
    }
}

/// Ends the process without the orderly end of groups and threads, which would wait for peers that may be gone.
fn leave(code: u8) -> ! {
    use std::io::Write;
    let _ = std::io::stdout().flush();
    // SAFETY: ends the process; nothing of it runs after this.
    unsafe { libc::_exit(code.into()) }
}
