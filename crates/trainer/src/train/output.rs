//! What a training leaves behind: weights, the state to go on from, the table of epochs. Written by rank 0, beside the computation.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use evenkeel_wire::Event;
use evenkeel_yolo::checkpoint::{self, Checkpoint, CheckpointError, Value};
use evenkeel_yolo::metric::Figures;
use evenkeel_yolo::validate::Validation;

use crate::events::Events;

/// The averaged weights of the last epoch.
pub const LAST: &str = "weights/last.safetensors";
/// Those of the epoch that detected best.
pub const BEST: &str = "weights/best.safetensors";
/// All that the next step depends on.
const STATE: &str = "weights/state.safetensors";
const TABLE: &str = "results.csv";
/// The best epoch's figures, class by class.
const CLASSES: &str = "classes.csv";

/// What could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("failed to write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{}` cannot be gone on from: {why}", path.display())]
    State { path: PathBuf, why: String },
}

/// A file of tensors to be written.
#[derive(Debug)]
pub struct File {
    /// Name in the output folder.
    pub name: &'static str,
    /// Its tensors' values.
    pub values: Vec<Value>,
    /// Texts beside them.
    pub texts: BTreeMap<String, String>,
}

/// The output folder.
#[derive(Debug)]
pub struct Output {
    folder: PathBuf,
    writing: Option<JoinHandle<Result<(), OutputError>>>,
}

impl Output {
    /// The folder, which exists, with a place for weights in it.
    ///
    /// # Errors
    ///
    /// It cannot be written to.
    pub fn open(folder: &Path) -> Result<Self, OutputError> {
        let weights = folder.join("weights");
        fs::create_dir_all(&weights).map_err(|source| OutputError::Write { path: weights, source })?;
        Ok(Self { folder: folder.to_owned(), writing: None })
    }

    /// The state that an earlier process left, if one did.
    ///
    /// # Errors
    ///
    /// There is one, and it cannot be read; neither can the one before it.
    pub fn state(folder: &Path) -> Result<Option<Checkpoint>, OutputError> {
        Ok(checkpoint::newest(&folder.join(STATE))?)
    }

    /// Why a state does not fit, as an error that names its file.
    pub fn unfit(folder: &Path, why: String) -> OutputError {
        OutputError::State { path: folder.join(STATE), why }
    }

    /// A file of the state.
    pub fn state_file(values: Vec<Value>, texts: BTreeMap<String, String>) -> File {
        File { name: STATE, values, texts }
    }

    /// Begins to write files, in their order, and to tell `event` once they are on the disk. Waits for what is still being written.
    ///
    /// # Errors
    ///
    /// What was begun before could not be written.
    pub fn write(&mut self, files: Vec<File>, events: &Arc<Events>, event: Option<Event>) -> Result<(), OutputError> {
        self.finish()?;
        let (folder, events) = (self.folder.clone(), events.clone());
        self.writing = Some(std::thread::spawn(move || {
            for file in files {
                checkpoint::write(&folder.join(file.name), &file.values, &file.texts, file.name == STATE)?;
            }
            if let Some(event) = event {
                events.emit(&event);
            }
            Ok(())
        }));
        Ok(())
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    ///
    /// It could not be.
    pub fn finish(&mut self) -> Result<(), OutputError> {
        self.writing.take().map_or(Ok(()), |writing| match writing.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Writes the figures of every class that has objects.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_classes(&self, validation: &Validation, names: &[String]) -> Result<(), OutputError> {
        let mut text = "class,name,objects,precision,recall,mAP50,mAP50-95\n".to_owned();
        for (class, (figures, name)) in validation.outcome.classes.iter().zip(names).enumerate() {
            let Some(it) = figures else { continue };
            let objects = validation.tally.objects(class);
            // As RFC 4180 has it: a name may hold a comma.
            let name = format!("\"{}\"", name.replace('"', "\"\""));
            let Figures { precision, recall, ap50, ap50_95 } = it;
            text.push_str(&format!("{class},{name},{objects},{precision:.6},{recall:.6},{ap50:.6},{ap50_95:.6}\n"));
        }
        let path = self.folder.join(CLASSES);
        fs::write(&path, text).map_err(|source| OutputError::Write { path, source })
    }

    /// Sets the table of epochs to its first `epochs` rows, as after a training that goes on from there.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn begin_table(&self, epochs: u32, columns: &[&str]) -> Result<(), OutputError> {
        let path = self.folder.join(TABLE);
        let old = fs::read_to_string(&path).unwrap_or_default();
        let mut text = columns.join(",") + "\n";
        for row in old.lines().skip(1).take(epochs as usize) {
            text.push_str(row);
            text.push('\n');
        }
        fs::write(&path, text).map_err(|source| OutputError::Write { path, source })
    }

    /// Adds an epoch's row.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn add_row(&self, values: &[String]) -> Result<(), OutputError> {
        let path = self.folder.join(TABLE);
        let append = || {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&path)?;
            io::Write::write_all(&mut file, (values.join(",") + "\n").as_bytes())
        };
        append().map_err(|source| OutputError::Write { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_goes_on_where_the_state_is() {
        let place = tempfile::tempdir().expect("a folder");
        let output = Output::open(place.path()).expect("writable");
        let text = || fs::read_to_string(place.path().join(TABLE)).expect("a table");
        let row = |epoch: &str| output.add_row(&[epoch.to_owned(), "0.5".to_owned()]).expect("written");
        output.begin_table(0, &["epoch", "loss"]).expect("written");
        row("1");
        row("2");
        row("3");
        output.begin_table(2, &["epoch", "loss"]).expect("written");
        row("3");
        assert_eq!(text(), "epoch,loss\n1,0.5\n2,0.5\n3,0.5\n");
        output.begin_table(0, &["epoch", "loss"]).expect("written");
        assert_eq!(text(), "epoch,loss\n");
    }
}
