//! `evenkeel image`: the images that training runs in.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::cli;
use crate::docker::Engine;
use crate::error::{ExitCode, Failure};
use crate::image::{self, ImageName, Options, gibibytes};
use crate::output::{Screen, print};
use crate::settings::Settings;

/// Builds, pulls, saves, loads or lists.
pub async fn run(command: &cli::Image, settings: &Settings, mut screen: Screen) -> Result<ExitCode, Failure> {
    let engine = super::connect(settings).await?;
    let done = perform(command, &engine, settings, &mut screen).await;
    screen.clear();
    done.map(|()| ExitCode::Done)
}

async fn perform(
    command: &cli::Image,
    engine: &Engine,
    settings: &Settings,
    screen: &mut Screen,
) -> Result<(), Failure> {
    match command {
        cli::Image::Build(images) => {
            let options = options(settings, &images.build_args)?;
            for ready in ensure(engine, images, &options, screen).await? {
                print(&ready.name);
            }
        }
        cli::Image::Pull { images } => {
            for name in images {
                image::find_own(engine, name, &mut |progress| screen.image(&progress)).await?;
                print(name);
            }
        }
        cli::Image::Save { images, output } => {
            let options = options(settings, &images.build_args)?;
            let ready = ensure(engine, images, &options, screen).await?;
            let names: Vec<String> = ready.into_iter().map(|ready| ready.name).collect();
            image::save(engine, &names, output, &mut |progress| screen.image(&progress)).await?;
            print(&output.display().to_string());
        }
        cli::Image::Load { file } => {
            image::load(engine, file, &mut |progress| screen.image(&progress)).await?;
        }
        cli::Image::List => {
            let options = options(settings, &[])?;
            for name in ImageName::ALL {
                let tags = image::tags(&options);
                let state = match image::find(engine, name, &options).await? {
                    Some(ready) => gibibytes(ready.image.size_bytes),
                    None => "not built".to_owned(),
                };
                print(&format!("{:<36} {state}", tags.of(name)));
            }
        }
    }
    Ok(())
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
