//! The subcommands: each resolves its inputs and calls the stages in order.

mod again;
pub mod attach;
pub mod autobatch;
pub mod compare;
pub mod dataset;
pub mod devices;
mod fetch;
mod find_run;
mod fitting;
pub mod image;
mod live;
mod locking;
pub mod plan;
pub mod init;
pub mod logs;
mod prepare;
pub mod prune;
pub mod ps;
pub mod report;
pub mod resume;
pub mod runs;
pub mod show;
pub mod reproduce;
pub mod stop;
pub mod sync;
pub mod train;
pub mod weights;

use crate::cli::{Cli, Command};
use crate::docker::{DockerError, Engine};
use crate::endpoint::{self, EndpointError};
use crate::error::{ExitCode, Failure};
use crate::settings::Settings;

/// Runs a command line to its end.
///
/// # Errors
///
/// Whatever ended it before its outcome, with exit code and hint.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let settings = Settings { background: cli.in_background.clone(), ..Settings::read() };
    crate::background::leave_terminal(&settings);
    // One thread: the controller waits for the engine and for files, and computes nothing.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::MachineNotReady, error))?;
    let screen = crate::output::Screen::new(cli.progress);
    let outcome = runtime.block_on(async {
        match cli.command {
            command if command.is_detached() && settings.background.is_none() => {
                crate::background::begin(&settings, cli.json).await
            }
            Command::Train(args) => train::run(&args, &settings, screen, cli.json).await,
            Command::Attach(args) => attach::run(&args, &settings, screen, cli.json).await,
            Command::Resume(args) => resume::run(&args, &settings, screen, cli.json).await,
            Command::Reproduce(args) => reproduce::run(&args, &settings, screen, cli.json).await,
            Command::Compare(args) => compare::run(&args, cli.json),
            Command::Plan(args) => plan::run(&args, &settings, cli.json),
            Command::Autobatch(args) => autobatch::run(&args, &settings, screen, cli.json).await,
            Command::Ps => ps::run(&settings, cli.json).await,
            Command::Stop(args) => stop::run(&args, &settings, screen, cli.json).await,
            Command::Prune(args) => prune::run(&args, &settings, cli.json).await,
            Command::Runs(args) => runs::run(&args, &settings, cli.json),
            Command::Show(args) => show::run(&args, &settings, cli.json),
            Command::Report(args) => report::run(&args, cli.json),
            Command::Logs(args) => logs::run(args, &settings, cli.json).await,
            Command::Devices(_) => devices::run(&settings, cli.json),
            Command::Image(command) => image::run(&command, &settings, screen, cli.json).await,
            Command::Dataset(command) => dataset::run(&command, cli.json),
            Command::Weights(command) => weights::run(&command, &settings, screen, cli.json).await,
            Command::Sync(args) => sync::run(&args, &settings, cli.json).await,
            Command::Init(args) => init::run(&args, cli.json),
            Command::Schema => {
                let schema = serde_json::to_string_pretty(&crate::job::schema()).expect("plain data");
                crate::output::print(&schema)?;
                Ok(ExitCode::Done)
            }
        }
    });
    // A thread that prints for a reader who reads no more must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// The time by this machine's clock, in milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Connects to the engine that the environment names.
pub(crate) async fn connect(settings: &Settings) -> Result<Engine, Failure> {
    let endpoint = endpoint::resolve(&settings.docker)?;
    Ok(Engine::connect(&endpoint).await?)
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        let hint = match &error {
            EndpointError::Remote { .. } | EndpointError::NoAddress { .. } => {
                "unset it, or name a socket of this machine (`unix:///var/run/docker.sock`)"
            }
            EndpointError::Context { .. } => "`docker context ls` shows those that are there",
        };
        Self::new(ExitCode::MachineNotReady, error).hint(hint)
    }
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Self {
        let hint = match &error {
            DockerError::NotRunning { .. } => Some("start it (`sudo systemctl start docker`), or set DOCKER_HOST"),
            DockerError::NoPermission { .. } => {
                Some("join the socket's group (`sudo usermod -aG docker $USER`) and log in again")
            }
            DockerError::Failed { message, .. } if message.to_lowercase().contains("no space left") => {
                Some("free some disk: `docker system df` shows what Docker holds")
            }
            DockerError::Failed { .. } => None,
        };
        let failure = Self::new(ExitCode::MachineNotReady, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
