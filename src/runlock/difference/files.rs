//! Which file of one lock is which of the other, for files that git does not track. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::RunLock;

/// Hashes of the files that git does not track, by where they are in the project, or by name where they are not in it. Its root is the
/// repository's, or where not both have one the job's folder.
pub(super) fn by_place(lock: &RunLock, in_git: bool) -> BTreeMap<String, String> {
    let root = lock.code.git.as_ref().filter(|_| in_git).map(|git| git.root.as_path());
    let folders = [root, Some(lock.job.folder.as_path())];
    // What the job file says are the settings. A file that is mounted twice is one.
    let files = lock.code.files.iter().filter(|file| file.key != "job");
    let files: BTreeMap<&Path, &String> = files.map(|file| (file.path.as_path(), &file.sha256)).collect();
    let mut found = BTreeMap::new();
    for (path, sha256) in files {
        let below = folders.iter().flatten().find_map(|folder| path.strip_prefix(folder).ok());
        let mut key = below.map_or_else(|| name_of(path), |below| below.display().to_string());
        if found.contains_key(&key) {
            key = path.display().to_string();
        }
        found.insert(key, sha256.clone());
    }
    found
}

/// Gives files the places that they have in `is`, where a name is left over just once on either side: projects lie in another way elsewhere.
pub(super) fn same_names(was: &mut BTreeMap<String, String>, is: &BTreeMap<String, String>) {
    type Files = BTreeMap<String, String>;
    let alone = |these: &Files, those: &Files, name: &str| {
        let mut left = these.keys().filter(|key| !those.contains_key(*key) && name_of(Path::new(key)) == name);
        left.next().cloned().filter(|_| left.next().is_none())
    };
    for name in is.keys().map(|key| name_of(Path::new(key))).collect::<BTreeSet<String>>() {
        if let (Some(there), Some(here)) = (alone(was, is, &name), alone(is, was, &name)) {
            let sha256 = was.remove(&there).expect("it has this key");
            was.insert(here, sha256);
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{git, lines, locked};
    use crate::runlock::CodeFile;

    #[test]
    fn files_of_one_name_are_told_apart_by_their_places() {
        let with = |folder: &str, root: Option<&str>, files: &[(&str, &str)]| {
            let file = |(path, sha256): &(&str, &str)| CodeFile {
                key: "volumes".into(),
                path: path.into(),
                sha256: (*sha256).into(),
                stored: None,
            };
            locked(|lock| {
                lock.job.folder = folder.into();
                lock.job.settings.remove("volumes");
                lock.code.git = git(None).filter(|_| root.is_some());
                lock.code.git.iter_mut().for_each(|git| git.root = root.unwrap_or_default().into());
                lock.code.files = files.iter().map(file).collect();
            })
        };
        let one = with("/p", None, &[("/p/a/c.yaml", "1"), ("/p/b/c.yaml", "2")]);
        let changed = with("/p", None, &[("/p/a/c.yaml", "3"), ("/p/b/c.yaml", "2")]);
        assert_eq!(lines(&one, &changed), ["code `a/c.yaml`: 1 in the lock, 3 now"]);
        let moved = with("/q/r", None, &[("/q/r/a/c.yaml", "1"), ("/q/r/b/c.yaml", "2")]);
        assert_eq!(lines(&one, &moved), Vec::<String>::new());

        // In a repository, the job may be in a folder beside its files.
        let cloned = |root: &str, sha256: &str| {
            let [job, above] = ["jobs/c.yaml", "c.yaml"].map(|file| format!("{root}/{file}"));
            with(&format!("{root}/jobs"), Some(root), &[(&job, "1"), (&above, sha256)])
        };
        assert_eq!(lines(&cloned("/p", "2"), &cloned("/q", "2")), Vec::<String>::new());
        assert_eq!(lines(&cloned("/p", "2"), &cloned("/q", "3")), ["code `c.yaml`: 2 in the lock, 3 now"]);

        // A single one may lie in another way elsewhere.
        let above = with("/p/jobs", None, &[("/p/c.yaml", "1")]);
        assert_eq!(lines(&above, &with("/q", None, &[("/q/jobs/c.yaml", "1")])), Vec::<String>::new());
    }
}
