//! Build contexts as streams: the files that our binary carries, or a folder of the user's. Never whole in memory.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::poll_fn;
use tokio::sync::mpsc;

use super::chain::{self, File};

/// What the images are built from, as build.rs packed it.
static ARCHIVE: &[u8] = include_bytes!(env!("EVENKEEL_IMAGES_TAR"));

/// The files that our binary carries. Their bytes stay where they are.
///
/// # Panics
/// If build.rs packed no archive: then nothing of this binary can be trusted.
#[must_use]
pub fn embedded() -> Vec<File<'static>> {
    let mut archive = tar::Archive::new(ARCHIVE);
    let mut files = Vec::new();
    for entry in archive.entries().expect("build.rs packed an archive") {
        let entry = entry.expect("build.rs packed whole entries");
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let range = |offset: u64, size: u64| usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        let (start, size) = range(entry.raw_file_position(), entry.size()).expect("the archive is in memory");
        let name = entry.path_bytes();
        // A short path lies in the header and a long one in an entry before it: both within the archive, but only as a
        // copy here. The few that there are live as long as the process.
        let path: &'static str = Box::leak(String::from_utf8_lossy(&name).into_owned().into_boxed_str());
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
        files.push(File { path, executable, content: &ARCHIVE[start..start + size] });
    }
    files
}

/// A context of some of the embedded files and, beside them, the settings of this machine.
pub fn of_files(
    files: &[File<'static>],
    roots: &[&str],
    settings: Vec<(&'static str, Vec<u8>)>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let files: Vec<_> = files.iter().filter(|file| chain::within(file.path, roots)).copied().collect();
    stream(move |out| {
        let mut tar = tar::Builder::new(out);
        for file in &files {
            append(&mut tar, file.path, file.executable, file.content)?;
        }
        for (path, content) in &settings {
            append(&mut tar, path, false, content)?;
        }
        tar.finish()
    })
}

/// Adds a file that is the same whenever and by whomever it is added.
pub fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, executable: bool, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_size(content.len() as u64);
    header.set_mtime(0);
    tar.append_data(&mut header, path, content)
}

/// Runs a writer on a thread of its own and streams what it writes. It is told by an error when nobody reads on.
pub fn stream(
    write: impl FnOnce(&mut Chunks) -> io::Result<()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, mut receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut chunks = Chunks { sender, pending: Vec::with_capacity(CHUNK) };
        if let Err(error) = write(&mut chunks).and_then(|()| chunks.flush()) {
            // Nobody may be left to tell.
            let _ = chunks.sender.blocking_send(Err(error));
        }
    });
    poll_fn(move |context| receiver.poll_recv(context))
}

const CHUNK: usize = 128 << 10;

/// Gathers what is written into chunks for the stream.
#[derive(Debug)]
pub struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    pending: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    #[test]
    fn what_the_images_need_is_carried() {
        let files = embedded();
        for path in ["images/base/Dockerfile", "Cargo.toml", "Cargo.lock", "crates/wire/Cargo.toml"] {
            assert!(files.iter().any(|file| file.path == path && !file.content.is_empty()), "`{path}` is missing");
        }
        let script = files.iter().find(|file| file.path == "images/base/with-host-settings").expect("the script");
        assert!(script.executable && script.content.starts_with(b"#!/bin/sh"));
    }

    #[tokio::test]
    async fn a_context_has_its_files_and_the_settings_and_nothing_else() {
        let stream = of_files(&embedded(), &["images/base"], vec![("ca-bundle.pem", b"authority".to_vec())]);
        let bytes: Vec<u8> = stream.try_collect::<Vec<_>>().await.expect("a context").concat();
        let mut paths: Vec<_> = tar::Archive::new(&bytes[..])
            .entries()
            .expect("an archive")
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        paths.sort();
        assert_eq!(paths, ["ca-bundle.pem", "images/base/Dockerfile", "images/base/with-host-settings"]);
    }

    #[tokio::test]
    async fn a_failed_writer_fails_the_stream() {
        let stream = stream(|out| {
            out.write_all(b"some")?;
            Err(io::Error::other("disk gone"))
        });
        let error = stream.try_collect::<Vec<_>>().await.expect_err("a failure");
        assert_eq!(error.to_string(), "disk gone");
    }
}
