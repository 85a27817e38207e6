//! The ranks, connected for a training.

use std::time::{Duration, Instant};

use evenkeel_wire::{Event, FailureClass};
use evenkeel_yolo::team::Team;
use tch_distributed::{GlooOptions, ProcessGroup};

use crate::environment::{Device, Environment};
use crate::events::Events;
use crate::meeting::{self, Meeting, MeetingError, Place};

/// How long a rank may be behind its peers: one validates, or waits for a disk. A peer that has died is known at once.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Why the ranks are not connected.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error(transparent)]
    Meeting(#[from] MeetingError),
    #[error("failed to connect the ranks")]
    Connect(#[from] tch_distributed::Error),
    #[error("{0}")]
    Device(String),
}

impl GroupError {
    /// The failure's class.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Meeting(error) => error.class(),
            Self::Connect(_) => FailureClass::Collective,
            Self::Device(_) => FailureClass::DeviceLost,
        }
    }
}

/// The device that this rank computes on, made ready. `memory` is what the tensors of a CPU device may take at most.
fn device(environment: &Environment, memory: Option<u64>) -> Result<tch::Device, GroupError> {
    match environment.device {
        Device::Cpu => {
            evenkeel_allocator::install(memory);
            Ok(tch::Device::Cpu)
        }
        Device::Cuda => {
            tch_distributed::load_cuda()?;
            let (index, present) = (i64::from(environment.local_rank), tch::Cuda::device_count());
            if index >= present {
                return Err(GroupError::Device(format!(
                    "GPU {index} of this host is not there: libtorch sees {present}"
                )));
            }
            // Trying every kernel would take 15 s at every new shape of a batch, and which is the fastest differs from run to run.
            tch::Cuda::cudnn_set_benchmark(false);
            Ok(tch::Device::Cuda(environment.local_rank as usize))
        }
    }
}

/// Runs `work` on this rank's device with the ranks connected, and ends the connection in order if it succeeds.
pub fn with_team<T, E: From<GroupError>>(
    environment: &Environment,
    memory: Option<u64>,
    events: &Events,
    work: impl FnOnce(&Team, tch::Device) -> Result<T, E>,
) -> Result<T, E> {
    let device = device(environment, memory)?;
    let joined = |backend: &str| {
        let device = match device {
            tch::Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
        };
        events.emit(&Event::Joined { world_size: environment.world_size, backend: backend.to_owned(), device });
    };
    let Some(place) = Place::of(environment, "train") else {
        joined("none");
        return work(&Team::alone(), device);
    };
    let meeting = Meeting::join(&place, Instant::now()).map_err(GroupError::from)?;
    let (host, device_group) = connect(environment, &place, &meeting, device)?;
    joined(if device_group.is_some() { "nccl" } else { "gloo" });
    let team = Team::new(host, device_group);
    let outcome = work(&team, device)?;
    team.leave().map_err(GroupError::from)?;
    meeting.leave().map_err(GroupError::from)?;
    Ok(outcome)
}

fn connect(
    environment: &Environment,
    place: &Place<'_>,
    meeting: &Meeting<'_>,
    device: tch::Device,
) -> Result<(ProcessGroup, Option<ProcessGroup>), GroupError> {
    let interface = meeting::interface(environment, place)?;
    let (rank, size) = (environment.rank, environment.world_size);
    let options = GlooOptions::new(interface, PATIENCE);
    let host = ProcessGroup::gloo(&meeting.store().prefix("host")?, rank, size, &options)?;
    let device_group = match device {
        tch::Device::Cuda(_) => Some(nccl(meeting, environment)?),
        _ => None,
    };
    Ok((host, device_group))
}

#[cfg(feature = "nccl")]
fn nccl(meeting: &Meeting<'_>, environment: &Environment) -> Result<ProcessGroup, GroupError> {
    let options = tch_distributed::NcclOptions::new(environment.local_rank, PATIENCE);
    Ok(ProcessGroup::nccl(&meeting.store().prefix("device")?, environment.rank, environment.world_size, &options)?)
}

#[cfg(not(feature = "nccl"))]
fn nccl(_: &Meeting<'_>, _: &Environment) -> Result<ProcessGroup, GroupError> {
    Err(GroupError::Device("this program was built without NCCL, which several GPUs need".to_owned()))
}
