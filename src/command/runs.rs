//! `evenkeel runs`: the runs whose records are here, newest first.

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::cli;
use crate::error::{self, ExitCode, Failure};
use crate::output::look::Look;
use crate::output::{print, runs, say};
use crate::record::find::{self, FindError, Found};
use crate::record::journal::JournalError;
use crate::record::read::{self, Glance};
use crate::settings::Settings;

/// Prints the list.
pub fn run(args: &cli::Runs, settings: &Settings, json: bool) -> Result<ExitCode, Failure> {
    let folder = &args.runs.runs;
    let found = match find::list(folder, args.name.as_deref(), args.all) {
        // Where nothing was trained yet, there is nothing to list.
        Err(FindError::Folder { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        listed => listed?,
    };
    let (mut glances, mut unread) = (Vec::new(), Vec::new());
    for (run, glance) in found.iter().zip(glances_of(&found)) {
        match glance {
            Ok(glance) => glances.push(glance),
            // No run's, or one that was removed meanwhile.
            Err(JournalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => unread.push(format!("{}/{}: {}", run.name, run.id, error::chain(&error))),
        }
    }
    if json {
        let list = List { version: 1, runs: &glances, unread: &unread };
        print(&serde_json::to_string(&list).expect("plain data"))?;
    } else if glances.is_empty() {
        say(&format!("no run in `{}`", folder.display()));
    } else {
        print(&runs::table(&glances, Look::of_stdout(&settings.all), &TimeZone::system()))?;
    }
    for complaint in &unread {
        say(complaint);
    }
    Ok(if unread.is_empty() { ExitCode::Done } else { ExitCode::CorruptState })
}

/// What programs are told.
#[derive(Serialize)]
struct List<'a> {
    version: u32,
    runs: &'a [Glance],
    /// Records that cannot be read, and why.
    unread: &'a [String],
}

/// Looks at each run, on all processors: opening so many files is what takes the time.
fn glances_of(found: &[Found]) -> Vec<Result<Glance, JournalError>> {
    let now_ms = super::now_ms();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = found.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let look = |share: &'_ [Found]| share.iter().map(|run| read::glance(run, now_ms)).collect::<Vec<_>>();
        let threads: Vec<_> = found.chunks(share).map(|share| scope.spawn(move || look(share))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("reading a record does not panic")).collect()
    })
}
