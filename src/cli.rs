//! The command line: clap types, nothing else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Trains YOLO-style models on several GPUs in containers, with a batch that is hit exactly and a record to repeat the
/// run.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, arg_required_else_help = true, infer_subcommands = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How progress is shown; it goes to stderr.
    #[arg(long, global = true, value_enum, default_value_t = Progress::Auto)]
    pub progress: Progress,
    /// Print the result as JSON on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more about what happens inside.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// This is a controller in the background, which says in this folder when there is a run.
    #[arg(long, global = true, hide = true, value_name = "FOLDER")]
    pub in_background: Option<PathBuf>,
}

/// Where the controller runs.
#[derive(Args, Clone, Copy, Debug)]
pub struct Background {
    /// Return as soon as there is a run, and see it through in the background.
    #[arg(short, long)]
    pub detach: bool,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A line that changes on a terminal, plain lines elsewhere.
    Auto,
    /// A line that changes.
    Tty,
    /// Plain lines.
    Plain,
    /// Nothing but the outcome.
    Quiet,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train what a job file describes and leave a run record.
    Train(Train),
    /// Take up a run whose controller died while its containers train.
    Attach(Attach),
    /// Go on from the last checkpoint of a run that has ended, or was copied here.
    Resume(Resume),
    /// Run again what a record's lock says, on the devices that are here.
    Reproduce(Reproduce),
    /// Say to how many digits two runs agree, and list what differs between them.
    Compare(Compare),
    /// Print what would run and why; start nothing.
    Plan(Plan),
    /// Find out by trial steps what fits into the devices' memory, and plan with it.
    Autobatch(Autobatch),
    /// List the runs of all users whose containers are on this engine.
    Ps,
    /// End a run, as Ctrl-C would.
    Stop(Stop),
    /// Remove what no controller has in hand: containers of runs whose controllers died.
    Prune(Prune),
    /// List the runs whose records are here, newest first.
    Runs(Runs),
    /// Show what came of a run, on one screen.
    Show(Show),
    /// Write a run's report: one HTML file that needs nothing beside it.
    Report(Report),
    /// Print what the ranks of a run wrote, while it goes on or afterwards.
    Logs(Logs),
    /// List the devices of this machine.
    Devices(Devices),
    /// Build, pull, save and load the images that training runs in.
    #[command(subcommand)]
    Image(Image),
    /// Make data sets.
    #[command(subcommand)]
    Dataset(Dataset),
    /// Convert weights between the native trainer's files and the official package's.
    #[command(subcommand)]
    Weights(Weights),
    /// Send what MLflow was not told while its server was away.
    Sync(Sync),
    /// Write a commented job for a data set.
    Init(Init),
    /// Print the JSON Schema of job files, for editors.
    Schema,
}

impl Command {
    /// Whether its controller is to run in the background.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        match self {
            Self::Train(args) => args.background.detach,
            Self::Attach(args) => args.background.detach,
            Self::Resume(args) => args.background.detach,
            Self::Reproduce(args) => args.background.detach,
            _ => false,
        }
    }
}

/// A job file and what is changed in it.
#[derive(Args, Debug)]
pub struct JobArgs {
    /// Job file (YAML).
    pub job: PathBuf,
    /// Overrides, such as `batch.target=32 imgsz=320 args.lr0=0.02`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// `evenkeel train`
#[derive(Args, Debug)]
pub struct Train {
    /// The job.
    #[command(flatten)]
    pub job: JobArgs,
    /// A quick look first: one epoch on a few images at micro-batch 4, without plots.
    #[arg(long)]
    pub smoke: bool,
    /// Train only if nothing differs from the lock of the job's latest run, or from the one in this file or record.
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, conflicts_with = "smoke")]
    pub locked: Option<Option<PathBuf>>,
    /// Where its controller runs.
    #[command(flatten)]
    pub background: Background,
}

/// `evenkeel attach`
#[derive(Args, Debug)]
pub struct Attach {
    /// A run's directory, `NAME` (its latest run), `NAME/ID`, an identifier or the beginning of one. Default: the latest of all.
    pub run: Option<String>,
    /// Where runs are.
    #[command(flatten)]
    pub runs: RunsDir,
    /// Where its controller runs.
    #[command(flatten)]
    pub background: Background,
}

/// `evenkeel resume`
#[derive(Args, Debug)]
pub struct Resume {
    /// A run's directory, `NAME` (its latest run), `NAME/ID`, an identifier or the beginning of one.
    pub run: String,
    /// What is to be another way from here on, such as `device=cpu:2 epochs=200`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where runs are.
    #[command(flatten)]
    pub runs: RunsDir,
    /// Where its controller runs.
    #[command(flatten)]
    pub background: Background,
}

/// `evenkeel stop`
#[derive(Args, Debug)]
pub struct Stop {
    /// `NAME`, `NAME/ID`, an identifier or the beginning of one, or a run's directory. Default: the only live run of yours.
    pub run: Option<String>,
    /// Another user's run as well.
    #[arg(long)]
    pub force: bool,
    /// At once: no time for trainers to save anything.
    #[arg(long)]
    pub now: bool,
    /// Seconds to wait for its end.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub timeout: u64,
    /// Where runs are.
    #[command(flatten)]
    pub runs: RunsDir,
}

/// `evenkeel prune`
#[derive(Args, Debug)]
pub struct Prune {
    /// Only what is left of these: `NAME`, `NAME/ID`, an identifier or the beginning of one. Default: of all.
    pub runs: Vec<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Other users' as well.
    #[arg(long)]
    pub force: bool,
}

/// `evenkeel reproduce`
#[derive(Args, Debug)]
pub struct Reproduce {
    /// Directory of a record, or NAME or NAME/ID of a run.
    pub run: String,
    /// What is to be another way, such as `device=cpu:2 epochs=3`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where its controller runs.
    #[command(flatten)]
    pub background: Background,
}

/// `evenkeel compare`
#[derive(Args, Debug)]
pub struct Compare {
    /// One run: directory of its record, or NAME or NAME/ID.
    pub one: String,
    /// The other.
    pub other: String,
}

/// `evenkeel plan`
#[derive(Args, Debug)]
pub struct Plan {
    /// The job.
    #[command(flatten)]
    pub job: JobArgs,
    /// Plan for the devices in this file (as `evenkeel devices --json` prints them) instead of this machine's.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
}

/// `evenkeel autobatch`
#[derive(Args, Debug)]
pub struct Autobatch {
    /// The job.
    #[command(flatten)]
    pub job: JobArgs,
    /// Start nothing: tell what earlier trials found.
    #[arg(long)]
    pub dry_run: bool,
    /// Try again, whatever earlier trials found.
    #[arg(long, conflicts_with = "dry_run")]
    pub again: bool,
    /// Tell for all sizes of the job's model which of them fits with how many images at which image size.
    #[arg(long)]
    pub table: bool,
}

/// Where records are.
#[derive(Args, Debug)]
pub struct RunsDir {
    /// Folder of run records.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
}

/// `evenkeel runs`
#[derive(Args, Debug)]
pub struct Runs {
    /// Only the runs of this name.
    pub name: Option<String>,
    /// Trial steps (`NAME-fit`) as well.
    #[arg(long)]
    pub all: bool,
    /// Where they are.
    #[command(flatten)]
    pub runs: RunsDir,
}

/// `evenkeel show`
#[derive(Args, Debug)]
pub struct Show {
    /// A run's directory, `NAME` (its latest run), `NAME/ID`, an identifier or the beginning of one. Default: the latest of all.
    pub run: Option<String>,
    /// Where runs are.
    #[command(flatten)]
    pub runs: RunsDir,
}

/// `evenkeel report`
#[derive(Args, Debug)]
pub struct Report {
    /// A run's directory, `NAME` (its latest run), `NAME/ID`, an identifier or the beginning of one. Default: the latest of all.
    pub run: Option<String>,
    /// File to write; `-` prints. Default: `report.html` in the run's directory.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Where runs are.
    #[command(flatten)]
    pub runs: RunsDir,
}

/// `evenkeel logs`
#[derive(Args, Debug)]
pub struct Logs {
    /// A run's directory, `NAME` (its latest run), `NAME/ID`, an identifier or the beginning of one. Default: the latest of all.
    pub run: Option<String>,
    /// Only this rank, byte for byte as it wrote.
    #[arg(long, value_name = "N")]
    pub rank: Option<u32>,
    /// Go on with what is written until the run has ended.
    #[arg(short, long)]
    pub follow: bool,
    /// From this time on: `10m` or `2h` before the run's end (before now while it goes on), a time of day (`14:30`), or
    /// `2026-11-24T03:45:01Z`.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to this time.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only lines that this regular expression matches.
    #[arg(long, value_name = "PATTERN")]
    pub grep: Option<String>,
    /// Only the last so many lines of what is there.
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u64>,
    /// Where runs are.
    #[command(flatten)]
    pub runs: RunsDir,
}

/// `evenkeel devices`
#[derive(Args, Debug)]
pub struct Devices {}

/// `evenkeel image`
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build images where the engine does not have them.
    Build(ImageNames),
    /// Pull an image from a registry.
    Pull {
        /// Names with tags.
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Save images to a file, for a machine without a registry.
    Save {
        /// What to save.
        #[command(flatten)]
        images: ImageNames,
        /// File; compressed when it ends in `.gz`.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Load images from a file that `save` wrote.
    Load {
        /// The file.
        file: PathBuf,
    },
    /// List our images: which the engine has, which it would build.
    List,
}

/// Which of our images.
#[derive(Args, Debug)]
pub struct ImageNames {
    /// Such as `ultralytics`, `worker`, `builder`, `workbench`.
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Build arguments, such as `PIP_INDEX_URL=...` for a mirror.
    #[arg(long = "build-arg", value_name = "KEY=VALUE")]
    pub build_args: Vec<String>,
}

/// `evenkeel dataset`
#[derive(Debug, Subcommand)]
pub enum Dataset {
    /// Write a set of drawn shapes: the same bytes for the same seed. A set that is there already is left as it is.
    Shapes {
        /// Folder to make.
        dir: PathBuf,
        /// Training images; a quarter as many are made for validation.
        #[arg(long, default_value_t = 512)]
        images: u32,
        /// Side of an image in pixels.
        #[arg(long, default_value_t = 160)]
        imgsz: u32,
        /// Seed of every random choice.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Fewest and most shapes in an image.
        #[arg(long, value_name = "MIN..MAX", default_value = "1..3")]
        labels: String,
    },
}

/// `evenkeel weights`
#[derive(Debug, Subcommand)]
pub enum Weights {
    /// Make safetensors, which `trainer: native` starts from, of a YOLOv8 `.pt` file.
    Import(WeightFiles),
    /// Make a `.pt` file, which `YOLO("best.pt")` loads, of what `trainer: native` leaves.
    Export(WeightFiles),
}

/// A file and what becomes of it.
#[derive(Args, Debug)]
pub struct WeightFiles {
    /// File to convert.
    pub file: PathBuf,
    /// File to write. Default: beside the given one, with the other ending.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `evenkeel sync`
#[derive(Args, Debug)]
pub struct Sync {
    /// Directories of runs, or folders of runs. Default: runs.
    pub runs: Vec<PathBuf>,
}

/// `evenkeel init`
#[derive(Args, Debug)]
pub struct Init {
    /// The set's data.yaml.
    pub data: PathBuf,
    /// File to write; `-` prints. Default: `<name of the set>.yaml` here.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
