//! Evenkeel's controller: from a job file to containers that train, and to the record they leave.
//!
//! The modules stand in the order in which data flows through them; docs/architecture.md has the map.

pub mod cli;
pub mod settings;
pub mod command;
pub mod job;
pub mod dataset;
pub mod fetch;
pub mod inventory;
pub mod plan;
pub mod fit;
pub mod launch;
pub mod agent;
pub mod endpoint;
pub mod docker;
pub mod image;
pub mod event;
pub mod watch;
pub mod signal;
pub mod failure;
pub mod recovery;
pub mod record;
pub mod output;
pub mod error;
