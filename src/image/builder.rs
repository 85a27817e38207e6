//! One build: the engine's stream read as progress, and its failure as one message.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

use crate::docker::{self, Build, Builder, DockerError, Engine};

use super::Progress;
use super::error::ImageError;
use super::output::{Cause, Output, Said, Step, cause, shortened};
use super::redact::redact;

/// The builder to begin with: what the user wants (`DOCKER_BUILDKIT`), what the Dockerfile needs, what the engine prefers.
///
/// # Errors
/// If the engine does not answer.
pub async fn choose(engine: &Engine, wanted: Option<bool>, needs_buildkit: bool) -> Result<Builder, ImageError> {
    Ok(match wanted {
        Some(true) => Builder::BuildKit,
        Some(false) => Builder::Classic,
        None if needs_buildkit => Builder::BuildKit,
        None => engine.builder().await?,
    })
}

/// Builds an image. Dropping the future ends the build, and the engine removes what the current step ran in. Where one
/// builder cannot do what the other can, the other is tried.
///
/// # Errors
/// [`ImageError::Build`] with the last lines of the step that failed.
pub async fn build<S>(
    engine: &Engine,
    mut build: Build,
    ours: bool,
    context: impl Fn() -> S,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), ImageError>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let result = attempt(engine, build.clone(), ours, context(), progress).await;
    let Err(ImageError::Build { cause, message, .. }) = &result else { return result };
    build.builder = match (build.builder, cause) {
        // BuildKit asks a session for log-ins to registries, and without one it may refuse to pull at all.
        (Builder::BuildKit, _) if message.contains("session") => Builder::Classic,
        (Builder::Classic, Cause::NeedsBuildkit | Cause::NoBuilder) => Builder::BuildKit,
        _ => return result,
    };
    progress(Progress::Note(format!("{}: trying the engine's other builder", message.lines().next().unwrap_or(""))));
    // When both refuse, the first refusal is the one that says what is wrong.
    match attempt(engine, build, ours, context(), progress).await {
        Err(ImageError::Build { step: None, .. }) => result,
        second => second,
    }
}

async fn attempt<S>(
    engine: &Engine,
    build: Build,
    ours: bool,
    context: S,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), ImageError>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let image = build.tag.clone();
    let mut output = Output::default();
    let mut stream = std::pin::pin!(engine.build(build, context));
    loop {
        let said = match stream.try_next().await {
            Ok(Some(docker::Progress::Line(text))) => output.push(&text),
            Ok(Some(docker::Progress::Step { number, of, command })) => {
                vec![output.begin(Step { number, of, command: shortened(&redact(&command)) })]
            }
            Ok(Some(docker::Progress::Layer { id, current, total })) => {
                progress(Progress::Layer { id, current, total });
                continue;
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err(failure(image, output, error, ours)),
        };
        for said in said {
            progress(match said {
                Said::Step(step) => Progress::Step { image: image.clone(), step },
                Said::Line(line) => Progress::Line(line),
            });
        }
    }
}

fn failure(image: String, output: Output, error: DockerError, ours: bool) -> ImageError {
    let DockerError::Failed { message, status, .. } = error else { return error.into() };
    let (step, lines) = output.finish();
    let message = redact(&message).into_owned();
    let found = cause(lines.iter().map(String::as_str).chain([message.as_str()]));
    // Our own engine's connection broke, or it refused the request: no step can be blamed.
    let cause = if status == Some(404) || status == Some(501) { Cause::NoBuilder } else { found };
    // Both builders repeat the whole command, which the step has already said.
    let code = ["returned a non-zero code: ", "exit code: "].iter().find_map(|words| message.rsplit_once(words));
    let message = match code {
        Some((_, code)) => format!("it ended with exit code {code}"),
        None => message,
    };
    ImageError::Build { image, step, message, lines, cause, ours }
}

/// Arguments as the engine takes them.
pub fn arguments<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> HashMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
