//! From a `data.yaml` as it is found in the wild to what a trainer is told and what a container must see.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use evenkeel_wire::trainer_job::DataSet;

use super::DataError;
use super::error::io_error;
use super::mount::{Mount, canonicalize, is_forbidden};
use super::scan::{self, Count, Scanner};
use super::yaml::{self, DataYaml};

/// Bytes of a `data.yaml`.
const LARGEST_YAML: u64 = 4 << 20;

/// Where relative paths may start beside the file's own folder; read once from the environment by the caller.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The working directory.
    pub cwd: PathBuf,
    /// Folders in which Ultralytics keeps data sets.
    pub datasets: Vec<PathBuf>,
}

impl Places {
    /// Those of this process: the working directory, and Ultralytics' `datasets_dir` where its settings name one.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn from_env() -> io::Result<Self> {
        let cwd = std::env::current_dir()?;
        let config = std::env::var_os("YOLO_CONFIG_DIR").map(PathBuf::from).or_else(|| {
            let home = std::env::var_os("HOME").map(PathBuf::from)?;
            Some(home.join(".config/Ultralytics"))
        });
        let settings = config.and_then(|config| fs::read(config.join("settings.json")).ok());
        let named = settings
            .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
            .and_then(|settings| settings.get("datasets_dir")?.as_str().map(PathBuf::from));
        // Without settings, the folder `datasets` beside the project.
        let beside = cwd.parent().map(|parent| parent.join("datasets"));
        Ok(Self { cwd, datasets: named.into_iter().chain(beside).collect() })
    }
}

/// A data set, ready to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedData {
    /// The file, absolute.
    pub yaml: PathBuf,
    /// What the trainer is told. Every path is absolute and means the same on the host and in the container.
    pub data: DataSet,
    /// What the container must see, read-only.
    pub mounts: Vec<Mount>,
    /// Training images.
    pub train: Count,
    /// Validation images.
    pub val: Count,
    /// What a person should know, though it stops nothing.
    pub warnings: Vec<String>,
}

/// Reads a `data.yaml` (or the one in the folder that is named) and looks at all that it names.
///
/// # Errors
/// When the file or what it names is missing, empty, or cannot be shown to a container.
pub fn resolve(path: &Path, places: &Places) -> Result<ResolvedData, DataError> {
    let yaml = find(&places.cwd.join(path)).ok_or_else(|| DataError::NotFound(path.to_owned()))?;
    let text = read(&yaml)?;
    let content = yaml::parse(&text).map_err(|source| DataError::Yaml { path: yaml.clone(), source })?;
    let yaml = canonicalize(&yaml)?;

    let Located { root, train, val } = locate(&yaml, &content, places)?;
    let base = list_base(&root, &yaml, places, train.iter().chain(&val))?;
    let mut scanner = Scanner::default();
    // One mount for the whole set where that covers no folder of the container's own.
    if !is_forbidden(&root) && train.iter().chain(&val).any(|path| path.starts_with(&root)) {
        scanner.mounts.add(&root).map_err(io_error(&root))?;
    }
    let (train, train_count) = scan_all(&mut scanner, &yaml, "train", train, &base)?;
    let (val, val_count) = scan_all(&mut scanner, &yaml, "val", val, &base)?;

    let mut warnings = Vec::new();
    if content.nameless {
        warnings.push(format!("`{}` names no classes: they are called class_0, class_1, ...", yaml.display()));
    }
    if content.download.is_some() {
        warnings.push("`download:` in the data set is never executed; the files that are there are used".to_owned());
    }
    for (key, count) in [("train", train_count), ("val", val_count)] {
        if count.missing > 0 {
            warnings.push(format!("{} images of `{key}:` are not there and will not be used", count.missing));
        }
    }
    let data = DataSet { path: utf8(&base)?, train: all_utf8(&train)?, val: all_utf8(&val)?, names: content.names };
    Ok(ResolvedData { yaml, data, mounts: scanner.mounts.finish()?, train: train_count, val: val_count, warnings })
}

/// The file itself, or the only candidate in a folder.
fn find(path: &Path) -> Option<PathBuf> {
    if !path.is_dir() {
        return path.exists().then(|| path.to_owned());
    }
    ["data.yaml", "data.yml", "dataset.yaml"].iter().map(|name| path.join(name)).find(|file| file.is_file())
}

fn read(path: &Path) -> Result<String, DataError> {
    let not_text = |problem| DataError::NotText { path: path.to_owned(), problem };
    let about = fs::metadata(path).map_err(io_error(path))?;
    if !about.is_file() || about.len() > LARGEST_YAML {
        return Err(not_text("is no data.yaml"));
    }
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => not_text("is no UTF-8 text"),
        _ => io_error(path)(error),
    })
}

/// Sources as paths that exist, links not yet followed.
struct Located {
    root: PathBuf,
    train: Vec<PathBuf>,
    val: Vec<PathBuf>,
}

/// Finds the root at which everything that the file names exists.
fn locate(yaml: &Path, content: &DataYaml, places: &Places) -> Result<Located, DataError> {
    let own = yaml.parent().unwrap_or(Path::new("/"));
    let roots: Vec<PathBuf> = match &content.path {
        None => vec![own.to_owned()],
        // An absolute one replaces what it is joined to.
        Some(path) => [own, places.cwd.as_path()]
            .into_iter()
            .chain(places.datasets.iter().map(PathBuf::as_path))
            .map(|start| start.join(path))
            .collect(),
    };
    let mut first_miss = None;
    for root in &roots {
        let all = |entries: &[String]| entries.iter().map(|entry| at_root(root, entry).ok_or(entry.clone())).collect();
        let train: Result<Vec<PathBuf>, String> = all(&content.train);
        let val: Result<Vec<PathBuf>, String> = all(&content.val);
        match (train, val) {
            (Ok(train), Ok(val)) => return Ok(Located { root: canonicalize(root)?, train, val }),
            // The root that exists is the one that was meant.
            (Err(entry), _) if root.is_dir() => first_miss = first_miss.or(Some(("train", entry))),
            (_, Err(entry)) if root.is_dir() => first_miss = first_miss.or(Some(("val", entry))),
            _ => {}
        }
    }
    let (key, entry) = first_miss.unwrap_or_else(|| ("train", content.train[0].clone()));
    let mut looked: Vec<PathBuf> = roots.iter().map(|root| root.join(&entry)).collect();
    looked.dedup();
    Err(DataError::Missing { yaml: yaml.to_owned(), key, entry, looked, download: content.download.clone() })
}

/// A source below a root, if it is there. Sets exported for another layout have a `../` too many.
fn at_root(root: &Path, entry: &str) -> Option<PathBuf> {
    let as_written = root.join(entry);
    if as_written.exists() {
        return Some(as_written);
    }
    let shorter = root.join(entry.strip_prefix("../")?);
    shorter.exists().then_some(shorter)
}

/// Where plain relative lines of lists start: the first place at which such a line's image exists.
fn list_base<'a>(
    root: &Path,
    yaml: &Path,
    places: &Places,
    sources: impl Iterator<Item = &'a PathBuf>,
) -> Result<PathBuf, DataError> {
    for list in sources.filter(|path| path.is_file() && !scan::is_image(path)) {
        let Some(line) = scan::first_relative(list)? else { continue };
        let starts = [Some(root), list.parent(), yaml.parent(), Some(places.cwd.as_path())];
        if let Some(start) = starts.into_iter().flatten().find(|start| start.join(&line).exists()) {
            return canonicalize(start);
        }
    }
    Ok(root.to_owned())
}

/// Scans every source of a split and returns their final paths and what they hold.
fn scan_all(
    scanner: &mut Scanner,
    yaml: &Path,
    key: &'static str,
    sources: Vec<PathBuf>,
    base: &Path,
) -> Result<(Vec<PathBuf>, Count), DataError> {
    let mut total = Count::default();
    let mut paths = Vec::new();
    scanner.label_dirs.clear();
    for source in sources {
        // The true name first: trainers look for labels beside it. A folder of links to images kept elsewhere has its
        // labels beside the name as written.
        let true_name = canonicalize(&source)?;
        let mut found = scan_one(scanner, &true_name, base)?;
        let mut path = true_name;
        if found.labelled == 0 && path != source {
            let as_written = scan_one(scanner, &source, base)?;
            if as_written.labelled > 0 {
                (found, path) = (as_written, source);
            }
        }
        total.add(found);
        paths.push(path);
    }
    let yaml = || yaml.to_owned();
    if total.images == 0 {
        return Err(DataError::NoImages { yaml: yaml(), key, looked: paths });
    }
    if total.labelled == 0 {
        let looked = scanner.label_dirs.clone();
        return Err(DataError::NoLabels { yaml: yaml(), key, images: total.images, looked });
    }
    Ok((paths, total))
}

fn scan_one(scanner: &mut Scanner, source: &Path, base: &Path) -> Result<Count, DataError> {
    if source.is_dir() {
        return scanner.folder(source);
    }
    if scan::is_image(source) || !source.is_file() {
        return Err(DataError::NotText { path: source.to_owned(), problem: "is no folder and no list of images" });
    }
    if let Some(parent) = source.parent() {
        scanner.mounts.reach(parent).map_err(io_error(parent))?;
    }
    scanner.list_file(source, base)
}

fn utf8(path: &Path) -> Result<String, DataError> {
    path.to_str().map(str::to_owned).ok_or_else(|| DataError::NotUnicode(path.to_owned()))
}

fn all_utf8(paths: &[PathBuf]) -> Result<Vec<String>, DataError> {
    paths.iter().map(|path| utf8(path)).collect()
}
