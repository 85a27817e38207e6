//! Data sets: read as they are found in the wild, drawn, or fetched.

pub mod catalog;
mod error;
mod files;
mod init;
mod mount;
mod obtain;
mod resolve;
mod scan;
pub mod shapes;
mod voc;
pub mod yaml;

pub use error::DataError;
pub use files::files;
pub use init::{job_for, name_of};
pub use mount::Mount;
pub use obtain::{Wanted, obtain, wanted_data, wanted_weights};
pub use resolve::{Places, ResolvedData, resolve};
pub use scan::Count;

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
