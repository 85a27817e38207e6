//! `evenkeel weights`: between the native trainer's files and those of the official package, which alone can read its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli;
use crate::docker::{DockerError, Engine};
use crate::error::{ExitCode, Failure};
use crate::image::{self, ImageName};
use crate::launch::{ContainerSpec, Mount, Namespace};
use crate::output::{Screen, print};
use crate::settings::Settings;

const IN: &str = "/in";
const OUT: &str = "/out";

/// Converts a file.
///
/// # Errors
///
/// The file is not there or cannot be converted, the place for the new one cannot be written to, or the engine fails.
pub async fn run(
    command: &cli::Weights,
    settings: &Settings,
    mut screen: Screen,
    json: bool,
) -> Result<ExitCode, Failure> {
    let (verb, files, ending) = match command {
        cli::Weights::Import(files) => ("import", files, "safetensors"),
        cli::Weights::Export(files) => ("export", files, "pt"),
    };
    let bad = |path: &Path, error| Failure::bad(format!("failed to open `{}`: {error}", path.display()));
    let source = files.file.canonicalize().map_err(|error| bad(&files.file, error))?;
    if !source.is_file() {
        return Err(Failure::bad(format!("`{}` is no file", files.file.display())));
    }
    let target = files.output.clone().unwrap_or_else(|| files.file.with_extension(ending));
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = parent.canonicalize().map_err(|error| bad(parent, error))?;
    let Some(name) = target.file_name() else {
        return Err(Failure::bad(format!("`{}` names no file", target.display())));
    };
    if folder.join(name) == source {
        return Err(Failure::bad("the converted file would take the place of the given one")
            .hint("name another with `--output`"));
    }
    let engine = super::connect(settings).await?;
    let options = super::image::options(settings, &[])?;
    let ready = image::ensure(&engine, ImageName::Ultralytics, &options, &mut |progress| screen.image(&progress)).await;
    screen.clear();
    let ready = ready?;
    let words =
        [verb.to_owned(), IN.to_owned() + "/" + &file_name(&source), OUT.to_owned() + "/" + &name.to_string_lossy()];
    let spec = container(ready.name, words, &source, &folder, settings);
    let (code, said) = in_container(&engine, &spec).await?;
    if code != 0 {
        let line = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
        let line = line.strip_prefix("evenkeel: ").unwrap_or(line);
        return Err(Failure::bad(format!(
            "failed to convert `{}`: {}",
            files.file.display(),
            crate::output::plain(line)
        )));
    }
    if json {
        print(&json!({ "version": 1, "weights": target }).to_string())?;
    } else {
        print(&target.display().to_string())?;
    }
    Ok(ExitCode::Done)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A container that sees the one file and the one folder, and no network: PyTorch's files are programs.
fn container(image: String, words: [String; 3], source: &Path, folder: &Path, settings: &Settings) -> ContainerSpec {
    let mount = |source: PathBuf, target: String, read_only| Mount { source, target, read_only };
    let module = ["-m".to_owned(), "evenkeel_ultralytics.weights".to_owned()];
    ContainerSpec {
        name: format!("evenkeel-weights-{}", std::process::id()),
        image,
        entrypoint: vec!["/opt/venv/bin/python3".to_owned()],
        environment: BTreeMap::from([("HOME".to_owned(), "/tmp".to_owned())]),
        user: Some(format!("{}:{}", settings.caller.uid, settings.caller.gid)),
        groups: settings.caller.groups.clone(),
        log_driver: "json-file".to_owned(),
        working_dir: None,
        labels: BTreeMap::new(),
        mounts: vec![mount(source.to_owned(), words[1].clone(), true), mount(folder.to_owned(), OUT.to_owned(), false)],
        command: module.into_iter().chain(words).collect(),
        namespace: Namespace::Own { network: "none".to_owned() },
        shm_bytes: 64 << 20,
        gpus: Vec::new(),
        memlock: false,
        cpus: None,
        data_bytes: None,
        host_users: false,
    }
}

/// The exit code and the last words of a container, which is gone afterwards.
async fn in_container(engine: &Engine, spec: &ContainerSpec) -> Result<(i64, String), DockerError> {
    let id = engine.create(spec).await?;
    let work = async {
        engine.start(&id).await?;
        let code = engine.wait(&id).await?;
        Ok((code, engine.last_words(&id, 5).await?))
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Ok((130, "interrupted".to_owned())),
    };
    engine.remove(&id).await?;
    outcome
}
