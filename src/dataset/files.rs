//! Every file of a data set that decides what is learned: images and their labels, each under a name that does not depend on the machine.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use evenkeel_wire::trainer_job::DataSet;

use super::DataError;
use super::error::io_error;
use super::scan::{is_image, label_dir, read_list};

/// Files by name: below the set's root as from there, others as from the folder that holds both images and labels.
///
/// # Errors
///
/// A folder or a list cannot be read.
pub fn files(data: &DataSet) -> Result<BTreeMap<String, PathBuf>, DataError> {
    let mut gathering = Gathering { root: PathBuf::from(&data.path), ..Gathering::default() };
    for (split, sources) in [("train", &data.train), ("val", &data.val)] {
        for (index, source) in sources.iter().enumerate() {
            let source = Path::new(source);
            let prefix = format!("{split}{index}");
            if source.is_dir() {
                gathering.folder(source, &prefix)?;
            } else {
                gathering.list(source, &prefix)?;
            }
        }
    }
    Ok(gathering.files)
}

#[derive(Default)]
struct Gathering {
    root: PathBuf,
    files: BTreeMap<String, PathBuf>,
    /// By folder of images: where its labels are, and which there are.
    labels: HashMap<PathBuf, (PathBuf, HashSet<OsString>)>,
}

impl Gathering {
    /// Images as trainers find them: at any depth, through links, without hidden ones.
    fn folder(&mut self, source: &Path, prefix: &str) -> Result<(), DataError> {
        let base = common(source, &label_dir(source));
        let mut seen = HashSet::new();
        let mut folders = vec![source.to_owned()];
        while let Some(folder) = folders.pop() {
            // A link to a folder above would go round for ever.
            let true_name = folder.canonicalize().map_err(io_error(&folder))?;
            if !seen.insert(true_name) {
                continue;
            }
            for entry in fs::read_dir(&folder).map_err(io_error(&folder))? {
                let entry = entry.map_err(io_error(&folder))?;
                let name = entry.file_name();
                if name.as_encoded_bytes().starts_with(b".") {
                    continue;
                }
                let path = folder.join(&name);
                let kind = entry.file_type().map_err(io_error(&path))?;
                // A link that leads nowhere is nothing that a trainer would find.
                let is_dir = if kind.is_symlink() {
                    let Ok(end) = fs::metadata(&path) else { continue };
                    end.is_dir()
                } else {
                    kind.is_dir()
                };
                if is_dir {
                    folders.push(path);
                } else if is_image(&path) {
                    self.image(path, &base, prefix);
                }
            }
        }
        Ok(())
    }

    /// The images that a list names, and the list: which ones it names, and in what order, is part of the data.
    fn list(&mut self, list: &Path, prefix: &str) -> Result<(), DataError> {
        let parent = list.parent().unwrap_or(Path::new("/"));
        for line in read_list(list)? {
            let path = match line.strip_prefix("./") {
                Some(rest) => parent.join(rest),
                None => self.root.join(&line),
            };
            if is_image(&path) && path.is_file() {
                let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
                let base = common(&folder, &label_dir(&folder));
                self.image(path, &base, prefix);
            }
        }
        self.add(list.to_owned(), parent, prefix);
        Ok(())
    }

    fn image(&mut self, path: PathBuf, base: &Path, prefix: &str) {
        let folder = path.parent().unwrap_or(Path::new("/"));
        if !self.labels.contains_key(folder) {
            let labels = label_dir(folder);
            let entries = fs::read_dir(&labels).into_iter().flatten().flatten();
            // A look at each file is worth avoiding; where a link leads is seen only by looking.
            let is_file = |entry: &fs::DirEntry| match entry.file_type() {
                Ok(kind) if kind.is_symlink() => entry.path().is_file(),
                Ok(kind) => kind.is_file(),
                Err(_) => false,
            };
            let there = entries.filter(is_file).map(|entry| entry.file_name()).collect();
            self.labels.insert(folder.to_owned(), (labels, there));
        }
        let label = path.with_extension("txt");
        let label = label.file_name().unwrap_or_default();
        let found = self.labels.get(folder).filter(|(_, there)| there.contains(label));
        if let Some(label) = found.map(|(labels, _)| labels.join(label)) {
            self.add(label, base, prefix);
        }
        self.add(path, base, prefix);
    }

    fn add(&mut self, path: PathBuf, base: &Path, prefix: &str) {
        let name = match (path.strip_prefix(&self.root), path.strip_prefix(base)) {
            (Ok(below), _) => below.to_string_lossy().into_owned(),
            (_, Ok(below)) => format!("{prefix}/{}", below.display()),
            _ => path.display().to_string(),
        };
        self.files.insert(name, path);
    }
}

/// The deepest folder that holds both.
fn common(one: &Path, other: &Path) -> PathBuf {
    let parts = one.components().zip(other.components());
    parts.take_while(|(one, other)| one == other).map(|(part, _)| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &Path, train: &Path, val: &Path) -> DataSet {
        let text = |path: &Path| path.display().to_string();
        DataSet { path: text(path), train: vec![text(train)], val: vec![text(val)], names: BTreeMap::new() }
    }

    fn write(path: &Path) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, "x").expect("written");
    }

    #[test]
    fn names_do_not_depend_on_the_place() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path();
        for name in ["images/train/a.png", "labels/train/a.txt", "images/train/deep/b.jpg", "images/val/c.png"] {
            write(&root.join(name));
        }
        for name in ["images/train/.hidden.png", "images/train/notes.md", "labels/train/other.txt"] {
            write(&root.join(name));
        }
        let (train, val) = (root.join("images/train"), root.join("images/val"));
        let names: Vec<String> = files(&set(root, &train, &val)).expect("read").into_keys().collect();
        assert_eq!(names, ["images/train/a.png", "images/train/deep/b.jpg", "images/val/c.png", "labels/train/a.txt"]);
        let away = files(&set(Path::new("/nowhere"), &train, &val)).expect("read");
        let names: Vec<String> = away.into_keys().collect();
        assert_eq!(
            names,
            [
                "train0/images/train/a.png",
                "train0/images/train/deep/b.jpg",
                "train0/labels/train/a.txt",
                "val0/images/val/c.png"
            ]
        );
    }

    #[test]
    fn a_link_in_a_circle_ends() {
        let place = tempfile::tempdir().expect("a folder");
        let images = place.path().join("images");
        write(&images.join("a.png"));
        std::os::unix::fs::symlink(&images, images.join("again")).expect("a link");
        assert_eq!(files(&set(place.path(), &images, &images)).expect("read").len(), 1);
    }

    #[test]
    fn a_list_is_part_of_the_set_and_so_is_what_it_names() {
        let place = tempfile::tempdir().expect("a folder");
        write(&place.path().join("images/a.png"));
        let list = place.path().join("train.txt");
        fs::write(&list, "./images/a.png\nimages/gone.png\n").expect("written");
        let names: Vec<String> = files(&set(place.path(), &list, &list)).expect("read").into_keys().collect();
        assert_eq!(names, ["images/a.png", "train.txt"]);
    }
}
