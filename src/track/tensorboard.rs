//! TensorBoard's event files: `tensorboard/events.out.tfevents.*` in the run's directory.
//!
//! A file is a row of records, each with its length and two checksums (`frame.rs`); a record is an `Event` of TensorFlow's
//! protobuf, of which four fields are used here.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

mod frame;

use crate::follow::{Fact, Step};

/// Folder in the run's directory.
pub const FOLDER: &str = "tensorboard";
/// What stands before the names of a step's numbers; its x is the step, that of an epoch's numbers is the epoch.
const STEP: &str = "step/";
/// Milliseconds of the training after which what was written may be read.
const FLUSH: u64 = 2000;

/// Writes a run's numbers. A run without any has no file.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    host: String,
    open: Option<Open>,
}

/// A file that was begun.
#[derive(Debug)]
struct Open {
    file: BufWriter<File>,
    /// How far numbers are written, also by an earlier controller of the run.
    last_step: Option<u64>,
    last_epoch: u32,
    flushed_ms: u64,
}

impl Writer {
    /// In a run's directory. `host` is in the file's name.
    #[must_use]
    pub fn new(run: &Path, host: &str) -> Self {
        let fits = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '-';
        Self { folder: run.join(FOLDER), host: host.chars().filter(fits).collect(), open: None }
    }

    /// Writes what is new; what files that are there already tell is not told again.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&mut self, fact: &Fact) -> io::Result<()> {
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Open::begin(&self.folder, &self.host, fact.time_ms())?),
        };
        open.write(fact)
    }

    /// Writes what is held back.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn finish(&mut self) -> io::Result<()> {
        self.open.as_mut().map_or(Ok(()), |open| open.file.flush())
    }
}

impl Open {
    fn begin(folder: &Path, host: &str, time_ms: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (last_step, last_epoch) = written(folder)?;
        let mut number = 0_u32;
        let file = loop {
            let name = format!("events.out.tfevents.{:010}.{host}.{number}", time_ms / 1000);
            match OpenOptions::new().write(true).create_new(true).open(folder.join(name)) {
                Ok(file) => break file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        };
        let mut file = BufWriter::new(file);
        file.write_all(&frame::record(&frame::begin(time_ms)))?;
        Ok(Self { file, last_step, last_epoch, flushed_ms: 0 })
    }

    fn write(&mut self, fact: &Fact) -> io::Result<()> {
        let (x, values) = match fact {
            Fact::Step(step) if self.last_step.is_none_or(|last| step.step > last) => {
                self.last_step = Some(step.step);
                (step.step, of_step(step))
            }
            Fact::Epoch(epoch) if epoch.epoch > self.last_epoch => {
                self.last_epoch = epoch.epoch;
                (u64::from(epoch.epoch), epoch.values.clone())
            }
            Fact::Step(_) | Fact::Epoch(_) => return Ok(()),
        };
        let time_ms = fact.time_ms();
        self.file.write_all(&frame::record(&frame::scalars(time_ms, x, &values)))?;
        // TensorBoard reads along.
        if matches!(fact, Fact::Epoch(_)) || time_ms >= self.flushed_ms + FLUSH {
            self.flushed_ms = time_ms;
            self.file.flush()?;
        }
        Ok(())
    }
}

fn of_step(step: &Step) -> BTreeMap<String, f64> {
    let named = |name: &str, value: Option<f64>| value.map(|value| (format!("{STEP}{name}"), value));
    let terms = step.terms.iter().map(|(name, value)| (format!("{STEP}{name}"), *value));
    let all =
        [named("loss", step.loss), named("lr", Some(step.lr)), named("images_per_second", step.images_per_second)];
    terms.chain(all.into_iter().flatten()).collect()
}

/// The last step and epoch in the files of a folder.
fn written(folder: &Path) -> io::Result<(Option<u64>, u32)> {
    let (mut step, mut epoch) = (None, 0);
    for entry in std::fs::read_dir(folder)? {
        for (x, tag) in frame::read(&std::fs::read(entry?.path())?) {
            if tag.starts_with(STEP) {
                step = step.max(Some(x));
            } else {
                epoch = epoch.max(u32::try_from(x).unwrap_or(u32::MAX));
            }
        }
    }
    Ok((step, epoch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::Epoch;

    #[test]
    fn what_an_earlier_controller_wrote_is_not_written_again() {
        let run = tempfile::tempdir().expect("a folder");
        let epoch = |epoch| {
            Fact::Epoch(Epoch {
                epoch,
                time_ms: 1_700_000_000_005,
                values: [("a/b".to_owned(), 0.5)].into(),
                images_per_second: None,
            })
        };
        let step = |step| {
            let (loss, terms) = (Some(1.0), BTreeMap::new());
            Fact::Step(Step { step, time_ms: 1_700_000_000_005, loss, terms, lr: 0.1, images_per_second: None })
        };
        for facts in [[step(0), step(1), epoch(1)], [step(1), step(2), epoch(2)]] {
            let mut writer = Writer::new(run.path(), "a b/c");
            facts.iter().for_each(|fact| writer.write(fact).expect("written"));
            writer.finish().expect("written");
        }
        Writer::new(run.path(), "a").finish().expect("nothing to write");
        let told = |number| {
            let name = format!("events.out.tfevents.1700000000.abc.{number}");
            frame::read(&std::fs::read(run.path().join(FOLDER).join(name)).expect("a file"))
        };
        let found = |x, tag: &str| (x, tag.to_owned());
        assert_eq!(told(0), [found(0, "step/loss"), found(1, "step/loss"), found(1, "a/b")]);
        assert_eq!(told(1), [found(2, "step/loss"), found(2, "a/b")]);
        assert_eq!(std::fs::read_dir(run.path().join(FOLDER)).expect("a folder").count(), 2);
    }
}
