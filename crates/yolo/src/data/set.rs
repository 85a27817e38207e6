//! A set in YOLO's format: pictures in folders or lists, a label file beside each.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io, thread};

use sha2::{Digest, Sha256};

use super::cache::{self, Known};
use super::label::{self, Label};
use super::looked::{Looked, Stamp, Trouble, decode, encode};
use super::picture::{self, ENDINGS};
use crate::team::Team;

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
    /// The ranks do not train on the same.
    #[error("the ranks see different files")]
    Differs,
    /// The ranks lost each other.
    #[error("the ranks lost each other")]
    Team(#[from] tch_distributed::Error),
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
    /// A folder for what is found, for the next training on this set.
    pub cache: Option<&'a Path>,
}

impl Set {
    /// Looks at every picture and label file of a split, or takes what is known of those that have not changed since. The ranks of a team
    /// share the work, and must see the same files.
    ///
    /// # Errors
    ///
    /// A folder or list that cannot be read; no picture that can be used; ranks that see different files; a peer that is lost.
    pub fn scan(source: &Source<'_>, threads: usize, team: &Team) -> Result<Self, SetError> {
        let mut paths = list(source)?;
        paths.truncate(source.limit.unwrap_or(usize::MAX));
        if paths.is_empty() {
            let places =
                source.entries.iter().map(|entry| format!("`{}`", source.root.join(entry).display())).collect();
            return Err(SetError::Empty { places });
        }
        let mut digest = Sha256::new();
        for path in &paths {
            digest.update(path.as_os_str().as_encoded_bytes());
            digest.update([0]);
        }
        if !team.agrees(first_eight(&digest.finalize()))? {
            return Err(SetError::Differs);
        }
        let known = source.cache.map_or_else(Known::new, |folder| cache::read(folder, source));
        let own = look_at_all(&paths, source, &known, threads, team);
        let looked = share(own, paths.len(), team)?;
        if let (Some(folder), 0) = (source.cache, team.rank()) {
            keep(folder, source, &paths, &looked, known);
        }

        let mut set = Self::default();
        for (path, looked) in paths.iter().zip(looked) {
            if let Some(Trouble { of_labels, why, skipped }) = looked.trouble {
                let path = if of_labels { label_file(path) } else { path.clone() };
                set.problems.push(Problem { path, why, skipped });
            }
            if let Some((width, height, labels)) = looked.found {
                set.backgrounds += usize::from(labels.is_empty());
                set.entries.push(Entry { path: path.clone(), width, height, labels });
            }
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
        first_eight(&digest.finalize())
    }
}

/// What this rank finds of its share of the paths, each with its place among them.
fn look_at_all(
    paths: &[PathBuf],
    source: &Source<'_>,
    known: &Known,
    threads: usize,
    team: &Team,
) -> Vec<(u64, Looked)> {
    let (rank, ranks) = (team.rank() as usize, team.size() as usize);
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, paths.len()) {
            scope.spawn(|| {
                let mut mine = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed) * ranks + rank;
                    let Some(path) = paths.get(at) else { break };
                    let labels = label_file(path);
                    let stamp = Stamp::of(path, &labels);
                    let before = known.get(&cache::number(path)).filter(|before| {
                        // What could not be used may have been mended in a way that leaves no trace, such as a permission.
                        before.stamp == stamp && before.found.is_some()
                    });
                    mine.push((at as u64, before.map_or_else(|| look(path, &labels, stamp, source), Looked::clone)));
                }
                all.lock().expect("nobody panics here").append(&mut mine);
            });
        }
    });
    all.into_inner().expect("nobody panics here")
}

/// What all ranks found, in the order of the paths.
fn share(own: Vec<(u64, Looked)>, paths: usize, team: &Team) -> Result<Vec<Looked>, SetError> {
    let mut all = if team.size() == 1 {
        own
    } else {
        let parts = team.gather(&encode(own.iter().map(|(at, looked)| (*at, looked))))?;
        parts.iter().flat_map(|part| decode(part).expect("what a rank of ours encoded")).collect()
    };
    all.sort_unstable_by_key(|(at, _)| *at);
    assert_eq!(all.len(), paths, "every picture was looked at once");
    Ok(all.into_iter().map(|(_, looked)| looked).collect())
}

/// Keeps what was found for the next training, where anything of it is new.
fn keep(folder: &Path, source: &Source<'_>, paths: &[PathBuf], looked: &[Looked], known: Known) {
    let mut now = Known::new();
    let mut new = false;
    for (path, looked) in paths.iter().zip(looked) {
        let number = cache::number(path);
        new |= known.get(&number) != Some(looked);
        now.insert(number, looked.clone());
    }
    if source.limit.is_some() {
        // A look at a few pictures forgets nothing of the others.
        for (number, looked) in known {
            now.entry(number).or_insert(looked);
        }
    }
    if new {
        // A folder that cannot be written to costs time, nothing else.
        let _ = cache::write(folder, source, &now);
    }
}

fn look(path: &Path, file: &Path, stamp: Stamp, source: &Source<'_>) -> Looked {
    let skipped = |of_labels, why: String| Looked {
        stamp,
        found: None,
        trouble: Some(Trouble { of_labels, why, skipped: true }),
    };
    let (width, height) = match picture::look(path) {
        Ok(size) => size,
        Err(error) => return skipped(false, error.to_string()),
    };
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return skipped(true, format!("failed to read it: {error}")),
    };
    // With one class for all, any number is a class.
    let classes = if source.single_class { u32::MAX } else { source.classes };
    let mut labels = match label::parse(&bytes, classes) {
        Ok(labels) => labels,
        Err(error) => return skipped(true, error.to_string()),
    };
    if source.single_class {
        labels.objects.iter_mut().for_each(|label| label.class = 0);
    }
    let why = match labels.duplicates {
        0 => None,
        1 => Some("a line that is there twice counts once".to_owned()),
        more => Some(format!("{more} lines that are there already count once")),
    };
    let trouble = why.map(|why| Trouble { of_labels: true, why, skipped: false });
    Looked { stamp, found: Some((width, height, labels.objects)), trouble }
}

fn first_eight(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
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
        let source = Source { root, entries: &entries, classes: 3, single_class: false, limit: None, cache: None };
        Set::scan(&source, 3, &Team::alone())
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

    #[test]
    fn what_is_known_is_not_looked_at_again_unless_it_changed() {
        let place = tempfile::tempdir().expect("a folder");
        let (root, kept) = (place.path().join("set"), place.path().join("kept"));
        for name in ["images/a.png", "images/b.png", "images/c.png"] {
            picture(&root.join(name));
        }
        fs::create_dir_all(root.join("labels")).expect("a folder");
        fs::write(root.join("labels/a.txt"), "1 .5 .5 .5 .5\n").expect("written");
        fs::write(root.join("labels/b.txt"), "7 .5 .5 .5 .5\n").expect("written");
        let entries = ["images".to_owned()];
        let scan = |limit: Option<usize>, classes: u32| {
            let source =
                Source { root: &root, entries: &entries, classes, single_class: false, limit, cache: Some(&kept) };
            Set::scan(&source, 2, &Team::alone()).expect("sound")
        };
        // Without a folder to keep it in.
        let first = scan(None, 3);
        assert_eq!((first.entries.len(), first.skipped(), kept.exists()), (2, 1, false));
        fs::create_dir(&kept).expect("a folder");
        assert_eq!(scan(None, 3), first);
        let file = || fs::read_dir(&kept).expect("a folder").next().expect("a file").expect("readable").path();
        let whole = fs::read(file()).expect("readable");
        // A picture that is broken and has the same size and time as before is not seen to be: nobody looked.
        let broken = root.join("images/c.png");
        let (size, time) = (broken.metadata().expect("there").len(), broken.metadata().expect("there").modified());
        fs::write(&broken, vec![0; size as usize]).expect("written");
        fs::File::options().write(true).open(&broken).expect("open").set_modified(time.expect("a time")).expect("set");
        assert_eq!(scan(None, 3), first);
        assert_eq!(scan(Some(1), 3).entries.len(), 1);
        assert_eq!(fs::read(file()).expect("readable").len(), whole.len(), "a look at a few forgets nothing");
        // Other classes are another question.
        assert_eq!(scan(None, 8).skipped(), 1);
        // What is damaged is not believed.
        fs::read_dir(&kept).expect("a folder").for_each(|file| {
            let path = file.expect("readable").path();
            let mut bytes = fs::read(&path).expect("readable");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).expect("written");
        });
        assert_eq!(scan(None, 3).skipped(), 2);
        picture(&broken);
        fs::write(root.join("labels/b.txt"), "2 .5 .5 .5 .5\n2 .25 .25 .5 .5\n").expect("written");
        let mended = scan(None, 3);
        assert_eq!((mended.entries.len(), mended.entries[1].labels.len()), (3, 2));
    }
}
