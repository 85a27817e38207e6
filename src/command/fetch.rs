//! Data and weights that a job names: found here, or fetched into the cache.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::dataset::{self, Places, ResolvedData, Wanted};
use crate::error::{ExitCode, Failure};
use crate::fetch::{Asset, FetchOptions, Fetcher, Progress, Stage};
use crate::output::Screen;
use crate::settings::Settings;

/// The data set at this path. Absent for one that is known by name and must be fetched.
pub(super) fn local_data(named: &str) -> Result<Option<ResolvedData>, Failure> {
    let places = places()?;
    match dataset::wanted_data(named, &places.cwd) {
        Wanted::Path(_) => Ok(Some(dataset::resolve(Path::new(named), &places)?)),
        Wanted::Known(_) => Ok(None),
    }
}

/// The data set of this name or path, fetched if need be.
pub(super) async fn data(named: &str, settings: &Settings, screen: &mut Screen) -> Result<ResolvedData, Failure> {
    let places = places()?;
    let yaml = match dataset::wanted_data(named, &places.cwd) {
        Wanted::Path(_) => PathBuf::from(named),
        Wanted::Known(set) => {
            let screen = Mutex::new(screen);
            dataset::obtain(&fetcher(settings)?, set, &|progress| show(&screen, progress)).await?
        }
    };
    Ok(dataset::resolve(&yaml, &places)?)
}

fn places() -> Result<Places, Failure> {
    Places::from_env().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))
}

/// Weights that are known by name, by which [`weights`] fetches them.
pub(super) fn known_weights(named: &str) -> Result<&'static Asset<'static>, Failure> {
    match dataset::wanted_weights(named, Path::new("")) {
        Wanted::Known(weights) => Ok(weights),
        Wanted::Path(path) => {
            let known = dataset::catalog::weights_names();
            let message = format!("no model at `{}`", path.display());
            Err(Failure::bad(message).hint(format!("give a file, or weights that are known by name: {known}")))
        }
    }
}

/// The file of these weights, fetched if need be.
pub(super) async fn weights(weights: &Asset<'_>, settings: &Settings, screen: &mut Screen) -> Result<PathBuf, Failure> {
    let screen = Mutex::new(screen);
    Ok(fetcher(settings)?.file(weights, &|progress| show(&screen, progress)).await?)
}

fn fetcher(settings: &Settings) -> Result<Fetcher, Failure> {
    let mirrors = settings.all.get("EVENKEEL_MIRRORS").map(|list| list.split_whitespace().map(str::to_owned).collect());
    let options = FetchOptions { mirrors: mirrors.unwrap_or_default(), ..FetchOptions::default() };
    Ok(Fetcher::new(settings.cache.clone(), options)?)
}

/// A bar of twenty characters, where the end is known.
fn bar(done: u64, total: Option<u64>) -> String {
    const WIDE: u64 = 20;
    let Some(total) = total.filter(|total| *total > 0) else { return String::new() };
    let full = (done.min(total) * WIDE / total) as usize;
    format!(" [{}{}]", "=".repeat(full), " ".repeat(WIDE as usize - full))
}

fn show(screen: &Mutex<&mut Screen>, progress: Progress<'_>) {
    let Progress { file, stage, done, total } = progress;
    let what = match stage {
        Stage::Waiting => "waiting for another evenkeel that fetches",
        Stage::Downloading => "fetching",
        Stage::Verifying => "checking",
        Stage::Unpacking => "unpacking",
    };
    let amount = match (stage, total) {
        (Stage::Unpacking, Some(total)) => format!(" {done}/{total} files"),
        (_, Some(total)) => format!(" {:.1}/{:.1} MB", done as f64 / 1e6, total as f64 / 1e6),
        (_, None) => format!(" {:.1} MB", done as f64 / 1e6),
    };
    if let Ok(mut screen) = screen.lock() {
        screen.long_work(&format!("{what} {file}{}{amount}", bar(done, total)));
    }
}
