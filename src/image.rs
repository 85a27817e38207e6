//! Images: ours, built when their content is new, and the one that a job brings.
//!
//! An image's tag is a hash of what it is made from ([`chain`]), so the question "is it up to date?" is one question to
//! the engine. The files it is made from travel inside this program; nothing else is needed than an engine and,
//! for a build, a way to the package registries.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::docker::{Build, Engine};

mod archive;
mod bootstrap;
mod builder;
mod chain;
mod context;
mod dockerfile;
mod error;
mod ignore;
mod lock;
mod output;
mod own;
mod redact;
mod settings;
mod versions;

pub use archive::{load, save};
pub use chain::{ImageName, SOURCE_ARGUMENTS, Tags};
pub use error::{ImageError, gibibytes};
pub use output::{Cause, Step};
pub use own::{OwnBuild, build_own, find_locked, find_own};
pub use redact::{has_credentials, redact};
pub use settings::Settings;

/// What a caller may decide about builds.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Folder of the locks; made if missing.
    pub cache: PathBuf,
    /// This machine's settings.
    pub settings: Settings,
    /// Build arguments of the user; they win over the settings.
    pub arguments: BTreeMap<String, String>,
    /// Registry, with a path if any, that holds our images: `registry.lab:5000/team`. It is asked before a build.
    pub registry: Option<String>,
    /// BuildKit or the classic builder, where the user wants one of them (`DOCKER_BUILDKIT`).
    pub buildkit: Option<bool>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something that a person should know before it happens.
    Note(String),
    /// Work on an image begins.
    Image {
        /// Its full name.
        name: String,
        /// Counted from 1, of the images that are missing.
        number: usize,
        /// How many are missing.
        of: usize,
    },
    /// A step of its build begins.
    Step {
        /// The image's full name.
        image: String,
        /// The step.
        step: Step,
    },
    /// A line of output.
    Line(String),
    /// Bytes of something that is transferred.
    Layer {
        /// What it is.
        id: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note(text) | Self::Line(text) => formatter.write_str(text),
            Self::Image { name, number, of } => write!(formatter, "image {number}/{of}: {name}"),
            Self::Step { step, .. } => write!(formatter, "step {}/{}: {}", step.number, step.of, step.command),
            Self::Layer { id, current, total } => {
                write!(formatter, "{id}: {} of {}", gibibytes(*current), gibibytes(*total))
            }
        }
    }
}

/// An image that is on the engine.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its full name.
    pub name: String,
    /// What the engine knows of it.
    pub image: crate::docker::Image,
}

/// The names of all images with these options.
#[must_use]
pub fn tags(options: &Options) -> Tags {
    chain::tags(&context::embedded(), &arguments(options))
}

/// Versions of what the image of this name holds, as far as it is one of ours and these sources made it.
#[must_use]
pub fn versions(name: &str, options: &Options) -> BTreeMap<String, String> {
    versions::versions(name, &tags(options), &context::embedded())
}

/// The image, if the engine has it.
///
/// # Errors
/// If the engine fails.
pub async fn find(engine: &Engine, image: ImageName, options: &Options) -> Result<Option<Ready>, ImageError> {
    let name = tags(options).of(image).to_owned();
    Ok(engine.image(&name).await?.map(|image| Ready { name, image }))
}

/// Makes sure that the engine has an image: nothing if it is there, else it is pulled from [`Options::registry`], or
/// built with whatever it starts from. Dropping the future ends the build.
///
/// # Errors
/// If it can neither be pulled nor built; the message says at which step.
pub async fn ensure(
    engine: &Engine,
    image: ImageName,
    options: &Options,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Ready, ImageError> {
    if let Some(ready) = find(engine, image, options).await? {
        return Ok(ready);
    }
    let files = context::embedded();
    let arguments = arguments(options);
    let tags = chain::tags(&files, &arguments);
    let name = tags.of(image).to_owned();
    if options.registry.is_some() {
        match pull(engine, image, options, progress).await {
            Ok(ready) => return Ok(ready),
            Err(error) => progress(Progress::Note(format!("{error}; building it"))),
        }
    }
    let missing = missing(engine, image, &tags).await?;
    room(engine, &missing, progress).await?;
    for (index, step) in missing.iter().enumerate() {
        let waiting = || progress(Progress::Note(format!("another evenkeel builds `{step}`; waiting for it")));
        let _lock = lock::lock(&options.cache.join("locks"), &format!("image-{step}"), waiting).await?;
        let tag = tags.of(*step);
        if engine.image(tag).await?.is_some() {
            continue;
        }
        progress(Progress::Image { name: tag.to_owned(), number: index + 1, of: missing.len() });
        if *step == ImageName::Debian {
            let pinned = chain::debian(&files, &arguments);
            let mirror = arguments.get("DEBIAN_MIRROR").map(String::as_str);
            bootstrap::debian(engine, tag, pinned.unwrap_or("debian:stable"), mirror, progress).await?;
        } else {
            build(engine, *step, &tags, &files, &arguments, options, progress).await?;
        }
        // A name to type; the hash is for programs. Somebody's variant does not take it.
        if chain::tags(&files, &options.settings.arguments).of(*step) == tag {
            engine.tag(tag, &format!("{}:latest", step.repository())).await?;
        }
    }
    let found = engine.image(&name).await?;
    let image = found.ok_or_else(|| ImageError::NoSuchImage {
        image: name.clone(),
        message: "it was built, and somebody removed it at once".into(),
    })?;
    Ok(Ready { name, image })
}

/// Pulls one of our images from a registry of the user's.
///
/// # Errors
/// If no registry is set, or it has no such image, or it does not answer.
pub async fn pull(
    engine: &Engine,
    image: ImageName,
    options: &Options,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Ready, ImageError> {
    let name = tags(options).of(image).to_owned();
    let Some(registry) = &options.registry else {
        return Err(ImageError::NoRegistry { image: name, message: "no registry of yours is set".into() });
    };
    let remote = format!("{}/{name}", registry.trim_end_matches('/'));
    let image = own::pull(engine, &remote, progress).await?;
    engine.tag(&remote, &name).await?;
    Ok(Ready { name, image })
}

/// Our images on the engine that no current source makes any more.
///
/// # Errors
/// If the engine fails.
pub async fn stale(engine: &Engine, options: &Options) -> Result<Vec<String>, ImageError> {
    let tags = tags(options);
    let ours = |name: &String| {
        name.split_once(':').is_some_and(|(repository, tag)| {
            let image = ImageName::ALL.into_iter().find(|image| image.repository() == repository);
            let hash = tag.len() == 12 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
            image.is_some_and(|image| hash && tags.of(image) != name)
        })
    };
    Ok(engine.image_names("evenkeel/*").await?.into_iter().filter(ours).collect())
}

/// Arguments of a build, the user's over the machine's.
fn arguments(options: &Options) -> BTreeMap<String, String> {
    let mut arguments = options.settings.arguments.clone();
    arguments.extend(options.arguments.clone());
    arguments
}

/// Images of the chain that the engine lacks, in the order in which they are built. A parent that is only needed to
/// build what is there already is not missed.
async fn missing(engine: &Engine, image: ImageName, tags: &Tags) -> Result<Vec<ImageName>, ImageError> {
    let (mut missing, mut open) = (Vec::new(), vec![image]);
    while let Some(next) = open.pop() {
        if !missing.contains(&next) && engine.image(tags.of(next)).await?.is_none() {
            missing.push(next);
            open.extend(next.recipe().parents.iter().map(|(_, parent)| *parent));
        }
    }
    missing.sort();
    Ok(missing)
}

/// Says what a build will download and need, and refuses when the disk plainly has too little.
async fn room(
    engine: &Engine,
    missing: &[ImageName],
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), ImageError> {
    let sum = |of: fn(&chain::Recipe) -> u64| missing.iter().map(|image| of(&image.recipe())).sum::<u64>();
    let (download, disk) = (sum(|recipe| recipe.download_bytes), sum(|recipe| recipe.disk_bytes));
    let names = missing.iter().map(|image| format!("`{}`", image.repository())).collect::<Vec<_>>().join(", ");
    let root = PathBuf::from(engine.info().await?.root);
    let free = free_bytes(&root);
    let available = free.map(|free| format!(" ({} free)", gibibytes(free))).unwrap_or_default();
    progress(Progress::Note(format!(
        "building {names}: downloads up to {}, takes up to {} of disk{available}",
        gibibytes(download),
        gibibytes(disk)
    )));
    // Where an older one of the same name lies, its layers serve again and the sizes above mean nothing.
    let known = engine.image_names("evenkeel/*").await?;
    let fresh = missing.iter().filter(|image| {
        let repository = format!("{}:", image.repository());
        !known.iter().any(|name| name.starts_with(&repository))
    });
    let needed = fresh.map(|image| image.recipe().disk_bytes).sum();
    match free {
        Some(free) if free < needed => Err(ImageError::Disk { images: names, needed, free, root }),
        _ => Ok(()),
    }
}

/// Free bytes for the engine; unknown where its folder is not on this machine.
fn free_bytes(root: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(root).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

async fn build(
    engine: &Engine,
    image: ImageName,
    tags: &Tags,
    files: &[chain::File<'static>],
    arguments: &BTreeMap<String, String>,
    options: &Options,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), ImageError> {
    let recipe = image.recipe();
    let file = files.iter().find(|file| file.path == recipe.dockerfile);
    let text = file.and_then(|file| std::str::from_utf8(file.content).ok()).ok_or_else(|| {
        ImageError::NoDockerfile { context: "the images of this program".into(), dockerfile: recipe.dockerfile.into() }
    })?;
    let parents = recipe.parents.iter().filter_map(|(name, parent)| Some(((*name)?, tags.of(*parent))));
    // The classic builder warns of arguments that nobody declares; proxies it knows by itself.
    let declared: Vec<&str> = dockerfile::arguments(text).collect();
    let wanted = |name: &str| declared.contains(&name) || name.to_ascii_lowercase().ends_with("_proxy");
    let given = arguments.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(|(name, _)| wanted(name));
    let build = Build {
        tag: tags.of(image).to_owned(),
        dockerfile: recipe.dockerfile.to_owned(),
        target: recipe.target.to_owned(),
        args: builder::arguments(given.chain(parents)),
        network: options.settings.network(),
        builder: builder::choose(engine, options.buildkit, false).await?,
        ..Build::default()
    };
    let mut roots = recipe.context.to_vec();
    roots.push(recipe.dockerfile);
    let context = || context::of_files(files, &roots, options.settings.files());
    builder::build(engine, build, true, context, progress).await
}
