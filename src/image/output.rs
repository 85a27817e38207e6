//! What a builder says, read as lines and steps, and what a failure in it means. Pure.

use std::collections::VecDeque;

use super::redact::redact;

/// A step of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Counted from 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
    /// The instruction.
    pub command: String,
}

/// One thing a builder said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A step begins.
    Step(Step),
    /// A line of its output.
    Line(String),
}

/// Puts a builder's text together to lines, and remembers the current step and its last lines for the case that it fails.
#[derive(Debug, Default)]
pub struct Output {
    pending: String,
    step: Option<Step>,
    last: VecDeque<String>,
}

const REMEMBERED_LINES: usize = 20;

impl Output {
    /// Takes text as it comes; returns what is complete.
    pub fn push(&mut self, text: &str) -> Vec<Said> {
        self.pending.push_str(text);
        let mut said = Vec::new();
        while let Some(end) = self.pending.find(['\n', '\r']) {
            let line: String = self.pending.drain(..=end).collect();
            said.extend(self.line(&line));
        }
        said
    }

    /// Takes one whole line.
    pub fn line(&mut self, line: &str) -> Option<Said> {
        let line = redact(&without_escapes(line)).trim_end().to_owned();
        if line.is_empty() {
            return None;
        }
        if let Some(step) = classic_step(&line) {
            return Some(self.begin(step));
        }
        // The classic builder's own book-keeping.
        let noise = [" ---> ", "Removing intermediate container", "Successfully "];
        if noise.iter().any(|start| line.starts_with(start)) {
            return None;
        }
        if self.last.len() == REMEMBERED_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.clone());
        Some(Said::Line(line))
    }

    /// A step begins; what was said before belongs to another.
    pub fn begin(&mut self, step: Step) -> Said {
        self.last.clear();
        self.step = Some(step.clone());
        Said::Step(step)
    }

    /// The current step and the last lines that it said.
    #[must_use]
    pub fn finish(mut self) -> (Option<Step>, Vec<String>) {
        let rest = std::mem::take(&mut self.pending);
        self.line(&rest);
        (self.step, self.last.into())
    }
}

fn classic_step(line: &str) -> Option<Step> {
    let (count, command) = line.strip_prefix("Step ")?.split_once(" : ")?;
    let (number, of) = count.split_once('/')?;
    // A `RUN` may go on for many lines of shell; one is enough to know it again.
    let words: Vec<&str> = command.split_whitespace().filter(|word| *word != "\\").collect();
    Some(Step { number: number.parse().ok()?, of: of.parse().ok()?, command: shortened(&words.join(" ")) })
}

/// The beginning of a text that may be long.
#[must_use]
pub fn shortened(text: &str) -> String {
    const LONGEST: usize = 160;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            // A control sequence ends at its first letter.
            rest.by_ref().find(|c| c.is_ascii_alphabetic());
        } else if c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

/// What made a build fail, as far as its last lines tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A certificate was refused: an authority of the network's own stands before the package registries.
    Certificate,
    /// Something on the network did not answer.
    Network,
    /// The disk is full.
    Disk,
    /// A file that was downloaded is not the one that is pinned.
    Hash,
    /// The Dockerfile needs BuildKit and the engine used the classic builder.
    NeedsBuildkit,
    /// The engine does not have the builder that was asked for.
    NoBuilder,
    /// The step itself.
    Step,
}

const SIGNS: &[(Cause, &[&str])] = &[
    (Cause::Disk, &["no space left on device", "disk quota exceeded"]),
    (
        Cause::NeedsBuildkit,
        &["requires buildkit", "--mount option requires", "unknown flag: mount", "unknown flag: link"],
    ),
    (Cause::NoBuilder, &["legacy builder is not", "classic builder is not", "buildkit not supported", "no builder"]),
    (
        Cause::Certificate,
        &[
            "certificate_verify_failed",
            "certificate verify failed",
            "ssl certificate problem",
            "self-signed certificate",
            "self signed certificate",
            "unable to get local issuer",
            "certificate signed by unknown authority",
            "unknownissuer",
        ],
    ),
    (Cause::Hash, &["do not match the hashes", "hash sum mismatch", "checksum mismatch"]),
    (
        Cause::Network,
        &[
            "could not resolve",
            "couldn't resolve",
            "could not connect",
            "name resolution",
            "name or service not known",
            "no such host",
            "connection refused",
            "connection timed out",
            "connection reset",
            "failed to establish a new connection",
            "network is unreachable",
            "no route to host",
            "could not fetch url",
            "read timed out",
            "i/o timeout",
            "proxyerror",
            "proxy authentication required",
            "spurious network error",
            "failed to fetch",
            "unable to locate package",
            "no matching distribution found",
            "client.timeout exceeded",
            "tls handshake timeout",
        ],
    ),
];

/// Reads the cause off a failed step's last lines and the engine's message.
#[must_use]
pub fn cause<'a>(lines: impl IntoIterator<Item = &'a str>) -> Cause {
    let text: Vec<String> = lines.into_iter().map(str::to_lowercase).collect();
    let says = |signs: &[&str]| text.iter().any(|line| signs.iter().any(|sign| line.contains(sign)));
    SIGNS.iter().find(|(_, signs)| says(signs)).map_or(Cause::Step, |(cause, _)| *cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_pieces_becomes_steps_and_lines() {
        let mut output = Output::default();
        assert_eq!(
            output.push("Step 2/3 : RUN set -eu;   \\\n ---> Running in 12\n")[0],
            Said::Step(Step { number: 2, of: 3, command: "RUN set -eu;".into() })
        );
        assert_eq!(output.push("\u{1b}[91mhel"), []);
        assert_eq!(
            output.push("lo\u{1b}[0m\nfrom https://me:word@host/\n"),
            [Said::Line("hello".into()), Said::Line("from https://***@host/".into())]
        );
        output.push("no line end");
        let (step, lines) = output.finish();
        assert_eq!(step.map(|step| step.number), Some(2));
        assert_eq!(lines, ["hello", "from https://***@host/", "no line end"]);
    }

    #[test]
    fn only_the_last_lines_of_the_current_step_are_remembered() {
        let mut output = Output::default();
        output.push("before\nStep 1/1 : RUN seq 100\n");
        for number in 0..100 {
            output.push(&format!("{number}\n"));
        }
        let (_, lines) = output.finish();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (20, "80", "99"));
    }

    #[test]
    fn causes_are_told_apart() {
        let cases = [
            ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate", Cause::Certificate),
            ("Failed to establish a new connection: [Errno 113] No route to host", Cause::Network),
            ("Temporary failure in name resolution", Cause::Network),
            ("write /x: no space left on device", Cause::Disk),
            ("THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", Cause::Hash),
            ("the --mount option requires BuildKit. Refer to", Cause::NeedsBuildkit),
            ("error[E0425]: cannot find value", Cause::Step),
        ];
        for (line, expected) in cases {
            assert_eq!(cause(["something", line]), expected, "{line}");
        }
    }
}
