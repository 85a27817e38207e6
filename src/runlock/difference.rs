//! What differs between two runs, as their locks tell. Pure.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::listing::{self, Change};
use super::{Code, Git, Locked, LockedJob, RunLock};

/// Settings that say where a run is kept, not what it does.
const PLACES: [&str; 2] = ["name", "runs"];

/// What a difference is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// What was asked for.
    Setting,
    /// The image that ran.
    Image,
    /// The project.
    Code,
    /// Images and labels.
    Data,
    /// The model that was begun with.
    Weights,
    /// What it ran on.
    Device,
    /// Versions of programs and libraries.
    Version,
    /// How the steps were split.
    Split,
}

impl Area {
    fn name(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::Image => "image",
            Self::Code => "code",
            Self::Data => "data",
            Self::Weights => "weights",
            Self::Device => "device",
            Self::Version => "version",
            Self::Split => "split",
        }
    }
}

/// Something that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is of.
    pub area: Area,
    /// Which one: a key, a file, a device.
    pub what: String,
    /// How it was; absent where it was not.
    pub before: Option<String>,
    /// How it is; absent where it is not.
    pub after: Option<String>,
}

impl Difference {
    /// One line for a person who knows which run comes first.
    #[must_use]
    pub fn between(&self) -> String {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not there".to_owned());
        format!("{} `{}`: {} and {}", self.area.name(), self.what, shown(&self.before), shown(&self.after))
    }

    /// One line for a person; `before` and `after` name the two runs, such as `in the lock` and `now`.
    #[must_use]
    pub fn line(&self, before: &str, after: &str) -> String {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not there".to_owned());
        let area = self.area.name();
        format!("{area} `{}`: {} {before}, {} {after}", self.what, shown(&self.before), shown(&self.after))
    }
}

/// Everything that differs, in the order of [`Area`].
#[must_use]
pub fn differences(before: &Locked, after: &Locked) -> Vec<Difference> {
    let mut all = settings(&before.lock, &after.lock);
    all.extend(image(&before.lock, &after.lock));
    all.extend(code(before, after));
    all.extend(data(before, after));
    all.extend(model(&before.lock, &after.lock));
    all.extend(devices(&before.lock, &after.lock));
    all.extend(tables(Area::Version, &before.lock.versions, &after.lock.versions));
    all.extend(split(&before.lock, &after.lock));
    all
}

fn differ(area: Area, what: impl Into<String>, before: Option<String>, after: Option<String>) -> Option<Difference> {
    (before != after).then(|| Difference { area, what: what.into(), before, after })
}

fn tables(area: Area, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<Difference> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    keys.into_iter().filter_map(|key| differ(area, key, before.get(key).cloned(), after.get(key).cloned())).collect()
}

fn settings(before: &RunLock, after: &RunLock) -> Vec<Difference> {
    let told = |lock: &RunLock| -> BTreeMap<String, String> {
        let settings = lock.job.settings.iter().filter(|(path, _)| !PLACES.contains(&path.as_str()));
        // A secret is not compared: neither of the locks has it.
        let told = settings.filter(|(_, setting)| !setting.withheld || !setting.value.is_null());
        told.map(|(path, setting)| (path.clone(), portable(path, &setting.value, &lock.job).to_string())).collect()
    };
    let mut before_told = told(before);
    let mut after_told = told(after);
    // One that is secret on one side only is not known to differ.
    for lock in [before, after] {
        for (path, _) in lock.job.settings.iter().filter(|(_, setting)| setting.withheld && setting.value.is_null()) {
            before_told.remove(path);
            after_told.remove(path);
        }
    }
    for (told, lock) in [(&mut before_told, before), (&mut after_told, after)] {
        if let Some(most) = lock.job.max_images {
            told.insert("--smoke".to_owned(), format!("at most {most} images"));
        }
    }
    tables(Area::Setting, &before_told, &after_told)
}

/// A value whose paths do not depend on where the job's folder is.
fn portable(path: &str, value: &Value, job: &LockedJob) -> Value {
    if !matches!(path, "volumes" | "build.context") {
        return value.clone();
    }
    match value {
        Value::String(text) => match Path::new(text).strip_prefix(&job.folder) {
            Ok(below) if below.as_os_str().is_empty() => ".".into(),
            Ok(below) => format!("./{}", below.display()).into(),
            Err(_) => value.clone(),
        },
        Value::Array(list) => list.iter().map(|value| portable(path, value, job)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                let value = if key == "source" { portable(path, value, job) } else { value.clone() };
                (key.clone(), value)
            })
            .collect(),
        other => other.clone(),
    }
}

fn image(before: &RunLock, after: &RunLock) -> Option<Difference> {
    if before.image.id == after.image.id {
        return None;
    }
    let name = after.image.name.clone();
    differ(Area::Image, name, Some(before.image.id.clone()), Some(after.image.id.clone()))
}

fn code(before: &Locked, after: &Locked) -> Vec<Difference> {
    let (was, is) = (&before.lock.code, &after.lock.code);
    let mut all = Vec::new();
    match (&was.git, &is.git) {
        (Some(was), Some(is)) => all.extend(differ(Area::Code, "commit", was.commit.clone(), is.commit.clone())),
        (None, None) => {}
        (was, is) => {
            let told = |git: &Option<Git>, code: &Code| match git {
                Some(git) => git.commit.clone().or_else(|| Some("no commit".to_owned())),
                None => code.without_git.clone(),
            };
            let (was, is) = (told(was, &before.lock.code), told(is, &after.lock.code));
            all.extend(differ(Area::Code, "git", was, is));
        }
    }
    let hash = |code: &Code| code.git.as_ref().and_then(|git| git.patch_sha256.clone());
    let unknown = match (&was.git, &is.git) {
        (Some(was), Some(is)) => unknown(was, is),
        _ => None,
    };
    if unknown.is_some() {
        all.extend(unknown);
    } else if hash(was) != hash(is) {
        let before = before.patch.as_deref().map_or_else(BTreeMap::new, sections);
        let after = after.patch.as_deref().map_or_else(BTreeMap::new, sections);
        let files: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let told = |section: Option<&&str>| match section {
            Some(_) => "changed".to_owned(),
            None => "as committed".to_owned(),
        };
        let changed = files.into_iter().filter(|file| before.get(*file) != after.get(*file));
        let mut named: Vec<Difference> = changed
            .map(|file| {
                let (was, mut is) = (told(before.get(file)), told(after.get(file)));
                if was == is {
                    is = "changed otherwise".to_owned();
                }
                Difference { area: Area::Code, what: file.clone(), before: Some(was), after: Some(is) }
            })
            .collect();
        if named.is_empty() {
            named.extend(differ(Area::Code, "uncommitted changes", hash(was), hash(is)));
        }
        all.append(&mut named);
    }
    let in_git = was.git.is_some() && is.git.is_some();
    let (mut was, is) = (files::by_place(&before.lock, in_git), files::by_place(&after.lock, in_git));
    files::same_names(&mut was, &is);
    all.extend(tables(Area::Code, &was, &is));
    all
}

/// Whether changes are not known on either side: then nobody can say that the code is the same, nor which files differ.
fn unknown(before: &Git, after: &Git) -> Option<Difference> {
    let no_diff = before.without_patch.is_some() || after.without_patch.is_some();
    let untold = before.dirty != after.dirty && before.patch_sha256 == after.patch_sha256;
    let told = |git: &Git| match (&git.without_patch, &git.patch_sha256) {
        (Some(why), _) => format!("not known ({why})"),
        (None, Some(hash)) => hash.clone(),
        (None, None) if git.dirty => "not known".to_owned(),
        (None, None) => "none".to_owned(),
    };
    (no_diff || untold).then(|| Difference {
        area: Area::Code,
        what: "uncommitted changes".into(),
        before: Some(told(before)),
        after: Some(told(after)),
    })
}

/// What a patch does to each file.
fn sections(patch: &str) -> BTreeMap<String, &str> {
    const HEAD: &str = "diff --git ";
    let mut starts: Vec<usize> = patch.match_indices(&format!("\n{HEAD}")).map(|(at, _)| at + 1).collect();
    if patch.starts_with(HEAD) {
        starts.insert(0, 0);
    }
    let ends = starts.iter().skip(1).copied().chain([patch.len()]);
    starts
        .iter()
        .zip(ends)
        .filter_map(|(&start, end)| {
            let section = patch.get(start..end)?;
            let names = section.lines().next()?.strip_prefix(HEAD)?;
            // `a/NAME b/NAME`: without renames both are the same.
            let name = names.get(..names.len() / 2)?.trim_matches('"');
            Some((name.strip_prefix("a/").unwrap_or(name).to_owned(), section))
        })
        .collect()
}

fn data(before: &Locked, after: &Locked) -> Vec<Difference> {
    let (was, is) = match (&before.lock.data, &after.lock.data) {
        (None, None) => return Vec::new(),
        (Some(was), Some(is)) => (was, is),
        (was, is) => {
            let told = |data: &Option<super::LockedData>| data.as_ref().map(|data| data.fingerprint.clone());
            return differ(Area::Data, "fingerprint", told(was), told(is)).into_iter().collect();
        }
    };
    let mut all = Vec::new();
    if was.fingerprint != is.fingerprint {
        let changes = match (&before.listing, &after.listing) {
            (Some(before), Some(after)) => listing::changes(before, after),
            _ => Vec::new(),
        };
        all.extend(changes.into_iter().map(|(file, change)| {
            let (before, after) = match change {
                Change::Changed => (Some("one content"), Some("another")),
                Change::Gone => (Some("there"), None),
                Change::New => (None, Some("there")),
            };
            Difference { area: Area::Data, what: file, before: before.map(Into::into), after: after.map(Into::into) }
        }));
        if all.is_empty() {
            let fingerprints = (Some(was.fingerprint.clone()), Some(is.fingerprint.clone()));
            all.extend(differ(Area::Data, "fingerprint", fingerprints.0, fingerprints.1));
        }
    }
    let names = |names: &BTreeMap<u32, String>| -> BTreeMap<String, String> {
        names.iter().map(|(class, name)| (format!("class {class}"), name.clone())).collect()
    };
    all.extend(tables(Area::Data, &names(&was.names), &names(&is.names)));
    all
}

fn model(before: &RunLock, after: &RunLock) -> Option<Difference> {
    let content = |lock: &RunLock| lock.model.as_ref().map(|model| model.content.clone());
    let name =
        |lock: &RunLock| lock.job.settings.get("model").and_then(|model| model.value.as_str().map(str::to_owned));
    let what = name(after).or_else(|| name(before)).unwrap_or_else(|| "model".to_owned());
    differ(Area::Weights, what, content(before), content(after))
}

fn devices(before: &RunLock, after: &RunLock) -> Vec<Difference> {
    let told = |lock: &RunLock, rank: usize| {
        lock.devices.get(rank).map(|device| {
            let cap = device.memory_cap_bytes.map_or_else(String::new, |bytes| format!(", {bytes} bytes at most"));
            format!("{} with {} threads{cap}", device.kind, device.threads)
        })
    };
    let ranks = 0..before.devices.len().max(after.devices.len());
    ranks
        .filter_map(|rank| differ(Area::Device, format!("rank {rank}"), told(before, rank), told(after, rank)))
        .collect()
}

fn split(before: &RunLock, after: &RunLock) -> Vec<Difference> {
    let told = |lock: &RunLock| -> BTreeMap<String, String> {
        let one = lock.stages.len() == 1;
        let mut told = BTreeMap::new();
        for stage in &lock.stages {
            let of = |what: &str| if one { what.to_owned() } else { format!("{what} from epoch {}", stage.from_epoch) };
            if let Some(target) = stage.target {
                told.insert(of("target"), target.to_string());
            }
            told.insert(of("micro-batches"), format!("{:?}", stage.micro_batches));
            if let Some(amp) = &stage.amp {
                told.insert(of("mixed precision"), amp.clone());
            }
            for (step, most) in &stage.micro_from_step {
                told.insert(of(&format!("step {step}")), format!("micro-batches of {most} from there on"));
            }
        }
        told
    };
    // Before it has begun, a run has no split to differ in.
    if before.stages.is_empty() || after.stages.is_empty() {
        return Vec::new();
    }
    tables(Area::Split, &told(before), &told(after))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runlock::tests::small;
    use crate::runlock::{CodeFile, LockedData};

    pub(super) fn locked(change: impl FnOnce(&mut RunLock)) -> Locked {
        let mut lock = small();
        change(&mut lock);
        Locked { lock, listing: None, patch: None }
    }

    pub(super) fn lines(before: &Locked, after: &Locked) -> Vec<String> {
        differences(before, after).iter().map(|difference| difference.line("in the lock", "now")).collect()
    }

    pub(super) fn git(patch: Option<&str>) -> Option<Git> {
        Some(Git {
            root: "/p".into(),
            remote: None,
            commit: Some("c1".into()),
            branch: None,
            dirty: patch.is_some(),
            patch_sha256: patch.map(|patch| format!("hash of {}", patch.len())),
            without_patch: None,
        })
    }

    #[test]
    fn a_lock_does_not_differ_from_itself_elsewhere() {
        let moved = locked(|lock| {
            lock.job.folder = "/srv/b".into();
            let volumes = json!([{ "source": "/srv/b/code", "target": "/code" }]);
            lock.job.settings.get_mut("volumes").expect("there").value = volumes;
            lock.job.settings.get_mut("name").expect("there").value = json!("other");
            lock.run.id = "20270101-000000".into();
        });
        assert_eq!(lines(&locked(|_| {}), &moved), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_named_with_both_values() {
        type Case<'a> = (&'a dyn Fn(&mut RunLock), &'a str);
        let cases: [Case<'_>; 6] = [
            (
                &|lock| lock.job.settings.get_mut("epochs").expect("there").value = json!(4),
                "setting `epochs`: 3 in the lock, 4 now",
            ),
            (&|lock| drop(lock.job.settings.remove("seed")), "setting `seed`: 0 in the lock, not there now"),
            (
                &|lock| lock.image.id = "sha256:2".into(),
                "image `evenkeel/worker:1`: sha256:1 in the lock, sha256:2 now",
            ),
            (
                &|lock| drop(lock.versions.insert("torch".into(), "3".into())),
                "version `torch`: not there in the lock, 3 now",
            ),
            (
                &|lock| lock.devices[0].threads = 2,
                "device `rank 0`: CPU with 1 threads in the lock, CPU with 2 threads now",
            ),
            (
                &|lock| lock.stages[0].micro_batches = vec![vec![8, 8]],
                "split `micro-batches`: [[16], [16]] in the lock, [[8, 8]] now",
            ),
        ];
        for (change, line) in cases {
            assert_eq!(lines(&locked(|_| {}), &locked(change)), [line]);
        }
    }

    #[test]
    fn the_files_of_a_diff_are_named() {
        let one = "diff --git a/a.py b/a.py\n-x\n+y\n";
        let other = "diff --git a/a.py b/a.py\n-x\n+z\ndiff --git a/my b.py b/my b.py\n+new\n";
        let with =
            |patch: &str| Locked { patch: Some(patch.into()), ..locked(|lock| lock.code.git = git(Some(patch))) };
        let lines = lines(&with(one), &with(other));
        assert_eq!(
            lines,
            [
                "code `a.py`: changed in the lock, changed otherwise now",
                "code `my b.py`: as committed in the lock, changed now"
            ]
        );
        let clean = locked(|lock| lock.code.git = git(None));
        let gone = differences(&with(one), &clean);
        assert_eq!(gone[0].line("then", "now"), "code `a.py`: changed then, as committed now");
    }

    #[test]
    fn untracked_files_and_the_loss_of_a_repository_are_told() {
        let file = |sha256: &str| CodeFile {
            key: "volumes".into(),
            path: "/x/train.py".into(),
            sha256: sha256.into(),
            stored: None,
        };
        let with = |sha256: &str| locked(|lock| lock.code.files = vec![file(sha256)]);
        assert_eq!(lines(&with("a"), &with("b")), ["code `train.py`: a in the lock, b now"]);
        let repository = locked(|lock| lock.code.git = git(None));
        assert_eq!(lines(&repository, &locked(|_| {})), ["code `git`: c1 in the lock, no repository now"]);
    }

    #[test]
    fn the_files_of_the_data_are_named() {
        let data = |fingerprint: &str| {
            Some(LockedData {
                yaml: "/d/data.yaml".into(),
                root: "/d".into(),
                fingerprint: fingerprint.into(),
                files: 2,
                bytes: 2,
                train: 1,
                val: 1,
                names: [(0, "cat".to_owned())].into(),
            })
        };
        let with = |fingerprint: &str, listing: &str| Locked {
            listing: Some(listing.into()),
            ..locked(|lock| lock.data = data(fingerprint))
        };
        let lines = lines(&with("1", "aa  x.txt\nbb  y.png\n"), &with("2", "ab  x.txt\nbb  y.png\n"));
        assert_eq!(lines, ["data `x.txt`: one content in the lock, another now"]);
    }

    #[test]
    fn secrets_are_not_compared() {
        let with = |value: Value, withheld| {
            locked(|lock| {
                let setting = crate::runlock::Setting { value, origin: "default".into(), withheld };
                lock.job.settings.insert("environment.TOKEN".into(), setting);
            })
        };
        assert!(lines(&with(json!(null), true), &with(json!(null), false)).is_empty());
    }

    #[test]
    fn changes_that_could_not_be_had_are_not_the_same() {
        let with = |dirty, patch: Option<&str>, why: Option<&str>| {
            let git = git(patch).map(|git| Git { dirty, without_patch: why.map(Into::into), ..git });
            locked(|lock| lock.code.git = git)
        };
        let large = with(true, None, Some("too large"));
        let line = |before: &str, after: &str| format!("code `uncommitted changes`: {before} in the lock, {after} now");
        assert_eq!(lines(&large, &large), [line("not known (too large)", "not known (too large)")]);
        assert_eq!(lines(&large, &with(false, None, None)), [line("not known (too large)", "none")]);
        let patched = Locked { patch: Some("diff --git a/a.py b/a.py\n+y\n".into()), ..with(true, Some("ab"), None) };
        assert_eq!(lines(&patched, &large), [line("hash of 2", "not known (too large)")]);
        let untold = with(true, None, None);
        assert_eq!(lines(&with(false, None, None), &untold), [line("none", "not known")]);
    }
}
