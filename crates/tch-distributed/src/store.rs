//! Stores: where ranks meet before they are connected.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ffi::{self, Slice};

/// Longest key in bytes, prefixes included in libtorch's own limit of 8 KiB.
const MAX_KEY: usize = 4096;
/// Longest value in bytes: libtorch's server cuts the connection at more.
const MAX_VALUE: usize = 8 * 1024 * 1024;
/// Most keys in one question: libtorch's server cuts the connection at more.
const MAX_KEYS: usize = 128 * 1024;

/// A key-value store that all ranks see. Values are bytes; numbers made by [`Store::add`] are decimal text.
#[derive(Debug)]
pub struct Store {
    raw: NonNull<ffi::StoreHandle>,
}

// SAFETY: c10d counts references atomically; a store holds sockets, a file and a daemon thread, none of which belong to
// the thread that made it.
unsafe impl Send for Store {}
// SAFETY: every operation of TCPStore and of FileStore holds that store's own mutex from start to end, PrefixStore only
// passes on, and the one unguarded member, the timeout, is written before the store is handed out and never again.
unsafe impl Sync for Store {}

impl Store {
    /// Serves a TCP store on `listener`, whose descriptor then belongs to libtorch, and connects to it. The server stops
    /// when this store is dropped, and with it every client's connection.
    ///
    /// The listener decides on address and port; one bound to port 0 removes the race for a free port. `timeout` bounds
    /// the connection, and every [`Store::get`] from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Network`] when the socket cannot be served or connected to.
    pub fn tcp_server(listener: TcpListener, timeout: Duration) -> Result<Self> {
        let address = listener
            .local_addr()
            .map_err(|error| Error::Network(format!("the address of the listening socket: {error}")))?;
        // Its own client cannot connect to "any address".
        let host = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        Self::tcp(&host.to_string(), address.port(), listener.into_raw_fd(), timeout)
    }

    /// Connects to the TCP store that another process serves at `host` and `port`, trying again until `timeout` (counted
    /// in whole seconds, rounded up) has passed: the server may start later. The same timeout bounds every
    /// [`Store::get`].
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] or [`Error::Network`] when nobody serves there in time.
    pub fn tcp_client(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        Self::tcp(host, port, -1, timeout)
    }

    /// A store in a file on a file system that all ranks share and that has working locks. The file is created if absent;
    /// one left by an earlier run must not be used again. Its timeouts count in whole seconds and may be overdrawn by one.
    ///
    /// `world_size`: with `Some`, the last of that many stores to be dropped removes the file.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a path that is no UTF-8 or a world size of 0.
    pub fn file(path: &Path, world_size: Option<u32>, timeout: Duration) -> Result<Self> {
        let text = path
            .to_str()
            .ok_or_else(|| Error::InvalidArgument(format!("store path `{}` is no UTF-8", path.display())))?;
        let world_size = match world_size {
            None => -1,
            Some(size) => i32::try_from(size)
                .ok()
                .filter(|size| *size > 0)
                .ok_or_else(|| Error::InvalidArgument(format!("world size {size} of store `{}`", path.display())))?,
        };
        Self::make(|out| {
            // SAFETY: the path is borrowed for the call, and `out` is a place to write one pointer to.
            let status =
                unsafe { ffi::tchd_store_file(Slice::new(text.as_bytes()), world_size, ffi::millis(timeout), out) };
            ffi::check(status, || format!("file store `{text}`"))
        })
    }

    /// The same store seen through a prefix: keys set here do not meet those set elsewhere. Holds the server alive.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a prefix that is no key.
    pub fn prefix(&self, prefix: &str) -> Result<Self> {
        let prefix = key_slice(prefix)?;
        Self::make(|out| {
            // SAFETY: `raw` is a live store, which the new one holds a reference to; the prefix is copied.
            let status = unsafe { ffi::tchd_store_prefix(self.raw.as_ptr(), prefix, out) };
            ffi::check(status, || "prefix store".into())
        })
    }

    /// Sets `key`. On a TCP store this returns when the bytes are sent, not when they have arrived.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an unfit key or a value over 8 MiB; [`Error::Network`] when the server is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        // SAFETY: `raw` is a live store; key and value are borrowed for the call.
        let status = unsafe { ffi::tchd_store_set(self.raw.as_ptr(), key_slice(key)?, value_slice(key, value)?) };
        ffi::check(status, || format!("set `{key}`"))
    }

    /// Value of `key`, waiting for it to be set, for as long as the store's timeout.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when nobody sets it; otherwise as [`Store::set`].
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let mut value = ffi::Bytes::EMPTY;
        // SAFETY: `raw` is a live store; the key is borrowed for the call, and `value` outlives it.
        let status = unsafe { ffi::tchd_store_get(self.raw.as_ptr(), key_slice(key)?, &mut value) };
        ffi::check(status, || format!("get `{key}`"))?;
        // SAFETY: the call succeeded, so the shim has filled `value`.
        Ok(unsafe { value.into_vec() })
    }

    /// Adds `amount` to the number at `key` (absent: 0) and returns the new one, atomically over all ranks.
    ///
    /// # Errors
    ///
    /// As [`Store::set`]; a value that is no number breaks the connection on a TCP store.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64> {
        let mut sum = 0;
        // SAFETY: `raw` is a live store; the key is borrowed for the call, and `sum` outlives it.
        let status = unsafe { ffi::tchd_store_add(self.raw.as_ptr(), key_slice(key)?, amount, &mut sum) };
        ffi::check(status, || format!("add to `{key}`"))?;
        Ok(sum)
    }

    /// Sets `key` to `desired` if it holds `expected` (empty: if it is absent), atomically over all ranks. Returns what
    /// the key holds afterwards; for an absent key and an `expected` that is not empty, c10d returns `expected`.
    ///
    /// # Errors
    ///
    /// As [`Store::set`].
    pub fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>> {
        let mut value = ffi::Bytes::EMPTY;
        let (expected, desired) = (value_slice(key, expected)?, value_slice(key, desired)?);
        // SAFETY: `raw` is a live store; all slices are borrowed for the call, and `value` outlives it.
        let status =
            unsafe { ffi::tchd_store_compare_set(self.raw.as_ptr(), key_slice(key)?, expected, desired, &mut value) };
        ffi::check(status, || format!("compare and set `{key}`"))?;
        // SAFETY: the call succeeded, so the shim has filled `value`.
        Ok(unsafe { value.into_vec() })
    }

    /// Whether all `keys` are set now. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`Store::set`].
    pub fn check(&self, keys: &[&str]) -> Result<bool> {
        let slices = key_slices(keys)?;
        let mut all = false;
        // SAFETY: `raw` is a live store; `slices` holds `slices.len()` borrowed keys, and `all` outlives the call.
        let status = unsafe { ffi::tchd_store_check(self.raw.as_ptr(), slices.as_ptr(), slices.len(), &mut all) };
        ffi::check(status, || format!("check {}", list(keys)))?;
        Ok(all)
    }

    /// Waits until all `keys` are set, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when one is missing; otherwise as [`Store::set`].
    pub fn wait(&self, keys: &[&str], timeout: Duration) -> Result<()> {
        let slices = key_slices(keys)?;
        // SAFETY: `raw` is a live store; `slices` holds `slices.len()` keys that are borrowed for the call.
        let status =
            unsafe { ffi::tchd_store_wait(self.raw.as_ptr(), slices.as_ptr(), slices.len(), ffi::millis(timeout)) };
        ffi::check(status, || format!("wait for {}", list(keys)))
    }

    /// Removes `key`; whether it was there (a file store always says yes).
    ///
    /// # Errors
    ///
    /// As [`Store::set`].
    pub fn delete(&self, key: &str) -> Result<bool> {
        let mut existed = false;
        // SAFETY: `raw` is a live store; the key is borrowed for the call, and `existed` outlives it.
        let status = unsafe { ffi::tchd_store_delete(self.raw.as_ptr(), key_slice(key)?, &mut existed) };
        ffi::check(status, || format!("delete `{key}`"))?;
        Ok(existed)
    }

    /// Number of keys in the whole store, whatever the prefix; libtorch's own are counted too.
    ///
    /// # Errors
    ///
    /// As [`Store::set`].
    pub fn num_keys(&self) -> Result<u64> {
        let mut count = 0;
        // SAFETY: `raw` is a live store, and `count` outlives the call.
        let status = unsafe { ffi::tchd_store_num_keys(self.raw.as_ptr(), &mut count) };
        ffi::check(status, || "number of keys".into())?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    pub(crate) fn as_ptr(&self) -> *const ffi::StoreHandle {
        self.raw.as_ptr()
    }

    fn tcp(host: &str, port: u16, listen_fd: i32, timeout: Duration) -> Result<Self> {
        Self::make(|out| {
            // SAFETY: the host is borrowed for the call; a descriptor that is not -1 was given up by its owner.
            let status =
                unsafe { ffi::tchd_store_tcp(Slice::new(host.as_bytes()), port, listen_fd, ffi::millis(timeout), out) };
            ffi::check(status, || format!("TCP store at {host}:{port}"))
        })
    }

    fn make(call: impl FnOnce(*mut *mut ffi::StoreHandle) -> Result<()>) -> Result<Self> {
        let mut raw = ptr::null_mut();
        call(&mut raw)?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::Other("libtorch gave no store".into()))?;
        Ok(Self { raw })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: `raw` is ours and not used again; groups and prefix stores hold references of their own.
        let status = unsafe { ffi::tchd_store_drop(self.raw.as_ptr()) };
        // Letting go of a reference has nothing to report; `check` frees the message there might be.
        let _ = ffi::check(status, String::new);
    }
}

fn key_slice(key: &str) -> Result<Slice> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(Error::InvalidArgument(format!("a key of {} bytes; 1 to {MAX_KEY} are possible", key.len())));
    }
    Ok(Slice::new(key.as_bytes()))
}

fn key_slices(keys: &[&str]) -> Result<Vec<Slice>> {
    if keys.is_empty() || keys.len() > MAX_KEYS {
        return Err(Error::InvalidArgument(format!("{} keys; 1 to {MAX_KEYS} are possible", keys.len())));
    }
    keys.iter().map(|key| key_slice(key)).collect()
}

fn value_slice(key: &str, value: &[u8]) -> Result<Slice> {
    if value.len() > MAX_VALUE {
        let len = value.len();
        return Err(Error::InvalidArgument(format!("a value of {len} bytes for `{key}`; {MAX_VALUE} are possible")));
    }
    Ok(Slice::new(value))
}

fn list(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}
