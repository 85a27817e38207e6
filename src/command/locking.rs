//! The lock of a run: gathered before its first container, compared with another one where that is demanded, completed when it is over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::find_run::{find, latest};
use super::prepare::{Prepared, Takeover, micro_batches};
use super::train::Ready;
use crate::dataset::{self, DataError, hex};
use crate::error::{ExitCode, Failure};
use crate::job::Job;
use crate::output::Screen;
use crate::plan::Plan;
use crate::record::{RecordError, RunDir};
use crate::runlock::data::{self, HashError, Hashed, Progress};
use crate::runlock::difference::{Area, Difference, differences};
use crate::runlock::{
    FILE, LISTING, LockError, Locked, LockedData, LockedStage, PATCH, Reproduces, RunLock, RunName, VERSION, code,
};
use crate::settings::Settings;

/// Differences that a message names; the rest are counted.
const MOST: usize = 50;
/// How often the screen shows how far the hashing is.
const LOOK: Duration = Duration::from_millis(250);

/// A lock to compare with, or to repeat.
pub struct Reference {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub locked: Locked,
    /// SHA-256 of it.
    pub sha256: String,
}

impl Reference {
    /// Reads a lock: the file, or that of the record in this folder.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be understood.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let text = std::fs::read_to_string(&path).map_err(|source| {
            let hint = "runs have one from their first container on; earlier versions of evenkeel wrote none";
            Failure::bad(Unreadable { path: path.clone(), source: source.into() }).hint(hint)
        })?;
        let lock = RunLock::from_yaml(&text).map_err(|source| {
            let code = match source {
                LockError::Version(_) => ExitCode::BadRequest,
                LockError::Invalid(_) => ExitCode::CorruptState,
            };
            Failure::new(code, Unreadable { path: path.clone(), source: source.into() })
        })?;
        let beside = |name: &str| std::fs::read(path.with_file_name(name)).ok();
        let text_of = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let locked = Locked { lock, listing: beside(LISTING).map(text_of), patch: beside(PATCH).map(text_of) };
        Ok(Self { path, locked, sha256: hex(&Sha256::digest(&text)) })
    }

    /// The folder of the record.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("failed to read the lock `{}`", path.display())]
struct Unreadable {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The lock that `--locked` means: the one that is named, or that of the latest run of this name.
///
/// # Errors
///
/// There is none.
pub fn reference(named: Option<&Path>, job: &Job) -> Result<Reference, Failure> {
    if let Some(path) = named {
        let record = if path.exists() { path.to_owned() } else { find(&path.to_string_lossy())? };
        return Reference::read(&record);
    }
    let family = job.runs.join(&job.name);
    let Some(run) = latest(&family, |run| run.join(FILE).is_file()) else {
        let message = format!("`--locked` needs a lock, and no run in `{}` has one", family.display());
        return Err(Failure::bad(message).hint("train once without it, or name a lock with `--locked=PATH`"));
    };
    Reference::read(&run)
}

/// What a training must be like.
pub enum Demand {
    /// Anything.
    Nothing,
    /// As it was, or it does not begin.
    Same(Reference),
    /// As it was but for what was asked otherwise.
    Again {
        /// As what.
        reference: Reference,
        /// Keys that were given other values.
        overrides: Vec<String>,
        /// What is taken over.
        takeover: Box<Takeover>,
    },
}

impl Demand {
    /// What is taken over before anything is planned.
    pub fn takeover(&self) -> Takeover {
        match self {
            Self::Nothing => Takeover::default(),
            // The sizes that were found then, so that nothing is tried again and nothing comes out another way.
            Self::Same(reference) => {
                let lock = &reference.locked.lock;
                Takeover { of: lock.run.to_string(), stages: lock.stages.clone(), ..Takeover::default() }
            }
            Self::Again { takeover, .. } => (**takeover).clone(),
        }
    }

    fn reproduces(&self) -> Option<Reproduces> {
        let Self::Again { reference, overrides, .. } = self else { return None };
        let run = reference.locked.lock.run.clone();
        Some(Reproduces { run, lock_sha256: reference.sha256.clone(), overrides: overrides.clone() })
    }

    /// Refuses what is not as it was.
    ///
    /// # Errors
    ///
    /// Something differs that was not asked for.
    pub fn check(&self, gathered: &Gathered, screen: &Screen) -> Result<(), Failure> {
        match self {
            Self::Nothing => Ok(()),
            Self::Same(reference) => {
                let found = differences(&reference.locked, &gathered.locked);
                if found.is_empty() {
                    screen.line(&format!("as {} locks it", reference.path.display()));
                    return Ok(());
                }
                let what = format!("the training would not be as `{}` locks it", reference.path.display());
                Err(Failure::bad(listed(&what, &found))
                    .hint("put back what differs, or train without `--locked`, which writes a new lock"))
            }
            Self::Again { reference, overrides, .. } => {
                let asked = |key: &str| overrides.iter().any(|given| given == key);
                let found = differences(&reference.locked, &gathered.locked);
                let (refused, told): (Vec<_>, Vec<_>) = found
                    .into_iter()
                    .filter(|difference| {
                        matches!(difference.area, Area::Data | Area::Weights | Area::Code | Area::Image)
                    })
                    .partition(|difference| match difference.area {
                        Area::Data => !asked("data"),
                        Area::Weights => !asked("model"),
                        _ => false,
                    });
                if !refused.is_empty() {
                    let what = format!("it would not be {} again", reference.locked.lock.run);
                    return Err(Failure::bad(listed(&what, &refused)).hint(
                        "bring the data set and the weights that it had, or name others with `data=...` or `model=...`",
                    ));
                }
                if !told.is_empty() {
                    screen.line(&format!("warning: {}", listed("something is not as it was", &told)));
                }
                if told.iter().any(|difference| difference.area == Area::Code) {
                    if let Some(way) = way_back(reference) {
                        screen.line(&way);
                    }
                }
                Ok(())
            }
        }
    }
}

/// How the project becomes what it was.
fn way_back(reference: &Reference) -> Option<String> {
    let git = reference.locked.lock.code.git.as_ref()?;
    let commit = git.commit.as_ref()?;
    let remote = git.remote.as_ref().map_or_else(String::new, |remote| format!(" of {remote}"));
    let patch = reference.folder().join(PATCH);
    let patch = if git.dirty { format!(" && git apply {}", patch.display()) } else { String::new() };
    Some(format!("the code that it ran{remote}: git checkout {commit}{patch}"))
}

/// A message that names differences, a line each.
fn listed(what: &str, found: &[Difference]) -> String {
    let mut text = format!("{what}:");
    for difference in found.iter().take(MOST) {
        text += &format!("\n  {}", difference.line("in the lock", "now"));
    }
    if found.len() > MOST {
        text += &format!("\n  and {} more", found.len() - MOST);
    }
    text
}

/// A launch, as far as it says how the steps were split.
pub struct Launched {
    from_epoch: u32,
    micro_batches: Vec<Vec<u32>>,
    first_step: Option<u64>,
    step_downs: Vec<(u64, u32)>,
}

impl Launched {
    /// A launch for the stage that begins at an epoch.
    pub fn new(from_epoch: u32, plan: &Plan, first_step: Option<u64>, step_downs: Vec<(u64, u32)>) -> Self {
        Self { from_epoch, micro_batches: micro_batches(plan), first_step, step_downs }
    }
}

/// What a run is made of, and the files that say so.
pub struct Gathered {
    locked: Locked,
    patch: Option<Vec<u8>>,
    stored: Vec<(String, Vec<u8>)>,
}

impl Gathered {
    /// What a run was made of, as its record says.
    pub fn reopen(reference: Reference) -> Self {
        Self { locked: reference.locked, patch: None, stored: Vec::new() }
    }

    /// Writes the lock of a run that goes on, with what was asked for otherwise than before. How its steps were split is added at its end.
    ///
    /// # Errors
    ///
    /// The record cannot be written, or the settings of images are wrong.
    pub fn go_on(&mut self, run: &RunDir, ready: &Ready, settings: &Settings) -> Result<(), Failure> {
        let prepared = &ready.prepared;
        let lock = &mut self.locked.lock;
        let earlier = std::mem::replace(&mut lock.job, prepared.locked_job());
        for (path, setting) in &mut lock.job.settings {
            // What is as it was comes from where it came from.
            if let Some(same) = earlier.settings.get(path).filter(|before| before.value == setting.value) {
                setting.clone_from(same);
            }
        }
        lock.image = prepared.locked_image(&ready.image);
        lock.devices = prepared.locked_devices();
        lock.versions = prepared.versions(&ready.image, settings)?;
        for stage in prepared.locked_stages() {
            if lock.stages.iter().all(|there| there.from_epoch != stage.from_epoch) {
                lock.stages.push(stage);
            }
        }
        lock.complete = false;
        run.write(FILE, lock.to_yaml().as_bytes())?;
        Ok(())
    }

    /// The run that is repeated.
    pub fn reproduces(&self) -> Option<&RunName> {
        self.locked.lock.reproduces.as_ref().map(|reproduces| &reproduces.run)
    }

    /// Writes the lock of a run that is about to begin.
    ///
    /// # Errors
    ///
    /// The record cannot be written.
    pub fn write(&mut self, run: &RunDir, prepared: &Prepared) -> Result<(), RecordError> {
        let lock = &mut self.locked.lock;
        lock.run.id = run.id().to_owned();
        lock.devices = prepared.locked_devices();
        lock.stages = prepared.locked_stages();
        if let Some(listing) = &self.locked.listing {
            run.write(LISTING, listing.as_bytes())?;
        }
        if let Some(patch) = &self.patch {
            run.write(PATCH, patch)?;
        }
        for (name, content) in &self.stored {
            run.write(name, content)?;
        }
        run.write(FILE, lock.to_yaml().as_bytes()).map(drop)
    }

    /// Writes it again with what the launches found out.
    ///
    /// # Errors
    ///
    /// The record cannot be written.
    pub fn complete(&mut self, run: &RunDir, launched: &[Launched]) -> Result<(), RecordError> {
        let lock = &mut self.locked.lock;
        for stage in &mut lock.stages {
            let from_epoch = stage.from_epoch;
            learn(stage, launched.iter().filter(|launched| launched.from_epoch == from_epoch));
        }
        lock.complete = true;
        run.write(FILE, lock.to_yaml().as_bytes()).map(drop)
    }
}

/// Adds to a stage's split where its launches went over to smaller micro-batches.
fn learn<'a>(stage: &mut LockedStage, launched: impl Iterator<Item = &'a Launched>) {
    for (number, launch) in launched.enumerate() {
        let most = launch.micro_batches.iter().flatten().max();
        match (number, launch.first_step, most) {
            (0, ..) => stage.micro_batches.clone_from(&launch.micro_batches),
            // A launch that goes on with the cut that held before has made no step down.
            (_, Some(step), Some(most)) if held(stage, step).is_none_or(|held| *most < held) => {
                stage.micro_from_step.insert(step, *most);
            }
            _ => {}
        }
        for (step, to) in &launch.step_downs {
            let noted = stage.micro_from_step.entry(*step).or_insert(*to);
            *noted = *to.min(noted);
        }
    }
}

/// The largest micro-batch that a step had, as far as is noted.
fn held(stage: &LockedStage, step: u64) -> Option<u32> {
    let begun = stage.micro_batches.iter().flatten().max();
    let noted = stage.micro_from_step.range(..=step).map(|(_, most)| most);
    begun.into_iter().chain(noted).min().copied()
}

/// Gathers what the run will be made of.
///
/// # Errors
///
/// A file of the data set cannot be read.
pub(super) async fn gather(
    ready: &Ready,
    demand: &Demand,
    settings: &Settings,
    screen: &mut Screen,
) -> Result<Gathered, Failure> {
    let prepared = &ready.prepared;
    let found = code::look(&prepared.project(), &prepared.named_files(), &prepared.secrets()).await;
    let mut data = None;
    let mut listing = None;
    if let Some((yaml, set, [train, val])) = prepared.found_data() {
        let hashed = hash(set.clone(), settings, screen).await?;
        listing = Some(hashed.listing);
        data = Some(LockedData {
            yaml: yaml.to_owned(),
            root: set.path.clone().into(),
            fingerprint: hashed.fingerprint,
            files: hashed.files,
            bytes: hashed.bytes,
            train,
            val,
            names: set.names.clone(),
        });
    }
    let lock = RunLock {
        version: VERSION,
        complete: false,
        run: RunName { name: prepared.job().name.clone(), id: String::new() },
        reproduces: demand.reproduces(),
        job: prepared.locked_job(),
        image: prepared.locked_image(&ready.image),
        code: found.code,
        data,
        model: prepared.locked_model(),
        devices: prepared.locked_devices(),
        versions: prepared.versions(&ready.image, settings)?,
        // Not known yet: trial steps may come first.
        stages: Vec::new(),
    };
    let patch = found.patch.as_deref().map(|patch| String::from_utf8_lossy(patch).into_owned());
    Ok(Gathered { locked: Locked { lock, listing, patch }, patch: found.patch, stored: found.stored })
}

/// Asks the work on other threads to end when nobody waits for it any more.
struct Stop(Arc<Progress>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

async fn hash(
    set: evenkeel_wire::trainer_job::DataSet,
    settings: &Settings,
    screen: &mut Screen,
) -> Result<Hashed, Failure> {
    let name = hex(&Sha256::digest(format!("{}\0{:?}\0{:?}", set.path, set.train, set.val))[..8]);
    let cache = settings.cache.join("hashes").join(name);
    let progress = Arc::new(Progress::default());
    let stop = Stop(progress.clone());
    let mut work = tokio::task::spawn_blocking(move || -> Result<Hashed, NotHashed> {
        let files = dataset::files(&set)?;
        Ok(data::hash(&files, &cache, &progress)?)
    });
    let hashed = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(LOOK) => {
                let bytes = stop.0.bytes.load(Ordering::Relaxed);
                if bytes > 0 {
                    screen.long_work(&format!("hashing the data set: {:.1} MB read", bytes as f64 / 1e6));
                }
            }
        }
    };
    match hashed {
        Ok(Ok(hashed)) => Ok(hashed),
        Ok(Err(NotHashed::Data(error))) => Err(error.into()),
        Ok(Err(NotHashed::Hash(error))) => {
            Err(Failure::new(ExitCode::MachineNotReady, error).hint("the data set must stay as it is while it is read"))
        }
        Err(panicked) => Err(Failure::new(ExitCode::MachineNotReady, panicked)),
    }
}

#[derive(Debug, thiserror::Error)]
enum NotHashed {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Hash(#[from] HashError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> LockedStage {
        LockedStage {
            from_epoch: 0,
            imgsz: 64,
            target: Some(32),
            micro_batches: vec![vec![32]],
            micro_from_step: [].into(),
            amp: None,
        }
    }

    fn launch(cut: &[u32], first_step: Option<u64>, step_downs: &[(u64, u32)]) -> Launched {
        Launched { from_epoch: 0, micro_batches: vec![cut.to_vec()], first_step, step_downs: step_downs.to_vec() }
    }

    #[test]
    fn the_lock_has_where_micro_batches_became_smaller() {
        let mut stage = stage();
        let launched = [launch(&[32], Some(0), &[(3, 16), (3, 8)]), launch(&[4; 8], Some(9), &[(12, 2)])];
        learn(&mut stage, launched.iter());
        assert_eq!(stage.micro_batches, [[32]]);
        assert_eq!(stage.micro_from_step, [(3, 8), (9, 4), (12, 2)].into());
    }

    #[test]
    fn a_launch_that_made_no_step_changes_nothing() {
        let mut stage = stage();
        let launched = [launch(&[32], None, &[]), launch(&[16, 16], Some(0), &[])];
        learn(&mut stage, launched.iter());
        assert_eq!(stage.micro_from_step, [(0, 16)].into());
    }

    #[test]
    fn a_flood_of_differences_is_counted() {
        let one = |number: usize| Difference {
            area: Area::Data,
            what: format!("{number}.txt"),
            before: None,
            after: Some("there".into()),
        };
        let all: Vec<_> = (0..60).map(one).collect();
        let text = listed("it differs", &all);
        assert!(text.ends_with("\n  and 10 more") && text.lines().count() == MOST + 2, "{text}");
    }

    #[test]
    fn a_launch_with_the_same_cut_is_no_step_down() {
        let mut stage = stage();
        let again = [launch(&[32], Some(0), &[]), launch(&[32], Some(4), &[]), launch(&[16, 16], Some(6), &[])];
        learn(&mut stage, again.iter().chain(&[launch(&[16, 16], Some(8), &[(9, 8)]), launch(&[8; 4], Some(9), &[])]));
        assert_eq!(stage.micro_from_step, [(6, 16), (9, 8)].into());
        // One that repeats the steps before another one stepped down had smaller ones earlier.
        learn(&mut stage, [launch(&[32], Some(0), &[]), launch(&[8; 4], Some(5), &[])].iter());
        assert_eq!(stage.micro_from_step, [(5, 8), (6, 16), (9, 8)].into());
    }
}
