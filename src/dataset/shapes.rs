//! A data set to begin with: drawn shapes in YOLO's format, the same bytes for the same seed on every machine.
//!
//! `images` counts the training images; the validation split is a quarter of that on top (512 give 128). An image
//! depends on the seed, its split and its number alone: more images or other workers change no image that was there.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

mod draw;
mod png;
mod rng;

pub use draw::CLASSES;

/// What wrote the set and how, kept in the set's folder. Not an image, so trainers pass over it.
const MARKER: &str = ".evenkeel-shapes.json";
/// Raised whenever the same options would give other bytes.
const GENERATOR: u32 = 1;
/// Side of the smallest and largest image that can be drawn.
const SIDES: RangeInclusive<u32> = 32..=4096;
/// Most shapes in an image.
const MOST_LABELS: u32 = 1000;
/// Most training images: names have six digits.
const MOST_IMAGES: u32 = 800_000;
/// An abandoned folder is removed only at this age, so that one that was made this instant is not.
const ABANDONED: Duration = Duration::from_secs(60);

/// What set to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapesOptions {
    /// Folder of the set; created, with its parents.
    pub dir: PathBuf,
    /// Training images; a quarter as many validation images (rounded up) come on top.
    pub images: u32,
    /// Side of the square images in pixels.
    pub imgsz: u32,
    /// Seed of everything random.
    pub seed: u64,
    /// Shapes an image, both ends included.
    pub labels: RangeInclusive<u32>,
    /// Threads; absent: as many as there are processors.
    pub workers: Option<NonZeroUsize>,
}

impl ShapesOptions {
    /// What the walkthrough trains on: 512 + 128 images of 160 pixels with one to three shapes.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), images: 512, imgsz: 160, seed: 0, labels: 1..=3, workers: None }
    }
}

/// A set on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapesSet {
    /// Its `data.yaml`.
    pub data: PathBuf,
    /// Training images.
    pub train: u32,
    /// Validation images.
    pub val: u32,
    /// Hash over the names and bytes of all files as they were written, in hexadecimal.
    pub sha256: String,
    /// False: it was there already, and nothing was touched.
    pub written: bool,
}

/// Why a set was not written.
#[derive(Debug, thiserror::Error)]
pub enum ShapesError {
    /// A number outside of what can be drawn.
    #[error("{what} must be {from} to {to}, not {given}")]
    OutOfRange {
        /// The option.
        what: &'static str,
        /// Least allowed.
        from: u32,
        /// Most allowed.
        to: u32,
        /// As given.
        given: u32,
    },
    /// `--labels` cannot be read.
    #[error("`{0}` is no range of labels: write MIN..MAX (both included, such as 1..3) or one number")]
    Labels(String),
    /// The folder holds something that was not written by this command.
    #[error("folder `{}` is not empty and holds no set of shapes: name another folder", .0.display())]
    Occupied(PathBuf),
    /// The folder holds a set of shapes, but not this one.
    #[error(
        "folder `{}` holds another set of shapes (there: {there}; asked for: {asked}): name another folder or remove it",
        dir.display()
    )]
    Different {
        /// The folder.
        dir: PathBuf,
        /// Options of the set that is there.
        there: String,
        /// Options asked for.
        asked: String,
    },
    /// The folder holds the set, but files are gone.
    #[error("the set of shapes in `{}` has lost files: `{part}` holds {found} of {expected}; remove the folder and write it again", dir.display())]
    Incomplete {
        /// The folder.
        dir: PathBuf,
        /// Its part.
        part: &'static str,
        /// Files found.
        found: usize,
        /// Files expected.
        expected: u32,
    },
    /// The disk said no.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Options that decide the bytes, and their hash; the content of the marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    generator: u32,
    images: u32,
    imgsz: u32,
    seed: u64,
    labels: [u32; 2],
    sha256: String,
}

impl Marker {
    fn describe(&self) -> String {
        let Self { generator, images, imgsz, seed, labels: [low, high], .. } = self;
        format!("{images} images of {imgsz} px, seed {seed}, {low}..{high} labels, generator {generator}")
    }
}

/// Reads `MIN..MAX`, both included, or one number.
///
/// # Errors
/// [`ShapesError::Labels`] when the text is neither.
pub fn parse_labels(text: &str) -> Result<RangeInclusive<u32>, ShapesError> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let number = |part: &str| part.trim().trim_start_matches('=').parse().ok();
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Ok(low..=high),
        _ => Err(ShapesError::Labels(text.to_owned())),
    }
}

/// Writes the set, all of it or nothing; leaves it alone when it is there already.
///
/// # Errors
/// When an option is out of range, the folder holds something else, or the disk refuses.
pub fn write(options: &ShapesOptions) -> Result<ShapesSet, ShapesError> {
    check(options)?;
    // A folder that is there may be a link or `.`: its true name is the one that can be replaced.
    let dir = fs::canonicalize(&options.dir).unwrap_or_else(|_| options.dir.components().collect());
    if let Some(set) = existing(&dir, options)? {
        return Ok(set);
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io_error("create folder", parent))?;
    let prefix = format!(".{}.partial-", dir.file_name().unwrap_or_default().to_string_lossy());
    remove_abandoned(parent, &prefix);

    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    let unique = format!("{prefix}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let partial = Partial::create(parent.join(unique))?;
    let sha256 = fill(&partial.path, options)?;
    match fs::rename(&partial.path, &dir) {
        Ok(()) => partial.keep(),
        // Another process may have been quicker with the same set.
        Err(error) => {
            return existing(&dir, options)?.ok_or_else(|| io_error("move the set to", &dir)(error));
        }
    }
    Ok(ShapesSet {
        data: dir.join("data.yaml"),
        train: options.images,
        val: val_images(options),
        sha256,
        written: true,
    })
}

fn check(options: &ShapesOptions) -> Result<(), ShapesError> {
    let within = |what, range: RangeInclusive<u32>, given| {
        let (from, to) = range.clone().into_inner();
        if range.contains(&given) { Ok(()) } else { Err(ShapesError::OutOfRange { what, from, to, given }) }
    };
    within("the number of images", 1..=MOST_IMAGES, options.images)?;
    within("the image size", SIDES, options.imgsz)?;
    within("the most labels an image", 0..=MOST_LABELS, *options.labels.end())?;
    within("the least labels an image", 0..=*options.labels.end(), *options.labels.start())
}

fn val_images(options: &ShapesOptions) -> u32 {
    options.images.div_ceil(4)
}

fn marker(options: &ShapesOptions, sha256: String) -> Marker {
    let labels = [*options.labels.start(), *options.labels.end()];
    Marker { generator: GENERATOR, images: options.images, imgsz: options.imgsz, seed: options.seed, labels, sha256 }
}

/// The set, when the folder holds it; nothing, when there is no folder or an empty one.
fn existing(dir: &Path, options: &ShapesOptions) -> Result<Option<ShapesSet>, ShapesError> {
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read folder", dir)(error)),
    };
    if entries.next().is_none() {
        return Ok(None);
    }
    let text = fs::read(dir.join(MARKER)).map_err(|_| ShapesError::Occupied(dir.to_owned()))?;
    let there: Marker = serde_json::from_slice(&text).map_err(|_| ShapesError::Occupied(dir.to_owned()))?;
    let asked = marker(options, there.sha256.clone());
    if there != asked {
        let (there, asked) = (there.describe(), asked.describe());
        return Err(ShapesError::Different { dir: dir.to_owned(), there, asked });
    }
    for (part, extension, expected) in [
        ("images/train", "png", options.images),
        ("labels/train", "txt", options.images),
        ("images/val", "png", val_images(options)),
        ("labels/val", "txt", val_images(options)),
    ] {
        // Counted by extension: trainers leave caches beside the labels.
        let of_kind = |entry: &fs::DirEntry| Path::new(&entry.file_name()).extension().is_some_and(|e| e == extension);
        let found = fs::read_dir(dir.join(part)).map_or(0, |all| all.flatten().filter(of_kind).count());
        if u32::try_from(found) != Ok(expected) {
            return Err(ShapesError::Incomplete { dir: dir.to_owned(), part, found, expected });
        }
    }
    Ok(Some(ShapesSet {
        data: dir.join("data.yaml"),
        train: options.images,
        val: val_images(options),
        sha256: there.sha256,
        written: false,
    }))
}

/// Writes the whole set into an empty folder and returns its hash.
fn fill(dir: &Path, options: &ShapesOptions) -> Result<String, ShapesError> {
    for part in ["images/train", "images/val", "labels/train", "labels/val"] {
        let path = dir.join(part);
        fs::create_dir_all(&path).map_err(io_error("create folder", &path))?;
    }
    let splits = [("train", options.images), ("val", val_images(options))];
    let all: Vec<(u64, &str, u32)> = (0..)
        .zip(splits)
        .flat_map(|(split, (name, images))| (0..images).map(move |index| (split, name, index)))
        .collect();

    let next = AtomicUsize::new(0);
    let draw_some = || -> Result<Vec<(usize, [u8; 64])>, ShapesError> {
        let mut done = Vec::new();
        while let Some((at, (split, name, index))) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            all.get(at).map(|image| (at, *image))
        } {
            done.push((at, write_image(dir, options, split, name, index)?));
        }
        Ok(done)
    };
    let workers = options.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let mut hashes = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers.min(all.len())).map(|_| scope.spawn(draw_some)).collect();
        let mut hashes = Vec::with_capacity(all.len());
        for thread in threads {
            hashes.extend(thread.join().expect("drawing does not panic")?);
        }
        Ok::<_, ShapesError>(hashes)
    })?;
    hashes.sort_unstable_by_key(|(at, _)| *at);

    let data = data_yaml();
    save(&dir.join("data.yaml"), data.as_bytes())?;
    let mut sum = Sha256::new();
    sum.update(data);
    for ((_, hash), (_, name, index)) in hashes.iter().zip(&all) {
        sum.update(format!("{name}/{index:06}"));
        sum.update(hash);
    }
    let sha256 = super::hex(&sum.finalize());
    let text = serde_json::to_string_pretty(&marker(options, sha256.clone())).expect("numbers and text become JSON");
    save(&dir.join(MARKER), format!("{text}\n").as_bytes())?;
    Ok(sha256)
}

/// Draws and writes one image with its labels, and returns the hashes of both.
fn write_image(
    dir: &Path,
    options: &ShapesOptions,
    split: u64,
    name: &str,
    index: u32,
) -> Result<[u8; 64], ShapesError> {
    let mut rng = rng::Rng::of_image(options.seed, split, u64::from(index));
    let picture = draw::draw(&mut rng, options.imgsz, options.labels.clone());
    let path = dir.join(format!("images/{name}/{index:06}.png"));
    let side = usize::try_from(options.imgsz).expect("a side fits");
    let bytes = png::encode(&picture.rgb, side).map_err(io_error("encode", &path))?;
    save(&path, &bytes)?;
    save(&dir.join(format!("labels/{name}/{index:06}.txt")), picture.labels.as_bytes())?;
    let mut hashes = [0; 64];
    hashes[..32].copy_from_slice(&Sha256::digest(&bytes));
    hashes[32..].copy_from_slice(&Sha256::digest(&picture.labels));
    Ok(hashes)
}

/// Without `path:`, every reader takes the file's own folder, wherever the set is moved.
fn data_yaml() -> String {
    let mut text = "# Drawn shapes, written by `evenkeel dataset shapes`. Folders are relative to this file.\n\
                    train: images/train\nval: images/val\nnames:\n"
        .to_owned();
    for (index, class) in CLASSES.iter().enumerate() {
        text.push_str(&format!("  {index}: {class}\n"));
    }
    text
}

/// A folder that disappears unless it is kept. It is locked while it is filled: one without a lock was abandoned.
struct Partial {
    path: PathBuf,
    kept: bool,
    _lock: fs::File,
}

impl Partial {
    fn create(path: PathBuf) -> Result<Self, ShapesError> {
        fs::create_dir(&path).map_err(io_error("create folder", &path))?;
        let lock = fs::File::open(&path)
            .inspect(|folder| {
                // A file system without locks only loses the tidying up after a crash.
                let _ = flock(folder, FlockOperation::NonBlockingLockExclusive);
            })
            .map_err(io_error("open folder", &path))?;
        Ok(Self { path, kept: false, _lock: lock })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes what a killed writer left behind. Best effort: nothing depends on it.
fn remove_abandoned(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let age = entry.metadata().and_then(|data| data.modified()).map(|time| SystemTime::now().duration_since(time));
        let old = matches!(age, Ok(Ok(age)) if age >= ABANDONED);
        let free = fs::File::open(entry.path())
            .is_ok_and(|folder| flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok());
        if old && free {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn save(path: &Path, bytes: &[u8]) -> Result<(), ShapesError> {
    fs::write(path, bytes).map_err(io_error("write", path))
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ShapesError + use<'a> {
    move |source| ShapesError::Io { what, path: path.to_owned(), source }
}
