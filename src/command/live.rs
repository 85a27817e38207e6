//! What of Evenkeel is on the engine, whoever began it: the containers of each run, and whether a controller has it in hand.

use std::path::{Path, PathBuf};

use crate::docker::{Container, Engine};
use crate::error::Failure;
use crate::launch::{self, label};
use crate::output::plain;
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
        for container in engine.list(label::RUN).await?.into_iter().filter(is_ours) {
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

    /// Who has it in hand.
    #[must_use]
    pub fn hand(&self) -> Hand {
        hand(&self.directory)
    }

    /// Its directory, fit for a line of a terminal: containers tell of it, which anybody makes.
    #[must_use]
    pub fn place(&self) -> String {
        plain(&self.directory.display().to_string()).replace('\n', " ")
    }

    /// Whether the engine still has any of its containers.
    ///
    /// # Errors
    ///
    /// The engine does not answer.
    pub async fn is_gone(&self, engine: &Engine) -> Result<bool, Failure> {
        Ok(!Self::all(engine).await?.iter().any(|run| (&run.run, &run.directory) == (&self.run, &self.directory)))
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
        self.run == wanted || name == wanted || (!wanted.is_empty() && id.starts_with(wanted)) || self.is_at(wanted)
    }

    /// Whether `path` is its directory.
    #[must_use]
    pub fn is_at(&self, path: &str) -> bool {
        Path::new(path).canonicalize().is_ok_and(|path| path == self.directory)
    }
}

/// Who has a run in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// A controller.
    Controller,
    /// Nobody.
    Nobody,
    /// That cannot be told from here: its record is somebody else's, on another machine, or gone.
    Unknown,
}

/// Who has the run in this directory in hand. Who may not open another user's journal may still see its lock.
#[must_use]
pub fn hand(directory: &Path) -> Hand {
    match live::controller(directory) {
        Some(true) => Hand::Controller,
        Some(false) => Hand::Nobody,
        None if holder(directory).is_some() => Hand::Controller,
        None => Hand::Unknown,
    }
}

/// Whether a container is what its labels say. A container or an image that was made of one of ours has the labels too, and another name.
#[must_use]
pub fn is_ours(container: &Container) -> bool {
    let text = |name: &str| container.labels.get(name).map(String::as_str).unwrap_or_default();
    let id = text(label::RUN).split_once('/').map_or("", |(_, id)| id);
    let (generation, rank) = (generation(container), rank(container));
    let name = generation
        .zip(rank)
        .map(|(generation, rank)| launch::name(id, Path::new(text(label::DIRECTORY)), generation, rank as usize));
    name.as_deref() == Some(container.name.as_str())
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
