//! Evenkeel's controller: from a job file to containers that train, and to the record they leave.
//!
//! The modules stand in the order in which data flows through them; docs/architecture.md has the map.

pub mod dataset;
pub mod docker;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod fetch;
pub mod launch;
pub mod watch;
