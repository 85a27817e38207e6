//! A job from a lock, for what runs again or goes on: its settings, where its files are now, and what it takes over.

use std::path::{Path, PathBuf};

use super::locking::Reference;
use super::prepare::{self, Prepared, Takeover};
use crate::dataset::hex;
use crate::error::{ExitCode, Failure};
use crate::inventory::{DeviceRequest, GpuName, Inventory};
use crate::job::{self, Bases, Origin, ResolvedJob};
use crate::output::Screen;
use crate::plan::Plan;
use crate::runlock::{CodeFile, RunLock, job as locked_job};
use crate::settings::Settings;
use sha2::{Digest, Sha256};

/// A job from a lock.
pub struct Again {
    /// On the devices that it gets, planned.
    pub prepared: Prepared,
    /// What it takes over.
    pub takeover: Takeover,
    /// Keys that were given other values.
    pub overrides: Vec<String>,
}

/// Which devices a job from a lock gets.
#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    /// Those that it asks for.
    Same,
    /// Those that it asks for, or where these are not here those that are.
    Any,
    /// Those of this plan, which are in use: the run's own trainers compute on them.
    Own(&'a Plan),
}

impl Again {
    /// The job of a lock, but for what `given` says otherwise, as `KEY=VALUE`.
    ///
    /// # Errors
    ///
    /// A setting that the lock withholds is not given, or the job cannot be had here.
    pub fn of(
        reference: &Reference,
        given: &[String],
        on: On<'_>,
        settings: &Settings,
        screen: &Screen,
    ) -> Result<Self, Failure> {
        let lock = &reference.locked.lock;
        let overrides: Vec<String> = given.iter().map(|given| key(given).to_owned()).collect();
        let asked = |key: &str| overrides.iter().any(|given| given == key || given.starts_with(&format!("{key}.")));
        let here = std::env::current_dir().map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
        let mut resolved = read_job(given, reference)?;
        let moved = place_volumes(&mut resolved, reference, &here)?;
        tell_secrets(lock, settings, screen);
        let places = if moved {
            (lock.job.file.clone(), here.clone(), here.clone())
        } else {
            (lock.job.file.clone(), lock.job.folder.clone(), lock.job.called_from.clone())
        };
        let takeover = Takeover {
            of: lock.run.to_string(),
            stages: if asked("batch.micro") { Vec::new() } else { lock.stages.clone() },
            image: Some(lock.image.clone()).filter(|_| !["image", "build", "trainer"].iter().any(|key| asked(key))),
            data: lock.data.as_ref().filter(|_| !asked("data")).and_then(|data| place(&data.yaml, lock, &here)),
            model: lock
                .model
                .as_ref()
                .filter(|_| !asked("model"))
                .and_then(|model| place(model.path.as_deref()?, lock, &here)),
            max_images: lock.job.max_images,
            places: Some(places),
        };
        let any = matches!(on, On::Any) && !asked("device") && !asked("gpus");
        // Parts of the processors are nobody's alone: they are what the job asks for.
        let alone = |device: &String| !device.starts_with("cpu:");
        let own: Vec<String> = match on {
            On::Own(plan) => plan.ranks.iter().map(|rank| rank.device.clone()).filter(alone).collect(),
            On::Same | On::Any => Vec::new(),
        };
        if !own.is_empty() {
            resolved.job.device = DeviceRequest::Gpus(own.iter().cloned().map(GpuName::Uuid).collect());
            device_from(&mut resolved, "the devices that it has");
        }
        let inventory = || super::devices::inventory(settings).without_users_of(&own);
        let prepared = prepared(resolved, settings, takeover.clone(), (inventory, any), screen)?;
        Ok(Self { prepared, takeover, overrides })
    }
}

/// The key of an override. Its value may be a secret.
fn key(given: &str) -> &str {
    given.split('=').next().unwrap_or_default().trim()
}

/// The job that the lock tells of.
fn read_job(overrides: &[String], reference: &Reference) -> Result<ResolvedJob, Failure> {
    let lock = &reference.locked.lock;
    let given: Vec<&str> = overrides.iter().map(|given| key(given)).collect();
    let text = locked_job::text(lock, &given).map_err(|withheld| {
        let hint = format!("give it: `{}=...`", withheld.key);
        Failure::bad(withheld).hint(hint)
    })?;
    let text = format!("# {}, as its lock has it.\n{text}", lock.run);
    // What is given on the command line is relative to where it is given.
    let folder = std::env::current_dir().unwrap_or_default();
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let mut resolved = job::parse(&reference.path, text, overrides, &Bases { folder, home })?;
    for origin in resolved.origins.values_mut().filter(|origin| matches!(origin, Origin::File { .. })) {
        *origin = Origin::Derived(format!("the lock of {}", lock.run));
    }
    Ok(resolved)
}

/// Volumes where they were, else at the same place of the project here, else as the record keeps them. Whether any is somewhere else.
fn place_volumes(resolved: &mut ResolvedJob, reference: &Reference, here: &Path) -> Result<bool, Failure> {
    let lock = &reference.locked.lock;
    let mut moved = false;
    let sources: Vec<PathBuf> = resolved.job.volumes.iter().map(|volume| volume.source.clone()).collect();
    for volume in &mut resolved.job.volumes {
        let kept = kept(&volume.source, &sources, &lock.code.files);
        let is_same = |path: &Path| match kept.filter(|_| path.is_file()) {
            Some(kept) => std::fs::read(path).is_ok_and(|content| hex(&Sha256::digest(&content)) == kept.sha256),
            None => path.exists(),
        };
        let stored = || {
            let stored = reference.folder().join(kept?.stored.as_ref()?);
            std::path::absolute(stored).ok()
        };
        let candidates = std::iter::once(volume.source.clone()).chain(elsewhere(&volume.source, lock, here));
        let found = candidates.chain(stored()).find(|path| is_same(path));
        if let Some(found) = found.filter(|found| *found != volume.source) {
            volume.source = found;
            moved = true;
        }
    }
    Ok(moved)
}

/// What the lock says of a volume's file: by its path, else by its name where that can mean no other one. Volumes often have files of one
/// name, and another one's content must not be mounted in place of what is missing.
fn kept<'a>(source: &Path, sources: &[PathBuf], files: &'a [CodeFile]) -> Option<&'a CodeFile> {
    let volumes = || files.iter().filter(|file| file.key == "volumes");
    // The lock has files by their true place.
    let by_path = |path: &Path| volumes().find(|file| file.path == path);
    if let Some(found) = by_path(source).or_else(|| by_path(&source.canonicalize().ok()?)) {
        return Some(found);
    }
    let is_namesake = |path: &Path| path.file_name() == source.file_name();
    let mut namesakes = volumes().filter(|file| is_namesake(&file.path));
    let first = namesakes.next()?;
    let is_only = namesakes.all(|other| other.path == first.path)
        && sources.iter().filter(|path| is_namesake(path)).all(|other| other == source);
    is_only.then_some(first)
}

/// Where a file is now: where it was, else at the same place of the project here. Nothing: as the job names it.
fn place(path: &Path, lock: &RunLock, here: &Path) -> Option<String> {
    let found = std::iter::once(path.to_owned()).chain(elsewhere(path, lock, here)).find(|path| path.exists());
    found.and_then(|path| path.to_str().map(str::to_owned))
}

/// Places in the project here that were this path in the project there.
fn elsewhere(path: &Path, lock: &RunLock, here: &Path) -> Vec<PathBuf> {
    let root = here.ancestors().find(|folder| folder.join(".git").exists()).unwrap_or(here);
    let repository = lock.code.git.as_ref().map(|git| (git.root.as_path(), root));
    let folders = [(lock.job.called_from.as_path(), here), (lock.job.folder.as_path(), here)];
    let all = repository.into_iter().chain(folders);
    all.filter_map(|(there, here)| path.strip_prefix(there).ok().map(|below| here.join(below))).collect()
}

/// Variables whose values the lock withholds come from the environment, or are not there.
fn tell_secrets(lock: &RunLock, settings: &Settings, screen: &Screen) {
    for (path, _) in lock.job.settings.iter().filter(|(_, setting)| setting.withheld) {
        if let Some(variable) =
            path.strip_prefix("environment.").filter(|variable| !settings.all.contains_key(*variable))
        {
            screen.line(&format!("warning: `{variable}` was a secret of the job and is not set in your environment"));
        }
    }
}

/// The job on the devices that it asks for, or with `any` where these are not here on those that are.
fn prepared(
    resolved: ResolvedJob,
    settings: &Settings,
    takeover: Takeover,
    (inventory, any): (impl Fn() -> Inventory, bool),
    screen: &Screen,
) -> Result<Prepared, Failure> {
    let visible = settings.cuda_visible_devices.as_deref();
    let on = |resolved: ResolvedJob, takeover| prepare::resolved_job(resolved, inventory(), visible, false, takeover);
    match on(resolved.clone(), takeover.clone()) {
        Err(refused) if any && resolved.job.device != DeviceRequest::Auto => {
            let mut here = resolved;
            here.job.device = DeviceRequest::Auto;
            device_from(&mut here, "the devices that are here");
            let prepared = on(here, takeover)?;
            screen.line(&format!("not on the devices that it had ({}), but on those that are here", refused.message()));
            Ok(prepared)
        }
        outcome => outcome,
    }
}

fn device_from(resolved: &mut ResolvedJob, origin: &str) {
    resolved.origins.remove("gpus");
    resolved.origins.insert("device".to_owned(), Origin::Derived(origin.to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_never_taken_for_another_one_of_its_name() {
        let file = |path: &Path| CodeFile {
            key: "volumes".into(),
            path: path.to_owned(),
            sha256: String::new(),
            stored: None,
        };
        let [a, b] = ["/p/a/config.yaml", "/p/b/config.yaml"].map(PathBuf::from);
        let both = [file(&a), file(&b)];
        let sources = [a.clone(), b.clone()];
        let found = |source: &Path, sources: &[PathBuf], files: &[CodeFile]| {
            kept(source, sources, files).map(|file| file.path.clone())
        };
        assert_eq!(found(&a, &sources, &both), Some(a.clone()));
        assert_eq!(found(&b, &sources, &both), Some(b.clone()));
        assert_eq!(found(&b, &sources, &[file(&a)]), None, "git tracks it");
        let elsewhere = PathBuf::from("/q/config.yaml");
        assert_eq!(found(&elsewhere, std::slice::from_ref(&elsewhere), &both), None);
        assert_eq!(
            found(&elsewhere, std::slice::from_ref(&elsewhere), &[file(&a), file(&a)]),
            Some(a),
            "mounted twice"
        );
    }

    #[test]
    fn a_volume_behind_a_link_is_found_by_its_true_place() {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().canonicalize().expect("there");
        std::fs::write(root.join("true.yaml"), "a").expect("written");
        std::os::unix::fs::symlink(root.join("true.yaml"), root.join("link.yaml")).expect("linked");
        let path = root.join("true.yaml");
        let files = [CodeFile { key: "volumes".into(), path, sha256: String::new(), stored: None }];
        assert_eq!(kept(&root.join("link.yaml"), &[root.join("link.yaml")], &files), Some(&files[0]));
    }
}
