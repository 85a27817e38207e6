//! The agent as a process: a run directory, the controller's files and signals, and what it leaves in the spool.

mod disk;
mod events;
mod output;
mod protocol;
mod signals;
mod support;
