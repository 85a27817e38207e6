//! What is told of an epoch: the names that people know, a row of the table, a line for who reads along.

use std::collections::BTreeMap;

use evenkeel_yolo::metric::Figures;
use evenkeel_yolo::schedule::Rates;

/// Columns of results.csv, in the official order.
pub const COLUMNS: [&str; 15] = [
    "epoch",
    "time",
    "train/box_loss",
    "train/cls_loss",
    "train/dfl_loss",
    "metrics/precision(B)",
    "metrics/recall(B)",
    "metrics/mAP50(B)",
    "metrics/mAP50-95(B)",
    "val/box_loss",
    "val/cls_loss",
    "val/dfl_loss",
    "lr/pg0",
    "lr/pg1",
    "lr/pg2",
];

/// An epoch that is over.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// From 0.
    pub epoch: u32,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Mean loss of boxes, classes and distances.
    pub train: [f64; 3],
    /// The validation's figures and losses, if there was one.
    pub validation: Option<(Figures, [f64; 3])>,
    /// Learning rates of the last step.
    pub rates: Rates,
}

impl Epoch {
    /// The epoch's values by name, as an event tells them.
    pub fn values(&self) -> BTreeMap<String, f64> {
        self.columns().into_iter().skip(2).filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The epoch's row of the table. What was not measured is empty.
    pub fn row(&self) -> Vec<String> {
        self.columns()
            .into_iter()
            .map(|(name, value)| match (name, value) {
                (_, None) => String::new(),
                ("epoch", Some(number)) => format!("{number}"),
                (_, Some(value)) => format!("{value:.6}"),
            })
            .collect()
    }

    fn columns(&self) -> Vec<(&'static str, Option<f64>)> {
        let figures = self.validation.map(|(figures, _)| figures);
        let losses = |at: usize| self.validation.map(|(_, losses)| losses[at]);
        let values = [
            Some(f64::from(self.epoch + 1)),
            Some(self.seconds),
            Some(self.train[0]),
            Some(self.train[1]),
            Some(self.train[2]),
            figures.map(|it| it.precision),
            figures.map(|it| it.recall),
            figures.map(|it| it.ap50),
            figures.map(|it| it.ap50_95),
            losses(0),
            losses(1),
            losses(2),
            Some(self.rates.weights),
            Some(self.rates.weights),
            Some(self.rates.biases),
        ];
        COLUMNS.into_iter().zip(values).collect()
    }

    /// The epoch on one line.
    pub fn line(&self, epochs: u32, images_per_second: f64) -> String {
        let [boxes, classes, distances] = self.train;
        let mut line = format!(
            "epoch {}/{epochs}: box {boxes:.4}, cls {classes:.4}, dfl {distances:.4}, {images_per_second:.1} images/s",
            self.epoch + 1
        );
        if let Some((figures, _)) = self.validation {
            line.push_str(&format!(
                "; P {:.3}, R {:.3}, mAP50 {:.4}, mAP50-95 {:.4}",
                figures.precision, figures.recall, figures.ap50, figures.ap50_95
            ));
        }
        line
    }
}
