//! Builds by BuildKit, through the engine's own API and without a session.
//!
//! The client library speaks to BuildKit through a session of gRPC streams, which costs seventy crates and triples the
//! program. A context that is uploaded as an archive needs no session: what is lost are secrets, SSH forwarding and
//! log-ins to registries, none of which a build of ours uses. What remains is one request, and an answer of JSON lines
//! that carry BuildKit's status messages.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Build, DockerError, Progress};

/// Whether the engine says that BuildKit is what it builds with.
pub(super) async fn is_preferred(socket: &Path) -> Result<bool, DockerError> {
    let what = "ask the Docker engine for its builder";
    let request = Request::get("/_ping").header("Host", "docker").body(Empty::<Bytes>::new());
    let (response, _connection) = send(socket, request.map_err(|error| failed(what, error))?, what).await?;
    Ok(response.headers().get("Builder-Version").is_some_and(|version| version == "2"))
}

/// Starts a build. Dropping the stream ends it.
pub(super) fn build<S>(
    socket: &Path,
    api: &str,
    build: &Build,
    context: S,
) -> impl Stream<Item = Result<Progress, DockerError>> + Send + use<S>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let what = format!("build the image `{}`", build.tag);
    let body = StreamBody::new(context.map(|chunk| chunk.map(Frame::data)).boxed());
    let request = Request::post(address(api, build))
        .header("Host", "docker")
        .header("Content-Type", "application/x-tar")
        .body(body);
    let socket = socket.to_owned();
    let begun = async move {
        let (response, connection) = send(&socket, request.map_err(|error| failed(&what, error))?, &what).await?;
        let status = response.status();
        if !status.is_success() {
            let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let message = serde_json::from_slice::<serde_json::Value>(&body).ok();
            let message = message.and_then(|json| Some(json.get("message")?.as_str()?.trim().to_owned()));
            let message = message.unwrap_or_else(|| format!("the engine answered {status}"));
            return Err(DockerError::Failed { what, message, status: Some(status.as_u16()) });
        }
        Ok(read(response.into_body(), connection, what))
    };
    stream::once(begun).flat_map(|begun| match begun {
        Ok(stream) => stream.left_stream(),
        Err(error) => stream::once(std::future::ready(Err(error))).right_stream(),
    })
}

fn failed(what: &str, error: impl std::fmt::Display) -> DockerError {
    DockerError::Failed { what: what.to_owned(), message: error.to_string(), status: None }
}

/// The task that drives a connection; the connection closes with it.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send<B>(
    socket: &Path,
    request: Request<B>,
    what: &str,
) -> Result<(Response<Incoming>, Connection), DockerError>
where
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = UnixStream::connect(socket).await.map_err(|error| failed(what, error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(what, error))?;
    // How a connection ended is told by the answer that it cut short.
    let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(|error| failed(what, error))?;
    Ok((response, connection))
}

fn address(api: &str, build: &Build) -> String {
    let json = |map: &std::collections::HashMap<String, String>| {
        let sorted: BTreeMap<_, _> = map.iter().collect();
        serde_json::to_string(&sorted).expect("a map of strings")
    };
    let pairs = [
        ("version", "2".to_owned()),
        ("t", build.tag.clone()),
        ("dockerfile", build.dockerfile.clone()),
        ("target", build.target.clone()),
        ("networkmode", build.network.clone()),
        ("buildargs", json(&build.args)),
        ("labels", json(&build.labels)),
    ];
    let pairs = pairs.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<String> = pairs.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    format!("/v{api}/build?{}", query.join("&"))
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Reads the answer: lines of JSON.
fn read(
    body: Incoming,
    connection: Connection,
    what: String,
) -> impl Stream<Item = Result<Progress, DockerError>> + Send {
    struct State {
        body: Incoming,
        _connection: Connection,
        pending: Vec<u8>,
        ready: VecDeque<Result<Progress, DockerError>>,
        trace: Trace,
        what: String,
        ended: bool,
    }
    let state = State {
        body,
        _connection: connection,
        pending: Vec::new(),
        ready: VecDeque::new(),
        trace: Trace::default(),
        what,
        ended: false,
    };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(progress) = state.ready.pop_front() {
                return Some((progress, state));
            }
            if state.ended {
                return None;
            }
            match state.body.frame().await {
                Some(Ok(frame)) => state.pending.extend_from_slice(frame.data_ref().map_or(&[], Bytes::as_ref)),
                Some(Err(error)) => {
                    state.ended = true;
                    state.ready.push_back(Err(failed(&state.what, error)));
                }
                None => {
                    state.ended = true;
                    state.pending.push(b'\n');
                }
            }
            while let Some(end) = state.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = state.pending.drain(..=end).collect();
                match state.trace.line(&line) {
                    Ok(progress) => state.ready.extend(progress.into_iter().map(Ok)),
                    Err(message) => {
                        state.ended = true;
                        state.ready.push_back(Err(failed(&state.what, message)));
                    }
                }
            }
        }
    })
}

/// What BuildKit has told so far, so that a failed step can be shown with its own lines.
#[derive(Default)]
struct Trace {
    steps: BTreeMap<String, Vertex>,
}

#[derive(Default)]
struct Vertex {
    step: Option<(u32, u32, String)>,
    begun: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// Reads a line of the answer; an error is the build's.
    fn line(&mut self, line: &[u8]) -> Result<Vec<Progress>, String> {
        // What is no JSON is nothing that BuildKit or the engine wanted to say.
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(line) else { return Ok(Vec::new()) };
        let text = |pointer: &str| json.pointer(pointer).and_then(|value| value.as_str());
        if let Some(message) = text("/errorDetail/message").or_else(|| text("/error")) {
            return Err(message.trim().to_owned());
        }
        if text("/id") != Some("moby.buildkit.trace") {
            return Ok(text("/stream").map(|line| Progress::Line(line.to_owned())).into_iter().collect());
        }
        let message = text("/aux").and_then(|aux| base64::engine::general_purpose::STANDARD.decode(aux).ok());
        Ok(message.map(|message| self.status(&message)).unwrap_or_default())
    }

    /// Reads a status message.
    fn status(&mut self, message: &[u8]) -> Vec<Progress> {
        let mut progress = Vec::new();
        for (field, value) in fields(message) {
            match field {
                1 => self.vertex(value, &mut progress),
                2 => {
                    let (id, current, total) = (string(value, 1), number(value, 4), number(value, 5));
                    if total > 0 {
                        progress.push(Progress::Layer { id, current, total });
                    }
                }
                3 => {
                    const REMEMBERED_LINES: usize = 20;
                    let text = string(value, 4);
                    let vertex = self.steps.entry(string(value, 1)).or_default();
                    for line in text.lines() {
                        if vertex.lines.len() == REMEMBERED_LINES {
                            vertex.lines.pop_front();
                        }
                        vertex.lines.push_back(line.to_owned());
                        progress.push(Progress::Line(format!("{line}\n")));
                    }
                }
                _ => {}
            }
        }
        progress
    }

    fn vertex(&mut self, value: &[u8], progress: &mut Vec<Progress>) {
        let (name, started, error) = (string(value, 3), !bytes(value, 5).is_empty(), string(value, 7));
        let vertex = self.steps.entry(string(value, 1)).or_default();
        if vertex.step.is_none() {
            vertex.step = step(&name);
        }
        let Some((number, of, command)) = vertex.step.clone() else { return };
        let begins = started && !vertex.begun;
        vertex.begun |= started;
        if begins || !error.is_empty() {
            progress.push(Progress::Step { number, of, command });
        }
        if !error.is_empty() {
            // Steps run side by side: the lines of the one that failed are said again, as the last ones.
            progress.extend(vertex.lines.iter().map(|line| Progress::Line(format!("{line}\n"))));
        }
    }
}

/// `[stage 2/5] RUN x` and `[2/5] RUN x`; nothing else is a step of a Dockerfile.
fn step(name: &str) -> Option<(u32, u32, String)> {
    let (head, command) = name.strip_prefix('[')?.split_once("] ")?;
    let (number, of) = head.rsplit(' ').next()?.split_once('/')?;
    Some((number.parse().ok()?, of.parse().ok()?, command.to_owned()))
}

/// The fields of a protocol buffer: numbers as their eight bytes, the rest as it lies there.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    while let Some(key) = varint(&mut message) {
        let length = match key & 7 {
            0 => {
                let start = message;
                let Some(_) = varint(&mut message) else { break };
                found.push((key >> 3, &start[..start.len() - message.len()]));
                continue;
            }
            1 => 8,
            2 => varint(&mut message).and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX),
            5 => 4,
            _ => break,
        };
        // A message that ends early has been cut; what came before stays true.
        let Some((value, rest)) = message.split_at_checked(length) else { break };
        found.push((key >> 3, value));
        message = rest;
    }
    found
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn bytes(message: &[u8], field: u64) -> &[u8] {
    fields(message).into_iter().find(|(found, _)| *found == field).map_or(&[], |(_, value)| value)
}

fn string(message: &[u8], field: u64) -> String {
    String::from_utf8_lossy(bytes(message, field)).into_owned()
}

fn number(message: &[u8], field: u64) -> u64 {
    varint(&mut bytes(message, field)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).expect("a short field");
        assert!(length < 0x80, "one byte of length");
        [&[(number << 3) | 2, length], value].concat()
    }

    #[test]
    fn a_failed_step_comes_last_with_its_own_lines() {
        let vertex = |id: &[u8], name: &[u8], error: &[u8]| {
            field(1, &[field(1, id), field(3, name), field(5, b"\x08\x01"), field(7, error)].concat())
        };
        let log = |id: &[u8], text: &[u8]| field(3, &[field(1, id), vec![3 << 3, 1], field(4, text)].concat());
        let mut trace = Trace::default();
        let begun = [vertex(b"a", b"[one 2/3] RUN a", b""), vertex(b"b", b"[internal] load", b"")].concat();
        let step = |command: &str| Progress::Step { number: 2, of: 3, command: command.into() };
        assert_eq!(trace.status(&begun), [step("RUN a")]);
        assert_eq!(trace.status(&begun), [], "a step begins once");
        trace.status(&[vertex(b"c", b"[2/3] RUN c", b""), log(b"a", b"of a\n"), log(b"c", b"of c\n")].concat());
        let line = Progress::Line("of a\n".into());
        assert_eq!(trace.status(&vertex(b"a", b"[one 2/3] RUN a", b"exit code: 1")), [step("RUN a"), line]);
    }

    #[test]
    fn what_the_engine_says_itself_is_heard() {
        let mut trace = Trace::default();
        let said = trace.line(br#"{"stream":"Successfully tagged a:1\n"}"#).expect("no error");
        assert_eq!(said, [Progress::Line("Successfully tagged a:1\n".into())]);
        let error = trace.line(br#"{"errorDetail":{"message":"no such stage"},"error":"no such stage"}"#);
        assert_eq!(error, Err("no such stage".into()));
        assert_eq!(trace.line(b"\n"), Ok(Vec::new()));
    }

    #[test]
    fn a_cut_message_is_read_as_far_as_it_goes() {
        let whole = [field(1, b"abc"), field(2, b"def")].concat();
        assert_eq!(fields(&whole[..whole.len() - 1]), [(1, &b"abc"[..])]);
    }

    #[test]
    fn names_and_arguments_survive_the_address() {
        let build = Build {
            tag: "evenkeel/a:1".into(),
            args: [("URL".to_owned(), "http://a/?b=c&d".to_owned())].into(),
            ..Build::default()
        };
        assert_eq!(
            address("1.41", &build),
            "/v1.41/build?version=2&t=evenkeel%2Fa%3A1&buildargs=%7B%22URL%22%3A%22http%3A%2F%2Fa%2F%3Fb%3Dc%26d%22%7D\
             &labels=%7B%7D"
        );
    }
}
