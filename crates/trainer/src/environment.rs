//! What the controller tells a rank: torchrun's environment and our own. Read once, here.

use std::os::fd::RawFd;
use std::str::FromStr;
use std::time::Duration;

use evenkeel_wire::env;

/// How long a rank waits for its peers at most. All containers run before any of them starts this program: one that has
/// not come after a minute is not on its way, however long a training may be patient.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Beyond any use, and far from where times overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A rank's place in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Rank in the whole job.
    pub rank: u32,
    /// Rank on this host, which is the index of its GPU.
    pub local_rank: u32,
    /// Ranks on this host.
    pub local_world_size: u32,
    /// Ranks in the job.
    pub world_size: u32,
    /// Rank 0's address and port; absent for a rank that is alone and was given none.
    pub master: Option<(String, u16)>,
    /// How long to wait for peers; a minute at most.
    pub timeout: Duration,
    /// What the rank computes on.
    pub device: Device,
    /// Where events go.
    pub events_fd: Option<RawFd>,
    /// The interface that gloo is told to use, by gloo's own variable.
    pub interface: Option<String>,
}

/// What a rank computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The GPU whose index is the local rank.
    Cuda,
}

/// A variable that is missing or makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// Not set.
    #[error("`{0}` is not set; the ranks of a job are started with torchrun's environment")]
    Missing(&'static str),
    /// Set to something else than was expected.
    #[error("`{name}` is `{value}`; {expected} was expected")]
    Unfit {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should have been.
        expected: &'static str,
    },
}

/// The descriptor for events, even where the rest of the environment makes no sense: the complaint can then be told.
pub fn events_fd(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<RawFd>, EnvironmentError> {
    let expected = "the number of an open descriptor above 2";
    let fd: Option<RawFd> = optional(&lookup, env::EVENTS_FD, expected)?;
    match fd {
        Some(fd) if fd <= 2 => Err(unfit(env::EVENTS_FD, fd.to_string(), expected)),
        fd => Ok(fd),
    }
}

impl Environment {
    /// Reads the variables that `lookup` finds.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or unfit.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let world_size = required(&lookup, env::WORLD_SIZE, "a number of ranks from 1")?;
        if world_size == 0 {
            return Err(unfit(env::WORLD_SIZE, "0".into(), "a number of ranks from 1"));
        }
        let rank: u32 = required(&lookup, env::RANK, "a rank from 0")?;
        if rank >= world_size {
            return Err(unfit(env::RANK, rank.to_string(), "a rank below `WORLD_SIZE`"));
        }
        let local_world_size: u32 =
            optional(&lookup, env::LOCAL_WORLD_SIZE, "a number of ranks from 1")?.unwrap_or(world_size);
        Ok(Self {
            rank,
            local_rank: optional(&lookup, env::LOCAL_RANK, "a rank from 0")?.unwrap_or(rank),
            local_world_size: local_world_size.max(1),
            world_size,
            master: if world_size == 1 { None } else { Some(master(&lookup)?) },
            timeout: timeout(&lookup)?,
            device: match lookup(env::DEVICE).as_deref() {
                None | Some("cpu") => Device::Cpu,
                Some("cuda") => Device::Cuda,
                Some(other) => return Err(unfit(env::DEVICE, other.into(), "`cpu` or `cuda`")),
            },
            events_fd: events_fd(&lookup)?,
            interface: lookup("GLOO_SOCKET_IFNAME").filter(|name| !name.is_empty()),
        })
    }
}

fn master(lookup: impl Fn(&str) -> Option<String>) -> Result<(String, u16), EnvironmentError> {
    let address = lookup(env::MASTER_ADDR).ok_or(EnvironmentError::Missing(env::MASTER_ADDR))?;
    if address.is_empty() {
        return Err(unfit(env::MASTER_ADDR, address, "the address of rank 0"));
    }
    match required(&lookup, env::MASTER_PORT, "a port from 1 to 65535")? {
        0 => Err(unfit(env::MASTER_PORT, "0".into(), "a port from 1 to 65535")),
        port => Ok((address, port)),
    }
}

fn timeout(lookup: impl Fn(&str) -> Option<String>) -> Result<Duration, EnvironmentError> {
    let expected = "a number of seconds above 0, at most a week's";
    let Some(seconds) = optional::<f64>(&lookup, env::TIMEOUT, expected)? else { return Ok(DEFAULT_TIMEOUT) };
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if !timeout.is_zero() && timeout <= LONGEST_TIMEOUT => Ok(timeout.min(DEFAULT_TIMEOUT)),
        _ => Err(unfit(env::TIMEOUT, seconds.to_string(), expected)),
    }
}

fn required<T: FromStr>(
    lookup: impl Fn(&str) -> Option<String>,
    name: &'static str,
    expected: &'static str,
) -> Result<T, EnvironmentError> {
    optional(lookup, name, expected)?.ok_or(EnvironmentError::Missing(name))
}

fn optional<T: FromStr>(
    lookup: impl Fn(&str) -> Option<String>,
    name: &'static str,
    expected: &'static str,
) -> Result<Option<T>, EnvironmentError> {
    let Some(value) = lookup(name) else { return Ok(None) };
    value.trim().parse().map(Some).map_err(|_| unfit(name, value, expected))
}

fn unfit(name: &'static str, value: String, expected: &'static str) -> EnvironmentError {
    EnvironmentError::Unfit { name, value, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        Environment::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string()))
    }

    const TWO: [(&str, &str); 4] =
        [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")];

    fn two_with(name: &'static str, value: &'static str) -> Result<Environment, EnvironmentError> {
        let mut pairs = vec![(name, value)];
        pairs.extend(TWO);
        read(&pairs)
    }

    #[test]
    fn torchruns_environment_is_enough() {
        let environment = read(&TWO).expect("all is there");
        assert_eq!(environment.master, Some(("127.0.0.1".into(), 29500)));
        assert_eq!(environment.timeout, DEFAULT_TIMEOUT);
        assert_eq!(environment.device, Device::Cpu);
    }

    #[test]
    fn one_rank_needs_no_master() {
        let environment = read(&[("RANK", "0"), ("WORLD_SIZE", "1")]).expect("nobody to meet");
        assert_eq!(environment.master, None);
    }

    #[test]
    fn a_complaint_names_the_variable() {
        let complaint = |name, value| two_with(name, value).expect_err("unfit").to_string();
        for (name, value) in [
            ("RANK", "2"),
            ("RANK", "-1"),
            ("WORLD_SIZE", "0"),
            ("WORLD_SIZE", "two"),
            ("MASTER_PORT", "0"),
            ("MASTER_PORT", "65536"),
            ("MASTER_ADDR", ""),
            ("EVENKEEL_TIMEOUT", "0"),
            ("EVENKEEL_TIMEOUT", "-3"),
            ("EVENKEEL_TIMEOUT", "NaN"),
            ("EVENKEEL_TIMEOUT", "604801"),
            ("EVENKEEL_DEVICE", "tpu"),
            ("EVENKEEL_EVENTS_FD", "1"),
        ] {
            let text = complaint(name, value);
            assert!(text.starts_with(&format!("`{name}` is `{value}`")), "{text}");
        }
        assert_eq!(read(&TWO[1..]), Err(EnvironmentError::Missing("RANK")));
        assert_eq!(read(&TWO[..3]), Err(EnvironmentError::Missing("MASTER_PORT")));
    }

    #[test]
    fn a_timeout_may_be_a_fraction() {
        assert_eq!(two_with("EVENKEEL_TIMEOUT", "1.5").expect("fit").timeout, Duration::from_millis(1500));
    }
}
