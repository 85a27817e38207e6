//! Images in files, for machines without a registry: plain tar archives, compressed when their name says so.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures_util::TryStreamExt;

use crate::docker::Engine;

use super::error::ImageError;
use super::{Progress, context};

/// Writes images to a file: gzip if its name ends in `.gz` or `.tgz`. The file appears when it is whole. Returns its
/// size in bytes.
///
/// # Errors
/// If the engine lacks an image or the file cannot be written.
pub async fn save(
    engine: &Engine,
    names: &[String],
    file: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<u64, ImageError> {
    let fail = |what| move |source| ImageError::File { what, path: file.to_owned(), source };
    let mut total = 0;
    for name in names {
        let message = "nothing to save".to_owned();
        let image =
            engine.image(name).await?.ok_or_else(|| ImageError::NoSuchImage { image: name.clone(), message })?;
        // Layers that two of them share are written once; this is the most it can be.
        total += image.size_bytes;
    }
    // A pipe, a device or what a link leads to is written into; only a plain file is replaced, and appears when it is whole.
    let in_place = fs::symlink_metadata(file).is_ok_and(|found| !found.is_file());
    let partial = (!in_place).then(|| Partial(partial_beside(file)));
    let opened = match &partial {
        Some(partial) => File::create(&partial.0),
        None => File::options().write(true).truncate(true).open(file),
    };
    let out = opened.map_err(fail("create"))?;
    let zipped = file.extension().is_some_and(|end| end == "gz" || end == "tgz");
    let mut out = if zipped { Sink::Gzip(GzEncoder::new(out, Compression::fast())) } else { Sink::Plain(out) };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut stream = std::pin::pin!(engine.save(&names));
    const STEP: u64 = 32 << 20;
    let (mut current, mut told) = (0, 0);
    while let Some(chunk) = stream.try_next().await? {
        out.write_all(&chunk).map_err(fail("write"))?;
        current += chunk.len() as u64;
        if current - told >= STEP {
            told = current;
            progress(Progress::Layer { id: file.display().to_string(), current, total: total.max(current) });
        }
    }
    let out = out.finish().map_err(fail("write"))?;
    if let Some(partial) = partial {
        out.sync_all().map_err(fail("write"))?;
        fs::rename(&partial.0, file).map_err(fail("write"))?;
    }
    Ok(fs::metadata(file).ok().filter(fs::Metadata::is_file).map_or(current, |found| found.len()))
}

/// A name beside `file` that no other file and no other process has.
fn partial_beside(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

/// Loads images from such a file, or from one that `docker save` wrote. Returns their names.
///
/// # Errors
/// If the file cannot be read or the engine does not take it.
pub async fn load(
    engine: &Engine,
    file: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Vec<String>, ImageError> {
    let fail = |source| ImageError::File { what: "read", path: file.to_owned(), source };
    let mut input = File::open(file).map_err(fail)?;
    let size = input.metadata().map_err(fail)?.len();
    let mut magic = [0; 2];
    let zipped = input.read(&mut magic).map_err(fail)? == 2 && magic == [0x1f, 0x8b];
    io::Seek::rewind(&mut input).map_err(fail)?;
    progress(Progress::Note(format!("loading `{}` ({})", file.display(), super::gibibytes(size))));
    let archive = context::stream(move |out| {
        let mut input: Box<dyn Read> = if zipped { Box::new(GzDecoder::new(input)) } else { Box::new(input) };
        io::copy(&mut input, out).map(|_| ())
    });
    let said = engine.load(archive).await?;
    Ok(said.iter().filter_map(|line| line.split_once("Loaded image: ")).map(|(_, name)| name.to_owned()).collect())
}

/// A file that is removed unless it was given its name.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After the renaming there is none, which is how it should be.
        let _ = fs::remove_file(&self.0);
    }
}

enum Sink {
    Plain(File),
    Gzip(GzEncoder<File>),
}

impl Sink {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<File> {
        match self {
            Self::Plain(file) => Ok(file),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}
