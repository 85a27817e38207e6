//! What an end means: its class, whose fault it was, and what to do about it. Pure.

mod words;

use evenkeel_wire::FailureClass;

use crate::error::ExitCode;
use crate::watch::state::{How, ProgramEnd, RankEnd};
pub use words::Memory;
use words::{class_of, has_taken_port, held_by_others, tells_of_exception};

/// A failed run, explained.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// The rank that failed first.
    pub rank: u32,
    /// Class of its failure.
    pub class: FailureClass,
    /// What happened, as one line.
    pub message: String,
    /// Another launch may help if its micro-batches are smaller than this one, of so many images.
    pub retry_below: Option<u32>,
    /// The engine was away when it happened, which explains it.
    pub engine_away: bool,
    /// GiB of a card's memory that other processes held when it ran out.
    pub held_by_others: Option<f64>,
    /// What to do about it, as one line.
    pub advice: String,
    /// Exit code of the command.
    pub exit: ExitCode,
}

/// Names the rank that failed first and says why. `tail` gives the end of a rank's log, `memory` is that of its device. `None`: nothing
/// failed by itself.
pub fn diagnose(ends: &[RankEnd], memory: Memory, tail: impl Fn(u32) -> String) -> Option<Diagnosis> {
    let failed = ends.iter().filter(|end| !end.is_good() && !end.was_asked());
    // A rank whose peer died says so within milliseconds, and a container cannot be started into the pod of a leader that has just ended:
    // whoever has a reason of its own comes before those who only lost somebody.
    let leader_failed = failed.clone().any(|end| end.rank == 0);
    let lost = |end: &RankEnd, class: FailureClass| {
        class == FailureClass::Collective
            || (leader_failed && end.rank > 0 && matches!(end.how, How::NotStarted { .. }))
    };
    let judged = failed.map(|end| (end, judge(end, memory, &tail(end.rank))));
    let (end, (class, message)) = judged.min_by_key(|(end, (class, _))| (lost(end, *class), end.order))?;
    let message = if class == FailureClass::Infrastructure && has_taken_port(&tail(end.rank)) {
        format!("{message}: the port that it was to listen at is taken")
    } else {
        message
    };
    let exit = match (class, &end.how) {
        (FailureClass::OutOfMemoryDevice | FailureClass::OutOfMemoryHost, _) => ExitCode::OutOfMemory,
        (_, How::NotStarted { message, .. }) if of_the_job(message).is_some() => ExitCode::BadRequest,
        (_, How::NotStarted { .. }) => ExitCode::MachineNotReady,
        (FailureClass::Infrastructure, How::Sealed { stopped: false, .. }) => ExitCode::MachineNotReady,
        _ => ExitCode::TrainingFailed,
    };
    let held_by_others = (class == FailureClass::OutOfMemoryDevice).then(|| held_by_others(&tail(end.rank))).flatten();
    let advice = match held_by_others {
        Some(_) => "end what else computes on the card, or choose another one".to_owned(),
        None => advice(class, &message),
    };
    let retry_below = end.failure.as_ref().and_then(|reason| reason.retry_below);
    Some(Diagnosis { rank: end.rank, class, message, retry_below, engine_away: false, held_by_others, advice, exit })
}

impl Diagnosis {
    /// The same, where the engine was away meanwhile: what took a container from outside was that.
    #[must_use]
    pub fn with_engine_away(self) -> Self {
        let away = self.class == FailureClass::Infrastructure;
        let message = if away { format!("{}; the engine had been away", self.message) } else { self.message };
        Self { engine_away: away, message, ..self }
    }
}

/// A trainer of ours that ended well without a single optimizer step has trained nothing, whatever its exit code says.
#[must_use]
pub fn no_step() -> Diagnosis {
    let class = FailureClass::Code;
    let message = "the trainer ended without an optimizer step".to_owned();
    let advice = advice(class, &message);
    Diagnosis {
        rank: 0,
        class,
        message,
        retry_below: None,
        engine_away: false,
        held_by_others: None,
        advice,
        exit: ExitCode::TrainingFailed,
    }
}

fn judge(end: &RankEnd, memory: Memory, tail: &str) -> (FailureClass, String) {
    if let Some(reason) = &end.failure {
        return (reason.class, reason.message.clone());
    }
    match &end.how {
        How::NotStarted { message, .. } => (FailureClass::Infrastructure, message.clone()),
        How::Unsealed { .. } if end.program.is_some() => {
            let ProgramEnd { code, signal } = end.program.unwrap_or(ProgramEnd { code: None, signal: None });
            of_the_program(code, signal, memory, tail)
        }
        How::Unsealed { words: Some(words), .. } => (FailureClass::Infrastructure, words.clone()),
        How::Unsealed { oom_killed: true, code: Some(137), .. } => {
            (FailureClass::OutOfMemoryHost, "the kernel killed it for memory".into())
        }
        How::Unsealed { code, .. } => {
            let code = code.map_or_else(|| "and is gone".to_owned(), |code| format!("with code {code}"));
            (FailureClass::Infrastructure, format!("its container was killed from outside or died, {code}"))
        }
        // The flag stands when any process of the container was killed; only a kill of the trainer explains its end.
        How::Sealed { oom_killed: true, code, signal, .. } if *signal == Some(9) || *code == Some(137) => {
            (FailureClass::OutOfMemoryHost, "the kernel killed it for memory".into())
        }
        How::Sealed { stopped: true, .. } => {
            (FailureClass::Infrastructure, "somebody else stopped its container, by a signal".into())
        }
        How::Sealed { code, signal, dropped, .. } => {
            let (class, message) = of_the_program(*code, *signal, memory, tail);
            // What a full disk does to a program is written to the log, for which there is no room either.
            if *dropped > 0 && class == FailureClass::Code && !tells_of_exception(tail) {
                let message = format!(
                    "{message}; its last words may be among {dropped} lines for which there was no space left on the disk"
                );
                return (FailureClass::Infrastructure, message);
            }
            (class, message)
        }
    }
}

fn of_the_program(code: Option<i32>, signal: Option<i32>, memory: Memory, tail: &str) -> (FailureClass, String) {
    let class = match signal {
        Some(7) => FailureClass::SharedMemory,
        _ => class_of(tail, memory),
    };
    let message = match (signal, code) {
        (Some(signal), _) => format!("the trainer was ended by {}", signal_name(signal)),
        (None, Some(code)) => format!("the trainer ended with exit code {code}"),
        (None, None) => "the trainer ended in a way that nobody saw".into(),
    };
    (class, message)
}

/// Advice on a container that could not start for what the job says of it, by the engine's words.
fn of_the_job(message: &str) -> Option<&'static str> {
    if message.contains("unable to find user") || message.contains("no matching entries in passwd") {
        Some("the image has no such user: change `user:`, where a number always serves")
    } else if message.contains("Cannot mkdir") || message.contains("not a directory") {
        Some("change `working_dir:`, or the target of the volume that the message names")
    } else {
        None
    }
}

fn advice(class: FailureClass, message: &str) -> String {
    match class {
        FailureClass::Infrastructure if of_the_job(message).is_some() => of_the_job(message).unwrap_or_default(),
        FailureClass::OutOfMemoryDevice => {
            "set a smaller `batch.micro` (the target stays) or a smaller `imgsz`, or turn on `args.amp`"
        }
        FailureClass::OutOfMemoryHost => "the machine's memory is short: fewer `args.workers`, `args.cache=false`",
        FailureClass::SharedMemory => "set a larger `shm_size` or fewer `args.workers`",
        FailureClass::DeviceLost => "look at `nvidia-smi` and the kernel's log; the card may need a reset",
        FailureClass::Collective => "a rank lost its peers; if it comes again look at the first rank's log",
        FailureClass::Data => "check the data set that the message names",
        FailureClass::Diverged => "try `args.amp=false` or a lower `args.lr0`",
        FailureClass::Stalled => "look at the log of the rank that stood still, and at what its machine does",
        FailureClass::Infrastructure if message.contains("could not select device driver") => {
            "install the NVIDIA container toolkit, then restart Docker yourself"
        }
        FailureClass::Infrastructure if message.contains("the port that") => {
            "run again, which takes another port, or give the pod a network of its own: `network: none`"
        }
        FailureClass::Infrastructure if message.contains("ermission denied") => {
            "the run's folders must be open to the container's user: leave `user:` out, or choose another `runs:`"
        }
        FailureClass::Infrastructure if message.contains("No space left") || message.contains("no space left") => {
            "free some disk, then run again"
        }
        FailureClass::Infrastructure => "look at the Docker engine, the disk and the network, then run again",
        _ => "the rank's log has the trainer's own words",
    }
    .to_owned()
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Operation;
    use crate::watch::state::Reason;

    fn end(rank: u32, order: u32, how: How) -> RankEnd {
        RankEnd { rank, order, how, asked: false, program: None, failure: None }
    }

    fn sealed(code: Option<i32>, signal: Option<i32>) -> How {
        How::Sealed { code, signal, stopped: false, oom_killed: false, dropped: 0 }
    }

    #[test]
    fn who_lost_a_peer_is_not_the_culprit() {
        let mut first = end(0, 0, sealed(Some(1), None));
        first.failure =
            Some(Reason { class: FailureClass::Collective, message: "lost a peer".into(), retry_below: None });
        let ends = [first, end(1, 1, sealed(None, Some(9)))];
        let diagnosis = diagnose(&ends, Memory::Host, |_| String::new()).expect("a failure");
        assert_eq!(
            (diagnosis.rank, diagnosis.class, diagnosis.exit),
            (1, FailureClass::Code, ExitCode::TrainingFailed)
        );
        assert_eq!(diagnosis.message, "the trainer was ended by SIGKILL");
    }

    #[test]
    fn who_could_not_join_a_leader_that_had_ended_is_not_the_culprit() {
        let message = "cannot join network of a non running container".to_owned();
        let follower = end(1, 0, How::NotStarted { operation: Operation::Start, message });
        // It was asked to end when the follower had failed, and had ended before of its own trouble.
        let words = Some("failed to open `/evenkeel/control`".to_owned());
        let leader = RankEnd { asked: true, ..end(0, 1, How::Unsealed { code: Some(125), oom_killed: false, words }) };
        let diagnosis = diagnose(&[leader, follower.clone()], Memory::Host, |_| String::new()).expect("a failure");
        assert_eq!((diagnosis.rank, diagnosis.message.contains("/evenkeel/control")), (0, true));
        assert_eq!(diagnose(&[follower], Memory::Host, |_| String::new()).expect("a failure").rank, 1);
    }

    #[test]
    fn who_was_asked_to_end_is_not_the_culprit() {
        let how = How::Sealed { code: None, signal: Some(9), stopped: true, oom_killed: false, dropped: 0 };
        let asked = RankEnd { asked: true, ..end(0, 0, how.clone()) };
        assert_eq!(diagnose(&[asked, end(1, 1, sealed(Some(0), None))], Memory::Host, |_| String::new()), None);
        let by_another = diagnose(&[end(0, 0, how)], Memory::Host, |_| String::new()).expect("not by us");
        assert!(by_another.message.contains("somebody else"), "{by_another:?}");
    }

    #[test]
    fn a_taken_port_is_no_fault_of_the_program() {
        let tail = "RuntimeError: The server socket has failed to listen: EADDRINUSE, Address already in use";
        let diagnosis =
            diagnose(&[end(0, 0, sealed(Some(1), None))], Memory::Host, |_| tail.into()).expect("a failure");
        assert_eq!((diagnosis.class, diagnosis.exit), (FailureClass::Infrastructure, ExitCode::MachineNotReady));
        assert!(diagnosis.advice.contains("port"), "{diagnosis:?}");
    }

    #[test]
    fn the_kernels_kill_counts_only_when_the_trainer_died_of_it() {
        let how = |code| How::Sealed { code, signal: None, stopped: false, oom_killed: true, dropped: 0 };
        let class = |how| diagnose(&[end(0, 0, how)], Memory::Host, |_| String::new()).map(|diagnosis| diagnosis.class);
        assert_eq!(class(how(Some(137))), Some(FailureClass::OutOfMemoryHost));
        assert_eq!(class(how(Some(1))), Some(FailureClass::Code));
    }

    #[test]
    fn the_log_gives_the_class_away_when_nobody_says_it() {
        let tail = "Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB";
        let diagnosis =
            diagnose(&[end(0, 0, sealed(Some(1), None))], Memory::Host, |_| tail.into()).expect("a failure");
        assert_eq!((diagnosis.class, diagnosis.exit), (FailureClass::OutOfMemoryDevice, ExitCode::OutOfMemory));
    }

    #[test]
    fn a_disk_too_full_for_the_last_words_explains_an_end_that_nothing_else_does() {
        let how = How::Sealed { code: Some(1), signal: None, stopped: false, oom_killed: false, dropped: 7 };
        let ended = |tail: &str| diagnose(&[end(0, 0, how.clone())], Memory::Host, |_| tail.into()).expect("a failure");
        let full = ended("epoch 3");
        assert_eq!((full.class, full.exit), (FailureClass::Infrastructure, ExitCode::MachineNotReady));
        assert!(full.message.contains("7 lines") && full.advice.contains("free some disk"), "{full:?}");
        assert_eq!(ended("Traceback\nKeyError: 'bbox'").class, FailureClass::Code);
        assert_eq!(ended("torch.OutOfMemoryError: CUDA out of memory").class, FailureClass::OutOfMemoryDevice);
    }

    #[test]
    fn a_missing_toolkit_is_the_machines_fault() {
        let message = "could not select device driver \"\" with capabilities: [[gpu]]".to_owned();
        let ends = [end(0, 0, How::NotStarted { operation: Operation::Start, message })];
        let diagnosis = diagnose(&ends, Memory::Host, |_| String::new()).expect("a failure");
        assert_eq!(diagnosis.exit, ExitCode::MachineNotReady);
        assert!(diagnosis.advice.contains("toolkit"));
    }
}
