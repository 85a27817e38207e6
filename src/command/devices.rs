//! `evenkeel devices`: what this machine has to compute on.

use crate::error::{ExitCode, Failure};
use crate::inventory::{Inventory, lock, nvml, render};
use crate::output::print;
use crate::settings::Settings;

/// Prints the devices.
pub fn run(settings: &Settings, json: bool) -> Result<ExitCode, Failure> {
    let inventory = inventory(settings);
    if json {
        print(&serde_json::to_string_pretty(&render::report(&inventory)).expect("plain data"))?;
    } else {
        print(render::table(&inventory).trim_end())?;
    }
    Ok(ExitCode::Done)
}

/// The devices of this machine, with the runs that hold them.
pub(super) fn inventory(settings: &Settings) -> Inventory {
    let mut inventory = nvml::inventory(settings.nvml.as_deref());
    let directory = settings.locks.clone().unwrap_or_else(lock::default_directory);
    lock::mark(&mut inventory, &directory);
    inventory
}
