//! The state of the project: what the program `git` says of it, and the files that a job names and git does not track. No git, no repository
//! and a repository that does not answer are facts as others.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::secret::{is_secret, masked_bytes};
use super::{Code, CodeFile, Git};
use crate::dataset::hex;
use crate::image::redact;

/// A repository that takes longer to answer is taken for one that does not.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes of changes that are kept.
const LARGEST_PATCH: u64 = 64 << 20;
/// Bytes of a file that is kept.
const LARGEST_FILE: u64 = 1 << 20;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// For the lock.
    pub code: Code,
    /// Uncommitted changes of tracked files.
    pub patch: Option<Vec<u8>>,
    /// Files to keep, by their names in the record.
    pub stored: Vec<(String, Vec<u8>)>,
}

/// A file that a job names.
#[derive(Clone, Debug)]
pub struct Named {
    /// The key that names it.
    pub key: &'static str,
    /// Where it is, absolute.
    pub path: PathBuf,
}

/// Looks at the project that `folder` belongs to, and at the files that the job names.
pub async fn look(folder: &Path, named: &[Named], secrets: &[String]) -> Found {
    let mut found = Found::default();
    let root = match git(folder, &["rev-parse", "--show-toplevel"]).await {
        Ok(answer) => PathBuf::from(OsStr::from_bytes(answer.trim_ascii_end())),
        Err(why) => {
            found.code.without_git = Some(why);
            // Without a repository, the job's folder is the project.
            add_files(&mut found, named, folder, &BTreeSet::new(), None);
            found.stored = without(std::mem::take(&mut found.stored), secrets, &mut found.code);
            return found;
        }
    };
    match state(&root, secrets).await {
        Ok((state, patch)) => (found.code.git, found.patch) = (Some(state), patch),
        Err(why) => found.code.without_git = Some(why),
    }
    let below: Vec<&Path> = named.iter().filter_map(|file| file.path.strip_prefix(&root).ok()).collect();
    let tracked = listed(&root, &["ls-files", "-z", "--cached"], &below).await;
    let untracked = listed(&root, &["ls-files", "-z", "--others", "--exclude-standard"], &below).await;
    add_files(&mut found, named, &root, &tracked, Some(&untracked));
    found.stored = without(std::mem::take(&mut found.stored), secrets, &mut found.code);
    found
}

/// What of the files to keep holds no secret of the job.
fn without(stored: Vec<(String, Vec<u8>)>, secrets: &[String], code: &mut Code) -> Vec<(String, Vec<u8>)> {
    let (kept, left): (Vec<_>, Vec<_>) =
        stored.into_iter().partition(|(_, content)| masked_bytes(content, secrets) == *content);
    for file in &mut code.files {
        if left.iter().any(|(name, _)| file.stored.as_ref() == Some(name)) {
            file.stored = None;
        }
    }
    kept
}

async fn state(root: &Path, secrets: &[String]) -> Result<(Git, Option<Vec<u8>>), String> {
    let line = |answer: Vec<u8>| String::from_utf8_lossy(answer.trim_ascii_end()).into_owned();
    // Before the first commit there is none; that a branch has none is told by the branch.
    let commit = git(root, &["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).await.ok().map(line);
    let branch = git(root, &["symbolic-ref", "--quiet", "--short", "HEAD"]).await.ok().map(line);
    let remote = git(root, &["config", "--get", "remote.origin.url"]).await.ok().map(line);
    let mut state = Git {
        root: root.to_owned(),
        remote: remote.map(|remote| redact(&remote).into_owned()),
        commit,
        branch,
        dirty: false,
        patch_sha256: None,
        without_patch: None,
    };
    if state.commit.is_none() {
        state.without_patch = Some("there is no commit yet".into());
        return Ok((state, None));
    }
    // The same text whatever the user's settings are.
    let diff = [
        "diff",
        "HEAD",
        "--no-ext-diff",
        "--no-textconv",
        "--no-color",
        "--binary",
        "--full-index",
        "--no-renames",
        "--src-prefix=a/",
        "--dst-prefix=b/",
        "--unified=3",
        "--diff-algorithm=myers",
        "--ignore-submodules=none",
    ];
    match git(root, &diff).await {
        Ok(patch) if patch.is_empty() => Ok((state, None)),
        Ok(patch) => {
            let patch = masked_bytes(&patch, secrets);
            state.dirty = true;
            state.patch_sha256 = Some(hex(&Sha256::digest(&patch)));
            Ok((state, Some(patch)))
        }
        Err(why) => {
            state.dirty = true;
            state.without_patch = Some(why);
            Ok((state, None))
        }
    }
}

/// The paths that git lists, of some.
async fn listed(root: &Path, words: &[&str], paths: &[&Path]) -> BTreeSet<PathBuf> {
    if paths.is_empty() {
        return BTreeSet::new();
    }
    let words = words.iter().map(OsStr::new).chain([OsStr::new("--")]).chain(paths.iter().map(|path| path.as_os_str()));
    let answer = run(root, words.collect()).await.unwrap_or_default();
    let paths = answer.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    paths.map(|path| root.join(OsStr::from_bytes(path))).collect()
}

/// Takes note of the files that git does not track. Those of the project that it does not ignore are kept, unless they may be secret.
fn add_files(
    found: &mut Found,
    named: &[Named],
    root: &Path,
    tracked: &BTreeSet<PathBuf>,
    untracked: Option<&BTreeSet<PathBuf>>,
) {
    for file in named.iter().filter(|file| !tracked.contains(&file.path)) {
        let Ok(content) = std::fs::read(&file.path) else { continue };
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = file.path.starts_with(root) && untracked.is_none_or(|untracked| untracked.contains(&file.path));
        let harmless =
            !name.starts_with('.') && !is_secret(&name) && !name.ends_with(".pem") && !name.ends_with(".key");
        let small = content.len() as u64 <= LARGEST_FILE;
        let sha256 = hex(&Sha256::digest(&content));
        // The job itself is in the record already.
        let stored = (file.key != "job" && ours && harmless && small).then(|| {
            let stored = format!("code-{}-{name}", &sha256[..8]);
            found.stored.push((stored.clone(), content));
            stored
        });
        found.code.files.push(CodeFile { key: file.key.to_owned(), path: file.path.clone(), sha256, stored });
    }
}

async fn git(folder: &Path, words: &[&str]) -> Result<Vec<u8>, String> {
    run(folder, words.iter().map(OsStr::new).collect()).await
}

/// What git prints, or why it prints nothing.
async fn run(folder: &Path, words: Vec<&OsStr>) -> Result<Vec<u8>, String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder);
    // No programs of the repository's or the user's choice are started for this, and none of their tastes change what is printed.
    for setting in ["core.fsmonitor=false", "diff.relative=false", "diff.orderFile=/dev/null", "core.quotePath=true"] {
        command.arg("-c").arg(setting);
    }
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env("GIT_OPTIONAL_LOCKS", "0").env("LC_ALL", "C");
    let work = async {
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is no program `git` here".to_owned(),
            _ => format!("git did not start: {error}"),
        })?;
        let (mut printed, mut said) = (Vec::new(), Vec::new());
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let read = async {
            if let Some(stdout) = stdout {
                stdout.take(LARGEST_PATCH + 1).read_to_end(&mut printed).await?;
            }
            io::Result::Ok(())
        };
        let listen = async {
            if let Some(stderr) = stderr {
                stderr.take(64 << 10).read_to_end(&mut said).await?;
            }
            io::Result::Ok(())
        };
        tokio::try_join!(read, listen).map_err(|error| format!("git cannot be read: {error}"))?;
        if printed.len() as u64 > LARGEST_PATCH {
            return Err(format!("the changes are larger than {} MiB", LARGEST_PATCH >> 20));
        }
        let status = child.wait().await.map_err(|error| format!("git was lost: {error}"))?;
        if status.success() {
            return Ok(printed);
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("git failed");
        Err(redact(first.trim_start_matches("fatal: ")).into_owned())
    };
    match tokio::time::timeout(LIMIT, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("git did not answer within {} s", LIMIT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Project(tempfile::TempDir);

    impl Project {
        fn new() -> Self {
            let project = Self(tempfile::tempdir().expect("a folder"));
            project.git(&["init", "--quiet", "--initial-branch", "trunk"]);
            project
        }

        fn path(&self) -> PathBuf {
            self.0.path().canonicalize().expect("there")
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        }

        fn git(&self, words: &[&str]) {
            let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
            let status = std::process::Command::new("git").arg("-C").arg(self.0.path()).args(who).args(words).status();
            assert!(status.expect("git").success(), "{words:?}");
        }

        fn look(&self, named: &[Named]) -> Found {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(look(&self.path(), named, &["hush-hush".to_owned()]))
        }
    }

    #[test]
    fn a_clean_project_has_a_commit_and_a_changed_one_a_patch() {
        let project = Project::new();
        project.write("train.py", "one\n");
        project.git(&["add", "."]);
        project.git(&["commit", "--quiet", "-m", "first"]);
        project.git(&["config", "remote.origin.url", "https://me:secret@host/repo"]);
        let clean = project.look(&[]);
        let git = clean.code.git.expect("a repository");
        assert_eq!((git.dirty, git.branch.as_deref()), (false, Some("trunk")));
        assert_eq!(git.commit.as_ref().map(String::len), Some(40));
        assert_eq!(git.remote.as_deref(), Some("https://***@host/repo"));
        assert_eq!((git.root, clean.patch), (project.path(), None));

        project.write("train.py", "two\nhush-hush\n");
        // What somebody likes to see is not what is kept.
        project.git(&["config", "diff.noprefix", "true"]);
        project.git(&["config", "color.ui", "always"]);
        let dirty = project.look(&[]);
        let patch = String::from_utf8(dirty.patch.expect("changes")).expect("text");
        assert!(
            patch.starts_with("diff --git a/train.py b/train.py\n") && patch.contains("\n-one\n+two\n+***\n"),
            "{patch}"
        );
        assert!(dirty.code.git.is_some_and(|git| git.dirty && git.patch_sha256.is_some()));
    }

    #[test]
    fn files_that_git_does_not_track_are_kept_unless_they_may_be_secret() {
        let project = Project::new();
        project.write(".gitignore", "*.local\n");
        let tracked = project.write("tracked.py", "a");
        project.git(&["add", "."]);
        project.git(&["commit", "--quiet", "-m", "first"]);
        let new = project.write("new.py", "b");
        let ignored = project.write("me.local", "c");
        let token = project.write("token.txt", "d");
        let named = [tracked, new.clone(), ignored, token].map(|path| Named { key: "volumes", path });
        let found = project.look(&named);
        let stored: Vec<bool> = found.code.files.iter().map(|file| file.stored.is_some()).collect();
        assert_eq!(stored, [true, false, false]);
        assert_eq!(found.code.files[0].path, new);
        assert_eq!(found.stored.len(), 1);
        assert_eq!(found.stored[0].1, b"b");
    }

    #[test]
    fn no_repository_and_no_commit_are_facts() {
        let project = Project::new();
        let git = project.look(&[]).code.git.expect("a repository");
        assert_eq!((git.commit, git.without_patch.as_deref()), (None, Some("there is no commit yet")));
        std::fs::remove_dir_all(project.path().join(".git")).expect("removed");
        let found = project.look(&[]);
        assert!(found.code.without_git.is_some_and(|why| why.contains("not a git repository")));
    }
}
