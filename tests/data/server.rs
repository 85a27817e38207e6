//! An HTTP server on loopback that does to each request what its test says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came in: its path, and its `Range` and `If-Range`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub if_range: Option<String>,
}

/// What to answer: the head, then the body's bytes; then silence or the end of the connection.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: String,
    pub body: Vec<u8>,
    /// Keep the connection open without a byte.
    pub then_silent: bool,
}

impl Answer {
    pub fn new(status: &str, headers: &str, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
        Self { head, body: body.to_owned(), then_silent: false }
    }

    /// The file, or the rest of it when a range is asked for.
    pub fn file(bytes: &[u8], request: &Request) -> Self {
        let from = request.range.as_deref().map(start);
        match from {
            Some(from) if from >= bytes.len() => Self::new(
                "416 Range Not Satisfiable",
                &format!("Content-Range: bytes */{}\r\nContent-Length: 0\r\n", bytes.len()),
                b"",
            ),
            Some(from) => {
                let (last, length) = (bytes.len() - 1, bytes.len());
                let headers = format!(
                    "ETag: \"1\"\r\nContent-Range: bytes {from}-{last}/{length}\r\nContent-Length: {}\r\n",
                    length - from
                );
                Self::new("206 Partial Content", &headers, &bytes[from..])
            }
            None => Self::new("200 OK", &format!("ETag: \"1\"\r\nContent-Length: {}\r\n", bytes.len()), bytes),
        }
    }

    /// Only the first bytes of the body, then the connection ends.
    pub fn cut(mut self, after: usize) -> Self {
        self.body.truncate(after);
        self
    }
}

/// First byte of a `bytes=N-` range.
pub fn start(range: &str) -> usize {
    range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("a range that is open at its end")
}

/// A running server; it ends with the process.
pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { url, requests }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, answer: &dyn Fn(usize, &Request) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut request = Request::default();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
        let header = |name: &str| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        if request.path.is_empty() {
            request.path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        request.range = header("range").or(request.range);
        request.if_range = header("if-range").or(request.if_range);
        line.clear();
    }
    let number = {
        let mut seen = seen.lock().expect("no panic");
        seen.push(request.clone());
        seen.len() - 1
    };
    let answer = answer(number, &request);
    let mut stream = stream;
    // The client may have gone, which is its right.
    let _ = stream.write_all(answer.head.as_bytes()).and_then(|()| stream.write_all(&answer.body));
    if answer.then_silent {
        // Until the client hangs up.
        let _ = std::io::Read::read(&mut stream, &mut [0]);
    }
}
