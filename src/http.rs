//! Small requests to servers that are told something: one try each, with a limit of time. What is to follow a failure is the caller's.
//!
//! Beside `fetch.rs`, which downloads, this is the only file that imports reqwest.

use std::time::Duration;

use reqwest::{Client, Method, redirect};

/// How long a connection may take; whoever answers at all does within it.
const CONNECT: Duration = Duration::from_secs(3);
/// The longest answer that is read. A metric's history of a million steps is longer than that, and nobody has one.
const LONGEST: usize = 64 << 20;

/// A request.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to; it may be a secret.
    pub url: String,
    /// Beside `Content-Type`; they may be secrets.
    pub headers: Vec<(&'static str, String)>,
    /// JSON that is posted; none: the address is read.
    pub body: Option<String>,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Its text.
    pub body: String,
}

/// No answer came. The words hold no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoAnswer {
    /// Why.
    pub reason: String,
    /// Whether the request certainly did not arrive.
    pub unsent: bool,
}

/// Sends requests. Proxies are those of the environment, certificate authorities those of the system.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
}

impl Http {
    /// A client.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up.
    pub fn new() -> Result<Self, NoAnswer> {
        // The one that is already there, if any, serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            // What is posted to one place is not meant for another.
            .redirect(redirect::Policy::none())
            .build();
        client.map(|client| Self { client }).map_err(no_answer)
    }

    /// Sends one request and reads its answer, in `limit` at most.
    ///
    /// # Errors
    ///
    /// No answer came.
    pub async fn send(&self, request: &Request, limit: Duration) -> Result<Answer, NoAnswer> {
        let method = if request.body.is_some() { Method::POST } else { Method::GET };
        let mut building = self.client.request(method, &request.url);
        for (name, value) in &request.headers {
            building = building.header(*name, value);
        }
        if let Some(body) = &request.body {
            building = building.header("Content-Type", "application/json; charset=utf-8").body(body.clone());
        }
        let answered = async {
            let mut response = building.send().await.map_err(no_answer)?;
            let status = response.status().as_u16();
            let mut body = Vec::new();
            while let Some(bytes) = response.chunk().await.map_err(no_answer)? {
                body.extend_from_slice(&bytes);
                if body.len() > LONGEST {
                    return Err(NoAnswer { reason: "the answer has no end".into(), unsent: false });
                }
            }
            Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
        };
        let late = || NoAnswer { reason: format!("no answer within {} s", limit.as_secs()), unsent: false };
        tokio::time::timeout(limit, answered).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The innermost cause, which tells most; the outer ones name the address, which may be a secret.
fn no_answer(error: reqwest::Error) -> NoAnswer {
    let unsent = error.is_connect() || error.is_builder();
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        reason = inner.to_string();
        cause = inner.source();
    }
    NoAnswer { reason, unsent }
}
