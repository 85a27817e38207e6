//! `evenkeel prune`: removes what no controller has in hand, once it has shown it.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::json;

use super::live::{Hand, OnEngine, generation, rank};
use super::stop;
use crate::cli;
use crate::docker::Engine;
use crate::error::{ExitCode, Failure};
use crate::output::{Screen, plain, print, say};
use crate::settings::Settings;
use crate::users;

/// Shows it, asks, and removes it.
pub async fn run(args: &cli::Prune, settings: &Settings, json: bool) -> Result<ExitCode, Failure> {
    let engine = super::connect(settings).await?;
    let all = OnEngine::all(&engine).await?;
    if let Some(unknown) = args.runs.iter().find(|wanted| !all.iter().any(|run| run.is_meant(wanted))) {
        let message = format!("the engine has no container of a run that is called `{unknown}`");
        return Err(Failure::bad(message).hint("`evenkeel ps` lists the runs of which it has"));
    }
    let meant = |run: &OnEngine| args.runs.is_empty() || args.runs.iter().any(|wanted| run.is_meant(wanted));
    let (mut left, mut unknown) = (Vec::new(), Vec::new());
    for run in all.into_iter().filter(meant) {
        match run.hand() {
            Hand::Controller if args.runs.is_empty() => {}
            Hand::Controller => {
                let hint = format!("`evenkeel stop {}` ends it", run.run);
                return Err(Failure::bad(format!("{} has a controller that lives", run.run)).hint(hint));
            }
            // Somebody may well see through what cannot be looked into; who names it knows that nobody does.
            Hand::Unknown if args.runs.is_empty() => unknown.push(run),
            Hand::Nobody | Hand::Unknown => left.push(run),
        }
    }
    left_alone(&unknown, "their records cannot be looked into from here", "named");
    let may_go = |run: &OnEngine| run.owner == Some(settings.caller.uid) || args.force;
    let (ours, others): (Vec<OnEngine>, Vec<OnEngine>) = left.into_iter().partition(may_go);
    left_alone(&others, "they are other users'", "with `--force`");
    if ours.is_empty() {
        say("nothing to remove");
        return Ok(ExitCode::Done);
    }
    let shown = ours.iter().map(describe).collect::<Vec<_>>().join("\n");
    if json {
        say(&shown)
    } else {
        print(&shown)?
    }
    if !args.yes && !agreed()? {
        say("nothing was removed");
        return Ok(ExitCode::Done);
    }
    let (mut removed, mut failed) = (Vec::new(), None);
    for run in &ours {
        match remove(&engine, run, settings).await {
            Ok(()) => {
                say(&format!("removed what was left of {}", plain(&run.run)));
                removed.push(&run.run);
            }
            // One that cannot be removed keeps none of the others.
            Err(failure) => {
                say(&format!("{} is not removed: {}", plain(&run.run), failure.message()));
                failed.get_or_insert(failure);
            }
        }
    }
    if json {
        print(&json!({ "version": 1, "removed": removed }).to_string())?;
    }
    failed.map_or(Ok(ExitCode::Done), Err)
}

async fn remove(engine: &Engine, run: &OnEngine, settings: &Settings) -> Result<(), Failure> {
    match run.hand() {
        // While a person thought it over.
        Hand::Controller => return Err(Failure::bad("a controller has taken it up meanwhile")),
        Hand::Nobody if run.owner == Some(settings.caller.uid) => {
            stop::in_its_place(engine, run, false, settings, Screen::new(cli::Progress::Quiet)).await?;
        }
        Hand::Nobody | Hand::Unknown => stop::by_engine(engine, &run.containers, false).await?,
    }
    stop::check_gone(engine, run).await
}

fn left_alone(runs: &[OnEngine], why: &str, how: &str) {
    if !runs.is_empty() {
        let names: Vec<String> = runs.iter().map(|run| plain(&run.run)).collect();
        say(&format!("left alone, as {why}: {} ({how} they go, too)", names.join(", ")));
    }
}

/// What is left of a run, a line for it and one for each container.
fn describe(run: &OnEngine) -> String {
    let owner = run.owner.map_or_else(|| "nobody".to_owned(), users::name);
    let state = match (run.hand(), stop::trains(run)) {
        (Hand::Unknown, true) => "still trains, and whether a controller has it in hand cannot be told from here",
        (_, true) => "still trains, and no controller has it in hand",
        (_, false) => "does not run",
    };
    let mut lines = vec![format!("{} of {owner}: {state}; record: {}", plain(&run.run), run.place())];
    for container in &run.containers {
        let number = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        lines.push(format!(
            "  launch {}, rank {}: {} ({})",
            number(generation(container)),
            number(rank(container)),
            container.status,
            container.id.get(..12).unwrap_or(&container.id)
        ));
    }
    lines.join("\n")
}

/// Whether a person at the terminal wants it.
fn agreed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Failure::bad("nothing was removed: there is no terminal to ask at").hint("`--yes` says it beforehand")
        );
    }
    eprint!("remove all of this? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
