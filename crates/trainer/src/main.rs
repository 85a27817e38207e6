//! The program inside our images. `evenkeel-trainer preflight` proves that the ranks reach each other before the trainer
//! starts; `evenkeel-trainer train` is the native trainer.

mod environment;
mod events;
mod failure;
mod meeting;
mod preflight;
mod start;
mod train;

use std::process::ExitCode;

const HELP: &str = "\
usage: evenkeel-trainer preflight | train | validate | --version | --help

preflight  joins the ranks named by torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT),
           checks an all-reduce over gloo, and over NCCL where EVENKEEL_DEVICE is cuda, measures bandwidth. Exit code 0: passed, 1: failed, 2: the environment is wrong.
train      trains what the job file says (EVENKEEL_JOB, or /evenkeel/job.json), as one of those ranks. A state that is found in
           the output folder is gone on from. Exit code 0: done, 1: failed, 2: the environment or the job is wrong, 143: stopped.
validate   says how good the job's weights are on its validation split, by the same job file, as one of those ranks.";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["preflight"] => preflight::main(),
        ["train"] => train::main(train::Doing::Training),
        ["validate"] => train::main(train::Doing::Validation),
        // What a preflight starts, one attempt each; it can hang, and is then killed.
        #[cfg(feature = "nccl")]
        ["preflight-nccl"] => preflight::nccl_main(),
        ["--version" | "-V"] => {
            println!("evenkeel-trainer {} (torch {})", env!("CARGO_PKG_VERSION"), tch_distributed::torch_version());
            ExitCode::SUCCESS
        }
        ["--help" | "-h"] => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{HELP}");
            ExitCode::from(2)
        }
    }
}
