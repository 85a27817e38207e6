//! Which run is meant: from what a person types to a run's directory. Names only are read here, no record is opened.

use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Failure;

/// The file that makes a directory a run's.
pub const JOURNAL: &str = "journal.jsonl";
/// What the name of trial steps ends with: they are no experiments, and are found by name only.
pub const FIT: &str = "-fit";
/// Candidates that an error names.
const SHOWN: usize = 5;

/// A run's directory, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The directory.
    pub path: PathBuf,
    /// Name of the experiment, which is the folder that the directory lies in.
    pub name: String,
    /// Identifier of the run, which is the directory's own name.
    pub id: String,
}

/// No run, or more than one, is meant.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is no run at all.
    #[error("there is no run in `{}`", runs.display())]
    None {
        /// Where it was looked for.
        runs: PathBuf,
    },
    /// Nothing is called so.
    #[error("no run is called `{wanted}`: no directory of a run, and in `{}` neither a name nor the beginning of an identifier", runs.display())]
    Unknown {
        /// What was looked for.
        wanted: String,
        /// Where.
        runs: PathBuf,
        /// What there is, nearest or newest first.
        candidates: Vec<String>,
    },
    /// Several identifiers begin so.
    #[error("`{wanted}` is the beginning of {} runs in `{}`", candidates.len(), runs.display())]
    Ambiguous {
        /// What was looked for.
        wanted: String,
        /// Where.
        runs: PathBuf,
        /// All that begin so, newest first.
        candidates: Vec<String>,
    },
    /// A folder that is no run's.
    #[error("`{}` is no run: it has no `{JOURNAL}`", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// The folder of runs cannot be read.
    #[error("failed to list the runs in `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The run that `wanted` means: a path of a run's directory, `NAME` (its latest run), `NAME/ID`, an identifier, or the beginning of one
/// that no other run shares. Without it, the latest run of all that is no row of trial steps. Names and identifiers are looked for in `runs`.
///
/// # Errors
///
/// No run or more than one is meant; the error names the candidates.
pub fn find(runs: &Path, wanted: Option<&str>) -> Result<Found, FindError> {
    let Some(wanted) = wanted else {
        let latest = list(runs, None, false)?.into_iter().find(|run| is_run(&run.path));
        return latest.ok_or_else(|| FindError::None { runs: runs.into() });
    };
    let path = Path::new(wanted);
    if is_run(path) {
        return at(path);
    }
    let is_path = wanted.contains('/') || matches!(wanted, "." | "..");
    if is_path && is_run(&runs.join(wanted)) {
        return at(&runs.join(wanted));
    }
    let (name, id) = match wanted.trim_end_matches('/').split_once('/') {
        Some((name, id)) => (Some(name), id),
        None => (None, wanted),
    };
    let all = match list(runs, None, true) {
        Err(FindError::Folder { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed?,
    };
    if name.is_none() {
        if let Some(latest) = all.iter().find(|run| run.name == wanted && is_run(&run.path)) {
            return Ok(latest.clone());
        }
    }
    let mut meant: Vec<&Found> =
        all.iter().filter(|run| run.id.starts_with(id) && name.is_none_or(|name| run.name == name)).collect();
    // Two runs of one second: the first one's identifier begins the second one's, and is meant when it is typed whole.
    if let Some(whole) = meant.iter().find(|run| run.id == id).filter(|_| of_one_name(&meant)) {
        return Ok((*whole).clone());
    }
    meant.retain(|run| !id.is_empty() && is_run(&run.path));
    match meant[..] {
        [one] => Ok(one.clone()),
        [] if path.is_dir() && is_path => Err(FindError::NoRun { path: path.into() }),
        [] => {
            Err(FindError::Unknown { wanted: wanted.into(), runs: runs.into(), candidates: candidates(wanted, &all) })
        }
        _ => {
            let candidates = meant.iter().map(|run| format!("{}/{}", run.name, run.id)).collect();
            Err(FindError::Ambiguous { wanted: wanted.into(), runs: runs.into(), candidates })
        }
    }
}

/// All runs in the folder `runs`, or those of one name, newest first; trial steps only where `fits` or their name is given.
///
/// # Errors
///
/// The folder cannot be read, or holds nothing of that name.
pub fn list(runs: &Path, asked: Option<&str>, fits: bool) -> Result<Vec<Found>, FindError> {
    let names = match asked {
        Some(name) => vec![name.to_owned()],
        None => folders(runs)?.into_iter().filter(|name| fits || !name.ends_with(FIT)).collect(),
    };
    let mut all = Vec::new();
    for name in names {
        let family = runs.join(&name);
        match folders(&family) {
            Ok(ids) => {
                all.extend(ids.into_iter().map(|id| Found { path: family.join(&id), name: name.clone(), id }));
            }
            // One that was asked for must be there; another may have gone meanwhile.
            Err(FindError::Folder { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if asked.is_some() {
                    let candidates = candidates(&name, &list(runs, None, true).unwrap_or_default());
                    return Err(FindError::Unknown { wanted: name, runs: runs.into(), candidates });
                }
            }
            Err(error) => return Err(error),
        }
    }
    all.sort_by_cached_key(|run| Reverse((age(&run.id), run.name.clone())));
    Ok(all)
}

/// Whether `path` is the directory of a run.
#[must_use]
pub fn is_run(path: &Path) -> bool {
    path.join(JOURNAL).is_file()
}

fn at(path: &Path) -> Result<Found, FindError> {
    // Through links such as `latest`, whose own name says nothing.
    let path = path.canonicalize().map_err(|source| FindError::Folder { path: path.into(), source })?;
    let text = |name: Option<&std::ffi::OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
    let (name, id) = (text(path.parent().and_then(Path::file_name)), text(path.file_name()));
    Ok(Found { path, name, id })
}

fn of_one_name(runs: &[&Found]) -> bool {
    runs.windows(2).all(|pair| pair[0].name == pair[1].name)
}

/// Sorts by time: two runs of one second are told apart by a number behind it.
fn age(id: &str) -> (String, u32) {
    const STAMP: usize = "20261124-034501".len();
    match (id.get(..STAMP), id.get(STAMP..).and_then(|rest| rest.strip_prefix('-')).and_then(|it| it.parse().ok())) {
        (Some(stamp), Some(number)) => (stamp.to_owned(), number),
        _ => (id.to_owned(), 0),
    }
}

/// Names of the folders in a folder; links and what is hidden are none of ours.
fn folders(path: &Path) -> Result<Vec<String>, FindError> {
    let failed = |source| FindError::Folder { path: path.into(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with('.') && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// What may have been meant: names that are written nearly so, else the newest runs.
fn candidates(wanted: &str, all: &[Found]) -> Vec<String> {
    const NEAR: f64 = 0.7;
    let mut names: Vec<&str> = all.iter().map(|run| run.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let likeness = |name: &str| strsim::jaro_winkler(wanted, name);
    names.retain(|name| likeness(name) >= NEAR);
    names.sort_by(|one, other| likeness(other).total_cmp(&likeness(one)));
    if names.is_empty() {
        return all.iter().take(SHOWN).map(|run| format!("{}/{}", run.name, run.id)).collect();
    }
    names.into_iter().take(SHOWN).map(str::to_owned).collect()
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        let elsewhere = "`--runs DIR` looks in another folder";
        let hint = match &error {
            FindError::Unknown { candidates, .. } | FindError::Ambiguous { candidates, .. }
                if !candidates.is_empty() =>
            {
                let more = candidates.len().saturating_sub(SHOWN);
                let named = candidates.iter().take(SHOWN).map(|run| format!("`{run}`")).collect::<Vec<_>>().join(", ");
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                match &error {
                    FindError::Ambiguous { .. } => format!("type more of it: {named}{more}"),
                    _ => format!("there is {named}; `evenkeel runs` lists all, {elsewhere}"),
                }
            }
            FindError::NoRun { .. } => {
                "a run's directory is `<runs>/<name>/<id>`; `evenkeel runs` lists all".to_owned()
            }
            FindError::Folder { source, .. } if source.kind() != io::ErrorKind::NotFound => {
                "the folder must be one that you may read".to_owned()
            }
            _ => format!("`evenkeel train` makes runs in the folder `runs` here; {elsewhere}"),
        };
        Self::bad(error).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(paths: &[&str]) -> tempfile::TempDir {
        let runs = tempfile::tempdir().expect("a temporary folder");
        for path in paths {
            std::fs::create_dir_all(runs.path().join(path)).expect("a folder");
            std::fs::write(runs.path().join(path).join(JOURNAL), "").expect("written");
        }
        runs
    }

    fn found(runs: &Path, wanted: Option<&str>) -> String {
        find(runs, wanted).map(|run| format!("{}/{}", run.name, run.id)).unwrap_or_else(|error| format!("{error:?}"))
    }

    #[test]
    fn a_run_is_meant_in_many_ways() {
        let folder = runs(&[
            "shapes/20261124-034501",
            "shapes/20261124-034501-2",
            "shapes/20261124-034501-10",
            "cars/20261125-000000",
            "cars-fit/20261126-000000",
        ]);
        let runs = folder.path();
        std::os::unix::fs::symlink("20261124-034501", runs.join("shapes/latest")).expect("a link");
        for (wanted, meant) in [
            ("shapes", "shapes/20261124-034501-10"),
            ("cars-fit", "cars-fit/20261126-000000"),
            ("shapes/20261124-034501", "shapes/20261124-034501"),
            ("shapes/latest", "shapes/20261124-034501"),
            ("20261125-000000", "cars/20261125-000000"),
            ("20261125", "cars/20261125-000000"),
            ("20261124-034501", "shapes/20261124-034501"),
            ("shapes/20261124-034501-2", "shapes/20261124-034501-2"),
            (&runs.join("cars/20261125-000000").display().to_string(), "cars/20261125-000000"),
        ] {
            assert_eq!(found(runs, Some(wanted)), meant, "{wanted}");
        }
        assert_eq!(found(runs, None), "cars/20261125-000000");
    }

    #[test]
    fn what_is_not_meant_clearly_is_refused_with_what_there_is() {
        let folder = runs(&["shapes/20261124-034501", "shapes/20261124-040000", "cars/20261124-034501"]);
        let runs = folder.path();
        let candidates = |wanted| match find(runs, Some(wanted)) {
            Err(FindError::Unknown { candidates, .. } | FindError::Ambiguous { candidates, .. }) => candidates,
            other => panic!("{other:?}"),
        };
        assert_eq!(candidates("2026"), ["shapes/20261124-040000", "shapes/20261124-034501", "cars/20261124-034501"]);
        assert_eq!(candidates("20261124-034501").len(), 2);
        assert_eq!(candidates("shape"), ["shapes"]);
        assert_eq!(candidates("zebra")[0], "shapes/20261124-040000");
        assert_eq!(candidates("cars/2027")[0], "cars");
        let nothing = runs.join("nowhere");
        assert!(matches!(find(&nothing, None), Err(FindError::Folder { .. })));
        assert!(matches!(find(&nothing, Some("x")), Err(FindError::Unknown { .. })));
        let family = runs.join("shapes").display().to_string();
        assert!(matches!(find(runs, Some(&family)), Err(FindError::NoRun { .. })));
    }

    #[test]
    fn runs_are_listed_newest_first() {
        let folder =
            runs(&["b/20261124-034501-2", "b/20261124-034501-10", "a/20261123-000000", "a-fit/20261125-000000"]);
        let ids = |name, fits| -> Vec<String> {
            list(folder.path(), name, fits).expect("listed").into_iter().map(|run| run.id).collect()
        };
        assert_eq!(ids(None, false), ["20261124-034501-10", "20261124-034501-2", "20261123-000000"]);
        assert_eq!(ids(None, true)[0], "20261125-000000");
        assert_eq!(ids(Some("a-fit"), false), ["20261125-000000"]);
        assert!(matches!(list(folder.path(), Some("c"), false), Err(FindError::Unknown { .. })));
    }
}
