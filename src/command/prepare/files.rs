//! What a job needs of this machine's files, and which of them its containers see.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::Prepared;
use super::model::{local_model, mounted_model};
use crate::command::fetch;
use crate::dataset::hex;
use crate::error::{ExitCode, Failure};
use crate::job::Trainer;
use crate::launch::Mount;
use crate::output::Screen;
use crate::settings::Settings;

impl Prepared {
    /// Finds what this machine has of volumes, data and weights. What is only known by name is left to [`Self::fetch`].
    pub fn find(&mut self, screen: &Screen) -> Result<(), Failure> {
        for volume in &self.resolved.job.volumes {
            // One that only the engine may look into is left to it.
            let found = std::fs::metadata(&volume.source);
            if let Some(error) = found.err().filter(|error| error.kind() == std::io::ErrorKind::NotFound) {
                let named = NoVolume { path: volume.source.clone(), source: error };
                return Err(Failure::new(ExitCode::BadRequest, named).hint("paths are relative to the job file"));
            }
        }
        let to_build = self.resolved.job.build.as_ref().filter(|_| self.takeover.image.is_none());
        if let Some(build) = to_build.filter(|build| !build.context.is_dir()) {
            let message = format!("the build context `{}` is no folder", build.context.display());
            return Err(
                Failure::bad(message).hint("`build` names the folder with the Dockerfile, relative to the job file")
            );
        }
        if let Some(named) = self.data_named() {
            self.data = fetch::local_data(named)?;
        }
        if self.resolved.job.trainer != Trainer::Command {
            self.model = local_model(self.model_named())?;
        }
        self.tell_warnings(screen);
        Ok(())
    }

    /// Fetches data and weights that are known by name and not here yet. That can be gigabytes: it comes after whatever
    /// could refuse the job.
    pub async fn fetch(&mut self, settings: &Settings, screen: &mut Screen) -> Result<(), Failure> {
        if let (None, Some(named)) = (&self.data, self.data_named()) {
            self.data = Some(fetch::data(named, settings, screen).await?);
            self.tell_warnings(screen);
        }
        let job = &self.resolved.job;
        if self.model.is_none() && job.trainer != Trainer::Command {
            let weights = fetch::known_weights(self.model_named())?;
            self.model = Some(mounted_model(&fetch::weights(weights, settings, screen).await?));
        }
        Ok(())
    }

    /// Refuses paths that cannot be told to the engine, whose interface is JSON, before anything is made.
    pub fn check_paths(&self) -> Result<(), Failure> {
        let runs = std::path::absolute(&self.job().runs).unwrap_or_else(|_| self.job().runs.clone());
        let volumes = self.job().volumes.iter().map(|volume| volume.source.clone());
        let data = self.data_mounts().into_iter().map(|mount| mount.source);
        match std::iter::once(runs).chain(volumes).chain(data).find(|path| path.to_str().is_none()) {
            None => Ok(()),
            Some(path) => {
                let failure = Failure::bad(format!("the path `{}` is not UTF-8", path.display()));
                Err(failure.hint("the engine can mount only paths that are: rename the folder, or work in another one"))
            }
        }
    }

    /// Makes the folder in which our trainer keeps what it finds of the data set's files. Without one it looks at them every time.
    pub fn make_label_cache(&mut self, settings: &Settings) {
        let Some(name) = self.place_of_data().filter(|_| self.resolved.job.trainer == Trainer::Native) else { return };
        let folder = settings.cache.join("labels").join(name);
        let made = folder.to_str().is_some() && std::fs::create_dir_all(&folder).is_ok();
        self.label_cache = made.then(|| std::path::absolute(&folder).unwrap_or(folder));
    }

    /// A name for the data's place on this machine: inside containers all sets lie at the same one.
    pub(super) fn place_of_data(&self) -> Option<String> {
        let data = self.data.as_ref()?;
        let mut digest = Sha256::new();
        for mount in &data.mounts {
            digest.update(mount.source.as_os_str().as_encoded_bytes());
            digest.update([0]);
        }
        digest.update(data.data.path.as_bytes());
        Some(hex(&digest.finalize()[..8]))
    }

    /// What the containers must see of data and weights.
    #[must_use]
    pub fn data_mounts(&self) -> Vec<Mount> {
        let data = self.data.iter().flat_map(|data| &data.mounts).map(|mount| Mount {
            source: mount.source.clone(),
            target: mount.target.display().to_string(),
            read_only: true,
        });
        let labels = self.label_cache.iter().map(|folder| Mount {
            source: folder.clone(),
            target: evenkeel_wire::path::LABEL_CACHE.to_owned(),
            read_only: false,
        });
        data.chain(self.model.iter().filter_map(|model| model.mount.clone())).chain(labels).collect()
    }

    fn tell_warnings(&self, screen: &Screen) {
        for warning in self.data.iter().flat_map(|data| &data.warnings) {
            screen.line(&format!("warning: {warning}"));
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("failed to find the volume `{}` that the job names", path.display())]
struct NoVolume {
    path: PathBuf,
    source: std::io::Error,
}
