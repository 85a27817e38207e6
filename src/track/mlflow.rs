//! MLflow over its REST interface. What is to be told goes into a queue on disk first (`mlflow/` in the run's directory) and from
//! there to the server, now or later: a training waits for no server, and no server that was away misses anything.
//!
//! ```text
//! facts ─▶ queue.jsonl ─▶ requests (api.rs) ─▶ server; state.json says how far it has come (sync.rs)
//! ```

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use url::Url;

use crate::error::{ExitCode, Failure};
use crate::job::MlflowWish;

pub mod api;
pub mod queue;
pub mod sync;

/// A server, and what opens it.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// Its address, without a name and a password.
    pub uri: String,
    /// The `Authorization` that it wants.
    pub authorization: Option<String>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.uri)
    }
}

/// Where a run is tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The server.
    pub server: Server,
    /// Name of the experiment.
    pub experiment: String,
}

/// MLflow cannot be told anything.
#[derive(Debug, thiserror::Error)]
pub enum MlflowError {
    /// No server is named.
    #[error("`track.mlflow` names no server, and neither does MLFLOW_TRACKING_URI")]
    NoServer,
    /// It is named in a way that is none.
    #[error("MLFLOW_TRACKING_URI is no address that begins with `http://` or `https://`")]
    NoAddress,
}

impl From<MlflowError> for Failure {
    fn from(error: MlflowError) -> Self {
        Self::new(ExitCode::BadRequest, error)
            .hint("write `track: {mlflow: {uri: http://mlflow.lab:5000}}`, or train without: `track.mlflow=false`")
    }
}

/// Where the job and the environment want a run tracked; nowhere is no failure. `name` is the job's.
///
/// # Errors
///
/// The job wants it and names no server that can be asked.
pub fn target(
    wish: &MlflowWish,
    environment: &BTreeMap<String, String>,
    name: &str,
) -> Result<Option<Target>, MlflowError> {
    let get = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let variable = get("MLFLOW_TRACKING_URI");
    let (uri, experiment) = match (wish, variable) {
        (MlflowWish::Off, _) | (MlflowWish::Environment, None) => return Ok(None),
        // Files and other stores are for MLflow's own programs.
        (MlflowWish::Environment, Some(uri)) if !uri.starts_with("http://") && !uri.starts_with("https://") => {
            return Ok(None);
        }
        (MlflowWish::Environment, Some(uri)) => (uri, None),
        (MlflowWish::Given { uri, experiment }, variable) => {
            (uri.as_deref().or(variable).ok_or(MlflowError::NoServer)?, experiment.clone())
        }
    };
    let server = server(uri, environment).ok_or(MlflowError::NoAddress)?;
    let experiment = experiment.or_else(|| get("MLFLOW_EXPERIMENT_NAME").map(str::to_owned));
    Ok(Some(Target { server, experiment: experiment.unwrap_or_else(|| name.to_owned()) }))
}

/// The server at an address, with what the environment says to open it, as MLflow's own programs take it.
#[must_use]
pub fn server(uri: &str, environment: &BTreeMap<String, String>) -> Option<Server> {
    let get = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let mut url = Url::parse(uri).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
    let basic = |name: &str, password: &str| format!("Basic {}", BASE64.encode(format!("{name}:{password}")));
    let authorization = if !url.username().is_empty() {
        Some(basic(url.username(), url.password().unwrap_or_default()))
    } else if let Some(name) = get("MLFLOW_TRACKING_USERNAME") {
        Some(basic(name, get("MLFLOW_TRACKING_PASSWORD").map_or("", String::as_str)))
    } else {
        get("MLFLOW_TRACKING_TOKEN").map(|token| format!("Bearer {token}"))
    };
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    Some(Server { uri: url.as_str().trim_end_matches('/').to_owned(), authorization })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_environment_alone_is_enough_and_the_job_has_the_last_word() {
        let lab = environment(&[("MLFLOW_TRACKING_URI", "http://me:pass@lab:5000/"), ("MLFLOW_EXPERIMENT_NAME", "e")]);
        let found = target(&MlflowWish::Environment, &lab, "shapes").expect("good").expect("wanted");
        assert_eq!((found.server.uri.as_str(), found.experiment.as_str()), ("http://lab:5000", "e"));
        assert_eq!(found.server.authorization.as_deref(), Some("Basic bWU6cGFzcw=="));
        assert!(!format!("{found:?}").contains("bWU6"));
        let given = MlflowWish::Given { uri: Some("https://other".into()), experiment: Some("x".into()) };
        let found = target(&given, &lab, "shapes").expect("good").expect("wanted");
        assert_eq!((found.server.uri.as_str(), found.experiment.as_str()), ("https://other", "x"));
        assert_eq!(target(&MlflowWish::Off, &lab, "shapes").expect("good"), None);
    }

    #[test]
    fn a_store_of_mlflows_own_is_no_server() {
        let file = environment(&[("MLFLOW_TRACKING_URI", "file:///mlruns")]);
        let given = MlflowWish::Given { uri: None, experiment: None };
        assert_eq!(target(&MlflowWish::Environment, &file, "a").expect("good"), None);
        assert!(matches!(target(&given, &file, "a"), Err(MlflowError::NoAddress)));
        assert!(matches!(target(&given, &environment(&[]), "a"), Err(MlflowError::NoServer)));
    }

    #[test]
    fn a_token_opens_a_server_too() {
        let token = environment(&[("MLFLOW_TRACKING_TOKEN", "t")]);
        assert_eq!(server("http://a", &token).and_then(|it| it.authorization).as_deref(), Some("Bearer t"));
    }
}
