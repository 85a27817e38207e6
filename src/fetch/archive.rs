//! Unpacks what strangers packed: nothing lands outside the folder, no links, no more than was allowed.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Component, Path, PathBuf};

use super::error::{FetchError, io_error};

/// How much an archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 2_000_000 }
    }
}

/// Unpacks a zip, tar or gzipped tar into a folder that exists. `on_file` is told how many files are done, and of how
/// many where the archive says so.
///
/// # Errors
/// [`FetchError::Archive`] when it is broken, has an entry that would land elsewhere, a link or a device, two files of
/// one name, or more than `limits`. What was unpacked until then stays: unpack into a folder that can be thrown away.
pub fn unpack(
    archive: &Path,
    dir: &Path,
    limits: Limits,
    on_file: &dyn Fn(u64, Option<u64>),
) -> Result<(), FetchError> {
    let mut file = File::open(archive).map_err(io_error("open", archive))?;
    let mut magic = [0; 4];
    let read = file.read(&mut magic).map_err(io_error("read", archive))?;
    io::Seek::rewind(&mut file).map_err(io_error("read", archive))?;
    let mut target = Target { archive, dir, left: limits, done: 0 };
    match &magic[..read] {
        [b'P', b'K', ..] => unzip(&mut target, file, on_file),
        [0x1f, 0x8b, ..] => untar(&mut target, flate2::read::MultiGzDecoder::new(io::BufReader::new(file)), on_file),
        _ => untar(&mut target, io::BufReader::new(file), on_file),
    }
}

fn unzip(target: &mut Target<'_>, file: File, on_file: &dyn Fn(u64, Option<u64>)) -> Result<(), FetchError> {
    let mut zip = zip::ZipArchive::new(io::BufReader::new(file)).map_err(|error| target.wrong(error))?;
    let total = zip.len();
    for index in 0..total {
        let mut entry = zip.by_index(index).map_err(|error| target.wrong(error))?;
        let name = entry.name().to_owned();
        if entry.is_symlink() {
            return Err(target.wrong(format!("`{name}` is a link")));
        }
        if entry.is_dir() {
            target.folder(Path::new(&name))?;
        } else {
            target.file(Path::new(&name), &mut entry)?;
        }
        on_file(target.done, u64::try_from(total).ok());
    }
    Ok(())
}

fn untar(target: &mut Target<'_>, reader: impl Read, on_file: &dyn Fn(u64, Option<u64>)) -> Result<(), FetchError> {
    let mut tar = tar::Archive::new(reader);
    let entries = tar.entries().map_err(|error| target.wrong(error))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| target.wrong(error))?;
        let name = entry.path().map_err(|error| target.wrong(error))?.into_owned();
        match entry.header().entry_type() {
            tar::EntryType::Directory => target.folder(&name)?,
            tar::EntryType::Regular | tar::EntryType::Continuous => target.file(&name, &mut entry)?,
            tar::EntryType::XGlobalHeader => {}
            _ => return Err(target.wrong(format!("`{}` is a link or a device", name.display()))),
        }
        on_file(target.done, None);
    }
    if target.done == 0 {
        return Err(target.wrong("it is neither zip nor tar, or empty"));
    }
    Ok(())
}

struct Target<'a> {
    archive: &'a Path,
    dir: &'a Path,
    left: Limits,
    done: u64,
}

impl Target<'_> {
    fn wrong(&self, problem: impl ToString) -> FetchError {
        FetchError::Archive { path: self.archive.to_owned(), problem: problem.to_string() }
    }

    /// Where an entry goes. Nothing, when it is what a Mac adds to every archive.
    fn place(&mut self, name: &Path) -> Result<Option<PathBuf>, FetchError> {
        match self.left.entries.checked_sub(1) {
            Some(left) => self.left.entries = left,
            None => return Err(self.wrong("it has too many entries")),
        }
        let text = name.to_string_lossy();
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if text.is_empty() || text.contains(['\\', '\0']) || !name.components().all(inside) {
            return Err(self.wrong(format!("`{}` would land outside of the folder", text.escape_debug())));
        }
        let of_a_mac = name.components().any(|part| part.as_os_str() == "__MACOSX");
        Ok((!of_a_mac).then(|| self.dir.join(name)))
    }

    fn folder(&mut self, name: &Path) -> Result<(), FetchError> {
        let Some(path) = self.place(name)? else { return Ok(()) };
        fs::create_dir_all(&path).map_err(io_error("create folder", &path))
    }

    fn file(&mut self, name: &Path, reader: &mut dyn Read) -> Result<(), FetchError> {
        // What a desktop leaves in every archive it packs.
        if name.file_name().is_some_and(|name| name == ".DS_Store") || name.starts_with("__MACOSX") {
            return Ok(());
        }
        let Some(path) = self.place(name)? else { return Ok(()) };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("create folder", parent))?;
        }
        // No entry may write through what another one has put there.
        let mut file = File::create_new(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => self.wrong(format!("it has `{}` twice", name.display())),
            _ => io_error("create", &path)(error),
        })?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            // What the archive says about sizes may be a lie: what comes out counts.
            let count =
                reader.read(&mut buffer).map_err(|error| self.wrong(format!("`{}`: {error}", name.display())))?;
            if count == 0 {
                break;
            }
            match self.left.bytes.checked_sub(count as u64) {
                Some(left) => self.left.bytes = left,
                None => return Err(self.wrong("it holds more than a data set would")),
            }
            file.write_all(&buffer[..count]).map_err(io_error("write", &path))?;
        }
        self.done += 1;
        Ok(())
    }
}
