//! One attempt: a child that joins the others over NCCL, given so much time, and what it said.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
#[cfg(any(feature = "nccl", test))]
use serde_json::json;

use super::decide::Outcome;
use super::{P2P_DISABLE, PREFIX, RESULT, log};
use crate::environment::Environment;

/// How often the parent looks whether the child has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long the output of a child that has ended may still come: a grandchild may hold the pipe.
const DRAIN: Duration = Duration::from_secs(2);

/// What a child reports on its own line.
#[derive(Debug, PartialEq)]
pub enum Report {
    /// Every value was right.
    Passed { bytes_per_second: f64 },
    /// A value was wrong, NCCL failed, or there is no GPU or no library for one.
    Bad { outcome: Outcome, message: String },
}

impl Report {
    /// As the child writes it.
    #[cfg(any(feature = "nccl", test))]
    pub fn line(&self) -> String {
        let value = match self {
            Self::Passed { bytes_per_second } => json!({"bytes_per_second": bytes_per_second}),
            Self::Bad { outcome, message } => json!({"outcome": outcome.code(), "message": message}),
        };
        format!("{RESULT}{value}")
    }

    fn read(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line.split_once(RESULT)?.1).ok()?;
        if let Some(bytes_per_second) = value["bytes_per_second"].as_f64() {
            return Some(Self::Passed { bytes_per_second });
        }
        let outcome = Outcome::from_code(value["outcome"].as_i64()?);
        Some(Self::Bad { outcome, message: value["message"].as_str()?.to_owned() })
    }
}

/// What came of it on this rank.
#[derive(Debug, PartialEq)]
pub struct Attempt {
    pub outcome: Outcome,
    pub bytes_per_second: Option<f64>,
    pub transport: Option<String>,
    /// This rank's words for an outcome that is not good.
    message: Option<String>,
}

impl Attempt {
    /// Runs it, for at most the environment's timeout.
    pub fn run(environment: &Environment, disable_p2p: bool) -> Self {
        let limit = environment.timeout;
        let ended = spawn(disable_p2p).and_then(|child| end(child, limit));
        match ended {
            Ok((in_time, text)) => Self::read(&text, in_time, limit),
            Err(error) => Self::failed(format!("failed to start its process: {error}")),
        }
    }

    /// From what a child wrote, and whether it ended by itself.
    fn read(text: &str, in_time: bool, limit: Duration) -> Self {
        let transport = log::transports(text);
        let report = text.lines().rev().find_map(Report::read);
        let bad = |outcome, message| Self {
            outcome,
            bytes_per_second: None,
            transport: transport.clone(),
            message: Some(message),
        };
        match report {
            // A child that has reported and hangs while it ends has hung all the same: so would the trainer.
            _ if !in_time => {
                let over = transport.as_deref().map(|transport| format!(" over {transport}")).unwrap_or_default();
                bad(Outcome::Hung, format!("it hangs{over}: not done after {} s", limit.as_secs_f64()))
            }
            Some(Report::Passed { bytes_per_second }) => Self {
                outcome: Outcome::Passed,
                bytes_per_second: Some(bytes_per_second),
                transport: transport.clone(),
                message: None,
            },
            Some(Report::Bad { outcome: Outcome::Failed, message }) => {
                let warning = log::warning(text).map(|warning| format!(" ({warning})")).unwrap_or_default();
                bad(Outcome::Failed, message + &warning)
            }
            Some(Report::Bad { outcome, message }) => bad(outcome, message),
            None => {
                let last = text.lines().rev().find(|line| !line.trim().is_empty());
                bad(Outcome::Failed, format!("its process ended without a word: {}", last.unwrap_or("no output")))
            }
        }
    }

    fn failed(message: String) -> Self {
        Self { outcome: Outcome::Failed, bytes_per_second: None, transport: None, message: Some(message) }
    }

    /// This rank's words for what is the worst of all ranks' outcomes.
    pub fn told(&self, worst: Outcome) -> String {
        match &self.message {
            Some(message) if self.outcome == worst => message.clone(),
            Some(message) => format!("{} on another rank; here: {message}", name(worst)),
            None => format!("{} on another rank", name(worst)),
        }
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Hung => "it hangs",
        Outcome::Wrong => "wrong values",
        Outcome::Failed => "a failure",
        Outcome::Unsupported => "no GPU",
    }
}

fn spawn(disable_p2p: bool) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("preflight-nccl")
        .env(PREFIX, if disable_p2p { "nccl-without-p2p" } else { "nccl" })
        .env("NCCL_DEBUG", "INFO")
        .env("NCCL_DEBUG_SUBSYS", "INIT,P2P,SHM,NET,ENV")
        // Its lines are wanted here, and nowhere else.
        .env_remove("NCCL_DEBUG_FILE")
        .env_remove(evenkeel_wire::env::EVENTS_FD)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    if disable_p2p {
        command.env(P2P_DISABLE, "1");
    }
    command.spawn()
}

/// Reads until the child has ended, or ends it. Whether it ended by itself, and what it wrote.
fn end(mut child: Child, limit: Duration) -> std::io::Result<(bool, String)> {
    let mut output = child.stdout.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
    let (sender, receiver) = mpsc::channel();
    // Read beside waiting: a full pipe would hold the child up.
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + limit;
    let in_time = loop {
        if child.try_wait()?.is_some() {
            break true;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            break false;
        }
        thread::sleep(LOOK);
    };
    let mut bytes = Vec::new();
    let deadline = Instant::now() + DRAIN;
    while let Ok(more) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        bytes.extend(more);
    }
    Ok((in_time, String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    const CHANNEL: &str = "box:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM\n";

    fn read(report: &Report, in_time: bool) -> Attempt {
        Attempt::read(&format!("{CHANNEL}{}\nbox:1:2 [0] NCCL INFO comm destroyed\n", report.line()), in_time, LIMIT)
    }

    fn bad(outcome: Outcome, message: &str) -> Report {
        Report::Bad { outcome, message: message.into() }
    }

    #[test]
    fn a_good_attempt_says_how_fast_and_over_what() {
        let attempt = read(&Report::Passed { bytes_per_second: 2e10 }, true);
        assert_eq!((attempt.outcome, attempt.bytes_per_second), (Outcome::Passed, Some(2e10)));
        assert_eq!(attempt.transport.as_deref(), Some("P2P/CUMEM"));
        assert_eq!(attempt.told(Outcome::Hung), "it hangs on another rank");
    }

    #[test]
    fn a_hang_names_the_transport_even_after_a_report() {
        let attempt = read(&Report::Passed { bytes_per_second: 2e10 }, false);
        assert_eq!((attempt.outcome, attempt.bytes_per_second), (Outcome::Hung, None));
        assert_eq!(attempt.told(Outcome::Hung), "it hangs over P2P/CUMEM: not done after 60 s");
        assert_eq!(Attempt::read("", false, LIMIT).told(Outcome::Hung), "it hangs: not done after 60 s");
    }

    #[test]
    fn wrong_values_and_failures_are_told_in_the_childs_words() {
        let attempt = read(&bad(Outcome::Wrong, "element 1 is 2, not 3"), true);
        assert_eq!(attempt.told(Outcome::Wrong), "element 1 is 2, not 3");
        assert_eq!(attempt.told(Outcome::Failed), "a failure on another rank; here: element 1 is 2, not 3");
        let report = bad(Outcome::Failed, "failed to connect").line();
        let text = format!("a:1:2 [0] shm.cc:1 NCCL WARN no space\n{report}\n");
        assert_eq!(Attempt::read(&text, true, LIMIT).told(Outcome::Failed), "failed to connect (no space)");
        let attempt = read(&bad(Outcome::Unsupported, "libtorch sees no GPU"), true);
        assert_eq!(attempt.outcome, Outcome::Unsupported);
    }

    #[test]
    fn a_child_without_a_report_has_failed() {
        let attempt = Attempt::read("something\nSegmentation fault\n\n", true, LIMIT);
        assert_eq!(attempt.outcome, Outcome::Failed);
        assert_eq!(attempt.told(Outcome::Failed), "its process ended without a word: Segmentation fault");
    }

    #[test]
    fn a_child_that_hangs_is_killed_and_its_words_are_kept() {
        let child = Command::new("sh").args(["-c", "echo before; exec sleep 60"]).stdout(Stdio::piped()).spawn();
        let start = Instant::now();
        let (in_time, text) = end(child.expect("a shell"), Duration::from_millis(300)).expect("it is ended");
        assert!(!in_time && text == "before\n", "{text}");
        assert!(start.elapsed() < Duration::from_secs(10));
        let child = Command::new("sh").args(["-c", "seq 1 20000"]).stdout(Stdio::piped()).spawn();
        let (in_time, text) = end(child.expect("a shell"), LIMIT).expect("it ends");
        assert!(in_time && text.lines().count() == 20000);
    }
}
