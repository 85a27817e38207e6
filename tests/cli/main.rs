//! The real program's command line, without an engine: exit codes, one message for one mistake, data on stdout.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod support;

#[path = "../support/record.rs"]
mod record;

mod asking;
mod comparing;
mod house;
mod logs;
mod mistakes;
mod planning;
mod report;
mod runs;
