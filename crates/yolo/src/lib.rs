//! YOLOv8 detection on libtorch, written from the published architecture. It knows nothing of containers or of a run's files.
//!
//! Shapes are written as `[images, channels, height, width]`; boxes as `x1, y1, x2, y2` in pixels of the network's input unless said otherwise.

pub mod average;
pub mod boxes;
pub mod checkpoint;
pub mod data;
pub mod loss;
pub mod memory;
pub mod metric;
pub mod model;
pub mod network;
pub mod nms;
pub mod optimizer;
pub mod plot;
pub mod precision;
pub mod random;
pub mod scale;
pub mod schedule;
pub mod settings;
pub mod step;
pub mod sum;
pub mod team;
pub mod validate;
pub mod weights;

pub use model::Yolo;
pub use scale::Scale;
