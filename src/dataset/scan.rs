//! Walks the images and labels of one source: counts them, and follows the links among them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::DataError;
use super::error::io_error;
use super::mount::{End, Mounts};

/// Endings of files that trainers take for images.
pub const IMAGE_EXTENSIONS: [&str; 14] =
    ["avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "pfm", "png", "tif", "tiff", "webp"];
/// Entries looked at; more is no data set but a whole disk.
const MOST_ENTRIES: usize = 5_000_000;
/// Bytes of a list of images.
const LARGEST_LIST: u64 = 512 << 20;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Images.
    pub images: usize,
    /// Those of them that have a file with labels.
    pub labelled: usize,
    /// Images that a list names, or links point to, and that are not there.
    pub missing: usize,
}

impl Count {
    pub(super) fn add(&mut self, other: Self) {
        self.images += other.images;
        self.labelled += other.labelled;
        self.missing += other.missing;
    }
}

/// State over all sources of a set.
#[derive(Debug, Default)]
pub struct Scanner {
    /// What containers must see.
    pub mounts: Mounts,
    /// Folders in which labels were looked for.
    pub label_dirs: Vec<PathBuf>,
    listings: HashMap<PathBuf, Listing>,
    entries: usize,
}

/// The names in a folder; empty for one that is not there.
#[derive(Debug, Default)]
struct Listing {
    files: HashSet<OsString>,
    /// Sorted, for the same messages every time.
    dirs: Vec<(OsString, End)>,
    broken: HashSet<OsString>,
}

impl Scanner {
    /// Counts the images below a folder, as trainers find them: at any depth, through links, without hidden ones.
    pub fn folder(&mut self, path: &Path) -> Result<Count, DataError> {
        let mut count = Count::default();
        let mut seen = HashSet::new();
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            let Some(end) = self.list(&folder)? else { continue };
            // A link to a folder above would go round for ever.
            if !seen.insert(end.source) {
                continue;
            }
            let names: Vec<OsString> = {
                let listing = &self.listings[&folder];
                folders.extend(listing.dirs.iter().rev().map(|(name, _)| folder.join(name)));
                count.missing += listing.broken.iter().filter(|name| is_image(Path::new(name))).count();
                listing.files.iter().filter(|name| is_image(Path::new(name))).cloned().collect()
            };
            count.images += names.len();
            count.labelled += self.labelled(&folder, names.iter())?;
        }
        Ok(count)
    }

    /// Counts the images that a list names. `base` is where plain relative lines start; those that begin with `./`
    /// start at the list's own folder.
    pub fn list_file(&mut self, list: &Path, base: &Path) -> Result<Count, DataError> {
        let lines = read_list(list)?;
        let parent = list.parent().unwrap_or(Path::new("/"));
        let mut by_folder: HashMap<PathBuf, Vec<OsString>> = HashMap::new();
        let mut count = Count::default();
        for line in lines {
            let path = match line.strip_prefix("./") {
                Some(rest) => parent.join(rest),
                None => base.join(&line),
            };
            match (path.parent(), path.file_name()) {
                (Some(folder), Some(name)) if is_image(&path) => {
                    by_folder.entry(folder.to_owned()).or_default().push(name.to_owned());
                }
                _ => {}
            }
        }
        let mut folders: Vec<_> = by_folder.into_iter().collect();
        folders.sort();
        for (folder, names) in folders {
            if self.list(&folder)?.is_none() {
                count.missing += names.len();
                continue;
            }
            let there: Vec<OsString> = {
                let listing = &self.listings[&folder];
                names.iter().filter(|name| listing.files.contains(*name)).cloned().collect()
            };
            count.missing += names.len() - there.len();
            count.images += there.len();
            count.labelled += self.labelled(&folder, there.iter())?;
        }
        Ok(count)
    }

    /// How many of the images of a folder have labels.
    fn labelled<'a>(&mut self, folder: &Path, names: impl Iterator<Item = &'a OsString>) -> Result<usize, DataError> {
        let mut names = names.peekable();
        if names.peek().is_none() {
            return Ok(0);
        }
        let labels = label_dir(folder);
        if !self.label_dirs.contains(&labels) {
            self.label_dirs.push(labels.clone());
        }
        if self.list(&labels)?.is_none() {
            return Ok(0);
        }
        let listing = &self.listings[&labels];
        Ok(names.filter(|name| listing.files.contains(Path::new(name).with_extension("txt").as_os_str())).count())
    }

    /// Reads a folder once, makes it visible and follows its links. Nothing, when it is not there.
    fn list(&mut self, folder: &Path) -> Result<Option<End>, DataError> {
        if !folder.is_dir() {
            return Ok(None);
        }
        let end = self.mounts.reach(folder).map_err(io_error(folder))?;
        if self.listings.contains_key(folder) {
            return Ok(Some(end));
        }
        let mut listing = Listing::default();
        for entry in fs::read_dir(folder).map_err(io_error(folder))? {
            let entry = entry.map_err(io_error(folder))?;
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                return Err(DataError::TooManyFiles { path: folder.to_owned(), limit: MOST_ENTRIES });
            }
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(io_error(folder))?;
            if kind.is_symlink() {
                // A link to a read-me is nobody's concern; where a link to a folder leads is seen only by looking.
                let path = Path::new(&name);
                let of_use = is_image(path) || path.extension().is_some_and(|extension| extension == "txt");
                if !of_use && !folder.join(&name).is_dir() {
                    continue;
                }
                match self.mounts.follow(&end.target.join(&name), &end.source.join(&name)) {
                    Ok(end) if end.is_dir => listing.dirs.push((name, end)),
                    Ok(_) => drop(listing.files.insert(name)),
                    // It points nowhere, or where we may not look; a trainer would not find it either.
                    Err(_) => drop(listing.broken.insert(name)),
                }
            } else if kind.is_dir() {
                let (target, source) = (end.target.join(&name), end.source.join(&name));
                listing.dirs.push((name, End { target, source, is_dir: true }));
            } else {
                listing.files.insert(name);
            }
        }
        listing.dirs.sort_by(|a, b| a.0.cmp(&b.0));
        self.listings.insert(folder.to_owned(), listing);
        Ok(Some(end))
    }
}

/// Where the labels of a folder's images are: the last `images` of the path becomes `labels`.
#[must_use]
pub fn label_dir(images: &Path) -> PathBuf {
    let mut parts: Vec<_> = images.components().map(|part| part.as_os_str()).collect();
    if let Some(part) = parts.iter_mut().rev().find(|part| **part == "images") {
        *part = "labels".as_ref();
    }
    parts.iter().collect()
}

/// The first line of a list that is relative without `./`, if there is one.
pub fn first_relative(list: &Path) -> Result<Option<String>, DataError> {
    Ok(read_list(list)?.into_iter().find(|line| !line.starts_with('/') && !line.starts_with("./")))
}

pub(super) fn read_list(list: &Path) -> Result<Vec<String>, DataError> {
    let not_text = |problem| DataError::NotText { path: list.to_owned(), problem };
    if fs::metadata(list).map_err(io_error(list))?.len() > LARGEST_LIST {
        return Err(not_text("is too large for a list of images"));
    }
    let text = fs::read_to_string(list).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => not_text("is no UTF-8 text, as a list of images must be"),
        _ => io_error(list)(error),
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}

pub(super) fn is_image(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| IMAGE_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_images_becomes_labels() {
        for (images, labels) in [
            ("/a/images/train", "/a/labels/train"),
            ("/images/a/images", "/images/a/labels"),
            ("/a/train/images", "/a/train/labels"),
            ("/a/train", "/a/train"),
            ("/a/my images/x", "/a/my images/x"),
        ] {
            assert_eq!(label_dir(Path::new(images)), Path::new(labels));
        }
    }
}
