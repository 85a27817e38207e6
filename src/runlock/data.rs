//! Hashes the files of a data set, in parallel, and only those that changed since the last time: a set that was hashed before costs a look at
//! every file's size and times.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::listing;

/// First line of a file of known hashes.
const HEAD: &str = "evenkeel hashes 1";
/// A file that was written so shortly before it was hashed may have been written again within the resolution of its times.
const RACY_NANOS: i128 = 2_000_000_000;

/// How far the work is, for whoever shows it and whoever wants it to end.
#[derive(Debug, Default)]
pub struct Progress {
    /// Files that were looked at.
    pub files: AtomicU64,
    /// Bytes that were read.
    pub bytes: AtomicU64,
    /// Set by whoever wants it to end.
    pub stop: AtomicBool,
}

/// A data set's files, hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// The text of `data.sha256`.
    pub listing: String,
    /// SHA-256 of it.
    pub fingerprint: String,
    /// Files.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Files that were read, because nothing was known of them.
    pub read: u64,
}

/// A file could not be hashed.
#[derive(Debug, thiserror::Error)]
#[error("failed to read `{}` of the data set", path.display())]
pub struct HashError {
    /// The file.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// What tells a file that was written from one that was not. A program can set the time of modification back, but not that of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: i128,
    changed: i128,
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            size: found.len(),
            modified: nanos(found.mtime(), found.mtime_nsec()),
            changed: nanos(found.ctime(), found.ctime_nsec()),
        }
    }
}

/// What is known of a file.
#[derive(Clone, Copy)]
struct Known {
    stamp: Stamp,
    hash: [u8; 32],
}

/// Hashes `files`; what is known of them is kept in the file `cache`, whose loss costs time alone.
///
/// # Errors
///
/// A file cannot be read, or [`Progress::stop`] was set.
pub fn hash(files: &BTreeMap<String, PathBuf>, cache: &Path, progress: &Progress) -> Result<Hashed, HashError> {
    let known = read_cache(cache);
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let began = i128::try_from(began).unwrap_or(i128::MAX);
    let all: Vec<(&String, &PathBuf)> = files.iter().collect();
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<HashError>> = Mutex::new(None);
    let read = AtomicU64::new(0);
    let work = || {
        let mut done: Vec<(usize, Known)> = Vec::new();
        // Few at a time, so that nobody is left with many large ones.
        const AT_ONCE: usize = 16;
        loop {
            let from = next.fetch_add(AT_ONCE, Ordering::Relaxed);
            if from >= all.len() || progress.stop.load(Ordering::Relaxed) {
                return done;
            }
            for (at, (_, path)) in all.iter().enumerate().skip(from).take(AT_ONCE) {
                match one(path, &known, &read, progress) {
                    Ok(known) => done.push((at, known)),
                    Err(source) => {
                        progress.stop.store(true, Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        failed.get_or_insert(HashError { path: (*path).clone(), source });
                        return done;
                    }
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    let mut done: Vec<(usize, Known)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let others = others.into_iter().flat_map(|thread| thread.join().unwrap_or_default());
        others.chain(mine).collect()
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error);
    }
    if done.len() < all.len() {
        let path = all.first().map(|(_, path)| (*path).clone()).unwrap_or_default();
        return Err(HashError { path, source: io::Error::from(io::ErrorKind::Interrupted) });
    }
    done.sort_by_key(|(at, _)| *at);
    let read = read.into_inner();
    if read > 0 || known.len() != all.len() {
        let settled = done.iter().filter(|(_, known)| began - known.stamp.changed > RACY_NANOS);
        let entries = settled.map(|(at, known)| (all[*at].1.as_path(), *known));
        // It is only a cache: the next run hashes again.
        let _ = write_cache(cache, entries);
    }
    let bytes = done.iter().map(|(_, known)| known.stamp.size).sum();
    let hashes = done.iter().map(|(at, known)| (all[*at].0.clone(), known.hash)).collect();
    let listing = listing::write(&hashes);
    let fingerprint = crate::dataset::hex(&Sha256::digest(&listing));
    Ok(Hashed { listing, fingerprint, files: all.len() as u64, bytes, read })
}

fn one(path: &Path, known: &HashMap<PathBuf, Known>, read: &AtomicU64, progress: &Progress) -> io::Result<Known> {
    let stamp = Stamp::of(&fs::metadata(path)?);
    progress.files.fetch_add(1, Ordering::Relaxed);
    if let Some(known) = known.get(path).filter(|known| known.stamp == stamp) {
        return Ok(*known);
    }
    read.fetch_add(1, Ordering::Relaxed);
    let mut file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        digest.update(&buffer[..count]);
        progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
        if progress.stop.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
    }
    Ok(Known { stamp, hash: digest.finalize().into() })
}

/// Lines of hash, size, times and path. What cannot be read is not known.
fn read_cache(cache: &Path) -> HashMap<PathBuf, Known> {
    let text = fs::read_to_string(cache).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return HashMap::new();
    }
    let entry = |line: &str| {
        let mut fields = line.splitn(5, ' ');
        let digits = fields.next().filter(|digits| digits.len() == 64 && digits.is_ascii())?;
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
        }
        let size = fields.next()?.parse().ok()?;
        let (modified, changed) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((PathBuf::from(fields.next()?), Known { stamp: Stamp { size, modified, changed }, hash }))
    };
    lines.filter_map(entry).collect()
}

fn write_cache<'a>(cache: &Path, entries: impl Iterator<Item = (&'a Path, Known)>) -> io::Result<()> {
    if let Some(folder) = cache.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = cache.with_extension(format!("{}.part", std::process::id()));
    let mut file = io::BufWriter::new(File::create(&part)?);
    writeln!(file, "{HEAD}")?;
    for (path, Known { stamp: Stamp { size, modified, changed }, hash }) in entries {
        // A name that does not fit into a line is hashed every time.
        if let Some(path) = path.to_str().filter(|path| !path.contains(['\n', '\r'])) {
            writeln!(file, "{} {size} {modified} {changed} {path}", crate::dataset::hex(&hash))?;
        }
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::rename(&part, cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Set {
        place: tempfile::TempDir,
        files: BTreeMap<String, PathBuf>,
    }

    impl Set {
        fn new(count: usize) -> Self {
            let place = tempfile::tempdir().expect("a folder");
            let write = |number: usize| {
                let name = format!("{number:03}.txt");
                let path = place.path().join(&name);
                fs::write(&path, format!("label {number}")).expect("written");
                (name, path)
            };
            let files = (0..count).map(write).collect();
            Self { place, files }
        }

        fn hash(&self) -> Hashed {
            hash(&self.files, &self.place.path().join("cache/known"), &Progress::default()).expect("hashed")
        }

        /// Waits until the files are older than what is taken for written just now.
        fn settle(&self) {
            let newest = self.files.values().map(|path| Stamp::of(&fs::metadata(path).expect("there")).changed).max();
            let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("later").as_nanos();
            while i128::try_from(now()).expect("small") - newest.unwrap_or(0) <= RACY_NANOS {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let set = Set::new(50);
        set.settle();
        let first = set.hash();
        assert_eq!((first.files, first.read), (50, 50));
        let second = set.hash();
        assert_eq!((second.read, &second.fingerprint), (0, &first.fingerprint));
        // Of the same size, and with its time of modification set back.
        let path = &set.files["007.txt"];
        let modified = fs::metadata(path).expect("there").modified().expect("a time");
        fs::write(path, "label X").expect("written");
        File::options().write(true).open(path).expect("there").set_modified(modified).expect("set");
        let third = set.hash();
        assert_eq!(third.read, 1);
        let changes = listing::changes(&first.listing, &third.listing);
        assert_eq!(changes, [("007.txt".to_owned(), listing::Change::Changed)]);
    }

    #[test]
    fn what_was_written_just_now_is_not_trusted() {
        let set = Set::new(3);
        assert_eq!((set.hash().read, set.hash().read), (3, 3));
    }

    #[test]
    fn a_cache_of_nonsense_is_none() {
        let set = Set::new(3);
        let cache = set.place.path().join("cache/known");
        fs::create_dir_all(cache.parent().expect("a folder")).expect("made");
        fs::write(&cache, format!("{HEAD}\nzz 1 2 3 x\n\u{e9}\n")).expect("written");
        assert_eq!(set.hash().files, 3);
    }

    #[test]
    fn a_file_that_is_gone_is_named() {
        let set = Set::new(3);
        fs::remove_file(&set.files["001.txt"]).expect("removed");
        let error = hash(&set.files, &set.place.path().join("c"), &Progress::default()).expect_err("gone");
        assert!(error.to_string().contains("001.txt"), "{error}");
    }
}
