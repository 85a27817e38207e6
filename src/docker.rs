//! The container engine. The only file that imports bollard: what the rest knows of Docker is what is here.
//!
//! Every operation is one call with one error that says what was tried. Nothing retries here; who calls decides.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::errors::Error as BollardError;
use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount as BollardMount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, ResourcesUlimits,
};
use bollard::query_parameters::{
    BuildImageOptions, CreateContainerOptions, CreateImageOptions, ImportImageOptions, InspectContainerOptions,
    KillContainerOptions, ListContainersOptions, ListImagesOptions, LogsOptions, RemoveContainerOptions,
    RemoveImageOptions, StatsOptions, TagImageOptions, WaitContainerOptions,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};

use crate::endpoint::Endpoint;
use crate::launch::{ContainerSpec, Namespace};

mod buildkit;

/// A connection to an engine, with the API version both sides speak.
#[derive(Clone)]
pub struct Engine {
    docker: bollard::Docker,
    socket: PathBuf,
}

/// What failed, while trying what.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// Nothing listens at the socket.
    #[error("no Docker engine answers at `{socket}` ({origin})")]
    NotRunning {
        /// Path of the socket.
        socket: String,
        /// What named it.
        origin: String,
    },
    /// The socket is not ours to use.
    #[error("no permission to use the Docker socket `{socket}`")]
    NoPermission {
        /// Path of the socket.
        socket: String,
    },
    /// The engine refused or the connection broke.
    #[error("failed to {what}: {message}")]
    Failed {
        /// What was tried.
        what: String,
        /// The engine's answer.
        message: String,
        /// HTTP status, where the engine answered.
        status: Option<u16>,
    },
}

impl DockerError {
    /// Whether the engine answered that the thing does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Failed { status: Some(404), .. })
    }

    /// Whether the engine answered. Where it did not, what was asked for may have been done.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Failed { status: Some(_), .. })
    }

    /// Whether a container could not start because the engine may not raise a resource limit.
    #[must_use]
    pub fn is_rlimit(&self) -> bool {
        matches!(self, Self::Failed { message, .. } if message.contains("rlimit"))
    }
}

/// What the engine says of itself and its machine.
#[derive(Clone, Debug, Default)]
pub struct EngineInfo {
    /// Version of the engine, such as `28.2.2`.
    pub version: String,
    /// Version of the API that is spoken, such as `1.48`.
    pub api: String,
    /// Processors of its machine.
    pub cpus: u32,
    /// Memory of its machine, bytes.
    pub memory_bytes: u64,
    /// Folder in which it keeps images.
    pub root: String,
    /// Names of its runtimes, such as `runc`, `nvidia`.
    pub runtimes: Vec<String>,
    /// Folders in which it looks for CDI specifications.
    pub cdi_spec_dirs: Vec<String>,
    /// Whether it runs without root: uid 0 in a container is then its owner.
    pub rootless: bool,
    /// Driver that keeps the containers' own logs, such as `json-file`.
    pub log_driver: String,
    /// Whether it maps the uids of containers to others.
    pub userns_remap: bool,
}

/// An image on the engine.
#[derive(Clone, Debug)]
pub struct Image {
    /// Content identifier, `sha256:...`.
    pub id: String,
    /// Digests by which registries have it, as `repository@sha256:...`.
    pub digests: Vec<String>,
    /// Size on disk, bytes.
    pub size_bytes: u64,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// First words of what it runs.
    pub entrypoint: Vec<String>,
    /// The rest of it, unless a job says something else.
    pub command: Vec<String>,
}

/// How a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Identifier.
    pub id: String,
    /// Its first process, by its number on the engine's machine, while it runs.
    pub pid: Option<u32>,
    /// Whether its process runs.
    pub running: bool,
    /// Exit code of the last end.
    pub exit_code: i64,
    /// Whether the kernel killed something in it for memory.
    pub oom_killed: bool,
}

/// What a container uses. What is not told is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Time that processors have worked for it, nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory in use, bytes, without cached files that nobody has used for long.
    pub memory_bytes: Option<u64>,
    /// The most that it ever had, bytes, with cached files.
    pub memory_peak_bytes: Option<u64>,
    /// The most that it may have, bytes.
    pub memory_limit_bytes: Option<u64>,
}

/// A container as a list shows it.
#[derive(Clone, Debug)]
pub struct Container {
    /// Identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Whether it runs.
    pub running: bool,
    /// What the engine says of it, such as `Up 5 minutes`.
    pub status: String,
}

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// Name and tag of the result.
    pub tag: String,
    /// Path of the Dockerfile inside the context.
    pub dockerfile: String,
    /// Stage to stop at; empty: the last.
    pub target: String,
    /// Build arguments.
    pub args: HashMap<String, String>,
    /// Labels of the result.
    pub labels: HashMap<String, String>,
    /// Network of the steps, as `host`; empty: the engine's default.
    pub network: String,
    /// What builds it.
    pub builder: Builder,
}

/// A builder of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Builder {
    /// One step after the other, each in a container. Every engine has had it; it knows no mounts.
    #[default]
    Classic,
    /// BuildKit.
    BuildKit,
}

/// One sign of life of a build, a pull or a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A line for a person.
    Line(String),
    /// A step begins, where the builder says so by itself; the classic one says it in a line.
    Step {
        /// Counted from 1, within its stage.
        number: u32,
        /// How many its stage has.
        of: u32,
        /// The instruction.
        command: String,
    },
    /// Bytes of one layer.
    Layer {
        /// The layer.
        id: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(BollardError) -> DockerError {
    let what = what.into();
    move |error| match error {
        BollardError::DockerResponseServerError { status_code, message } => {
            DockerError::Failed { what, message: message.trim().to_owned(), status: Some(status_code) }
        }
        BollardError::DockerStreamError { error } => DockerError::Failed { what, message: error, status: None },
        other => {
            // hyper's own message stops at "client error"; the cause says what happened.
            let mut message = other.to_string();
            let mut cause = std::error::Error::source(&other);
            while let Some(error) = cause {
                message = error.to_string();
                cause = error.source();
            }
            DockerError::Failed { what, message, status: None }
        }
    }
}

impl Engine {
    /// Connects and agrees on an API version.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, DockerError> {
        let socket = endpoint.socket.display().to_string();
        // A plain connection first: it tells "not there" from "not allowed", which the client library does not.
        if let Err(error) = tokio::net::UnixStream::connect(&endpoint.socket).await {
            return Err(match error.kind() {
                std::io::ErrorKind::PermissionDenied => DockerError::NoPermission { socket },
                _ => DockerError::NotRunning { socket, origin: endpoint.origin.clone() },
            });
        }
        // The timeout covers the engine's answer, not the streams that follow it. Removing a container or creating one
        // on a busy disk takes long; a wait's answer comes at once.
        const ANSWER_SECONDS: u64 = 300;
        let docker = bollard::Docker::connect_with_unix(&socket, ANSWER_SECONDS, bollard::API_DEFAULT_VERSION)
            .map_err(failed("connect to the Docker engine"))?;
        let docker = docker.negotiate_version().await.map_err(failed("agree with the Docker engine on a version"))?;
        Ok(Self { docker, socket: endpoint.socket.clone() })
    }

    /// What the engine says of itself.
    pub async fn info(&self) -> Result<EngineInfo, DockerError> {
        let info = self.docker.info().await.map_err(failed("ask the Docker engine about itself"))?;
        let security = info.security_options.unwrap_or_default();
        let has = |name: &str| security.iter().any(|option| option.split(',').any(|part| part == name));
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            api: self.docker.client_version().to_string(),
            cpus: info.ncpu.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1),
            memory_bytes: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
            root: info.docker_root_dir.unwrap_or_default(),
            runtimes: info.runtimes.unwrap_or_default().into_keys().collect(),
            cdi_spec_dirs: info.cdi_spec_dirs.unwrap_or_default(),
            log_driver: info.logging_driver.unwrap_or_default(),
            rootless: has("name=rootless"),
            userns_remap: has("name=userns"),
        })
    }

    /// The image of this name, if the engine has it.
    pub async fn image(&self, name: &str) -> Result<Option<Image>, DockerError> {
        match self.docker.inspect_image(name).await.map_err(failed(format!("inspect the image `{name}`"))) {
            Ok(image) => {
                let config = image.config.unwrap_or_default();
                Ok(Some(Image {
                    id: image.id.unwrap_or_default(),
                    digests: image.repo_digests.unwrap_or_default(),
                    size_bytes: image.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
                    labels: config.labels.unwrap_or_default(),
                    entrypoint: config.entrypoint.unwrap_or_default(),
                    command: config.cmd.unwrap_or_default(),
                }))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Names of the images whose repository fits a pattern such as `evenkeel/*`.
    pub async fn image_names(&self, pattern: &str) -> Result<Vec<String>, DockerError> {
        let filters = HashMap::from([("reference".to_owned(), vec![pattern.to_owned()])]);
        let options = ListImagesOptions { filters: Some(filters), ..Default::default() };
        let found = self.docker.list_images(Some(options)).await.map_err(failed("list images"))?;
        Ok(found.into_iter().flat_map(|image| image.repo_tags).collect())
    }

    /// Builds an image from a context (a tar archive). Dropping the stream ends the build.
    pub fn build<S>(&self, build: Build, context: S) -> impl Stream<Item = Result<Progress, DockerError>> + '_
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        if build.builder == Builder::BuildKit {
            let api = self.docker.client_version().to_string();
            return buildkit::build(&self.socket, &api, &build, context).left_stream();
        }
        let what = format!("build the image `{}`", build.tag);
        let options = BuildImageOptions {
            dockerfile: build.dockerfile,
            t: Some(build.tag),
            target: build.target,
            buildargs: Some(build.args),
            labels: Some(build.labels),
            networkmode: (!build.network.is_empty()).then_some(build.network),
            rm: true,
            forcerm: true,
            ..Default::default()
        };
        self.docker
            .build_image(options, None, Some(bollard::body_try_stream(context)))
            .filter_map(move |info| {
                std::future::ready(match info.map_err(failed(what.clone())) {
                    Err(error) => Some(Err(error)),
                    Ok(info) => match (info.error_detail.and_then(|detail| detail.message), info.stream, info.status) {
                        (Some(message), ..) => {
                            Some(Err(DockerError::Failed { what: what.clone(), message, status: None }))
                        }
                        (None, Some(text), _) | (None, None, Some(text)) => Some(Ok(Progress::Line(text))),
                        (None, None, None) => None,
                    },
                })
            })
            .right_stream()
    }

    /// The builder that the engine says it builds with.
    pub async fn builder(&self) -> Result<Builder, DockerError> {
        let buildkit = buildkit::is_preferred(&self.socket).await?;
        Ok(if buildkit { Builder::BuildKit } else { Builder::Classic })
    }

    /// Makes an image of one layer from a root file system (a tar archive), as `docker import` does; `changes` are
    /// Dockerfile instructions such as `LABEL a=b`.
    pub async fn import<S>(&self, name: &str, changes: &[&str], tar: S) -> Result<(), DockerError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let (repo, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let options = CreateImageOptions {
            from_src: Some("-".into()),
            repo: Some(repo.into()),
            tag: Some(tag.into()),
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
            ..Default::default()
        };
        let body = bollard::body_try_stream(tar);
        self.docker
            .create_image(Some(options), Some(body), None)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
            .map_err(failed(format!("import the image `{name}`")))
    }

    /// Pulls an image from its registry.
    pub fn pull(&self, name: &str) -> impl Stream<Item = Result<Progress, DockerError>> + '_ {
        let what = format!("pull the image `{name}`");
        // Without a tag the engine would pull every tag of the repository.
        let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
        let tag = (!last.contains([':', '@'])).then(|| "latest".to_owned());
        let options = CreateImageOptions { from_image: Some(name.to_owned()), tag, ..Default::default() };
        self.docker.create_image(Some(options), None, None).filter_map(move |info| {
            std::future::ready(match info.map_err(failed(what.clone())) {
                Err(error) => Some(Err(error)),
                Ok(info) => {
                    let detail = info.progress_detail.unwrap_or_default();
                    let bytes = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
                    match (info.id, bytes(detail.current), bytes(detail.total)) {
                        (Some(id), Some(current), Some(total)) => Some(Ok(Progress::Layer { id, current, total })),
                        _ => info.status.map(|status| Ok(Progress::Line(status))),
                    }
                }
            })
        })
    }

    /// The named images as one tar archive, as `docker save` writes it.
    pub fn save<'a>(&'a self, names: &'a [&'a str]) -> impl Stream<Item = Result<Bytes, DockerError>> + 'a {
        self.docker.export_images(names).map_err(|error| failed("save images")(error))
    }

    /// Loads images from such an archive; returns what the engine says of it, as `Loaded image: name:tag`.
    pub async fn load<S>(&self, tar: S) -> Result<Vec<String>, DockerError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        self.docker
            .import_image_stream(ImportImageOptions { quiet: true, ..Default::default() }, tar, None)
            .try_filter_map(|info| std::future::ready(Ok(info.stream.map(|text| text.trim().to_owned()))))
            .try_collect()
            .await
            .map_err(failed("load images"))
    }

    /// Gives an image another name.
    pub async fn tag(&self, image: &str, name: &str) -> Result<(), DockerError> {
        let (repo, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let options = TagImageOptions { repo: Some(repo.into()), tag: Some(tag.into()) };
        self.docker.tag_image(image, Some(options)).await.map_err(failed(format!("name the image `{name}`")))
    }

    /// Takes a name from an image; the image goes when it was the last.
    pub async fn remove_image(&self, name: &str) -> Result<(), DockerError> {
        let options = RemoveImageOptions::default();
        let removed = self.docker.remove_image(name, Some(options), None).await;
        removed.map(|_| ()).map_err(failed(format!("remove the image `{name}`")))
    }

    /// Creates a container and returns its identifier.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, DockerError> {
        let options = CreateContainerOptions { name: Some(spec.name.clone()), ..Default::default() };
        let created = self.docker.create_container(Some(options), body(spec)).await;
        created.map(|created| created.id).map_err(failed(format!("create the container `{}`", spec.name)))
    }

    /// Starts a created container.
    pub async fn start(&self, id: &str) -> Result<(), DockerError> {
        let started = self.docker.start_container(id, None::<bollard::query_parameters::StartContainerOptions>).await;
        started.map_err(failed("start a container"))
    }

    /// Sends a signal, such as `SIGTERM`, to a container's first process. One that has ended already is no error.
    pub async fn signal(&self, id: &str, signal: &str) -> Result<(), DockerError> {
        let options = KillContainerOptions { signal: signal.to_owned() };
        match self.docker.kill_container(id, Some(options)).await.map_err(failed(format!("send {signal}"))) {
            Err(DockerError::Failed { status: Some(404 | 409), .. }) => Ok(()),
            other => other,
        }
    }

    /// Waits until a container has ended and returns its exit code.
    pub async fn wait(&self, id: &str) -> Result<i64, DockerError> {
        let options = WaitContainerOptions { condition: "not-running".into() };
        let mut answers = std::pin::pin!(self.docker.wait_container(id, Some(options)));
        match answers.next().await {
            Some(Ok(answer)) => Ok(answer.status_code),
            // The library makes an error of every exit code but 0.
            Some(Err(BollardError::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(failed("wait for a container")(error)),
            None => Err(DockerError::Failed {
                what: "wait for a container".into(),
                message: "the connection was closed".into(),
                status: None,
            }),
        }
    }

    /// How a container stands.
    pub async fn inspect(&self, id: &str) -> Result<ContainerStatus, DockerError> {
        let inspected = self.docker.inspect_container(id, None::<InspectContainerOptions>).await;
        let found = inspected.map_err(failed("inspect a container"))?;
        let state = found.state.unwrap_or_default();
        Ok(ContainerStatus {
            id: found.id.unwrap_or_default(),
            pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
            running: state.running.unwrap_or(false),
            exit_code: state.exit_code.unwrap_or(-1),
            oom_killed: state.oom_killed.unwrap_or(false),
        })
    }

    /// What a container uses now; none for one that has ended.
    pub async fn usage(&self, id: &str) -> Result<Option<ContainerUsage>, DockerError> {
        // In one shot: otherwise the engine waits for a second sample of its own.
        let options = StatsOptions { stream: false, one_shot: true };
        let mut answers = std::pin::pin!(self.docker.stats(id, Some(options)));
        let Some(answer) = answers.next().await else { return Ok(None) };
        let answer = answer.map_err(failed("ask what a container uses"))?;
        let memory = answer.memory_stats.unwrap_or_default();
        let Some(usage) = memory.usage.filter(|usage| *usage > 0) else { return Ok(None) };
        // By either version of control groups.
        let inactive = |stats: &HashMap<String, u64>| {
            stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")).copied()
        };
        let inactive = memory.stats.as_ref().and_then(inactive).unwrap_or(0);
        Ok(Some(ContainerUsage {
            cpu_ns: answer.cpu_stats.and_then(|stats| stats.cpu_usage?.total_usage),
            memory_bytes: Some(usage.saturating_sub(inactive)),
            memory_peak_bytes: memory.max_usage,
            memory_limit_bytes: memory.limit,
        }))
    }

    /// The last lines of a container's own log, those of its supervisor among them.
    pub async fn last_words(&self, id: &str, lines: u32) -> Result<String, DockerError> {
        let options = LogsOptions { stdout: true, stderr: true, tail: lines.to_string(), ..Default::default() };
        let mut words = Vec::new();
        let mut stream = std::pin::pin!(self.docker.logs(id, Some(options)));
        while let Some(chunk) = stream.next().await {
            words.extend_from_slice(&chunk.map_err(failed("read a container's log"))?.into_bytes());
        }
        Ok(String::from_utf8_lossy(&words).into_owned())
    }

    /// Removes a container with its anonymous volumes, running or not. One that is gone already is no error.
    pub async fn remove(&self, id: &str) -> Result<(), DockerError> {
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        match self.docker.remove_container(id, Some(options)).await.map_err(failed("remove a container")) {
            // 409: somebody else is removing it.
            Err(DockerError::Failed { status: Some(404 | 409), .. }) => Ok(()),
            other => other,
        }
    }

    /// All containers that carry a label (`name` or `name=value`), running or not.
    pub async fn list(&self, label: &str) -> Result<Vec<Container>, DockerError> {
        let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let found = self.docker.list_containers(Some(options)).await.map_err(failed("list containers"))?;
        Ok(found
            .into_iter()
            .map(|container| Container {
                id: container.id.unwrap_or_default(),
                name: container
                    .names
                    .into_iter()
                    .flatten()
                    .next()
                    .map_or_else(String::new, |name| name.trim_start_matches('/').to_owned()),
                labels: container.labels.unwrap_or_default(),
                running: container.state.is_some_and(|state| state.to_string() == "running"),
                status: container.status.unwrap_or_default(),
            })
            .collect())
    }
}

fn body(spec: &ContainerSpec) -> ContainerCreateBody {
    let ulimit =
        |name: &str, limit: i64| ResourcesUlimits { name: Some(name.to_owned()), soft: Some(limit), hard: Some(limit) };
    // Every thread's stack counts as data, all of it: where that has a limit, a dozen threads of 64 MiB would be most of it.
    let stack = if spec.data_bytes.is_some() { 8 << 20 } else { 64 << 20 };
    let mut ulimits = vec![ulimit("stack", stack)];
    if spec.memlock {
        ulimits.push(ulimit("memlock", -1));
    }
    if let Some(bytes) = spec.data_bytes {
        ulimits.push(ulimit("data", to_i64(bytes)));
    }
    let gpus = (!spec.gpus.is_empty()).then(|| {
        vec![DeviceRequest {
            driver: Some(String::new()),
            device_ids: Some(spec.gpus.clone()),
            capabilities: Some(vec![vec!["gpu".into(), "compute".into(), "utility".into()]]),
            ..Default::default()
        }]
    });
    let (network, ipc) = match &spec.namespace {
        Namespace::Loopback { .. } => ("none".to_owned(), "shareable".to_owned()),
        Namespace::Own { network } => (network.clone(), "shareable".to_owned()),
        Namespace::Of { leader } => (format!("container:{leader}"), format!("container:{leader}")),
    };
    let host = HostConfig {
        init: Some(true),
        mounts: Some(spec.mounts.iter().map(|mount| bind(&mount.source, &mount.target, mount.read_only)).collect()),
        network_mode: Some(network),
        // The size belongs to whoever owns /dev/shm; a follower uses its leader's.
        shm_size: (!matches!(spec.namespace, Namespace::Of { .. })).then(|| to_i64(spec.shm_bytes)),
        ipc_mode: Some(ipc),
        device_requests: gpus,
        group_add: (!spec.groups.is_empty()).then(|| spec.groups.iter().map(u32::to_string).collect()),
        log_config: rotated(&spec.log_driver),
        nano_cpus: spec.cpus.map(nano_cpus),
        ulimits: Some(ulimits),
        security_opt: Some(vec!["no-new-privileges".into()]),
        userns_mode: spec.host_users.then(|| "host".to_owned()),
        ..Default::default()
    };
    // Disabled, the namespace is the runtime's alone, with loopback up; the mode `none` alone has the engine start a program of its own
    // for it.
    let loopback = match &spec.namespace {
        Namespace::Loopback { name } => Some(name.clone()),
        _ => None,
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        network_disabled: loopback.is_some().then_some(true),
        hostname: loopback,
        entrypoint: Some(spec.entrypoint.clone()),
        cmd: Some(spec.command.clone()),
        env: Some(spec.environment.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        labels: Some(spec.labels.clone().into_iter().collect()),
        host_config: Some(host),
        ..Default::default()
    }
}

/// Docker's own log is a copy for people who type `docker logs`: it must not fill the disk in a week. Drivers that keep
/// no files are left as they are.
fn rotated(driver: &str) -> Option<HostConfigLogConfig> {
    let files = matches!(driver, "json-file" | "local");
    let limits = [("max-size", "16m"), ("max-file", "2")];
    files.then(|| HostConfigLogConfig {
        typ: Some(driver.to_owned()),
        config: Some(limits.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
    })
}

fn bind(source: &Path, target: &str, read_only: bool) -> BollardMount {
    BollardMount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn to_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn nano_cpus(cpus: f64) -> i64 {
    // A share of processors: at most a few thousand, far inside the range.
    (cpus * 1e9) as i64
}
