//! The real program against a real engine. Every test has a place of its own, and leaves nothing on the engine.
//!
//! Where there is no engine, the tests say so and pass; `EVENKEEL_TEST_ENGINE=required` makes that a failure.
//! `EVENKEEL_TEST_IMAGE` names the bare image they run programs in.

#[path = "../support/mod.rs"]
mod support;

mod again;
mod attach;
mod away;
mod daemon;
mod disk;
mod ending;
mod engine;
mod flood;
mod gang;
mod gpu;
mod hostile;
mod inside;
mod live;
mod lock;
mod listener;
mod metrics;
mod mlflow;
mod output;
mod pod;
mod report;
mod running;
mod stalled;
mod webhooks;
