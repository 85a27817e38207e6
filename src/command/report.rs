//! `evenkeel report`: a run as one file for a browser.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::output::{print, say};
use crate::record::find::{self, Found};
use crate::report::{self, gather};

/// The report in a run's directory.
const FILE: &str = "report.html";

/// Writes it.
pub fn run(args: &cli::Report, json: bool) -> Result<ExitCode, Failure> {
    let found = find::find(&args.runs.runs, args.run.as_deref())?;
    if args.output.as_deref() == Some(Path::new("-")) {
        print(&text(&found)?)?;
        return Ok(ExitCode::Done);
    }
    let path = args.output.clone().unwrap_or_else(|| found.path.join(FILE));
    write(&path, &text(&found)?).map_err(|source| NotWritten { path: path.clone(), source })?;
    if json {
        print(&serde_json::json!({ "version": 1, "report": path }).to_string())?;
    } else {
        print(&path.display().to_string())?;
    }
    Ok(ExitCode::Done)
}

/// Writes the report of a run that has just ended into its directory. The run is what it is without.
pub fn of_ended(directory: &Path) {
    let Ok(found) = find::find(Path::new(""), Some(&directory.display().to_string())) else { return };
    let written = text(&found)
        .map_err(|failure| failure.message())
        .and_then(|text| write(&directory.join(FILE), &text).map_err(|error| error.to_string()));
    if let Err(why) = written {
        say(&format!("warning: the report could not be written ({why}); `evenkeel report` tries again"));
    }
}

fn text(found: &Found) -> Result<String, Failure> {
    Ok(report::html(&gather::gather(found, super::now_ms())?))
}

/// Whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.part"));
    let written = std::fs::File::create(&part)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

#[derive(Debug, thiserror::Error)]
#[error("failed to write the report `{}`", path.display())]
struct NotWritten {
    path: PathBuf,
    source: std::io::Error,
}

impl From<NotWritten> for Failure {
    fn from(error: NotWritten) -> Self {
        Self::new(ExitCode::MachineNotReady, error).hint("`-o FILE` writes it elsewhere, `-o -` to stdout")
    }
}
