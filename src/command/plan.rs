//! `evenkeel plan`: what would run and why.

use crate::cli;
use crate::error::{ExitCode, Failure};
use crate::inventory::Inventory;
use crate::output::print;
use crate::settings::Settings;

use super::prepare;

/// Prints the plan of a job; starts nothing, fetches nothing.
pub fn run(args: &cli::Plan, settings: &Settings, json: bool) -> Result<ExitCode, Failure> {
    let visible = settings.cuda_visible_devices.as_deref().filter(|_| args.inventory.is_none());
    let inventory = match &args.inventory {
        None => super::devices::inventory(settings),
        Some(path) => {
            let named = |error| InventoryFile { path: path.clone(), source: error };
            let text = std::fs::read_to_string(path).map_err(|error| Failure::bad(named(error.into())))?;
            Inventory::from_json(&text).map_err(|error| Failure::bad(named(error.into())))?
        }
    };
    let mut prepared = prepare::job(&args.job, inventory, visible, false)?;
    prepared.use_knowledge_of(settings)?;
    if json {
        print(&serde_json::to_string_pretty(&prepared.plan_as_json()).expect("plain data"))?;
    } else {
        print(prepared.describe().trim_end())?;
    }
    Ok(ExitCode::Done)
}

#[derive(Debug, thiserror::Error)]
#[error("failed to read the inventory `{}`", path.display())]
struct InventoryFile {
    path: std::path::PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}
