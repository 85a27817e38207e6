//! One build: the engine's stream read as progress, and its failure as one message.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

use crate::docker::{self, Build, DockerError, Engine};

use super::Progress;
use super::error::ImageError;
use super::output::{Cause, Output, Said, cause};
use super::redact::redact;

/// Builds an image. Dropping the future ends the build, and the engine removes what the current step ran in.
///
/// # Errors
/// [`ImageError::Build`] with the last lines of the step that failed.
pub async fn build<S>(
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
    // The classic builder repeats the whole command, which the step has already said.
    let message = match message.rsplit_once("returned a non-zero code: ") {
        Some((_, code)) => format!("it ended with exit code {code}"),
        None => message,
    };
    ImageError::Build { image, step, message, lines, cause, ours }
}

/// Arguments as the engine takes them.
pub fn arguments<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> HashMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
