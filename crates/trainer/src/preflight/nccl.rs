//! NCCL between the GPUs: the same checks as over gloo, in a process of their own.
//!
//! What is to be found out is whether NCCL hangs, and what hangs in a GPU's driver can only be killed. So each rank starts
//! itself again for an attempt (`child`), reads what NCCL writes about its transports (`log`), and the ranks agree over gloo
//! on what it comes to and what to try next (`decide`).

mod attempt;
#[cfg(feature = "nccl")]
mod child;
mod decide;
mod log;

#[cfg(feature = "nccl")]
pub use child::main;

use std::collections::BTreeMap;

use tch::Tensor;
use tch_distributed::{ProcessGroup, ReduceOp};

use super::watchdog::Watchdog;
use crate::environment::Environment;
use attempt::Attempt;
use decide::{Next, Outcome, next};

/// Where a child finds the keys of its attempt in the preflight's store.
pub const PREFIX: &str = "EVENKEEL_NCCL_PREFIX";
/// How a child's line of results begins, among those of NCCL.
pub const RESULT: &str = "evenkeel-nccl-result: ";
/// NCCL's switch for direct access between GPUs.
const P2P_DISABLE: &str = "NCCL_P2P_DISABLE";

/// What came of it.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// The GPUs reach each other.
    Passed {
        bytes_per_second: f64,
        transport: Option<String>,
        /// What the trainer must be started with to find it so.
        environment: BTreeMap<String, String>,
        message: Option<String>,
    },
    /// It could not be tried here.
    Unchecked(String),
    /// They do not, whatever was tried.
    Failed(String),
}

/// Runs attempts until one settles it. All ranks get the same kind of verdict.
///
/// # Errors
///
/// The gloo group over which the ranks agree fails.
pub fn check(
    environment: &Environment,
    group: &ProcessGroup,
    watchdog: &Watchdog,
) -> Result<Verdict, tch_distributed::Error> {
    if !cfg!(feature = "nccl") {
        return Ok(Verdict::Unchecked("this program was built without it".into()));
    }
    let given = std::env::var(P2P_DISABLE).is_ok_and(|value| value == "1");
    let mut first_failure = None;
    let mut disable_p2p = given;
    loop {
        watchdog.enter(if disable_p2p && !given { "trying NCCL without P2P" } else { "trying NCCL" });
        let attempt = Attempt::run(environment, disable_p2p);
        let worst = agree(group, attempt.outcome)?;
        match next(worst, disable_p2p) {
            Next::Pass => {
                let setting = (disable_p2p && !given).then(|| (P2P_DISABLE.to_owned(), "1".to_owned()));
                let message = first_failure.map(|failure| {
                    format!("NCCL works with {P2P_DISABLE}=1 only; with direct access between the GPUs: {failure}")
                });
                return Ok(Verdict::Passed {
                    bytes_per_second: attempt.bytes_per_second.unwrap_or_default(),
                    transport: attempt.transport,
                    environment: setting.into_iter().collect(),
                    message,
                });
            }
            Next::WithoutP2p => {
                first_failure = Some(attempt.told(worst));
                disable_p2p = true;
            }
            Next::Unchecked => return Ok(Verdict::Unchecked(attempt.told(worst))),
            Next::Fail => {
                let mut message = format!("NCCL: {}", attempt.told(worst));
                if let Some(first) = first_failure {
                    message.push_str(&format!("; with {P2P_DISABLE}=1, and before that without it: {first}"));
                }
                return Ok(Verdict::Failed(message));
            }
        }
    }
}

/// The worst outcome of all ranks.
fn agree(group: &ProcessGroup, own: Outcome) -> Result<Outcome, tch_distributed::Error> {
    let mut code = Tensor::from_slice(&[own.code()]);
    group.all_reduce(&mut code, ReduceOp::Max)?.wait()?;
    Ok(Outcome::from_code(code.int64_value(&[0])))
}
