//! `evenkeel reproduce`: a run once more, from its lock alone.

use super::again::{Again, On};
use super::find_run::find;
use super::locking::{Demand, Reference};
use super::train;
use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::output::Screen;
use crate::settings::Settings;

/// Runs it again.
pub async fn run(args: &cli::Reproduce, settings: &Settings, screen: Screen, json: bool) -> Result<ExitCode, Failure> {
    let reference = Reference::read(&find(&args.run)?)?;
    let Again { prepared, takeover, overrides } = Again::of(&reference, &args.overrides, On::Any, settings, &screen)?;
    screen.line(&format!("{} again", reference.locked.lock.run));
    let demand = Demand::Again { reference, overrides, takeover: Box::new(takeover) };
    train::carry_out(prepared, &demand, settings, screen, json).await
}
