//! The one loop of a run: what happens comes in, the state machine decides, what it decides is done.

pub mod state;
