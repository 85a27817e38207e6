//! `evenkeel dataset`: data sets that are made here.

use crate::cli;
use crate::dataset::shapes::{self, ShapesError, ShapesOptions};
use crate::error::{ExitCode, Failure};
use crate::output::{print, say};

/// Writes a data set.
pub fn run(command: &cli::Dataset, json: bool) -> Result<ExitCode, Failure> {
    let cli::Dataset::Shapes { dir, images, imgsz, seed, labels } = command;
    let labels = shapes::parse_labels(labels)?;
    let options =
        ShapesOptions { images: *images, imgsz: *imgsz, seed: *seed, labels, ..ShapesOptions::new(dir.clone()) };
    let set = shapes::write(&options)?;
    let value = serde_json::json!({
        "version": 1, "data": set.data, "train": set.train, "val": set.val, "sha256": set.sha256,
        "written": set.written,
    });
    if json {
        print(&value.to_string())?;
    } else if set.written {
        say(&format!("{}: {} training and {} validation images", set.data.display(), set.train, set.val));
    }
    Ok(ExitCode::Done)
}

impl From<ShapesError> for Failure {
    fn from(error: ShapesError) -> Self {
        match error {
            ShapesError::Io { .. } => Self::new(ExitCode::MachineNotReady, error),
            _ => Self::bad(error),
        }
    }
}
