//! The model that a job names: a configuration that the trainer brings along, or a file of this machine.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::command::fetch;
use crate::dataset::hex;
use crate::error::{ExitCode, Failure};
use crate::launch::Mount;

/// The model as the trainer is told of it.
#[derive(Default)]
pub(super) struct Model {
    pub name: String,
    pub mount: Option<Mount>,
    /// What its file holds, as a name, once somebody has asked.
    content: std::cell::OnceCell<Option<String>>,
}

impl Model {
    /// What names it: that of a configuration that the trainer brings along, else the hash of what is in the file.
    pub(super) fn content(&self) -> Option<String> {
        let Some(mount) = &self.mount else { return Some(self.name.clone()) };
        let content = || {
            let mut digest = Sha256::new();
            std::io::copy(&mut std::fs::File::open(&mount.source).ok()?, &mut digest).ok()?;
            Some(hex(&digest.finalize()))
        };
        self.content.get_or_init(content).clone()
    }
}

/// A model by name (`yolov8n.yaml`) or by path. Absent: weights that can be fetched.
pub(super) fn local_model(named: &str) -> Result<Option<Model>, Failure> {
    let path = Path::new(named);
    if path.is_file() {
        let absolute = path.canonicalize().map_err(|error| Failure::new(ExitCode::BadRequest, error))?;
        return Ok(Some(mounted_model(&absolute)));
    }
    if named.ends_with(".yaml") || named.ends_with(".yml") {
        if is_builtin(named) {
            return Ok(Some(Model { name: named.to_owned(), ..Model::default() }));
        }
        let hint = "the trainer brings along those of YOLO, such as `yolov8n.yaml`; others are files of yours";
        return Err(Failure::bad(format!("no model configuration at `{named}`")).hint(hint));
    }
    fetch::known_weights(named).map(|_| None)
}

/// Whether a configuration may be one that the trainer brings along, by how these are named: a generation of YOLO and a size.
fn is_builtin(named: &str) -> bool {
    let stem = named.trim_end_matches(".yaml").trim_end_matches(".yml");
    if named.contains('/') {
        return false;
    }
    let Some(rest) = stem.strip_prefix("yolo") else { return stem.starts_with("rtdetr-") };
    let rest = rest.trim_start_matches('v');
    let generation = rest.chars().take_while(char::is_ascii_digit).count();
    // Of a size, or of what follows it (`-p6`, `-ghost`), only the size is checked here.
    let size = rest[generation..].chars().next();
    generation > 0 && size.is_none_or(|size| "nstmblxce-".contains(size))
}

pub(super) fn mounted_model(path: &Path) -> Model {
    // In a folder of ours, whatever the host's folder is called: only the name means something to a trainer.
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let target = format!("{}/{file}", evenkeel_wire::path::MODEL);
    let mount = Mount { source: path.to_owned(), target: target.clone(), read_only: true };
    Model { name: target, mount: Some(mount), ..Model::default() }
}
