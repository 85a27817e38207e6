//! What a person sees: progress and words on stderr, data on stdout.

pub mod printer;
pub mod progress;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Progress as Mode;
use crate::event::{Event, Operation, Signal};
use crate::image;
use progress::Progress;

/// How often a line is printed at most where lines do not change.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The screen of one command.
pub struct Screen {
    bar: Option<ProgressBar>,
    plain: bool,
    progress: Progress,
    last: Option<(Instant, u32)>,
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
            bar
        });
        Self { bar, plain: !tty && mode != Mode::Quiet, progress: Progress::default(), last: None }
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

    /// Ends the line that changes.
    pub fn clear(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Shows what an event changed.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Told { rank, record } => {
                if let Some(line) = self.progress.hear(*rank, &record.event) {
                    self.line(&line);
                }
                if let Some(status) = self.progress.status() {
                    self.status(&status);
                    self.now_and_then(&status);
                }
            }
            Event::EngineFailed { rank, operation: Operation::Remove, message } => {
                self.line(&format!("rank {rank}: {message}"));
            }
            Event::LimitKept { .. } => {
                self.line("the engine may not lift the limit on locked memory: containers go without");
            }
            Event::Signal(Signal::Interrupt | Signal::Terminate) => {
                self.line("stopping; once more kills at once");
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

/// A line on stderr. A terminal that is gone ends nothing.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A line of data on stdout. Nobody reading on is no failure.
pub fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
