//! The image that a job brings itself: by name, or as a folder with a Dockerfile.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;

use crate::docker::{self, Build, DockerError, Engine, Image};

use super::chain::Fields;
use super::error::{ImageError, gibibytes};
use super::ignore::Ignore;
use super::output::{Cause, cause};
use super::{Options, Progress, Ready, builder, context, dockerfile, lock, redact};

/// An image to build, as `build:` of a job says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnBuild {
    /// Folder that is sent to the engine.
    pub context: PathBuf,
    /// Dockerfile, within the context or absolute.
    pub dockerfile: String,
    /// Stage to stop at.
    pub target: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
}

/// The image of this name: the engine's, else pulled.
///
/// # Errors
/// [`ImageError::NoSuchImage`] if the registry has none, [`ImageError::NoRegistry`] if it does not answer.
pub async fn find_own(
    engine: &Engine,
    name: &str,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Ready, ImageError> {
    let image = match engine.image(name).await {
        Ok(Some(image)) => image,
        Ok(None) => pull(engine, name, progress).await?,
        // An engine answers 400 to what cannot be a name.
        Err(DockerError::Failed { message, status: Some(400), .. }) => {
            return Err(ImageError::NoSuchImage { image: name.to_owned(), message });
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Ready { name: name.to_owned(), image })
}

/// The very image that a lock names: by the engine's identifier, or pulled by a digest that a registry has it under. Absent where neither
/// leads to it.
///
/// # Errors
/// The engine fails.
pub async fn find_locked(
    engine: &Engine,
    name: &str,
    id: &str,
    digests: &[String],
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Option<Ready>, ImageError> {
    let ready = |image| Some(Ready { name: name.to_owned(), image });
    if let Some(image) = engine.image(id).await? {
        return Ok(ready(image));
    }
    for digest in digests {
        match find_own(engine, digest, progress).await {
            Ok(found) => return Ok(ready(found.image)),
            Err(ImageError::NoSuchImage { .. } | ImageError::NoRegistry { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Pulls an image.
pub(super) async fn pull(
    engine: &Engine,
    name: &str,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Image, ImageError> {
    progress(Progress::Note(format!("pulling `{name}`")));
    let mut pull = std::pin::pin!(engine.pull(name));
    while let Some(sign) = pull.next().await {
        match sign {
            Ok(docker::Progress::Line(line)) => progress(Progress::Line(line)),
            Ok(docker::Progress::Layer { id, current, total }) => progress(Progress::Layer { id, current, total }),
            Ok(docker::Progress::Step { command, .. }) => progress(Progress::Line(command)),
            Err(DockerError::Failed { message, .. }) => return Err(refused(name, &message)),
            Err(error) => return Err(error.into()),
        }
    }
    let image = engine.image(name).await?;
    image.ok_or_else(|| refused(name, "it was pulled, and the engine does not have it"))
}

fn refused(name: &str, message: &str) -> ImageError {
    let message = redact(message).into_owned();
    match cause([message.as_str()]) {
        Cause::Network | Cause::Certificate => ImageError::NoRegistry { image: name.to_owned(), message },
        _ => ImageError::NoSuchImage { image: name.to_owned(), message },
    }
}

/// Builds a job's image unless the same content was built before.
///
/// # Errors
/// If the context cannot be read or the build fails.
pub async fn build_own(
    engine: &Engine,
    build: &OwnBuild,
    options: &Options,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Ready, ImageError> {
    // Beside the loop: a context of gigabytes takes a while to read, and a signal must be heard meanwhile.
    let asked = build.clone();
    let read = tokio::task::spawn_blocking(move || {
        let files = Files::read(&asked)?;
        let hash = files.hash()?;
        Ok::<_, ImageError>((files, hash))
    });
    let (files, mut hash) = read.await.expect("reading files does not panic")?;
    hash.add(build.target.as_deref().unwrap_or("").as_bytes());
    for (name, value) in &build.args {
        hash.add(name.as_bytes());
        hash.add(value.as_bytes());
    }
    // What it starts from belongs to it: a new base is a new image.
    for parent in dockerfile::images(&files.dockerfile, &build.args) {
        hash.add(parent.as_bytes());
        let id =
            if parent.is_empty() { None } else { engine.image(&parent).await.ok().flatten().map(|image| image.id) };
        hash.add(id.unwrap_or_default().as_bytes());
    }
    let hash = hash.short();
    let name = format!("evenkeel/job:{hash}");
    let _lock = lock::lock(&options.cache.join("locks"), &format!("image-job-{hash}"), || {}).await?;
    if let Some(image) = engine.image(&name).await? {
        return Ok(Ready { name, image });
    }
    const LARGE: u64 = 256 << 20;
    if files.bytes > LARGE {
        progress(Progress::Note(format!(
            "the build context `{}` has {}; a .dockerignore keeps data out of it",
            build.context.display(),
            gibibytes(files.bytes)
        )));
    }
    progress(Progress::Image { name: name.clone(), number: 1, of: 1 });
    let proxies = options.settings.arguments.iter().filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy"));
    let pairs = proxies.chain(&build.args).map(|(name, value)| (name.as_str(), value.as_str()));
    let request = Build {
        tag: name.clone(),
        dockerfile: files.dockerfile_path.clone(),
        target: build.target.clone().unwrap_or_default(),
        args: builder::arguments(pairs),
        network: options.settings.network(),
        builder: builder::choose(engine, options.buildkit, dockerfile::needs_buildkit(&files.dockerfile)).await?,
        ..Build::default()
    };
    let files = Arc::new(files);
    let context = || {
        let files = Arc::clone(&files);
        context::stream(move |out| files.write(out))
    };
    builder::build(engine, request, false, context, progress).await?;
    let image = engine.image(&name).await?;
    let image = image.ok_or_else(|| refused(&name, "it was built, and the engine does not have it"))?;
    Ok(Ready { name, image })
}

/// The files of a context, in order of their paths.
#[derive(Debug)]
struct Files {
    root: PathBuf,
    entries: Vec<Entry>,
    dockerfile: String,
    dockerfile_path: String,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    path: String,
    kind: Kind,
    mode: u32,
}

#[derive(Debug)]
enum Kind {
    Folder,
    File(u64),
    Link(PathBuf),
}

/// Name under which a Dockerfile from outside the context travels in it.
const OUTSIDE: &str = ".evenkeel.Dockerfile";

impl Files {
    fn read(build: &OwnBuild) -> Result<Self, ImageError> {
        let root = build.context.clone();
        let path = root.join(&build.dockerfile);
        let dockerfile = fs::read_to_string(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => {
                ImageError::NoDockerfile { context: root.clone(), dockerfile: build.dockerfile.clone() }
            }
            _ => ImageError::File { what: "read the Dockerfile", path: path.clone(), source },
        })?;
        let inside = fs::canonicalize(&path).ok().zip(fs::canonicalize(&root).ok());
        let inside = inside.and_then(|(path, root)| Some(path.strip_prefix(root).ok()?.to_str()?.to_owned()));
        let ignore = Ignore::read(&root, &build.dockerfile)?;
        let mut files = Self {
            dockerfile_path: inside.clone().unwrap_or_else(|| OUTSIDE.to_owned()),
            root,
            entries: Vec::new(),
            dockerfile,
            bytes: 0,
        };
        files.walk("", &ignore, inside.as_deref())?;
        files.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn walk(&mut self, folder: &str, ignore: &Ignore, dockerfile: Option<&str>) -> Result<(), ImageError> {
        let at = self.root.join(folder);
        let fail = |source| ImageError::File { what: "read the build context", path: at.clone(), source };
        for entry in fs::read_dir(&at).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // A name that is not UTF-8 cannot be copied by a Dockerfile either.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let meta = entry.metadata().map_err(fail)?;
            // The builder reads the Dockerfile from the context, whatever the patterns say.
            let ignored = ignore.ignores(&path) && dockerfile != Some(path.as_str());
            if meta.is_dir() {
                let wanted = dockerfile.is_some_and(|file| file.starts_with(&format!("{path}/")));
                if !ignored || ignore.may_except_below(&path) || wanted {
                    self.walk(&path, ignore, dockerfile)?;
                }
            }
            if ignored {
                continue;
            }
            let kind = if meta.is_dir() {
                Kind::Folder
            } else if meta.is_symlink() {
                Kind::Link(fs::read_link(entry.path()).map_err(fail)?)
            } else if meta.is_file() {
                self.bytes += meta.len();
                Kind::File(meta.len())
            } else {
                // Sockets and devices have no place in a context.
                continue;
            };
            self.entries.push(Entry { path, kind, mode: mode(&meta) });
        }
        Ok(())
    }

    fn hash(&self) -> Result<Fields, ImageError> {
        let mut hash = Fields::new();
        hash.add(self.dockerfile.as_bytes());
        hash.add(self.dockerfile_path.as_bytes());
        for entry in &self.entries {
            hash.add(entry.path.as_bytes());
            hash.add(&entry.mode.to_be_bytes());
            match &entry.kind {
                Kind::Folder => hash.add(b"folder"),
                Kind::Link(target) => hash.add(target.as_os_str().as_encoded_bytes()),
                Kind::File(_) => {
                    let path = self.root.join(&entry.path);
                    let fail = |source| ImageError::File { what: "read", path: path.clone(), source };
                    hash.add(&content_hash(&path).map_err(fail)?);
                }
            }
        }
        Ok(hash)
    }

    fn write(&self, out: &mut context::Chunks) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        for entry in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_mtime(0);
            header.set_size(0);
            match &entry.kind {
                Kind::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    tar.append_data(&mut header, format!("{}/", entry.path), io::empty())?;
                }
                Kind::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, &entry.path, target)?;
                }
                Kind::File(size) => {
                    header.set_size(*size);
                    let file = fs::File::open(self.root.join(&entry.path))?;
                    // A file that grew since it was listed must not spill into the next one.
                    let mut file = file.take(*size);
                    tar.append_data(&mut header, &entry.path, &mut file)?;
                    if file.limit() > 0 {
                        return Err(io::Error::other(format!("`{}` shrank while it was sent", entry.path)));
                    }
                }
            }
        }
        if self.dockerfile_path == OUTSIDE {
            context::append(&mut tar, OUTSIDE, false, self.dockerfile.as_bytes())?;
        }
        tar.finish()
    }
}

fn content_hash(path: &Path) -> io::Result<[u8; 32]> {
    use sha2::Digest as _;
    let mut file = fs::File::open(path)?;
    let mut hash = sha2::Sha256::new();
    let mut chunk = vec![0; 128 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&chunk[..count]),
        }
    }
}

fn mode(meta: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    // The writer's umask is no part of the content.
    if meta.permissions().mode() & 0o100 != 0 || meta.is_dir() { 0o755 } else { 0o644 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> (tempfile::TempDir, OwnBuild) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY . /\n").expect("a file");
        fs::create_dir_all(folder.path().join("data/deep")).expect("a folder");
        fs::write(folder.path().join("data/deep/big.bin"), [0; 1000]).expect("a file");
        fs::write(folder.path().join("train.py"), "print()").expect("a file");
        std::os::unix::fs::symlink("train.py", folder.path().join("link")).expect("a link");
        let context = folder.path().to_owned();
        (folder, OwnBuild { context, dockerfile: "Dockerfile".into(), target: None, args: BTreeMap::new() })
    }

    fn paths(build: &OwnBuild) -> Vec<String> {
        Files::read(build).expect("files").entries.into_iter().map(|entry| entry.path).collect()
    }

    fn tag(build: &OwnBuild) -> String {
        Files::read(build).expect("files").hash().expect("readable").short()
    }

    #[test]
    fn a_context_has_what_is_not_ignored_and_its_dockerfile() {
        let (folder, build) = context();
        assert_eq!(paths(&build), ["Dockerfile", "data", "data/deep", "data/deep/big.bin", "link", "train.py"]);
        fs::write(folder.path().join(".dockerignore"), "*\n!train.py\n").expect("a file");
        assert_eq!(paths(&build), ["Dockerfile", "train.py"]);
    }

    #[test]
    fn the_hash_follows_the_content_and_nothing_else() {
        let (folder, build) = context();
        let before = tag(&build);
        fs::write(folder.path().join("train.py"), "print()").expect("a file");
        assert_eq!(tag(&build), before, "another time of writing");
        fs::write(folder.path().join("train.py"), "print(1)").expect("a file");
        let changed = tag(&build);
        assert_ne!(changed, before);
        fs::write(folder.path().join(".dockerignore"), "data\n.dockerignore\n").expect("a file");
        let ignored = tag(&build);
        fs::write(folder.path().join("data/new"), "").expect("a file");
        assert_eq!(tag(&build), ignored, "an ignored file");
    }

    #[test]
    fn a_dockerfile_elsewhere_travels_along() {
        let (_folder, mut build) = context();
        let elsewhere = tempfile::tempdir().expect("a folder");
        let path = elsewhere.path().join("Train.Dockerfile");
        fs::write(&path, "FROM scratch\n").expect("a file");
        build.dockerfile = path.display().to_string();
        let files = Files::read(&build).expect("files");
        assert_eq!((files.dockerfile_path.as_str(), files.dockerfile.as_str()), (OUTSIDE, "FROM scratch\n"));
    }

    #[test]
    fn a_missing_dockerfile_is_the_jobs_fault() {
        let (_folder, mut build) = context();
        build.dockerfile = "Dockerfile.gpu".into();
        let failure = crate::error::Failure::from(Files::read(&build).expect_err("none there"));
        assert_eq!(failure.code(), crate::error::ExitCode::BadRequest);
        assert!(failure.render().contains("has no Dockerfile `Dockerfile.gpu`"));
    }

    #[test]
    fn a_registry_that_refuses_is_not_one_that_is_silent() {
        let silent = refused("a", "Get \"https://r/v2/\": dial tcp: lookup r on 10.0.0.1:53: no such host");
        assert!(matches!(silent, ImageError::NoRegistry { .. }));
        let refusing =
            refused("a", "pull access denied for a, repository does not exist or may require 'docker login'");
        assert!(matches!(refusing, ImageError::NoSuchImage { .. }));
    }
}
