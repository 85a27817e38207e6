//! `evenkeel prune`: removes what no controller has in hand, once it has shown it.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::json;

use super::live::{OnEngine, generation, rank};
use super::stop;
use crate::cli;
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
    let (held, left): (Vec<OnEngine>, Vec<OnEngine>) =
        all.into_iter().filter(meant).partition(OnEngine::has_controller);
    if let Some(held) = held.first().filter(|_| !args.runs.is_empty()) {
        let hint = format!("`evenkeel stop {}` ends it", held.run);
        return Err(Failure::bad(format!("{} has a controller that lives", held.run)).hint(hint));
    }
    let is_ours = |run: &OnEngine| run.owner == Some(settings.caller.uid) || args.force;
    let (ours, others): (Vec<OnEngine>, Vec<OnEngine>) = left.into_iter().partition(is_ours);
    if !others.is_empty() {
        let names: Vec<&str> = others.iter().map(|run| run.run.as_str()).collect();
        say(&format!("left alone, as other users': {} (with `--force` they go, too)", names.join(", ")));
    }
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
    let mut removed = Vec::new();
    for run in &ours {
        removed.push(&run.run);
        let owned = run.owner == Some(settings.caller.uid);
        if owned && run.directory.is_dir() {
            let screen = Screen::new(cli::Progress::Quiet);
            stop::in_its_place(&engine, run, false, settings, screen, false).await?;
        } else {
            stop::by_engine(&engine, &run.containers, false).await?;
        }
        say(&format!("removed what was left of {}", run.run));
    }
    if json {
        print(&json!({ "version": 1, "removed": removed }).to_string())?;
    }
    Ok(ExitCode::Done)
}

/// What is left of a run, a line for it and one for each container.
fn describe(run: &OnEngine) -> String {
    let owner = run.owner.map_or_else(|| "nobody".to_owned(), users::name);
    let state = if stop::trains(run) { "still trains, and no controller has it in hand" } else { "does not run" };
    let mut lines = vec![format!("{} of {owner}: {state}; record: {}", plain(&run.run), run.directory.display())];
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
