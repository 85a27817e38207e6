//! Evenkeel's controller: from a job file to containers that train, and to the record they leave.
//!
//! The modules stand in the order in which data flows through them; docs/architecture.md has the map.

pub mod cli;
pub mod settings;
pub mod users;
pub mod background;
pub mod command;
pub mod job;
pub mod dataset;
pub mod fetch;
pub mod http;
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
pub mod sample;
pub mod signal;
pub mod failure;
pub mod recovery;
pub mod follow;
pub mod record;
pub mod logs;
pub mod runlock;
pub mod trajectory;
pub mod notify;
pub mod track;
pub mod output;
pub mod report;
pub mod error;
