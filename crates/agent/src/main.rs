//! `agent -- PROGRAM ARGS...`: supervises one rank inside any container. It waits for the controller's go, runs the
//! program, spools its output and events, and seals the spool with how it ended.
//!
//! Linked statically and bound into images that hold none of our files, it looks up no user, no host name and no locale,
//! and needs nothing of the image but the program it is to run.

mod alive;
mod cgroup;
mod config;
mod end;
mod events;
mod go;
mod home;
mod lines;
mod log;
mod mirror;
mod program;
mod rank;
mod ready;
mod signals;
mod supervise;
mod times;
mod tree;

/// What the agent exits with when it cannot do its own work, as `docker run` does.
const OWN_FAILURE: i32 = 125;

fn main() {
    let code = config::Config::from_process().map_err(rank::RankError::from).and_then(|config| rank::run(&config));
    std::process::exit(code.unwrap_or_else(|error| {
        eprintln!("evenkeel-agent: {error}");
        OWN_FAILURE
    }));
}
