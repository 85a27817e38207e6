//! The ranks' logs as somebody wants to read them: which lines, in which order, in which form. `command/logs.rs` decides when.

pub mod lines;
pub mod merge;
pub mod since;
pub mod write;
