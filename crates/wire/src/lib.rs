//! What crosses a process boundary: the controller writes it, the agent and the trainers read it, or the other way
//! round. Serde types and names only; nothing here does I/O.
//!
//! Three processes meet here. The *controller* starts containers and follows files. The *agent* supervises one rank
//! inside its container and writes the spool. The *trainer* computes, and tells what it does on an inherited
//! descriptor ([`env::EVENTS_FD`]).

pub mod env;
pub mod event;
pub mod path;
pub mod stamp;
pub mod trainer_job;

pub use event::{Event, FailureClass, Record};
pub use stamp::Stamp;
pub use trainer_job::TrainerJob;

/// Version of every format in this crate. A reader refuses a higher one instead of guessing.
pub const VERSION: u32 = 1;
