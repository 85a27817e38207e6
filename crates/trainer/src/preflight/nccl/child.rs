//! The child of an attempt: joins, checks, measures, reports on one line of stdout, and leaves at once.

use std::io::Write;

use evenkeel_wire::env;
use tch::Device;
use tch_distributed::{Error, NcclOptions, ProcessGroup, Store};

use super::PREFIX;
use super::attempt::Report;
use super::decide::Outcome;
use crate::environment::Environment;
use crate::preflight::check::{self, CheckError};

/// The hidden subcommand `preflight-nccl`. Its exit code says nothing, its report does.
pub fn main() -> ! {
    let lookup = |name: &str| std::env::var(name).ok();
    let report = run(lookup).unwrap_or_else(|report| report);
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{}", report.line()).and_then(|()| stdout.flush());
    // SAFETY: ends the process at once, without the destructors of CUDA and NCCL: what they might hang on is not what is to
    // be found out, and the group was shut down where all went well.
    unsafe { libc::_exit(0) }
}

fn run(lookup: impl Fn(&str) -> Option<String>) -> Result<Report, Report> {
    let failed = |message: String| Report::Bad { outcome: Outcome::Failed, message };
    let environment = Environment::read(&lookup).map_err(|error| failed(error.to_string()))?;
    let (Some((host, port)), Some(prefix)) = (&environment.master, lookup(PREFIX)) else {
        return Err(failed(format!("`{PREFIX}` or `{}` is not set", env::MASTER_ADDR)));
    };
    let device: u32 = lookup(env::LOCAL_RANK).and_then(|rank| rank.parse().ok()).unwrap_or(0);
    let store = Store::tcp_client(host, *port, environment.timeout)
        .and_then(|store| store.prefix(&prefix))
        .map_err(|error| failed(format!("failed to reach the store of rank 0: {error}")))?;
    let options = NcclOptions::new(device, environment.timeout);
    let group = ProcessGroup::nccl(&store, environment.rank, environment.world_size, &options).map_err(nccl)?;
    let device = Device::Cuda(device as usize);
    check::values(&group, device).map_err(checked)?;
    let bytes_per_second = check::bandwidth(&group, device).map_err(checked)?;
    group.shutdown().map_err(nccl)?;
    Ok(Report::Passed { bytes_per_second })
}

fn nccl(error: Error) -> Report {
    match error {
        Error::Unsupported(message) => Report::Bad { outcome: Outcome::Unsupported, message },
        error => Report::Bad { outcome: Outcome::Failed, message: error.to_string() },
    }
}

fn checked(error: CheckError) -> Report {
    match error {
        CheckError::Wrong { .. } => Report::Bad { outcome: Outcome::Wrong, message: error.to_string() },
        CheckError::Collective(error) => nccl(error),
        CheckError::Tensor(error) => Report::Bad { outcome: Outcome::Failed, message: error.to_string() },
    }
}
