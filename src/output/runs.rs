//! The list of runs as a person reads it. Pure.

use jiff::tz::TimeZone;

use super::look::Look;
use super::plain;
use super::words::{columns, devices, human_seconds, moment};
use crate::record::read::Glance;
use crate::record::summary::State;

/// A line for each run, under a heading; nothing for none.
#[must_use]
pub fn table(runs: &[Glance], look: Look, zone: &TimeZone) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let heading = ["id", "name", "begun", "state", "epochs", "time", "mAP50", "devices"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(heading).chain(runs.iter().map(|run| row(run, look, zone))).collect();
    columns(&rows).join("\n")
}

fn row(run: &Glance, look: Look, zone: &TimeZone) -> [String; 8] {
    [
        plain(&run.id),
        plain(&run.name),
        run.begun_ms.map(|ms| moment(ms, zone)).unwrap_or_default(),
        look.paint(colour(run.state), &state(run.state, run.class.as_deref())),
        epochs(run.epochs_done, run.epochs),
        run.seconds.map(human_seconds).unwrap_or_default(),
        run.map50.map(|map| format!("{map:.3}")).unwrap_or_default(),
        devices(&run.devices),
    ]
}

/// Where a run stands, with the class of a failure.
#[must_use]
pub fn state(state: State, class: Option<&str>) -> String {
    class.map_or_else(|| state.name().to_owned(), |class| format!("{}: {}", state.name(), plain(class)))
}

/// The colour of a state.
#[must_use]
pub fn colour(state: State) -> u8 {
    match state {
        State::Done => 32,
        State::Failed => 31,
        State::Stopped | State::Unknown => 33,
        State::Running => 36,
    }
}

/// `3/10`; nothing for a program that tells of no epochs.
#[must_use]
pub fn epochs(done: Option<u64>, of: Option<u64>) -> String {
    match (done, of) {
        (done, Some(of)) => format!("{}/{of}", done.unwrap_or(0)),
        (Some(done), None) => done.to_string(),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_a_line() {
        let run = Glance {
            id: "20261124-034501".into(),
            name: "shapes".into(),
            path: "runs/shapes/20261124-034501".into(),
            state: State::Done,
            class: None,
            begun_ms: Some(1_795_491_901_000),
            seconds: Some(125.0),
            epochs_done: Some(10),
            epochs: Some(10),
            map50: Some(0.9123),
            devices: vec!["cpu:0".into(), "cpu:1".into()],
        };
        let failed = Glance {
            id: "x\x1b[31m".into(),
            state: State::Failed,
            class: Some("code".into()),
            begun_ms: None,
            seconds: None,
            epochs: None,
            epochs_done: None,
            map50: None,
            devices: Vec::new(),
            ..run.clone()
        };
        let look = Look { width: 80, colour: false, unicode: true };
        let text = table(&[run, failed], look, &TimeZone::UTC);
        let expected = "\
id               name    begun                state         epochs  time       mAP50  devices
20261124-034501  shapes  2026-11-24 03:45:01  done          10/10   2 min 5 s  0.912  2 cpu
x                shapes                       failed: code";
        assert_eq!(text, expected);
        assert_eq!(table(&[], look, &TimeZone::UTC), "");
    }
}
