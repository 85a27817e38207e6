//! Which folders of the host a container must see, so that every path of a data set means there what it means here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::DataError;
use super::error::io_error;

/// Most folders that a data set may need; beyond that they are replaced by their parents.
const MOST_MOUNTS: usize = 24;
/// Links that are followed in a row, as in the kernel.
const MOST_LINKS: usize = 40;
/// Folders that a container has itself: exactly these must not be covered.
const FORBIDDEN: [&str; 18] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/local",
    "/var",
];
/// Folders of which nothing below may be covered either.
const FORBIDDEN_BELOW: [&str; 9] = ["/bin", "/dev", "/etc", "/evenkeel", "/lib", "/lib64", "/proc", "/sbin", "/sys"];

/// A folder that is mounted read-only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mount {
    /// Where it is in the container. The same as `source`, unless the data set reaches it through a link further up.
    pub target: PathBuf,
    /// Where it is on the host; no part of it is a link.
    pub source: PathBuf,
}

/// The mounts gathered so far.
#[derive(Debug, Default)]
pub struct Mounts {
    /// Source by target: a place in the container can show one folder only.
    mounts: BTreeMap<PathBuf, PathBuf>,
    /// Pairs that are known to be covered: 100,000 links lead to few folders.
    covered: HashSet<Mount>,
    canonical: HashMap<PathBuf, PathBuf>,
}

/// Where a path ends in the container and on the host, all links followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// In the container.
    pub target: PathBuf,
    /// On the host.
    pub source: PathBuf,
    /// Whether it is a folder.
    pub is_dir: bool,
}

impl Mounts {
    /// Makes the folder `path` visible under that very name.
    pub fn add(&mut self, path: &Path) -> io::Result<()> {
        let source = self.canonicalize(path)?;
        self.cover(Mount { target: path.to_owned(), source });
        Ok(())
    }

    /// Makes a folder, named by an absolute path, visible; where a mount covers it already, links on the way are followed.
    ///
    /// Returns the folder's place in the container and on the host.
    pub fn reach(&mut self, path: &Path) -> io::Result<End> {
        // `a/../b` needs an `a`, too.
        if let Some(at) = path.components().position(|part| part == Component::ParentDir) {
            let before: PathBuf = path.components().take(at).collect();
            self.reach(&before)?;
            let straight = self.canonicalize(path)?;
            return self.reach(&straight);
        }
        let Some((target, source)) = path.ancestors().find_map(|target| self.mounts.get_key_value(target)) else {
            self.add(path)?;
            return Ok(End { target: path.to_owned(), source: self.canonicalize(path)?, is_dir: true });
        };
        let below = path.strip_prefix(target).unwrap_or(Path::new("")).to_owned();
        let mut end = End { target: target.clone(), source: source.clone(), is_dir: true };
        for part in below.components() {
            end = self.follow(&end.target.join(part), &end.source.join(part))?;
        }
        Ok(end)
    }

    /// Follows a path that may be a link, from an entry of a folder that is visible, and makes its end visible.
    pub fn follow(&mut self, target: &Path, source: &Path) -> io::Result<End> {
        let (mut target, mut source) = (target.to_owned(), source.to_owned());
        for _ in 0..MOST_LINKS {
            let kind = std::fs::symlink_metadata(&source)?.file_type();
            if !kind.is_symlink() {
                let end = End { target, source, is_dir: kind.is_dir() };
                if end.is_dir {
                    self.cover(Mount { target: end.target.clone(), source: end.source.clone() });
                } else {
                    self.cover_parent(&end.target, &end.source);
                }
                return Ok(end);
            }
            self.cover_parent(&target, &source);
            let link = std::fs::read_link(&source)?;
            let base = |path: &Path| path.parent().unwrap_or(Path::new("/")).join(&link);
            target = straighten(&base(&target));
            let next = base(&source);
            source = match (next.parent(), next.file_name()) {
                (Some(parent), Some(name)) => self.canonicalize(parent)?.join(name),
                _ => self.canonicalize(&next)?,
            };
        }
        Err(io::Error::other("too many levels of symbolic links"))
    }

    fn cover_parent(&mut self, target: &Path, source: &Path) {
        if let (Some(target), Some(source)) = (target.parent(), source.parent()) {
            self.cover(Mount { target: target.to_owned(), source: source.to_owned() });
        }
    }

    fn cover(&mut self, mount: Mount) {
        if !self.covered.contains(&mount) {
            if !holds(&self.mounts, &mount.target, &mount.source) {
                self.mounts.entry(mount.target.clone()).or_insert_with(|| mount.source.clone());
            }
            self.covered.insert(mount);
        }
    }

    fn canonicalize(&mut self, path: &Path) -> io::Result<PathBuf> {
        if let Some(known) = self.canonical.get(path) {
            return Ok(known.clone());
        }
        let canonical = path.canonicalize()?;
        self.canonical.insert(path.to_owned(), canonical.clone());
        Ok(canonical)
    }

    /// The mounts, as few as will do, none of them over a folder that a container needs itself.
    pub fn finish(self) -> Result<Vec<Mount>, DataError> {
        let found = self.mounts.len();
        let mut mounts = without_nested(self.mounts);
        // The deepest ones give way to their parents first; `/mnt` and the like are the last resort.
        let depth = |path: &Path| path.components().count();
        while mounts.len() > MOST_MOUNTS {
            let alike = mounts.iter().filter(|(target, source)| source == target);
            let deepest = alike.map(|(target, _)| depth(target)).max().unwrap_or(0);
            if deepest <= 2 {
                return Err(DataError::TooManyFolders(found));
            }
            let lifted = mounts.into_iter().map(|(target, source)| match target.parent() {
                Some(parent) if source == target && depth(&target) == deepest => (parent.to_owned(), parent.to_owned()),
                _ => (target, source),
            });
            mounts = without_nested(lifted.collect());
        }
        match mounts.keys().find(|target| is_forbidden(target)) {
            Some(target) => Err(DataError::Forbidden(target.clone())),
            None => Ok(mounts.into_iter().map(|(target, source)| Mount { target, source }).collect()),
        }
    }
}

/// Whether a container needs its own folder there.
pub fn is_forbidden(target: &Path) -> bool {
    FORBIDDEN.iter().any(|path| target == Path::new(path))
        || FORBIDDEN_BELOW.iter().any(|path| target.starts_with(path))
}

/// The canonical form of a path, with the path in the error.
pub fn canonicalize(path: &Path) -> Result<PathBuf, DataError> {
    path.canonicalize().map_err(io_error(path))
}

/// Whether one of the mounts shows `source` at `target`.
fn holds(mounts: &BTreeMap<PathBuf, PathBuf>, target: &Path, source: &Path) -> bool {
    target.ancestors().any(|outer| {
        let below = target.strip_prefix(outer).unwrap_or(Path::new(""));
        mounts.get(outer).is_some_and(|mounted| mounted.components().chain(below.components()).eq(source.components()))
    })
}

fn without_nested(mounts: BTreeMap<PathBuf, PathBuf>) -> BTreeMap<PathBuf, PathBuf> {
    let mut kept = BTreeMap::new();
    // Ordered by target: a folder comes before what is below it.
    for (target, source) in mounts {
        if !holds(&kept, &target, &source) {
            kept.insert(target, source);
        }
    }
    kept
}

/// Takes `.` and `..` out of an absolute path.
fn straighten(path: &Path) -> PathBuf {
    let mut straight = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                straight.pop();
            }
            Component::Normal(part) => straight.push(part),
            _ => {}
        }
    }
    straight
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(path: &str) -> Mount {
        Mount { target: path.into(), source: path.into() }
    }

    #[test]
    fn many_folders_become_few() {
        let mut mounts = Mounts::default();
        mounts.cover(same("/data/set"));
        for n in 0..500 {
            mounts.cover(same(&format!("/cache/blobs/{:02x}/{n:04}", n % 256)));
        }
        assert_eq!(mounts.finish().expect("few"), [same("/cache/blobs"), same("/data/set")]);
    }

    #[test]
    fn nothing_that_a_container_needs_is_covered() {
        for path in ["/", "/usr", "/etc/data", "/proc/self", "/evenkeel/x", "/home"] {
            let mut mounts = Mounts::default();
            mounts.cover(same(path));
            assert!(matches!(mounts.finish(), Err(DataError::Forbidden(_))), "{path}");
        }
        for path in ["/data", "/home/me", "/root/data", "/usr/share/data", "/tmp/x", "/srv"] {
            assert!(!is_forbidden(Path::new(path)), "{path}");
        }
        let mut everywhere = Mounts::default();
        (0..50).for_each(|n| everywhere.cover(same(&format!("/top{n}"))));
        assert!(matches!(everywhere.finish(), Err(DataError::TooManyFolders(50))));
    }

    #[test]
    fn a_folder_inside_another_needs_no_mount() {
        let mut mounts = Mounts::default();
        mounts.cover(same("/data/set/images"));
        mounts.cover(same("/data/set"));
        mounts.cover(Mount { target: "/data/set/elsewhere".into(), source: "/mnt/x".into() });
        let expected = [same("/data/set"), Mount { target: "/data/set/elsewhere".into(), source: "/mnt/x".into() }];
        assert_eq!(mounts.finish().expect("few"), expected);
    }

    #[test]
    fn straight_paths() {
        assert_eq!(straighten(Path::new("/a/./b/../../c//d")), Path::new("/c/d"));
        assert_eq!(straighten(Path::new("/../..")), Path::new("/"));
    }
}
