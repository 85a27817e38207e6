//! What a person sees: progress and words on stderr, data on stdout.

pub mod chart;
pub mod live;
pub mod look;
pub mod printer;
pub mod progress;
pub mod runs;
pub mod show;
pub mod words;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Progress as Mode;
use crate::error::{ExitCode, Failure};
use crate::event::{Event, Operation, Signal};
use crate::image;
use progress::Progress;

/// How often a line is printed at most where lines do not change.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// How often the spinner turns, so that a long silence does not look like a hang.
const TICK: Duration = Duration::from_millis(200);

/// The screen of one command.
pub struct Screen {
    bar: Option<ProgressBar>,
    plain: bool,
    progress: Progress,
    last: Option<(Instant, u32)>,
    last_work: Option<Instant>,
    /// How often somebody asked for the end.
    signals: u32,
}

impl Screen {
    /// A screen in the mode asked for.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let tty = match mode {
            Mode::Auto => std::io::stderr().is_terminal(),
            Mode::Tty => true,
            Mode::Plain | Mode::Quiet => false,
        };
        let bar = tty.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").expect("a template of two known keys"));
            bar.enable_steady_tick(TICK);
            bar
        });
        // A terminal that cannot change a line (TERM=dumb), or none at all, gets lines.
        let bar = bar.filter(|bar| !bar.is_hidden());
        Self {
            plain: bar.is_none() && mode != Mode::Quiet,
            bar,
            progress: Progress::default(),
            last: None,
            last_work: None,
            signals: 0,
        }
    }

    /// A line that stays. Errors and outcomes are said in every mode; see [`say`].
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None if self.plain => say(text),
            None => {}
        }
    }

    /// What goes on at the moment; replaced by the next.
    pub fn status(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            bar.tick();
        }
    }

    /// What goes on and may take minutes: where lines do not change, it is told every ten seconds.
    pub fn long_work(&mut self, text: &str) {
        self.status(text);
        if self.plain && self.last_work.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL) {
            self.last_work = Some(Instant::now());
            say(text);
        }
    }

    /// Shows what is done about images.
    pub fn image(&mut self, progress: &image::Progress) {
        match progress {
            image::Progress::Note(_) | image::Progress::Image { .. } => self.line(&progress.to_string()),
            image::Progress::Step { .. } if self.bar.is_none() => self.line(&progress.to_string()),
            // Where nothing changes in place, a builder's output is too much and a layer's bytes are too many lines.
            _ => self.status(&progress.to_string()),
        }
    }

    /// The last validation's numbers, by the names that the trainer gives them.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        self.progress.metrics().clone()
    }

    /// Epochs that are over, and those there are in all; absent where no rank told of any.
    #[must_use]
    pub fn epochs(&self) -> (Option<u32>, Option<u32>) {
        self.progress.epochs()
    }

    /// Whether a rank has told of an optimizer step.
    #[must_use]
    pub fn has_steps(&self) -> bool {
        self.progress.status().is_some()
    }

    /// Ends the line that changes; what follows are plain lines. A program that prints for itself gets the terminal so.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            self.plain = true;
        }
    }

    /// Takes note of an event that happened before, without a word.
    pub fn catch_up(&mut self, event: &Event) {
        match event {
            Event::Told { rank, record } => drop(self.progress.hear(*rank, &record.event)),
            Event::Signal(Signal::Hangup) => {}
            Event::Signal(_) => self.signals += 1,
            _ => {}
        }
    }

    /// Shows what an event changed.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Created { rank: 0 } => self.status("starting containers"),
            Event::Told { rank, record } => {
                if let Some(phase) = self.progress.phase(&record.event) {
                    self.status(phase);
                }
                if let Some(line) = self.progress.hear(*rank, &record.event) {
                    self.line(&line);
                }
                if let Some(status) = self.progress.status() {
                    self.status(&status);
                    self.now_and_then(&status);
                }
            }
            Event::EngineFailed { rank, operation: Operation::Remove, message, .. } => {
                self.line(&format!("rank {rank}: {message}"));
            }
            Event::LimitKept { .. } => {
                self.line("the engine may not lift the limit on locked memory: containers go without");
            }
            Event::Signal(Signal::Hangup) => {}
            Event::Signal(signal) => {
                self.signals += 1;
                match (signal, self.signals) {
                    (Signal::Quit, 1) | (_, 2) => self.line("killing; once more leaves the rest to the engine"),
                    (_, 1) => self.line("stopping; once more kills at once"),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// On a screen of plain lines, the status every epoch or ten seconds.
    fn now_and_then(&mut self, status: &str) {
        let epoch = self.progress.epoch();
        let due = match self.last {
            None => true,
            Some((time, said)) => said != epoch || time.elapsed() >= PLAIN_INTERVAL,
        };
        if self.plain && due {
            self.last = Some((Instant::now(), epoch));
            say(status);
        }
    }
}

/// Text of a program as lines that can stand anywhere: of a line that was written over (a progress bar) its last state, without
/// escape sequences and control characters, no longer than a screen is wide.
#[must_use]
pub fn plain(text: &str) -> String {
    const WIDEST: usize = 400;
    if text.len() <= WIDEST && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let line = |line: &str| {
        let line = line.trim_end_matches('\r');
        let last = line.rsplit('\r').next().unwrap_or_default();
        let shown = without_escapes(last);
        match shown.char_indices().nth(WIDEST) {
            Some((cut, _)) => format!("{}…", &shown[..cut]),
            None => shown,
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Takes out CSI (`ESC [ ... letter`) and OSC (`ESC ] ... BEL` or `ESC \\`) sequences and all control characters but tabs.
fn without_escapes(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match (char, chars.peek()) {
            ('\x1b', Some('[')) => {
                chars.next();
                while chars.next().is_some_and(|char| !('@'..='~').contains(&char)) {}
            }
            ('\x1b', Some(']')) => {
                while let Some(char) = chars.next() {
                    if char == '\x07' || (char == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                        break;
                    }
                }
            }
            ('\x1b', Some(_)) => {
                chars.next();
            }
            ('\t', _) => shown.push(char),
            (char, _) if char.is_control() => {}
            _ => shown.push(char),
        }
    }
    shown
}

/// A line on stderr. A terminal that is gone ends nothing.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A line of data on stdout. Nobody reading on is no failure; data that did not get there is.
///
/// # Errors
///
/// Exit code 3 with the system's answer, such as a full disk.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(ExitCode::MachineNotReady, NotPrinted(error)))
        }
        _ => Ok(()),
    }
}

/// Bytes on stdout; whether somebody still reads them.
///
/// # Errors
///
/// Exit code 3 with the system's answer, such as a full disk.
pub fn write(bytes: &[u8]) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(ExitCode::MachineNotReady, NotPrinted(error))),
    }
}

/// Says why a command failed, for programs that asked for JSON on stdout as well, and returns its exit code.
pub fn fail(failure: &Failure, json: bool) -> ExitCode {
    say(&failure.render());
    if json {
        // Whoever cannot be told so has the exit code.
        let _ = print(&failure.to_json().to_string());
    }
    failure.code()
}

#[derive(Debug, thiserror::Error)]
#[error("failed to write to stdout")]
struct NotPrinted(#[source] std::io::Error);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_show_is_what_stays() {
        let text =
            "\x1b[1mbold\x1b[0m and \x1b]0;title\x07plain\n 10%\r 50%\r100%\r\n\x1b]8;;link\x1b\\tab\tbell\x07\x1b";
        assert_eq!(plain(text), "bold and plain\n100%\ntab\tbell");
        assert_eq!(plain(&"é".repeat(1000)).chars().count(), 401);
    }
}
