//! Where the engine is: `DOCKER_HOST`, else the current Docker context, else the usual socket.
//!
//! The order is that of the docker command. Only an engine on this machine serves for now: containers get folders of
//! this machine, which an engine elsewhere does not have.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// What decides the address; read from the environment in one place.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub context: Option<String>,
    /// Folder of the docker command's settings: `DOCKER_CONFIG`, else `~/.docker`.
    pub config: Option<PathBuf>,
}

/// An engine's socket, and what named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Path of the unix socket.
    pub socket: PathBuf,
    /// `DOCKER_HOST`, ``context `x` `` or `default`.
    pub origin: String,
}

/// Why no address was found.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The engine is reached by a network: containers would get folders of another machine.
    #[error("{origin} names the engine `{address}`, which is reached by a network: not supported yet")]
    Remote {
        /// What named it.
        origin: String,
        /// Its address.
        address: String,
    },
    /// What was given is no address.
    #[error("{origin} is `{address}`, which is no address of an engine")]
    NoAddress {
        /// What named it.
        origin: String,
        /// As given.
        address: String,
    },
    /// The current context is not there or cannot be read.
    #[error("failed to read the Docker context `{name}` at `{}`: {reason}", path.display())]
    Context {
        /// Name of the context.
        name: String,
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Finds the engine's socket.
pub fn resolve(environment: &Environment) -> Result<Endpoint, EndpointError> {
    if let Some(host) = environment.host.as_deref().filter(|host| !host.is_empty()) {
        return local(host, "DOCKER_HOST".to_owned());
    }
    let config = environment.config.as_deref();
    match environment.context.clone().or_else(|| config.and_then(current_context)) {
        Some(name) if !name.is_empty() && name != "default" => {
            let origin = format!("context `{name}`");
            local(&context_host(config.unwrap_or(Path::new("")), &name)?, origin)
        }
        _ => Ok(Endpoint { socket: DEFAULT_SOCKET.into(), origin: "default".into() }),
    }
}

fn local(address: &str, origin: String) -> Result<Endpoint, EndpointError> {
    let (address, remote) = (address.to_owned(), ["tcp://", "ssh://", "http://", "https://"]);
    match address.strip_prefix("unix://") {
        // As the docker command has it.
        Some("") => Ok(Endpoint { socket: DEFAULT_SOCKET.into(), origin }),
        Some(socket) => Ok(Endpoint { socket: socket.into(), origin }),
        None if remote.iter().any(|scheme| address.starts_with(scheme)) => {
            Err(EndpointError::Remote { origin, address })
        }
        None => Err(EndpointError::NoAddress { origin, address }),
    }
}

fn current_context(config: &Path) -> Option<String> {
    // A missing or odd settings file is the docker command's business; it then uses the default context, and so do we.
    let text = std::fs::read(config.join("config.json")).ok()?;
    let settings: serde_json::Value = serde_json::from_slice(&text).ok()?;
    settings.get("currentContext")?.as_str().map(str::to_owned)
}

fn context_host(config: &Path, name: &str) -> Result<String, EndpointError> {
    // The docker command files a context under the hash of its name.
    let folder: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    let path = config.join("contexts/meta").join(folder).join("meta.json");
    let fail = |reason: String| EndpointError::Context { name: name.to_owned(), path: path.clone(), reason };
    let text = std::fs::read(&path).map_err(|error| fail(error.to_string()))?;
    let meta: serde_json::Value = serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?;
    let host = meta.pointer("/Endpoints/docker/Host").and_then(|host| host.as_str());
    host.map(str::to_owned).ok_or_else(|| fail("it has no `Endpoints.docker.Host`".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_context(name: &str, host: &str) -> tempfile::TempDir {
        let config = tempfile::tempdir().expect("a temporary folder");
        let folder: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
        let meta = config.path().join("contexts/meta").join(folder);
        std::fs::create_dir_all(&meta).expect("folders");
        let text = format!(r#"{{"Name":"{name}","Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
        std::fs::write(meta.join("meta.json"), text).expect("meta.json");
        std::fs::write(config.path().join("config.json"), format!(r#"{{"currentContext":"{name}"}}"#))
            .expect("settings");
        config
    }

    #[test]
    fn the_variable_wins_over_the_context() {
        let config = with_context("lab", "unix:///run/lab.sock");
        let mut environment = Environment { config: Some(config.path().into()), ..Environment::default() };
        assert_eq!(resolve(&environment).expect("a context").socket, Path::new("/run/lab.sock"));
        environment.host = Some("unix:///run/mine.sock".into());
        assert_eq!(resolve(&environment).expect("a variable").socket, Path::new("/run/mine.sock"));
    }

    #[test]
    fn another_machine_is_refused_by_name() {
        let config = with_context("farm", "ssh://farm");
        let error = resolve(&Environment { config: Some(config.path().into()), ..Environment::default() });
        assert_eq!(
            error.expect_err("remote").to_string(),
            "context `farm` names the engine `ssh://farm`, which is reached by a network: not supported yet"
        );
    }

    #[test]
    fn what_is_no_address_is_told_so() {
        let host = |host: &str| resolve(&Environment { host: Some(host.into()), ..Environment::default() });
        for odd in ["/var/run/docker.sock", "foo", "fd://"] {
            let error = host(odd).expect_err("no address").to_string();
            assert!(error.contains("no address") && error.contains(odd), "{error}");
        }
        assert_eq!(host("unix://").expect("the usual one").socket, Path::new(DEFAULT_SOCKET));
    }

    #[test]
    fn a_context_that_is_gone_is_named() {
        let environment = Environment { context: Some("lost".into()), ..Environment::default() };
        assert!(resolve(&environment).expect_err("no such context").to_string().contains("context `lost`"));
    }

    #[test]
    fn nothing_set_means_the_usual_socket() {
        assert_eq!(resolve(&Environment::default()).expect("default").socket, Path::new(DEFAULT_SOCKET));
    }
}
