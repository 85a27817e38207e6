//! `evenkeel logs`: what the ranks wrote, of a run that goes on or one that is over.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use regex::bytes::Regex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::logs::lines::{Line, Lines};
use crate::logs::merge::Merge;
use crate::logs::since::{self, SinceError};
use crate::logs::write::Form;
use crate::output::look::Look;
use crate::output::{say, write};
use crate::record::find::{self, Found};
use crate::record::{journal, live};
use crate::settings::Settings;
use crate::signal::Signals;

use super::train::{interrupted, stopped};

/// How long what a rank writes may wait for its reader; nobody reads faster.
const INTERVAL: Duration = Duration::from_millis(50);
/// Bytes that are printed at once.
const PIECE: usize = 64 << 10;

/// Prints logs. A thread of its own does, which nothing waits for: neither a slow reader nor a slow disk delays Ctrl-C.
pub async fn run(args: cli::Logs, settings: &Settings, json: bool) -> Result<ExitCode, Failure> {
    let found = find::find(&args.runs.runs, args.run.as_deref())?;
    let mut signals = Signals::take().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let look = Look::of_stdout(&settings.all);
    let reading = tokio::task::spawn_blocking(move || match Reader::new(&args, &found, look, json)? {
        Some(mut reader) => reader.read(),
        None => Ok(()),
    });
    tokio::select! {
        read = reading => read.map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?.map(|()| ExitCode::Done),
        signal = stopped(&mut signals) => Ok(interrupted(signal)),
    }
}

/// The log of a rank cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the logs in `{}`", folder.display())]
struct LogsError {
    folder: PathBuf,
    source: std::io::Error,
}

/// What was asked of the logs does not go with them.
#[derive(Debug, thiserror::Error)]
enum AskedError {
    #[error("run `{run}` has no rank {rank}: {there}")]
    NoRank { run: String, rank: u32, there: String },
    #[error("the logs of run `{run}` have no times, by which `{option}` could choose")]
    NoTimes { run: String, option: &'static str },
    #[error("`--grep {given}` is no regular expression: {why}")]
    Pattern { given: String, why: String },
}

impl From<AskedError> for Failure {
    fn from(error: AskedError) -> Self {
        let hint = match &error {
            AskedError::NoRank { .. } => "without `--rank` the logs of all ranks are shown",
            AskedError::NoTimes { .. } => {
                "an earlier Evenkeel wrote them; `--tail` and `--grep` choose by what is in them"
            }
            AskedError::Pattern { .. } => "put a backslash before what is to be taken literally: `\\[`, `\\.`",
        };
        Self::bad(error).hint(hint)
    }
}

impl From<SinceError> for Failure {
    fn from(error: SinceError) -> Self {
        Self::bad(error).hint(since::FORMS)
    }
}

/// What is read, and how it is printed.
struct Reader {
    run: PathBuf,
    logs: PathBuf,
    /// One rank's log, or all of them.
    rank: Option<u32>,
    follow: bool,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    pattern: Option<Regex>,
    tail: Option<u64>,
    form: Form,
    merge: Merge,
    /// One rank's bytes, where nothing is to be known of lines.
    bytes: Option<Lines>,
    /// The last lines so far, while only those of what is there already are to be shown.
    last: Option<VecDeque<Vec<u8>>>,
    out: Vec<u8>,
}

impl Reader {
    /// A reader of what was asked for; none where who asked has left.
    fn new(args: &cli::Logs, found: &Found, look: Look, json: bool) -> Result<Option<Self>, Failure> {
        let logs = found.path.join("logs");
        let mut ranks = ranks(&found.path);
        // A run that has just begun has no plan yet, and nobody knows its ranks.
        while ranks.is_empty() && args.follow && live::is_live(&found.path) {
            if !wait() {
                return Ok(None);
            }
            ranks = self::ranks(&found.path);
        }
        let run = || format!("{}/{}", found.name, found.id);
        if let Some(rank) = args.rank.filter(|rank| !ranks.contains(rank)) {
            let there = match ranks[..] {
                [] => "it has no logs".to_owned(),
                [one] => format!("its only one is {one}"),
                [first, .., last] => format!("its ranks are {first} to {last}"),
            };
            return Err(AskedError::NoRank { run: run(), rank, there }.into());
        }
        let pattern = args.grep.as_ref().map(|given| {
            Regex::new(given).map_err(|error| {
                // The last line of its message says what is wrong; those above draw it.
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                AskedError::Pattern { given: given.clone(), why }
            })
        });
        let pattern = pattern.transpose()?;
        let (zone, reference) = (TimeZone::system(), reference(&found.path)?);
        let moment = |option, given: &Option<String>| {
            given.as_ref().map(|given| since::moment(option, given, reference, &zone)).transpose()
        };
        let (since_ms, until_ms) = (moment("--since", &args.since)?, moment("--until", &args.until)?);

        let read: Vec<u32> = args.rank.map_or_else(|| ranks.clone(), |rank| vec![rank]);
        let mut without_times = false;
        for rank in &read {
            let lacks = Lines::new(&logs, *rank).lacks_times();
            without_times |= lacks.map_err(|source| LogsError { folder: logs.clone(), source }).map_err(failed)?;
        }
        if without_times {
            let option = since_ms.map(|_| "--since").or_else(|| until_ms.map(|_| "--until"));
            if let Some(option) = option {
                return Err(AskedError::NoTimes { run: run(), option }.into());
            }
            if read.len() > 1 {
                say("the times of lines were not recorded: the ranks stand one after the other");
            }
        }

        let highest = read.iter().max().copied().unwrap_or(0);
        let form = match (json, args.rank) {
            (true, _) => Form::Json,
            (false, Some(_)) => Form::Raw,
            (false, None) => Form::Prefixed {
                digits: highest.to_string().len(),
                colour: look.colour,
                terminal: std::io::stdout().is_terminal(),
            },
        };
        let mut reader = Self {
            run: found.path.clone(),
            logs,
            rank: args.rank,
            follow: args.follow,
            since_ms,
            until_ms,
            pattern,
            tail: args.tail,
            form,
            merge: Merge::default(),
            bytes: None,
            last: args.tail.map(|_| VecDeque::new()),
            out: Vec::new(),
        };
        match reader.rank {
            Some(rank) if form == Form::Raw && reader.pattern.is_none() && until_ms.is_none() => {
                reader.bytes = Some(reader.open(rank)?);
                reader.last = None;
            }
            _ => reader.discover()?,
        }
        Ok(Some(reader))
    }

    /// Prints until all is printed; where it follows, until the run is over as well. A reader who leaves ends it, too.
    fn read(&mut self) -> Result<(), Failure> {
        loop {
            // Asked before what is there is read: nothing comes after the end.
            let over = !self.follow || self.is_over()?;
            let (some, reader) = self.print(over)?;
            if over || !reader {
                return Ok(());
            }
            if !some {
                if self.bytes.is_none() {
                    self.discover()?;
                }
                if !wait() {
                    return Ok(());
                }
            }
        }
    }

    /// Prints what is there: whether that was something, and whether somebody still reads.
    fn print(&mut self, over: bool) -> Result<(bool, bool), Failure> {
        let mut some = false;
        if let Some(lines) = &mut self.bytes {
            loop {
                let bytes =
                    lines.take_bytes().map_err(|source| failed(LogsError { folder: self.logs.clone(), source }))?;
                if bytes.is_empty() {
                    return Ok((some, true));
                }
                some = true;
                if !write(&bytes)? {
                    return Ok((some, false));
                }
            }
        }
        while let Some((rank, line)) =
            self.merge.next(over).map_err(|source| failed(LogsError { folder: self.logs.clone(), source }))?
        {
            some = true;
            if !self.is_wanted(&line) {
                continue;
            }
            if let (Some(last), Some(count)) = (&mut self.last, self.tail) {
                let mut text = Vec::new();
                self.form.write(rank, &line, &mut text);
                last.push_back(text);
                if last.len() as u64 > count {
                    last.pop_front();
                }
                continue;
            }
            self.form.write(rank, &line, &mut self.out);
            if self.out.len() >= PIECE && !self.flush()? {
                return Ok((some, false));
            }
        }
        // What comes from now on is new, and all of it is wanted.
        for text in self.last.take().into_iter().flatten() {
            self.out.extend_from_slice(&text);
        }
        Ok((some, self.flush()?))
    }

    fn is_wanted(&self, line: &Line) -> bool {
        let text = line.bytes.strip_suffix(b"\n").unwrap_or(&line.bytes);
        self.since_ms.is_none_or(|since| line.time_ms >= since)
            && self.until_ms.is_none_or(|until| line.time_ms <= until)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
    }

    fn flush(&mut self) -> Result<bool, Failure> {
        let reads = self.out.is_empty() || write(&self.out)?;
        self.out.clear();
        Ok(reads)
    }

    /// Whether nothing that is wanted can come any more.
    fn is_over(&self) -> Result<bool, Failure> {
        if self.until_ms.is_some_and(|until| until + 1000 < super::now_ms()) {
            return Ok(true);
        }
        if journal::ends(&self.run)?.end.is_some() {
            return Ok(true);
        }
        if live::is_live(&self.run) {
            return Ok(false);
        }
        // It may have ended between the two questions.
        if journal::ends(&self.run)?.end.is_none() {
            say("nobody works on this run any more, though its record has no end");
        }
        Ok(true)
    }

    /// Reads the logs that are there and were not before: ranks begin one after the other.
    fn discover(&mut self) -> Result<(), Failure> {
        let there = self.rank.map_or_else(|| ranks(&self.run), |rank| vec![rank]);
        for rank in there {
            if !self.merge.has(rank) {
                let lines = self.open(rank)?;
                self.merge.add(rank, lines);
            }
        }
        Ok(())
    }

    /// The log of a rank, from where it is wanted on.
    fn open(&self, rank: u32) -> Result<Lines, Failure> {
        let mut lines = Lines::new(&self.logs, rank);
        let skipped = self.since_ms.map_or(Ok(()), |since| lines.skip_to(since)).and_then(|()| match self.tail {
            // A rank that begins now has written nothing that was there. Of those that a pattern or a time chooses, the last can be told
            // only from the first on.
            Some(count) if self.last.is_some() && self.pattern.is_none() && self.until_ms.is_none() => {
                lines.skip_to_last(count)
            }
            _ => Ok(()),
        });
        skipped.map_err(|source| failed(LogsError { folder: self.logs.clone(), source }))?;
        Ok(lines)
    }
}

/// Waits a moment; whether somebody still reads stdout.
fn wait() -> bool {
    let stdout = std::io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let interval = Timespec::try_from(INTERVAL).ok();
    match poll(&mut polled, interval.as_ref()) {
        // A pipe whose other end is closed says so though nothing is asked.
        Ok(1..) => !polled[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL),
        _ => true,
    }
}

/// What lengths of time count back from: the run's end, or now while it goes on.
fn reference(run: &Path) -> Result<u64, Failure> {
    let ends = journal::ends(run)?;
    Ok(match ends.end {
        Some(end) => end.time_ms,
        None if live::is_live(run) => super::now_ms(),
        None => journal::read(run)?.last().map_or_else(super::now_ms, |last| last.time_ms),
    })
}

/// The ranks that have or will have a log.
fn ranks(run: &Path) -> Vec<u32> {
    let number = |name: &str| name.strip_prefix("rank-")?.strip_suffix(".log")?.parse::<u32>().ok();
    let files = std::fs::read_dir(run.join("logs")).into_iter().flatten().flatten();
    let mut ranks: Vec<u32> = files.filter_map(|file| number(file.file_name().to_str()?)).collect();
    let plan = std::fs::read(run.join("plan.json")).ok();
    let plan: Option<serde_json::Value> = plan.and_then(|text| serde_json::from_slice(&text).ok());
    let containers = plan.and_then(|plan| u32::try_from(plan["containers"].as_u64()?).ok());
    ranks.extend(0..containers.unwrap_or(0));
    ranks.sort_unstable();
    ranks.dedup();
    ranks
}

fn failed(error: LogsError) -> Failure {
    Failure::new(ExitCode::MachineNotReady, error)
}
