//! What of Evenkeel is on the engine, whoever began it: the containers of each run, and whether a controller has it in hand.

use std::path::{Path, PathBuf};

use crate::docker::{Container, Engine};
use crate::error::Failure;
use crate::launch::label;
use crate::record::find::{self, Found};
use crate::record::{holder, live};

/// The containers of a run.
#[derive(Clone, Debug)]
pub struct OnEngine {
    /// `NAME/ID`.
    pub run: String,
    /// The run's directory on the machine that began it.
    pub directory: PathBuf,
    /// Number of the user who began it.
    pub owner: Option<u32>,
    /// In the order of launches and ranks.
    pub containers: Vec<Container>,
}

impl OnEngine {
    /// All runs of which the engine has containers, by name.
    ///
    /// # Errors
    ///
    /// The engine does not answer.
    pub async fn all(engine: &Engine) -> Result<Vec<Self>, Failure> {
        let mut runs: Vec<Self> = Vec::new();
        for container in engine.list(label::RUN).await? {
            let text = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
            let (run, directory) = (text(label::RUN), PathBuf::from(text(label::DIRECTORY)));
            let owner = text(label::OWNER).parse().ok();
            match runs.iter_mut().find(|known| known.run == run && known.directory == directory) {
                Some(known) => known.containers.push(container),
                None => runs.push(Self { run, directory, owner, containers: vec![container] }),
            }
        }
        for run in &mut runs {
            run.containers.sort_by_key(|container| (generation(container), rank(container)));
        }
        runs.sort_by(|one, other| (&one.run, &one.directory).cmp(&(&other.run, &other.directory)));
        Ok(runs)
    }

    /// Whether any of its containers runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.containers.iter().any(|container| container.running)
    }

    /// Whether a controller has it in hand.
    #[must_use]
    pub fn has_controller(&self) -> bool {
        has_controller(&self.directory)
    }

    /// Its record, where that can be read from here.
    #[must_use]
    pub fn record(&self) -> Option<Found> {
        find::find(Path::new(""), Some(&self.directory.display().to_string())).ok()
    }

    /// Whether a person who types `wanted` means this run.
    #[must_use]
    pub fn is_meant(&self, wanted: &str) -> bool {
        let (name, id) = self.run.split_once('/').unwrap_or((&self.run, ""));
        let path = || Path::new(wanted).canonicalize().is_ok_and(|path| path == self.directory);
        self.run == wanted || name == wanted || (!wanted.is_empty() && id.starts_with(wanted)) || path()
    }
}

/// Whether a controller has the run in this directory in hand. Who may not open another user's journal still sees its lock.
#[must_use]
pub fn has_controller(directory: &Path) -> bool {
    live::has_controller(directory) || holder(directory).is_some()
}

/// The rank of a container.
#[must_use]
pub fn rank(container: &Container) -> Option<u32> {
    number(container, label::RANK)
}

/// The launch of a container.
#[must_use]
pub fn generation(container: &Container) -> Option<u32> {
    number(container, label::GENERATION)
}

fn number(container: &Container, label: &str) -> Option<u32> {
    container.labels.get(label)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_meant_by_its_name_or_the_beginning_of_its_identifier() {
        let directory = PathBuf::from("/r/shapes/20261127-080000");
        let run = OnEngine { run: "shapes/20261127-080000".into(), directory, owner: None, containers: Vec::new() };
        for wanted in ["shapes", "shapes/20261127-080000", "20261127", "20261127-080000"] {
            assert!(run.is_meant(wanted), "{wanted}");
        }
        for wanted in ["shape", "", "20261128", "other/20261127-080000"] {
            assert!(!run.is_meant(wanted), "{wanted}");
        }
    }
}
