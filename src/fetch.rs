//! Files from the network or from a folder, into the cache: resumed, checked, and from the next source when one fails.
//!
//! This is the only file that imports reqwest.

use std::fs;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

mod archive;
mod cache;
mod error;

pub use archive::{Limits, unpack};
pub use error::FetchError;

pub(crate) use cache::{lock, replace};
pub(crate) use error::io_error;

/// Bytes for which it is worth asking a server again, however often it breaks off.
const GAIN: u64 = 64 << 10;

/// A file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset<'a> {
    /// Its name in the cache and below a mirror.
    pub file: &'a str,
    /// URLs, `file://` URLs or paths, tried in order.
    pub sources: &'a [&'a str],
    /// Its hash. None: the hash of what is fetched first is recorded, and counts from then on.
    pub sha256: Option<&'a str>,
    /// Its size in bytes, where it is known; used for progress and free space only.
    pub bytes: Option<u64>,
}

/// What is going on with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Another process fetches the same.
    Waiting,
    /// Bytes come in.
    Downloading,
    /// The hash is computed.
    Verifying,
    /// The archive's files are written.
    Unpacking,
}

/// How far it is, for a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file's name.
    pub file: &'a str,
    /// What is done with it.
    pub stage: Stage,
    /// Bytes done; files when unpacking.
    pub done: u64,
    /// Bytes or files in all, where known.
    pub total: Option<u64>,
}

/// Receives [`Progress`], some ten times a second at most for bytes.
pub type OnProgress<'a> = &'a (dyn Fn(Progress<'_>) + Send + Sync);

/// How to fetch.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Asked before an asset's own sources: a URL or folder to which the file's name is appended, or a pattern with
    /// `{url}` or `{file}` in it.
    pub mirrors: Vec<String>,
    /// Longest silence of a server.
    pub stall: Duration,
    /// Tries of a source that breaks off in the middle; one that refuses is not asked again.
    pub tries: u32,
    /// Ignore proxy settings of the environment.
    pub direct: bool,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { mirrors: Vec::new(), stall: Duration::from_secs(30), tries: 4, direct: false }
    }
}

/// Fetches files into a cache.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    cache: PathBuf,
    options: FetchOptions,
}

/// What is known about a file that is there in part, beside it.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Partial {
    url: String,
    /// A strong `ETag` or a `Last-Modified`, by which the server can tell that it still has the same file.
    validator: Option<String>,
}

/// What ended a try.
enum Trouble {
    /// The source does not have it; the next one may.
    Refused(String),
    /// It broke off; worth another try there.
    Broken(String),
    /// Nothing will help.
    Fatal(FetchError),
}

impl From<FetchError> for Trouble {
    fn from(error: FetchError) -> Self {
        Self::Fatal(error)
    }
}

impl Fetcher {
    /// A fetcher into the folder `cache`, which is created when it is needed. Proxies are those of the environment,
    /// certificate authorities those of the system (`SSL_CERT_FILE`).
    ///
    /// # Errors
    /// [`FetchError::Client`] when TLS cannot be set up.
    pub fn new(cache: impl Into<PathBuf>, options: FetchOptions) -> Result<Self, FetchError> {
        // The one that is already there, if any, serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = redirect::Policy::custom(|attempt| {
            let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
            if was_secure && attempt.url().scheme() != "https" {
                attempt.error("it redirects from https to http")
            } else if attempt.previous().len() > 10 {
                attempt.error("it redirects too often")
            } else {
                attempt.follow()
            }
        });
        let mut builder = Client::builder()
            .user_agent(concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.stall.min(Duration::from_secs(15)))
            .redirect(policy);
        if options.direct {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| FetchError::Client(error.into()))?;
        Ok(Self { client, cache: cache.into(), options })
    }

    /// The cache's folder.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where a file will be, or can be placed by hand.
    #[must_use]
    pub fn place(&self, file: &str) -> PathBuf {
        self.cache.join("downloads").join(file)
    }

    /// The file, from the cache or fetched, with the right hash. When the future is dropped, what has arrived stays, and
    /// the next call goes on from there.
    ///
    /// # Errors
    /// When no source has it, it is not what it should be, or the disk refuses.
    pub async fn file(&self, asset: &Asset<'_>, on_progress: OnProgress<'_>) -> Result<PathBuf, FetchError> {
        let told = |stage, done, total| on_progress(Progress { file: asset.file, stage, done, total });
        let path = self.place(asset.file);
        let dir = path.parent().expect("below the cache");
        let _lock = lock(dir, asset.file, || told(Stage::Waiting, 0, None)).await?;
        if path.exists() {
            told(Stage::Verifying, 0, asset.bytes);
            verify(&path, asset.sha256).await?;
            return Ok(path);
        }
        let mut attempts = Vec::new();
        for source in self.sources(asset) {
            match self.use_source(asset, &source, &path, on_progress).await {
                Ok(()) => return Ok(path),
                Err(Trouble::Fatal(error)) => return Err(error),
                Err(Trouble::Refused(reason) | Trouble::Broken(reason)) => attempts.push((shown(&source), reason)),
            }
        }
        let sha256 = asset.sha256.map(str::to_owned);
        Err(FetchError::Unavailable { file: asset.file.to_owned(), attempts, place: path, sha256 })
    }

    /// Mirrors first, then the asset's own sources.
    fn sources(&self, asset: &Asset<'_>) -> Vec<String> {
        let mirrored = self.options.mirrors.iter().flat_map(|mirror| -> Vec<String> {
            let named = mirror.replace("{file}", asset.file);
            if named.contains("{url}") {
                asset.sources.iter().map(|url| named.replace("{url}", url)).collect()
            } else if mirror.contains("{file}") {
                vec![named]
            } else {
                vec![format!("{}/{}", mirror.trim_end_matches('/'), asset.file)]
            }
        });
        mirrored.chain(asset.sources.iter().map(|&source| source.to_owned())).collect()
    }

    /// One source, until it has given all or will not.
    async fn use_source(
        &self,
        asset: &Asset<'_>,
        source: &str,
        path: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<(), Trouble> {
        let partial = sibling(path, "part");
        if let Some(local) = local_path(source) {
            // The true file may change while it is used: the cache has its own copy.
            let copied = tokio::fs::copy(&local, &partial).await;
            copied.map_err(|error| Trouble::Refused(error.to_string()))?;
            // A copy is no part of a download.
            let _ = fs::remove_file(sibling(path, "part.json"));
            return self.accept(asset, path, false, on_progress).await;
        }
        let url = Url::parse(source).map_err(|error| Trouble::Refused(format!("it is no URL: {error}")))?;
        let mut tries = 1;
        loop {
            let before = size(&partial);
            let result = match self.download(asset, &url, path, on_progress).await {
                Ok(resumed) => self.accept(asset, path, resumed, on_progress).await,
                Err(trouble) => Err(trouble),
            };
            match result {
                // A server that goes on delivering is asked on; only tries without much of a gain count.
                Err(Trouble::Broken(_)) if size(&partial) >= before + GAIN => tries = 1,
                Err(Trouble::Broken(_)) if tries < self.options.tries => tries += 1,
                done => return done,
            }
            tokio::time::sleep(Duration::from_millis(200) * tries).await;
        }
    }

    /// One request: appends to what is there where the server can go on, starts over where it cannot. Returns whether
    /// bytes of an earlier request are part of the file.
    async fn download(
        &self,
        asset: &Asset<'_>,
        url: &Url,
        path: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<bool, Trouble> {
        let (partial, notes) = (sibling(path, "part"), sibling(path, "part.json"));
        let have = size(&partial);
        let known: Partial =
            fs::read(&notes).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let validator = known.validator.filter(|_| known.url == url.as_str());
        let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        // A part from another source can only be continued when the hash will tell whether they fit.
        if have > 0 && (validator.is_some() || asset.sha256.is_some()) {
            request = request.header(RANGE, format!("bytes={have}-"));
            if let Some(validator) = validator {
                request = request.header(IF_RANGE, validator);
            }
        }
        let response = match tokio::time::timeout(self.options.stall, request.send()).await {
            Err(_) => return Err(Trouble::Broken(format!("no answer within {} s", self.options.stall.as_secs_f32()))),
            Ok(Err(error)) => return Err(Trouble::Broken(reason(error))),
            Ok(Ok(response)) => response,
        };
        let start = match start_of(&response, have, asset.sha256.is_some())? {
            Start::At(start) => start,
            Start::Complete => return Ok(true),
            Start::Unusable(reason) => {
                // The next try begins anew.
                let _ = fs::remove_file(&partial);
                return Err(Trouble::Broken(reason));
            }
        };
        let now = Partial { url: url.as_str().to_owned(), validator: validator_of(response.headers()) };
        let text = serde_json::to_vec(&now).expect("text becomes JSON");
        replace(&notes, &text).map_err(io_error("write", &notes))?;
        let total = response.content_length().map(|rest| start + rest).or(asset.bytes);
        cache::check_room(path.parent().unwrap_or(path), total.unwrap_or(0).saturating_sub(have))?;
        self.receive(response, &partial, start, |done| {
            on_progress(Progress { file: asset.file, stage: Stage::Downloading, done, total });
        })
        .await?;
        Ok(start > 0)
    }

    /// Writes a response's body from `start` on.
    async fn receive(
        &self,
        response: Response,
        partial: &Path,
        start: u64,
        on_bytes: impl Fn(u64),
    ) -> Result<(), Trouble> {
        let file = tokio::fs::OpenOptions::new().create(true).truncate(false).write(true).open(partial).await;
        let mut file = file.map_err(io_error("write", partial))?;
        file.set_len(start).await.map_err(io_error("write", partial))?;
        file.seek(SeekFrom::Start(start)).await.map_err(io_error("write", partial))?;
        let mut body = response.bytes_stream();
        let mut done = start;
        let mut last_told = tokio::time::Instant::now();
        on_bytes(done);
        let result = loop {
            match tokio::time::timeout(self.options.stall, body.next()).await {
                Err(_) => break Err(Trouble::Broken(format!("silent for {} s", self.options.stall.as_secs_f32()))),
                Ok(None) => break Ok(()),
                Ok(Some(Err(error))) => break Err(Trouble::Broken(reason(error))),
                Ok(Some(Ok(bytes))) => {
                    file.write_all(&bytes).await.map_err(io_error("write", partial))?;
                    done += bytes.len() as u64;
                    if last_told.elapsed() >= Duration::from_millis(100) {
                        last_told = tokio::time::Instant::now();
                        on_bytes(done);
                    }
                }
            }
        };
        file.flush().await.map_err(io_error("write", partial))?;
        on_bytes(done);
        result
    }

    /// Checks what has arrived and gives it its name.
    async fn accept(
        &self,
        asset: &Asset<'_>,
        path: &Path,
        resumed: bool,
        on_progress: OnProgress<'_>,
    ) -> Result<(), Trouble> {
        let partial = sibling(path, "part");
        let bytes = size(&partial);
        on_progress(Progress { file: asset.file, stage: Stage::Verifying, done: bytes, total: Some(bytes) });
        let found = {
            let partial = partial.clone();
            tokio::task::spawn_blocking(move || cache::hash(&partial)).await.expect("hashing does not panic")
        };
        let found = found.map_err(io_error("read", &partial))?;
        if let Some(expected) = asset.sha256.filter(|expected| *expected != found) {
            let _ = fs::remove_file(&partial);
            let reason = format!("it has another file: sha256 {found}, expected {expected}");
            // Parts that do not fit together say nothing about this source's file.
            return Err(if resumed { Trouble::Broken(reason) } else { Trouble::Refused(reason) });
        }
        fs::rename(&partial, path).map_err(io_error("write", path))?;
        let _ = fs::remove_file(sibling(path, "part.json"));
        verify(path, asset.sha256).await?;
        Ok(())
    }
}

async fn verify(path: &Path, pinned: Option<&str>) -> Result<(), FetchError> {
    let (path, pinned) = (path.to_owned(), pinned.map(str::to_owned));
    tokio::task::spawn_blocking(move || cache::verify(&path, pinned.as_deref())).await.expect("hashing does not panic")
}

/// Where the body that a server sends belongs.
enum Start {
    /// At this byte of the file.
    At(u64),
    /// Nowhere: everything is there.
    Complete,
    /// Nowhere: what is there cannot be continued.
    Unusable(String),
}

fn start_of(response: &Response, have: u64, pinned: bool) -> Result<Start, Trouble> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let range = text(CONTENT_RANGE);
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let begins = range.strip_prefix("bytes ").and_then(|rest| rest.split_once('-')?.0.parse().ok());
            Ok(if begins == Some(have) {
                Start::At(have)
            } else {
                Start::Unusable(format!("it sent another part: `{range}`"))
            })
        }
        // Portals and proxies answer with a page where a file was asked for; without a hash only this tells.
        StatusCode::OK if !pinned && text(CONTENT_TYPE).starts_with("text/html") => {
            Err(Trouble::Refused("it answered with a web page instead of the file".to_owned()))
        }
        StatusCode::OK => Ok(Start::At(0)),
        StatusCode::RANGE_NOT_SATISFIABLE if range == format!("bytes */{have}") => Ok(Start::Complete),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            Ok(Start::Unusable(format!("it cannot go on after {have} bytes: `{range}`")))
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(Trouble::Broken(status.to_string()))
        }
        status => Err(Trouble::Refused(status.to_string())),
    }
}

/// What proves that a file is still the same: weak tags do not.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

/// A source that is a file of this machine.
fn local_path(source: &str) -> Option<PathBuf> {
    match source.split_once("://") {
        Some(("file", _)) => Url::parse(source).ok()?.to_file_path().ok(),
        Some(_) => None,
        None => Some(PathBuf::from(source)),
    }
}

/// A source without the user names and passwords that it may carry, also in a URL within the URL.
fn shown(source: &str) -> String {
    let mut parts = source.split("://");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let host_end = part.find(['/', '?', '#']).unwrap_or(part.len());
        let host_start = part[..host_end].rfind('@').map_or(0, |at| at + 1);
        text = text + "://" + &part[host_start..];
    }
    text
}

/// The innermost causes of a failed request; the outer ones only repeat the URL.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

fn sibling(path: &Path, ending: &str) -> PathBuf {
    path.with_file_name(format!(".{}.{ending}", path.file_name().unwrap_or_default().to_string_lossy()))
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |about| about.len())
}
