//! Data and weights that a job names: found here, or fetched into the cache.

use std::path::{Path, PathBuf};

use crate::dataset::{self, Places, ResolvedData};
use crate::error::{ExitCode, Failure};
use crate::output::Screen;
use crate::settings::Settings;

/// The data set of this name or path.
pub(super) async fn data(named: &str, _settings: &Settings, _screen: &mut Screen) -> Result<ResolvedData, Failure> {
    let places = Places::from_env().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    Ok(dataset::resolve(Path::new(named), &places)?)
}

/// The weights of this name.
pub(super) async fn weights(named: &str, _settings: &Settings, _screen: &mut Screen) -> Result<PathBuf, Failure> {
    Err(Failure::bad(format!("no weights at `{named}`")))
}
