//! A set in YOLO's format: pictures in folders or lists, a label file beside each.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io, thread};

use sha2::{Digest, Sha256};

use super::label::{self, Label};
use super::picture::{self, ENDINGS};

/// A picture with its objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// File of the picture.
    pub path: PathBuf,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Objects in it.
    pub labels: Vec<Label>,
}

/// The pictures of a split that can be used, and what was wrong with the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    /// In the order of folders and lists; within a folder by path.
    pub entries: Vec<Entry>,
    /// What was left out or mended.
    pub problems: Vec<Problem>,
    /// Pictures without a label file, or with an empty one: they have no objects.
    pub backgrounds: usize,
}

/// Something about a file that its owner should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is the matter.
    pub why: String,
    /// Whether the picture was left out for it.
    pub skipped: bool,
}

/// A split that cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// A folder or list cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The folder or list.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing to look at.
    #[error("no pictures ({}) in {}", ENDINGS.join(", "), places.join(", "))]
    Empty {
        /// Where they were looked for.
        places: Vec<String>,
    },
    /// Nothing usable.
    #[error("none of {count} pictures can be used; the first, `{}`: {}", first.path.display(), first.why)]
    Unusable {
        /// Pictures that were found.
        count: usize,
        /// What is wrong with the first.
        first: Problem,
    },
}

/// Where the pictures of a split are, and how to read them.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// What relative entries refer to.
    pub root: &'a Path,
    /// Folders, which are searched with all that is below them, pictures, and lists of pictures (`.txt`).
    pub entries: &'a [String],
    /// Number of classes.
    pub classes: u32,
    /// Whether all objects are of class 0, whatever their labels say.
    pub single_class: bool,
    /// At most this many pictures, the first.
    pub limit: Option<usize>,
}

impl Set {
    /// Looks at every picture and label file of a split.
    ///
    /// # Errors
    ///
    /// A folder or list that cannot be read; no picture that can be used.
    pub fn scan(source: &Source<'_>, threads: usize) -> Result<Self, SetError> {
        let mut paths = list(source)?;
        paths.truncate(source.limit.unwrap_or(usize::MAX));
        if paths.is_empty() {
            let places =
                source.entries.iter().map(|entry| format!("`{}`", source.root.join(entry).display())).collect();
            return Err(SetError::Empty { places });
        }
        let mut looked: Vec<(usize, Looked)> = Vec::with_capacity(paths.len());
        let (next, all) = (AtomicUsize::new(0), Mutex::new(&mut looked));
        thread::scope(|scope| {
            for _ in 0..threads.clamp(1, paths.len()) {
                scope.spawn(|| {
                    let mut mine = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(path) = paths.get(at) else { break };
                        mine.push((at, look(path, source)));
                    }
                    all.lock().expect("nobody panics here").append(&mut mine);
                });
            }
        });
        looked.sort_unstable_by_key(|(at, _)| *at);
        let mut set = Self::default();
        for (_, looked) in looked {
            set.problems.extend(looked.problem);
            set.backgrounds += usize::from(looked.entry.as_ref().is_some_and(|entry| entry.labels.is_empty()));
            set.entries.extend(looked.entry);
        }
        match set.problems.iter().find(|problem| problem.skipped) {
            Some(first) if set.entries.is_empty() => {
                Err(SetError::Unusable { count: paths.len(), first: first.clone() })
            }
            _ => Ok(set),
        }
    }

    /// Pictures that were left out.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.problems.iter().filter(|problem| problem.skipped).count()
    }

    /// A number that two ranks agree on only if they see the same set.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut digest = Sha256::new();
        for entry in &self.entries {
            digest.update(entry.path.as_os_str().as_encoded_bytes());
            digest.update([0]);
            digest.update(entry.width.to_le_bytes());
            digest.update(entry.height.to_le_bytes());
            digest.update((entry.labels.len() as u64).to_le_bytes());
            for label in &entry.labels {
                digest.update(label.class.to_le_bytes());
                label.area.iter().for_each(|share| digest.update(share.to_le_bytes()));
            }
        }
        let hash = digest.finalize();
        u64::from_le_bytes(hash[..8].try_into().expect("eight bytes"))
    }
}

struct Looked {
    entry: Option<Entry>,
    problem: Option<Problem>,
}

fn look(path: &Path, source: &Source<'_>) -> Looked {
    let problem = |path: &Path, why: String, skipped| Some(Problem { path: path.to_owned(), why, skipped });
    let (width, height) = match picture::look(path) {
        Ok(size) => size,
        Err(error) => return Looked { entry: None, problem: problem(path, error.to_string(), true) },
    };
    let file = label_file(path);
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Looked { entry: None, problem: problem(&file, format!("failed to read it: {error}"), true) };
        }
    };
    // With one class for all, any number is a class.
    let classes = if source.single_class { u32::MAX } else { source.classes };
    let mut labels = match label::parse(&bytes, classes) {
        Ok(labels) => labels,
        Err(error) => return Looked { entry: None, problem: problem(&file, error.to_string(), true) },
    };
    if source.single_class {
        labels.objects.iter_mut().for_each(|label| label.class = 0);
    }
    let problem = match labels.duplicates {
        0 => None,
        1 => problem(&file, "a line that is there twice counts once".into(), false),
        more => problem(&file, format!("{more} lines that are there already count once"), false),
    };
    Looked { entry: Some(Entry { path: path.to_owned(), width, height, labels: labels.objects }), problem }
}

/// The label file of a picture: in the folder `labels` beside the last `images` of its path, with the ending `.txt`.
#[must_use]
pub fn label_file(picture: &Path) -> PathBuf {
    let parts: Vec<_> = picture.components().collect();
    let images = parts.iter().rposition(|part| part.as_os_str() == "images");
    let moved: PathBuf = match images {
        Some(at) => parts
            .iter()
            .enumerate()
            .map(|(i, part)| if i == at { "labels".as_ref() } else { part.as_os_str() })
            .collect(),
        None => picture.to_owned(),
    };
    moved.with_extension("txt")
}

fn list(source: &Source<'_>) -> Result<Vec<PathBuf>, SetError> {
    let mut found = Vec::new();
    for entry in source.entries {
        let path = source.root.join(entry);
        let error = |source| SetError::Read { path: path.clone(), source };
        if fs::metadata(&path).map_err(error)?.is_dir() {
            let mut below = Vec::new();
            walk(&path, &mut below, &mut BTreeSet::new())?;
            below.sort_unstable();
            found.append(&mut below);
        } else if has_ending(&path, &["txt"]) {
            let text = String::from_utf8_lossy(&fs::read(&path).map_err(error)?).into_owned();
            let parent = path.parent().unwrap_or(source.root);
            let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty());
            found.extend(lines.map(|line| match line.strip_prefix("./") {
                Some(beside) => parent.join(beside),
                None => source.root.join(line),
            }));
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

/// All pictures below a folder. `above` are the folders on the way here, by their real paths: a link to one of them would never end.
fn walk(folder: &Path, found: &mut Vec<PathBuf>, above: &mut BTreeSet<PathBuf>) -> Result<(), SetError> {
    let error = |source| SetError::Read { path: folder.to_owned(), source };
    let real = fs::canonicalize(folder).map_err(error)?;
    if !above.insert(real.clone()) {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.is_dir() {
            walk(&path, found, above)?;
        } else if has_ending(&path, &ENDINGS) {
            found.push(path);
        }
    }
    above.remove(&real);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_lies_beside_its_picture() {
        let of = |path: &str| label_file(Path::new(path)).display().to_string();
        assert_eq!(of("/d/images/train/a.b.jpg"), "/d/labels/train/a.b.txt");
        assert_eq!(of("/images/d/images/a.PNG"), "/images/d/labels/a.txt");
        assert_eq!(of("/d/pictures/a.png"), "/d/pictures/a.txt");
    }

    fn scan(root: &Path, entries: &[&str]) -> Result<Set, SetError> {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Set::scan(&Source { root, entries: &entries, classes: 3, single_class: false, limit: None }, 3)
    }

    fn picture(path: &Path) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        image::RgbImage::new(20, 12).save(path).expect("written");
    }

    #[test]
    fn folders_lists_and_pictures_are_read_in_their_order() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path();
        for name in ["images/b.png", "images/deep/a.bmp", "images/a.jpg", "other/x.webp"] {
            picture(&root.join(name));
        }
        fs::create_dir_all(root.join("labels/deep")).expect("a folder");
        fs::write(root.join("labels/a.txt"), "1 .5 .5 .5 .5\n1 .5 .5 .5 .5\n").expect("written");
        fs::write(root.join("list.txt"), "./other/x.webp\nimages/b.png\n\n").expect("written");
        fs::write(root.join("images/readme.md"), "no picture").expect("written");
        std::os::unix::fs::symlink(root.join("images"), root.join("images/deep/loop")).expect("a link");
        let set = scan(root, &["images", "list.txt", "other/x.webp"]).expect("sound");
        let names: Vec<_> =
            set.entries.iter().map(|it| it.path.strip_prefix(root).expect("below").to_owned()).collect();
        let expected =
            ["images/a.jpg", "images/b.png", "images/deep/a.bmp", "other/x.webp", "images/b.png", "other/x.webp"];
        assert_eq!(names, expected.map(PathBuf::from));
        assert_eq!((set.entries[0].width, set.entries[0].height, set.entries[0].labels.len()), (20, 12, 1));
        assert_eq!((set.backgrounds, set.skipped(), set.problems.len()), (5, 0, 1));
        assert_ne!(set.fingerprint(), scan(root, &["images"]).expect("sound").fingerprint());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path();
        let said = |entries: &[&str]| scan(root, entries).expect_err("unusable").to_string();
        assert!(said(&["images"]).starts_with("failed to read `"), "{}", said(&["images"]));
        fs::create_dir(root.join("images")).expect("a folder");
        assert!(said(&["images"]).starts_with("no pictures (bmp, jpeg"), "{}", said(&["images"]));
        fs::write(root.join("images/a.png"), "").expect("written");
        assert!(said(&["images"]).contains("none of 1 pictures"), "{}", said(&["images"]));
        picture(&root.join("images/b.png"));
        let set = scan(root, &["images"]).expect("one is sound");
        assert_eq!((set.entries.len(), set.skipped()), (1, 1));
        assert!(set.problems[0].path.ends_with("images/a.png"));
    }
}
