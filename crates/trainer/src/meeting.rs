//! Where the ranks meet: rank 0 serves a store, calls the roll, and closes when everybody has left.

use std::io::{self, Read};
use std::net::{Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_wire::FailureClass;
use tch_distributed::{Error, Interface, Store};

use crate::environment::Environment;

/// What rank 0 found when it called the roll.
const ROLL: &str = "roll";
/// How much longer than rank 0 the others wait, so that they hear its verdict instead of giving up beside it.
const GRACE: Duration = Duration::from_secs(2);
/// How often a rank looks whether rank 0 listens: the store's client itself tries again only after half a second.
const KNOCKING_PAUSE: Duration = Duration::from_millis(5);
/// Time for the store's client to say that nobody listens.
const LAST_TRY: Duration = Duration::from_millis(500);
/// How long the last steps may take, when every rank has done its work and only has to leave.
const LEAVING: Duration = Duration::from_secs(5);
/// How often, and how far apart, a rank looks whether the port is closed.
const CLOSING_TRIES: u32 = 20;
const CLOSING_PAUSE: Duration = Duration::from_millis(5);

/// Where a rank is to meet which others.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Rank 0's address.
    pub host: &'a str,
    /// Rank 0's port.
    pub port: u16,
    /// This rank.
    pub rank: u32,
    /// All ranks.
    pub world_size: u32,
    /// How long to wait for them.
    pub timeout: Duration,
    /// What they meet for: programs that follow each other on one port must not take each other's keys for their own.
    pub purpose: &'static str,
}

impl<'a> Place<'a> {
    /// Where the environment says; none for a rank that is alone.
    pub fn of(environment: &'a Environment, purpose: &'static str) -> Option<Self> {
        let (host, port) = environment.master.as_ref()?;
        let Environment { rank, world_size, timeout, .. } = *environment;
        Some(Self { host, port: *port, rank, world_size, timeout, purpose })
    }
}

/// Why the ranks did not meet.
#[derive(Debug, thiserror::Error)]
pub enum MeetingError {
    /// The port is in use, or the address is not ours.
    #[error("failed to listen on {host}:{port}")]
    Listen {
        /// Rank 0's address.
        host: String,
        /// Rank 0's port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// Nobody serves the store.
    #[error("rank 0 did not come within {} s: nothing answers on {host}:{port}", timeout.as_secs_f64())]
    NoRankZero {
        /// Rank 0's address.
        host: String,
        /// Rank 0's port.
        port: u16,
        /// How long we tried.
        timeout: Duration,
        /// What the last try said.
        source: Error,
    },
    /// The roll was called and somebody did not answer.
    #[error("{} of {world_size} did not come within {} s", ranks(missing), timeout.as_secs_f64())]
    Missing {
        /// Who.
        missing: Vec<u32>,
        /// Ranks in all.
        world_size: u32,
        /// How long they were waited for.
        timeout: Duration,
    },
    /// The store failed in the middle of it: rank 0 has gone, or the network.
    #[error("lost the store of rank 0")]
    Store(#[from] Error),
    /// Nobody knows the way to rank 0.
    #[error("failed to find the interface that leads to `{host}`")]
    Interface {
        /// Rank 0's address.
        host: String,
        /// Why.
        source: io::Error,
    },
}

impl MeetingError {
    /// The failure's class.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Listen { .. } | Self::Interface { .. } => FailureClass::Infrastructure,
            Self::NoRankZero { .. } | Self::Missing { .. } | Self::Store(_) => FailureClass::Collective,
        }
    }
}

/// All ranks have come.
pub struct Meeting<'a> {
    place: Place<'a>,
    store: Store,
}

impl<'a> Meeting<'a> {
    /// Meets the others, by `start` plus the timeout.
    ///
    /// # Errors
    ///
    /// Names the ranks that did not come.
    pub fn join(place: &Place<'a>, start: Instant) -> Result<Self, MeetingError> {
        let store = if place.rank == 0 {
            Store::tcp_server(listen(place)?, place.timeout)?
        } else {
            await_listener(place, start);
            // What is left of the time, or a moment for the error to be told.
            let left_time = (start + place.timeout).saturating_duration_since(Instant::now()).max(LAST_TRY);
            Store::tcp_client(place.host, place.port, left_time).map_err(|source| MeetingError::NoRankZero {
                host: place.host.into(),
                port: place.port,
                timeout: place.timeout,
                source,
            })?
        };
        let meeting = Self { place: *place, store: store.prefix(&format!("evenkeel/{}", place.purpose))? };
        meeting.store.set(&joined(place.rank), b"1")?;
        let deadline = start + place.timeout;
        if place.rank == 0 {
            meeting.call_roll(deadline)?
        } else {
            meeting.answer_roll(deadline)?
        }
        Ok(meeting)
    }

    /// The store, for the groups of this preflight.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Leaves. Rank 0 stays until all others have said goodbye, then closes the port; the others return when it is closed,
    /// so that no trainer that starts after them can take this store for its own rank 0's.
    ///
    /// # Errors
    ///
    /// The store is lost before the goodbye.
    pub fn leave(self) -> Result<(), MeetingError> {
        let Self { place, store } = self;
        if place.rank == 0 {
            let all: Vec<_> = (1..place.world_size).map(left).collect();
            // One that dies after its work was checked is the trainer's trouble, not ours.
            let _ = wait(&store, &all, LEAVING);
            return Ok(());
        }
        // A bare connection ends when the server does, and unlike the store's client says nothing about it.
        let line = TcpStream::connect((place.host, place.port)).ok();
        store.set(&left(place.rank), b"1")?;
        drop(store);
        if let Some(mut line) = line {
            if line.set_read_timeout(Some(LEAVING)).is_ok() {
                let _ = line.read(&mut [0]);
            }
        }
        // The server hangs up on its clients a moment before it stops to listen. If somebody still answers after that, it is
        // the program that follows on rank 0.
        for _ in 0..CLOSING_TRIES {
            if TcpStream::connect((place.host, place.port)).is_err() {
                break;
            }
            thread::sleep(CLOSING_PAUSE);
        }
        Ok(())
    }

    fn call_roll(&self, deadline: Instant) -> Result<(), MeetingError> {
        let all: Vec<_> = (1..self.place.world_size).map(joined).collect();
        match wait(&self.store, &all, deadline.saturating_duration_since(Instant::now())) {
            Ok(()) => Ok(self.store.set(ROLL, b"")?),
            Err(Error::Timeout(_)) => {
                let missing = self.missing()?;
                self.store.set(ROLL, &encode(&missing))?;
                let here: Vec<_> =
                    (1..self.place.world_size).filter(|rank| !missing.contains(rank)).map(left).collect();
                // Whoever is here should hear the names before the server goes.
                let _ = wait(&self.store, &here, GRACE);
                self.verdict(missing)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn answer_roll(&self, deadline: Instant) -> Result<(), MeetingError> {
        let left_time = deadline.saturating_duration_since(Instant::now());
        match self.store.wait(&[ROLL], left_time + GRACE) {
            Ok(()) => {
                let missing = decode(&self.store.get(ROLL)?);
                if !missing.is_empty() {
                    self.store.set(&left(self.place.rank), b"1")?;
                }
                self.verdict(missing)
            }
            // Rank 0 started later than we did and still waits; we do not.
            Err(Error::Timeout(_)) => self.verdict(self.missing()?),
            Err(error) => Err(error.into()),
        }
    }

    fn missing(&self) -> Result<Vec<u32>, Error> {
        let mut missing = Vec::new();
        for rank in 0..self.place.world_size {
            if !self.store.check(&[&joined(rank)])? {
                missing.push(rank);
            }
        }
        Ok(missing)
    }

    fn verdict(&self, missing: Vec<u32>) -> Result<(), MeetingError> {
        let Place { world_size, timeout, .. } = self.place;
        if missing.is_empty() { Ok(()) } else { Err(MeetingError::Missing { missing, world_size, timeout }) }
    }
}

/// The interface that the environment names, or the one through which this rank reaches rank 0, and is reached.
pub fn interface(environment: &Environment, place: &Place) -> Result<Interface, MeetingError> {
    if let Some(name) = &environment.interface {
        return Ok(Interface::Name(name.clone()));
    }
    let find = || {
        let master = (place.host, place.port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
        let any = if master.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        // Connecting a datagram socket sends nothing: it asks the kernel for the route.
        let socket = UdpSocket::bind(any)?;
        socket.connect(master)?;
        Ok(socket.local_addr()?.ip())
    };
    match find() {
        Ok(address) if address.is_loopback() => Ok(Interface::Name("lo".into())),
        Ok(address) => Ok(Interface::Address(address)),
        Err(source) => Err(MeetingError::Interface { host: place.host.into(), source }),
    }
}

/// Waits until somebody listens where rank 0 is to be found, for the place's timeout at most.
fn await_listener(place: &Place, start: Instant) {
    while TcpStream::connect((place.host, place.port)).is_err() && start.elapsed() < place.timeout {
        thread::sleep(KNOCKING_PAUSE);
    }
}

/// Listens where rank 0 is to be found; on all addresses where that one is not this machine's own, as behind NAT.
fn listen(place: &Place) -> Result<TcpListener, MeetingError> {
    let listener = match TcpListener::bind((place.host, place.port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, place.port))
                .or_else(|_| TcpListener::bind(("0.0.0.0", place.port)))
        }
        other => other,
    };
    listener.map_err(|source| MeetingError::Listen { host: place.host.into(), port: place.port, source })
}

fn wait(store: &Store, keys: &[String], timeout: Duration) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    store.wait(&keys.iter().map(String::as_str).collect::<Vec<_>>(), timeout)
}

fn joined(rank: u32) -> String {
    format!("joined/{rank}")
}

fn left(rank: u32) -> String {
    format!("left/{rank}")
}

fn encode(missing: &[u32]) -> Vec<u8> {
    missing.iter().map(u32::to_string).collect::<Vec<_>>().join(" ").into_bytes()
}

fn decode(bytes: &[u8]) -> Vec<u32> {
    String::from_utf8_lossy(bytes).split_whitespace().filter_map(|rank| rank.parse().ok()).collect()
}

fn ranks(missing: &[u32]) -> String {
    let list = missing.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    format!("{} {list}", if missing.len() == 1 { "rank" } else { "ranks" })
}
