//! `evenkeel image`: the images that training runs in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;
use serde_json::json;

use crate::cli;
use crate::docker::Engine;
use crate::error::{ExitCode, Failure};
use crate::image::{self, ImageName, Options, gibibytes};
use crate::output::{Screen, print};
use crate::settings::Settings;

/// Builds, pulls, saves, loads or lists.
pub async fn run(
    command: &cli::Image,
    settings: &Settings,
    mut screen: Screen,
    json: bool,
) -> Result<ExitCode, Failure> {
    let engine = super::connect(settings).await?;
    let done = perform(command, &engine, settings, &mut screen).await;
    screen.clear();
    let done = done?;
    if json {
        print(&json!({ "version": 1, "images": done }).to_string())?;
    } else {
        for image in &done {
            print(&line(image))?;
        }
    }
    Ok(ExitCode::Done)
}

/// An image as a command's result names it.
#[derive(Debug, Serialize)]
struct Done {
    name: String,
    /// The file that it was saved to or loaded from.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// Its size on the engine; in a list, null says that it is not built.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Option<u64>>,
}

impl Done {
    fn named(name: String) -> Self {
        Self { name, file: None, bytes: None }
    }
}

fn line(image: &Done) -> String {
    match image.bytes {
        None => image.name.clone(),
        Some(bytes) => format!("{:<36} {}", image.name, bytes.map_or_else(|| "not built".to_owned(), gibibytes)),
    }
}

async fn perform(
    command: &cli::Image,
    engine: &Engine,
    settings: &Settings,
    screen: &mut Screen,
) -> Result<Vec<Done>, Failure> {
    Ok(match command {
        cli::Image::Build(images) => {
            let options = options(settings, &images.build_args)?;
            let ready = ensure(engine, images, &options, screen).await?;
            ready.into_iter().map(|ready| Done::named(ready.name)).collect()
        }
        cli::Image::Pull { images } => {
            for name in images {
                image::find_own(engine, name, &mut |progress| screen.image(&progress)).await?;
            }
            images.iter().cloned().map(Done::named).collect()
        }
        cli::Image::Save { images, output } => {
            let options = options(settings, &images.build_args)?;
            let ready = ensure(engine, images, &options, screen).await?;
            let names: Vec<String> = ready.into_iter().map(|ready| ready.name).collect();
            image::save(engine, &names, output, &mut |progress| screen.image(&progress)).await?;
            names.into_iter().map(|name| Done { file: Some(output.clone()), ..Done::named(name) }).collect()
        }
        cli::Image::Load { file } => {
            let names = image::load(engine, file, &mut |progress| screen.image(&progress)).await?;
            names.into_iter().map(|name| Done { file: Some(file.clone()), ..Done::named(name) }).collect()
        }
        cli::Image::List => {
            let options = options(settings, &[])?;
            let tags = image::tags(&options);
            let mut all = Vec::new();
            for name in ImageName::ALL {
                let found = image::find(engine, name, &options).await?;
                let bytes = Some(found.map(|ready| ready.image.size_bytes));
                all.push(Done { bytes, ..Done::named(tags.of(name).to_owned()) });
            }
            all
        }
    })
}

async fn ensure(
    engine: &Engine,
    images: &cli::ImageNames,
    options: &Options,
    screen: &mut Screen,
) -> Result<Vec<image::Ready>, Failure> {
    let mut all = Vec::new();
    for name in &images.names {
        let name = ImageName::from_str(name).map_err(Failure::bad)?;
        all.push(image::ensure(engine, name, options, &mut |progress| screen.image(&progress)).await?);
    }
    Ok(all)
}

/// This machine's settings for builds, and arguments of the user's (`KEY=VALUE`).
pub(super) fn options(settings: &Settings, arguments: &[String]) -> Result<Options, Failure> {
    let pair = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| Failure::bad(format!("build argument `{text}` is not `KEY=VALUE`")))?;
        Ok::<_, Failure>((name.to_owned(), value.to_owned()))
    };
    let arguments: BTreeMap<String, String> = arguments.iter().map(pair).collect::<Result<_, _>>()?;
    Ok(Options {
        cache: settings.cache.clone(),
        settings: image::Settings::read(&|name| settings.all.get(name).cloned()),
        arguments,
        buildkit: settings.all.get("DOCKER_BUILDKIT").map(|value| value != "0"),
        registry: settings.all.get("EVENKEEL_REGISTRY").filter(|registry| !registry.is_empty()).cloned(),
    })
}
