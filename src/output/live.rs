//! The list of live runs as a person reads it. Pure.

use std::path::PathBuf;

use serde::Serialize;

use super::look::Look;
use super::plain;
use super::runs::epochs;
use super::words::{columns, devices};

/// A run whose containers are on the engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Live {
    /// `NAME/ID`.
    pub run: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Who began it: number and name.
    pub owner_uid: Option<u32>,
    /// See `owner_uid`.
    pub owner: Option<String>,
    /// Where it stands.
    pub standing: Standing,
    /// Ranks that have containers.
    pub ranks: usize,
    /// Devices by rank, where its record can be read.
    pub devices: Vec<String>,
    /// Epochs that are over.
    pub epochs_done: Option<u64>,
    /// Epochs that were asked for.
    pub epochs: Option<u64>,
    /// Images a second, of all ranks together.
    pub images_per_second: Option<f64>,
    /// The most that one rank was seen to take, in bytes.
    pub memory_bytes: Option<u64>,
}

/// Where a run on the engine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A controller has it in hand.
    Running,
    /// Its containers run, and no controller has it in hand.
    Orphaned,
    /// What is left of it does not run.
    Left,
    /// Whether a controller has it in hand cannot be told from here.
    Unknown,
}

impl Standing {
    fn words(self) -> (u8, &'static str) {
        match self {
            Self::Running => (36, "running"),
            Self::Orphaned => (33, "orphaned"),
            Self::Left => (33, "left behind"),
            Self::Unknown => (33, "unknown"),
        }
    }
}

/// A line for each run, under a heading.
#[must_use]
pub fn table(runs: &[Live], look: Look) -> String {
    let heading = ["run", "owner", "state", "ranks", "devices", "epochs", "images/s", "memory"].map(str::to_owned);
    let row = |run: &Live| {
        let (colour, words) = run.standing.words();
        [
            plain(&run.run),
            run.owner.as_deref().map(plain).unwrap_or_default(),
            look.paint(colour, words),
            run.ranks.to_string(),
            devices(&run.devices),
            epochs(run.epochs_done, run.epochs),
            run.images_per_second.map(|speed| format!("{speed:.1}")).unwrap_or_default(),
            run.memory_bytes.map(crate::inventory::render::bytes).unwrap_or_default(),
        ]
    };
    columns(&std::iter::once(heading).chain(runs.iter().map(row)).collect::<Vec<_>>()).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_a_line() {
        let live = Live {
            run: "shapes/20261127-080000".into(),
            directory: "/r".into(),
            owner_uid: Some(1000),
            owner: Some("ada".into()),
            standing: Standing::Orphaned,
            ranks: 2,
            devices: vec!["cpu:0".into(), "cpu:1".into()],
            epochs_done: Some(3),
            epochs: Some(10),
            images_per_second: Some(123.45),
            memory_bytes: Some(1 << 30),
        };
        let look = Look { width: 80, colour: false, unicode: false };
        let other = Live { run: "x/1".into(), devices: Vec::new(), epochs: None, epochs_done: None, ..live.clone() };
        let text = table(&[live, other], look);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "run                     owner  state     ranks  devices  epochs  images/s  memory",
                "shapes/20261127-080000  ada    orphaned  2      2 cpu    3/10    123.5     1.0 GiB",
                "x/1                     ada    orphaned  2                       123.5     1.0 GiB",
            ]
        );
    }
}
