//! What can go wrong, told apart by what a caller would do about it.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of c10d. The text says what was being done and repeats libtorch's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A deadline passed: a peer is late, stuck, or never came.
    #[error("timed out: {0}")]
    Timeout(String),
    /// A peer's process has ended, or its connection has.
    #[error("lost a peer: {0}")]
    PeerLost(String),
    /// The store refused or cannot do it.
    #[error("store failed: {0}")]
    Store(String),
    /// The network below: an address, a port, a connection to the store's host.
    #[error("network failed: {0}")]
    Network(String),
    /// Memory of a device or of the host ran out.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The caller's mistake: a rank, a tensor, a key, an interface.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// Sound, but this backend or build does not do it.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// Anything else that libtorch said.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// From the shim's number of a kind (`tchd_kind` in csrc/shim.h).
    pub(crate) fn new(kind: i32, message: String) -> Self {
        match kind {
            1 => Self::Timeout(message),
            2 => Self::PeerLost(message),
            3 => Self::Store(message),
            4 => Self::Network(message),
            5 => Self::OutOfMemory(message),
            6 => Self::InvalidArgument(message),
            7 => Self::Unsupported(message),
            _ => Self::Other(message),
        }
    }
}
