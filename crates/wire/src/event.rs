//! Events: what a rank tells. A trainer writes [`Event`]s, one JSON object a line; the agent adds its own, wraps each
//! in a [`Record`] and appends it to the rank's spool.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line of `rank-N.events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`crate::VERSION`] of the writer.
    pub v: u32,
    /// Launch within the run, from 1.
    pub generation: u32,
    /// Rank that wrote it.
    pub rank: u32,
    /// Number of the record within its rank and generation, from 0 without a gap.
    pub seq: u64,
    /// Milliseconds since the Unix epoch by the agent's clock.
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
}

/// What a rank tells. Quantities carry their unit in the name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The agent runs and waits for the go.
    Waiting,
    /// The agent started a program.
    Started {
        /// The program and its arguments.
        command: Vec<String>,
        /// Process identifier inside the container.
        pid: u32,
    },
    /// A program that the agent started has ended, told the moment it is known: its output may still come, and the
    /// seal waits for that.
    Ended {
        /// Its exit code; absent when a signal ended it.
        code: Option<i32>,
        /// Signal that ended it.
        signal: Option<i32>,
    },
    /// The rank is in the process group.
    Joined {
        /// Ranks in the group.
        world_size: u32,
        /// `gloo` or `nccl`.
        backend: String,
        /// Device as torch names it, such as `cuda:0` or `cpu`.
        device: String,
    },
    /// The preflight's outcome on this rank.
    Preflight {
        /// Whether every check held.
        ok: bool,
        /// All-reduce bandwidth seen (algorithm bandwidth: bytes of the tensor over the time), bytes per second.
        bytes_per_second: Option<f64>,
        /// Transport used, such as `tcp`, `P2P/CUMEM`, `SHM`, `NET/Socket`.
        transport: Option<String>,
        /// What went wrong; names missing ranks.
        message: Option<String>,
        /// Variables that the trainer must be started with for it to be as it was found, such as `NCCL_P2P_DISABLE=1`.
        /// Absent in records of earlier writers.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        environment: BTreeMap<String, String>,
    },
    /// An optimizer step ended.
    Step {
        /// Epoch, from 0.
        epoch: u32,
        /// Epochs in all.
        epochs: u32,
        /// Optimizer step in the whole run, from 0.
        step: u64,
        /// Optimizer steps an epoch.
        steps_per_epoch: u64,
        /// Images that this rank consumed in the step.
        images: u64,
        /// Mean loss of this rank's images in this step; absent when it is not finite.
        loss: Option<f64>,
        /// Loss terms by name, such as `box`, `cls`, `dfl`.
        terms: BTreeMap<String, f64>,
        /// Learning rate of the first parameter group.
        lr: f64,
        /// Peak memory so far: the CUDA allocator's reserved bytes, resident bytes on a CPU device,
        /// or those of its tensors where these have a cap.
        memory_bytes: Option<u64>,
        /// Wall time of the step in milliseconds.
        time_ms: f64,
    },
    /// A micro-batch did not fit into a device's memory; the step was repeated with smaller ones, which are kept from here on. Told by the
    /// rank that ran out.
    SteppedDown {
        /// Optimizer step, from 0.
        step: u64,
        /// Images of the largest micro-batch before.
        from: u32,
        /// And after.
        to: u32,
        /// What the framework said.
        message: String,
    },
    /// The validation of an epoch ended; numbers by the names people know (`metrics/mAP50(B)`).
    Metrics {
        /// Epoch, from 0.
        epoch: u32,
        /// Values by name.
        values: BTreeMap<String, f64>,
    },
    /// Weights are held, and on rank 0 are on disk.
    Checkpoint {
        /// Epoch, from 0.
        epoch: u32,
        /// File in [`crate::path::OUTPUT`]; absent on ranks that write none.
        path: Option<String>,
        /// Hash of the model's parameters, in f32 in the order of their names; equal on all ranks of sound DDP.
        weights_sha256: String,
        /// Whether this is the best so far.
        best: bool,
    },
    /// In a trial: what a rank needs before its first image, in bytes.
    Fixed {
        /// The device's runtime and the communication, as far as it is known; 0 on a CPU device.
        context_bytes: u64,
        /// The weights and their running average.
        weights_bytes: u64,
        /// Gradients and the optimizer's state.
        gradients_and_optimizer_bytes: u64,
        /// The most that was needed until then, on the way there.
        start_bytes: u64,
    },
    /// In a trial: a micro-batch, or a batch of a validation, that was tried.
    Tried {
        /// Whether it was one of a validation.
        validation: bool,
        /// Images.
        images: u32,
        /// The most labels in one of them.
        labels: u32,
        /// Side of the square image in pixels.
        imgsz: u32,
        /// The most memory of the rank meanwhile; absent: it was not enough.
        peak_bytes: Option<u64>,
        /// Seconds of its forward and backward pass; of its forward pass in a validation.
        seconds: f64,
        /// Seconds of all else that a step consists of, waiting for peers included; 0 in a validation.
        reduce_seconds: f64,
    },
    /// The trainer knows why it fails.
    Failure {
        /// Class of the failure.
        class: FailureClass,
        /// One line for a person.
        message: String,
        /// Another launch may help if its micro-batches are smaller than this one, of so many images.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_below: Option<u32>,
    },
    /// A remark worth keeping that fits nothing else.
    Note {
        /// One line for a person.
        message: String,
    },
    /// Last record of a generation, the seal: the rank has ended and its log is complete.
    Exit {
        /// Exit code of the program that ended last; absent when a signal ended it.
        code: Option<i32>,
        /// Signal that ended it.
        signal: Option<i32>,
        /// Whether the controller asked for the end, by a signal to the agent.
        stopped: bool,
        /// Whether the kernel's out-of-memory killer was at work in this container.
        oom_killed: bool,
        /// Lines written to the log in this generation; an unfinished last one counts.
        lines: u64,
        /// Bytes written to the log in this generation.
        bytes: u64,
        /// SHA-256 of those bytes.
        sha256: String,
        /// Lines that could not be written (disk full) in this generation.
        dropped: u64,
    },
}

/// What a failure means for who decides on a retry. The names are part of the record's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureClass {
    /// A device ran out of memory: CUDA, or the cap of a CPU device.
    #[serde(rename = "out_of_memory.device")]
    OutOfMemoryDevice,
    /// The kernel killed a process for memory.
    #[serde(rename = "out_of_memory.host")]
    OutOfMemoryHost,
    /// /dev/shm is too small.
    #[serde(rename = "shared_memory")]
    SharedMemory,
    /// A GPU is gone.
    #[serde(rename = "device_lost")]
    DeviceLost,
    /// A collective timed out or lost a peer.
    #[serde(rename = "collective")]
    Collective,
    /// The data set or its labels.
    #[serde(rename = "data")]
    Data,
    /// The loss is not finite.
    #[serde(rename = "diverged")]
    Diverged,
    /// No step for too long.
    #[serde(rename = "stalled")]
    Stalled,
    /// The trainer's own error.
    #[serde(rename = "code")]
    Code,
    /// Daemon, disk, network.
    #[serde(rename = "infrastructure")]
    Infrastructure,
    /// Ended by us or by the user.
    #[serde(rename = "stopped")]
    Stopped,
}

impl FailureClass {
    /// Name as it stands in the record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfMemoryDevice => "out_of_memory.device",
            Self::OutOfMemoryHost => "out_of_memory.host",
            Self::SharedMemory => "shared_memory",
            Self::DeviceLost => "device_lost",
            Self::Collective => "collective",
            Self::Data => "data",
            Self::Diverged => "diverged",
            Self::Stalled => "stalled",
            Self::Code => "code",
            Self::Infrastructure => "infrastructure",
            Self::Stopped => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_written() {
        let record = Record {
            v: crate::VERSION,
            generation: 1,
            rank: 0,
            seq: 7,
            time_ms: 1,
            event: Event::Failure {
                class: FailureClass::OutOfMemoryDevice,
                message: "CUDA out of memory".into(),
                retry_below: None,
            },
        };
        let line = serde_json::to_string(&record).expect("a record is plain data");
        assert!(line.contains(r#""kind":"failure","class":"out_of_memory.device""#), "{line}");
        assert_eq!(serde_json::from_str::<Record>(&line).expect("what we wrote"), record);
    }

    #[test]
    fn a_preflight_without_variables_reads_and_writes_as_before_there_were_any() {
        let line = r#"{"kind":"preflight","ok":true,"bytes_per_second":1.0,"transport":"tcp","message":null}"#;
        let event: Event = serde_json::from_str(line).expect("an earlier writer's");
        let Event::Preflight { environment, .. } = &event else { panic!("{event:?}") };
        assert!(environment.is_empty());
        assert_eq!(serde_json::to_string(&event).expect("plain data"), line);
    }

    #[test]
    fn a_class_has_one_name() {
        let json = serde_json::to_value(FailureClass::OutOfMemoryHost).expect("a unit variant");
        assert_eq!(json, FailureClass::OutOfMemoryHost.name());
    }
}
