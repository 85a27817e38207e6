//! `evenkeel show`: what came of a run, on one screen.

use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::output::look::Look;
use crate::output::{print, show};
use crate::record::find;
use crate::record::read;
use crate::settings::Settings;

/// Prints the summary.
pub fn run(args: &cli::Show, settings: &Settings, json: bool) -> Result<ExitCode, Failure> {
    let found = find::find(&args.runs.runs, args.run.as_deref())?;
    let summary = read::summary(&found, super::now_ms())?;
    if json {
        print(&json!({ "version": 1, "summary": summary }).to_string())?;
    } else {
        print(&show::summary(&summary, Look::of_stdout(&settings.all), &TimeZone::system()))?;
    }
    Ok(ExitCode::Done)
}
