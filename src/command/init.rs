//! `evenkeel init`: a job to begin with.

use std::io::Write;
use std::path::PathBuf;

use crate::cli;
use crate::dataset::{self, Places};
use crate::error::{ExitCode, Failure};
use crate::output::{print, say};

/// Writes a commented job for a data set. As JSON the path of the file is printed; `-` prints the job itself.
pub fn run(args: &cli::Init, json: bool) -> Result<ExitCode, Failure> {
    let places = Places::from_env().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let set = dataset::resolve(&args.data, &places)?;
    let text = dataset::job_for(&args.data.display().to_string(), &set);
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.yaml", dataset::name_of(&set))));
    if path.as_os_str() == "-" {
        print(text.trim_end())?;
        return Ok(ExitCode::Done);
    }
    // Never over a job that somebody wrote.
    let created = std::fs::File::options().write(true).create_new(true).open(&path);
    created.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|source| {
        let code = match source.kind() {
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotFound => ExitCode::BadRequest,
            _ => ExitCode::MachineNotReady,
        };
        let failure = Failure::new(code, JobFile { path: path.clone(), source });
        failure.hint("name another file with `--output`, or `--output -` to print")
    })?;
    if json {
        print(&serde_json::json!({ "version": 1, "job": path }).to_string())?;
        return Ok(ExitCode::Done);
    }
    let path = path.display();
    let program = std::env::args().next().unwrap_or_else(|| "evenkeel".to_owned());
    say(&format!("wrote {path}\nnext: {program} plan {path}, {program} train {path} --smoke"));
    Ok(ExitCode::Done)
}

#[derive(Debug, thiserror::Error)]
#[error("failed to write the job `{}`", path.display())]
struct JobFile {
    path: PathBuf,
    source: std::io::Error,
}
