//! `evenkeel init`: a job to begin with.

use crate::cli;
use crate::error::{ExitCode, Failure};

/// Writes a commented job for a data set.
pub fn run(args: &cli::Init) -> Result<ExitCode, Failure> {
    let _ = args;
    Err(Failure::bad("`init` is not there yet"))
}
