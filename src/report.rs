//! The report of a run: one HTML file that needs nothing beside it. Pure: what a record says goes in, text comes out; `read.rs` brings the files.
//!
//! There is no script in it. Charts are inline SVG, pictures are `data:` URIs, and a Content-Security-Policy forbids a browser to ask anybody for
//! anything, whatever a run's name or a trainer's words may hold.

mod bars;
mod chart;
mod course;
mod markup;
mod page;
mod pictures;
pub mod read;
pub mod series;
mod used;

use std::collections::BTreeMap;

use crate::record::read::Summary;
use series::{Happened, Step, Table};

pub use page::html;

/// The file's name in a run's directory.
pub const FILE: &str = "report.html";

/// Everything that a report tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What the record comes to.
    pub summary: Summary,
    /// The image by digest: the engine's, then those by which registries have it.
    pub digests: Vec<String>,
    /// The commit of the project, with a remark where its files had changes.
    pub commit: Option<String>,
    /// SHA-256 of the list of the data set's files and their hashes, and how many these are.
    pub data: Option<(String, u64)>,
    /// Each rank's share of an optimizer step, as the last launch was planned.
    pub shares: Vec<Share>,
    /// The columns of results.csv, or what the ranks told of their validations where there is no such file.
    pub table: Table,
    /// The optimizer steps.
    pub steps: Vec<Step>,
    /// The first step of each launch, by its number.
    pub first_steps: BTreeMap<u32, u64>,
    /// What happened on the way.
    pub happened: Vec<Happened>,
    /// How the ranks reached each other, by rank.
    pub transports: BTreeMap<u32, String>,
    /// What the trainer drew.
    pub pictures: Vec<Picture>,
    /// Pictures that were left out, by their path in the record.
    pub left_out: Vec<String>,
    /// What could not be read, one sentence each.
    pub gaps: Vec<String>,
    /// When this was made, in milliseconds since the Unix epoch.
    pub made_ms: u64,
}

/// A rank's share of an optimizer step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Share {
    /// The rank.
    pub rank: u64,
    /// Its device.
    pub device: String,
    /// What the device is, as its maker calls it.
    pub model: Option<String>,
    /// Images of each of its micro-batches.
    pub micro_batches: Vec<u64>,
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Its path in the record.
    pub name: String,
    /// What it shows.
    pub kind: PictureKind,
    /// Its media type, by its content.
    pub media: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
}

/// What a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PictureKind {
    /// Images of the validation with what the model found in them.
    Prediction,
    /// The same images with their labels.
    Label,
    /// Curves and matrices of the validation.
    Curve,
}

#[cfg(test)]
mod tests;
