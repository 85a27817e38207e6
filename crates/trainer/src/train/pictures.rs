//! Pictures in the output folder: what was confused with what, precision over recall, some detections, the training's curves.

use std::fs;
use std::path::Path;

use evenkeel_yolo::data::gallery::Gallery;
use evenkeel_yolo::data::picture::Picture;
use evenkeel_yolo::data::sample;
use evenkeel_yolo::metric::Tally;
use evenkeel_yolo::network::Network;
use evenkeel_yolo::nms::{Detection, Limits};
use evenkeel_yolo::plot::{self, Curve};
use evenkeel_yolo::settings::Settings;
use evenkeel_yolo::{step, validate};
use tch::Tensor;

/// Pictures that detections are shown on.
const SHOWN: usize = 9;
/// Confidence from which a detection is shown.
const SURE: f32 = 0.25;

/// What a validation found, and how.
pub struct Found<'a> {
    /// The network that was validated.
    pub network: &'a Network,
    /// The set that it was validated on.
    pub gallery: &'a Gallery,
    /// Names of the classes.
    pub names: &'a [String],
    /// Everything that was found.
    pub tally: &'a Tally,
    /// The training's settings.
    pub settings: &'a Settings,
}

/// Draws what a validation found.
///
/// # Errors
///
/// One line, for a picture that cannot be made or written.
pub fn validation(folder: &Path, found: &Found<'_>) -> Result<(), String> {
    write(folder, "confusion_matrix.svg", &plot::confusion(found.tally.matrix(), found.names))?;
    write(folder, "PR_curve.svg", &plot::precision_recall(&found.tally.precision_recall(), found.names))?;
    let count = found.gallery.set().entries.len();
    let spread = (0..SHOWN.min(count)).map(|at| at * count / SHOWN.min(count));
    let shown: Vec<(Picture, Vec<Detection>)> = spread.map(|number| detected(found, number)).collect();
    let drawn = plot::detections(&shown, found.names).map_err(|error| error.to_string())?;
    write(folder, "val_pred.svg", &drawn)
}

/// A picture of the set with what the network finds in it.
fn detected(found: &Found<'_>, number: usize) -> (Picture, Vec<Detection>) {
    let number = number as u32;
    let (width, height) = sample::frame(found.gallery.entry(number), found.gallery.side());
    let rgb = sample::validation(found.gallery, number).rgb;
    let images = Tensor::from_slice(&rgb).view([1, height.into(), width.into(), 3]).permute([0, 3, 1, 2]);
    let input = step::input(&images, found.network.device(), found.settings.channels_last);
    let _guard = tch::no_grad_guard();
    let levels = found.network.model.forward(&input, false);
    let limits = Limits { confidence: SURE, overlap: found.settings.iou as f32, ..Limits::default() };
    let mut detections = validate::detections(&levels, &limits);
    (Picture { width, height, rgb }, detections.pop().expect("one image"))
}

/// Draws the table of epochs.
///
/// # Errors
///
/// One line, for a table that cannot be read or a picture that cannot be written.
pub fn results(folder: &Path) -> Result<(), String> {
    let table = fs::read_to_string(folder.join("results.csv")).map_err(|error| error.to_string())?;
    let mut rows = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let columns = rows.next().unwrap_or_default();
    let rows: Vec<Vec<f64>> =
        rows.map(|row| row.into_iter().map(|cell| cell.parse().unwrap_or(f64::NAN)).collect()).collect();
    let curve = |column: &str| {
        let at = columns.iter().position(|name| *name == column);
        let point = |row: &Vec<f64>| Some((*row.first()?, *row.get(at?)?));
        Curve { name: column.to_owned(), points: rows.iter().filter_map(point).collect() }
    };
    let fields = [
        ("box loss", vec!["train/box_loss", "val/box_loss"]),
        ("cls loss", vec!["train/cls_loss", "val/cls_loss"]),
        ("dfl loss", vec!["train/dfl_loss", "val/dfl_loss"]),
        ("learning rate", vec!["lr/pg0", "lr/pg2"]),
        ("precision", vec!["metrics/precision(B)"]),
        ("recall", vec!["metrics/recall(B)"]),
        ("mAP50", vec!["metrics/mAP50(B)"]),
        ("mAP50-95", vec!["metrics/mAP50-95(B)"]),
    ];
    let fields = fields.map(|(title, names)| (title.to_owned(), names.into_iter().map(curve).collect::<Vec<_>>()));
    write(folder, "results.svg", &plot::results(&fields))
}

fn write(folder: &Path, name: &str, drawn: &str) -> Result<(), String> {
    fs::write(folder.join(name), drawn).map_err(|error| format!("failed to write {name}: {error}"))
}
