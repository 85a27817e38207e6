//! Opening what lies in a record. Containers write to its folders, so under any name there may be a pipe at which opening would wait, or a
//! link to a file of somebody else.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a file and nothing else, to be read. Never waits.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    #[expect(clippy::cast_possible_wrap, reason = "flags, bit by bit")]
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// All of a file that has no more than so many bytes.
pub fn whole(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_opened_and_nothing_that_only_has_their_name() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("file"), "1234").expect("written");
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RWXU).expect("a pipe");
        std::os::unix::fs::symlink("file", path("link")).expect("a link");
        std::fs::create_dir(path("folder")).expect("a folder");
        assert_eq!(whole(&path("file"), 4).expect("read"), b"1234");
        assert_eq!(whole(&path("file"), 3).expect_err("too large").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(open(&path("absent")).expect_err("absent").kind(), io::ErrorKind::NotFound);
        for other in ["pipe", "link", "folder"] {
            assert!(open(&path(other)).is_err(), "{other}");
        }
    }
}
