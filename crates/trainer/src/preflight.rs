//! Before training: every rank joins, all-reduces known values, checks the answer, measures bandwidth, and reports.
//!
//! It uses the address and the port that the trainer will use right after it, and gives the port back cleanly.

mod check;
mod nccl;
mod watchdog;

#[cfg(feature = "nccl")]
pub use nccl::main as nccl_main;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use evenkeel_wire::{Event, FailureClass};
use tch_distributed::{GlooOptions, Interface, ProcessGroup};

use crate::environment::{Device, Environment};
use crate::events::Events;
use crate::failure::chain;
use crate::meeting::{self, Meeting, Place};
use crate::start;
use nccl::Verdict;
use watchdog::Watchdog;

/// Why a preflight failed; each kind has its failure class.
#[derive(Debug, thiserror::Error)]
enum PreflightError {
    #[error(transparent)]
    Meeting(#[from] meeting::MeetingError),
    #[error(transparent)]
    Check(#[from] check::CheckError),
    #[error("failed to connect the ranks")]
    Connect(#[source] tch_distributed::Error),
    #[error("failed to agree with the other ranks on what NCCL did")]
    Agree(#[source] tch_distributed::Error),
    #[error("{0}")]
    Nccl(String),
    #[error("failed to end the group")]
    Shutdown(#[source] tch_distributed::Error),
}

impl PreflightError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Meeting(error) => error.class(),
            Self::Check(_) | Self::Connect(_) | Self::Agree(_) | Self::Nccl(_) | Self::Shutdown(_) => {
                FailureClass::Collective
            }
        }
    }
}

/// What a preflight that passed found out.
#[derive(Default)]
struct Passed {
    bytes_per_second: Option<f64>,
    transport: Option<String>,
    message: Option<String>,
    environment: BTreeMap<String, String>,
}

/// The subcommand: environment, checks, report, exit code.
pub fn main() -> ExitCode {
    let (environment, events) = match start::begin("preflight") {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    // Helper threads cost more than these tensors do: they spin for each other where other ranks want the cores.
    tch::set_num_threads(1);
    // Meeting and connecting may take the timeout each, and so may both attempts at NCCL.
    let phases = if environment.device == Device::Cuda { 4 } else { 2 };
    let watchdog = Watchdog::start(environment.timeout * phases, events.clone());
    match run(&environment, &events, &watchdog) {
        Ok(passed) => report(&environment, &events, passed),
        Err(error) => {
            fail(&events, error.class(), &chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(environment: &Environment, events: &Events, watchdog: &Watchdog) -> Result<Passed, PreflightError> {
    let Some(place) = Place::of(environment, "preflight") else {
        return Ok(Passed { message: Some("one rank: nobody to join".into()), ..Passed::default() });
    };
    watchdog.enter("meeting the other ranks");
    let meeting = Meeting::join(&place, Instant::now())?;
    let interface = meeting::interface(environment, &place)?;
    let name = match &interface {
        Interface::Name(name) => name.clone(),
        Interface::Address(address) => address.to_string(),
    };
    watchdog.enter("connecting the ranks by gloo");
    let options = GlooOptions::new(interface, environment.timeout);
    let group = ProcessGroup::gloo(meeting.store(), environment.rank, environment.world_size, &options)
        .map_err(PreflightError::Connect)?;
    events.emit(&Event::Joined { world_size: environment.world_size, backend: "gloo".into(), device: "cpu".into() });
    watchdog.enter("checking the all-reduce");
    check::values(&group, tch::Device::Cpu)?;
    watchdog.enter("measuring the all-reduce");
    let bytes_per_second = check::bandwidth(&group, tch::Device::Cpu)?;
    let passed = match environment.device {
        Device::Cpu => {
            Passed { bytes_per_second: Some(bytes_per_second), transport: Some("tcp".into()), ..Passed::default() }
        }
        Device::Cuda => match nccl::check(environment, &group, watchdog).map_err(PreflightError::Agree)? {
            Verdict::Passed { bytes_per_second, transport, environment, message } => {
                Passed { bytes_per_second: Some(bytes_per_second), transport, message, environment }
            }
            Verdict::Unchecked(reason) => Passed {
                bytes_per_second: Some(bytes_per_second),
                transport: Some("tcp".into()),
                message: Some(format!(
                    "checked by gloo over `{name}`; NCCL between the GPUs was not checked: {reason}"
                )),
                ..Passed::default()
            },
            Verdict::Failed(message) => return Err(PreflightError::Nccl(message)),
        },
    };
    watchdog.enter("saying goodbye");
    group.shutdown().map_err(PreflightError::Shutdown)?;
    meeting.leave()?;
    Ok(passed)
}

fn report(environment: &Environment, events: &Events, passed: Passed) -> ExitCode {
    let mut line = format!("preflight: rank {} of {}: ok", environment.rank, environment.world_size);
    if let (Some(rate), Some(transport)) = (passed.bytes_per_second, &passed.transport) {
        line.push_str(&format!(", all-reduce {:.0} MB/s over {transport}", rate / 1e6));
    }
    if let Some(message) = &passed.message {
        line.push_str(&format!(" ({message})"));
    }
    println!("{line}");
    events.emit(&Event::Preflight {
        ok: true,
        bytes_per_second: passed.bytes_per_second,
        transport: passed.transport,
        message: passed.message,
        environment: passed.environment,
    });
    ExitCode::SUCCESS
}

fn fail(events: &Events, class: FailureClass, message: &str) {
    println!("preflight: failed: {message}");
    let message = message.to_string();
    events.emit(&Event::Preflight {
        ok: false,
        bytes_per_second: None,
        transport: None,
        message: Some(message.clone()),
        environment: BTreeMap::new(),
    });
    events.emit(&Event::Failure { class, message, retry_below: None });
}
