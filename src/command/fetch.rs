//! Data and weights that a job names: found here, or fetched into the cache.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::dataset::{self, Places, ResolvedData, Wanted};
use crate::error::{ExitCode, Failure};
use crate::fetch::{FetchOptions, Fetcher, Progress, Stage};
use crate::output::Screen;
use crate::settings::Settings;

/// The data set of this name or path.
pub(super) async fn data(named: &str, settings: &Settings, screen: &mut Screen) -> Result<ResolvedData, Failure> {
    let places = Places::from_env().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let yaml = match dataset::wanted_data(named, &places.cwd) {
        Wanted::Path(_) => PathBuf::from(named),
        Wanted::Known(set) => {
            let screen = Mutex::new(screen);
            dataset::obtain(&fetcher(settings)?, set, &|progress| show(&screen, progress)).await?
        }
    };
    Ok(dataset::resolve(&yaml, &places)?)
}

/// The file of these weights.
pub(super) async fn weights(named: &str, settings: &Settings, screen: &mut Screen) -> Result<PathBuf, Failure> {
    match dataset::wanted_weights(named, Path::new("")) {
        Wanted::Known(weights) => {
            let screen = Mutex::new(screen);
            Ok(fetcher(settings)?.file(weights, &|progress| show(&screen, progress)).await?)
        }
        Wanted::Path(path) => {
            let known = dataset::catalog::weights_names();
            let message = format!("no model at `{}`", path.display());
            Err(Failure::bad(message).hint(format!("give a file, or weights that are known by name: {known}")))
        }
    }
}

fn fetcher(settings: &Settings) -> Result<Fetcher, Failure> {
    let mirrors = settings.all.get("EVENKEEL_MIRRORS").map(|list| list.split_whitespace().map(str::to_owned).collect());
    let options = FetchOptions { mirrors: mirrors.unwrap_or_default(), ..FetchOptions::default() };
    Ok(Fetcher::new(settings.cache.clone(), options)?)
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
        screen.status(&format!("{what} {file}{amount}"));
    }
}
