//! `evenkeel ps`: the runs of all users whose containers are on this engine.

use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;

use super::live::{Hand, OnEngine, rank};
use crate::docker::Engine;
use crate::error::{ExitCode, Failure};
use crate::output::live::{Live, Standing, table};
use crate::output::look::Look;
use crate::output::{plain, print, say};
use crate::record::{last_bytes, read, usage};
use crate::settings::Settings;
use crate::users;

/// How long the engine has to say what containers take.
const ENGINE: Duration = Duration::from_millis(100);

/// Prints them.
pub async fn run(settings: &Settings, json: bool) -> Result<ExitCode, Failure> {
    let engine = super::connect(settings).await?;
    let mut runs = Vec::new();
    for run in OnEngine::all(&engine).await? {
        runs.push(look_at(&engine, &run).await);
    }
    if json {
        print(&serde_json::to_string(&List { version: 1, runs: &runs }).expect("plain data"))?;
    } else if runs.is_empty() {
        say("no run is live on this engine");
    } else {
        print(&table(&runs, Look::of_stdout(&settings.all)))?;
    }
    for run in runs.iter().filter(|run| run.owner_uid == Some(settings.caller.uid)) {
        let name = plain(&run.run);
        match run.standing {
            Standing::Running => {}
            Standing::Orphaned => say(&format!(
                "hint: nobody sees {name} through: `evenkeel attach {name}` takes it up, `evenkeel stop {name}` ends it"
            )),
            Standing::Left => say(&format!("hint: `evenkeel prune {name}` removes what is left of it")),
            Standing::Unknown => say(&format!(
                "hint: the record of {name} cannot be looked into from here, nor whether anybody sees it through"
            )),
        }
    }
    Ok(ExitCode::Done)
}

/// What programs are told.
#[derive(Serialize)]
struct List<'a> {
    version: u32,
    runs: &'a [Live],
}

async fn look_at(engine: &Engine, run: &OnEngine) -> Live {
    let standing = match (run.hand(), run.runs()) {
        (Hand::Controller, _) => Standing::Running,
        (Hand::Unknown, _) => Standing::Unknown,
        (Hand::Nobody, true) => Standing::Orphaned,
        (Hand::Nobody, false) => Standing::Left,
    };
    let summary = run.record().and_then(|found| read::standing(&found, super::now_ms()).ok());
    let mut ranks: Vec<Option<u32>> = run.containers.iter().map(rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let mut live = Live {
        run: run.run.clone(),
        directory: run.directory.clone(),
        owner_uid: run.owner,
        owner: run.owner.map(users::name),
        standing,
        ranks: ranks.len(),
        devices: Vec::new(),
        epochs_done: None,
        epochs: None,
        images_per_second: None,
        memory_bytes: None,
    };
    if let Some(summary) = summary {
        live.memory_bytes = summary.ranks.iter().filter_map(|rank| rank.measured_bytes).max();
        live.devices = summary.run.devices;
        (live.epochs_done, live.epochs) = (summary.run.epochs_done, summary.run.epochs);
        live.images_per_second = summary.images_per_second;
    }
    // Its program tells of none, or its record is closed to us: what its containers take of the host's, as it was sampled a moment ago, or as the
    // engine knows it.
    live.memory_bytes = live.memory_bytes.or_else(|| sampled(run));
    if live.memory_bytes.is_none() {
        let running = run.containers.iter().filter(|container| container.running);
        let usages = join_all(running.map(|container| engine.usage(&container.id)));
        // An engine may take a second for each, and a list is worth less than that.
        let usages = tokio::time::timeout(ENGINE, usages).await.unwrap_or_default();
        live.memory_bytes = usages.into_iter().filter_map(|usage| usage.ok().flatten()?.memory_bytes).max();
    }
    live
}

/// The most memory that a rank had in the last samples.
fn sampled(run: &OnEngine) -> Option<u64> {
    const ROWS: u64 = 4 << 10;
    let rows = last_bytes(&run.directory.join(usage::RANKS), ROWS).ok()?;
    usage::ranks(rows.as_slice()).iter().filter_map(|rank| rank.memory_bytes.peak_bytes()).max()
}
