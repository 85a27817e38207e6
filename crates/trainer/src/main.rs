//! The program inside our images. `evenkeel-trainer preflight` proves that the ranks reach each other before the trainer
//! starts.

mod environment;
mod events;
mod preflight;

use std::process::ExitCode;

const HELP: &str = "\
usage: evenkeel-trainer preflight | --version | --help

preflight  joins the ranks named by torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT),
           checks an all-reduce over gloo, and over NCCL where EVENKEEL_DEVICE is cuda, measures bandwidth. Exit code 0: passed, 1: failed, 2: the environment is wrong.";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["preflight"] => preflight::main(),
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
