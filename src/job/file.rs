//! The shape of a job file, as a JSON Schema for editors. The types here exist to be described: their comments are what
//! an editor shows. `read.rs` reads the file, and the tests hold the two together.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::settings;

/// The JSON Schema of a job file.
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(JobFile).to_value();
    let args = settings::schema();
    // What is a table in the reader is one here, not written down twice.
    for (key, value) in args.as_object().into_iter().flatten() {
        schema["properties"]["args"][key] = value.clone();
    }
    schema
}

/// A training job of evenkeel.
#[derive(JsonSchema)]
#[schemars(title = "evenkeel job", deny_unknown_fields)]
#[expect(dead_code, reason = "described, never built")]
struct JobFile {
    /// Name of the experiment, the folder of its runs. Default: the file's name.
    name: Option<Name>,
    /// What computes. Default: native.
    trainer: Option<Trainer>,
    /// A configuration (yolov8n.yaml: from scratch) or weights (yolov8n.pt). Default: yolov8n.yaml.
    model: Option<Text>,
    /// Data set: a data.yaml, relative to the current folder. Needed by every trainer but `command`.
    data: Option<Text>,
    /// Epochs in all. Default: 100.
    #[schemars(range(min = 1, max = 1_000_000))]
    epochs: Option<u32>,
    /// Side of the square training image in pixels, or sides by the epoch from which they hold: {0: 320, 50: 640}. Default: 640.
    imgsz: Option<ImageSizes>,
    /// Images of one optimizer step over all ranks. A number is the target; -1 lets the planner choose the micro-batch.
    batch: Option<Batch>,
    /// auto | 0 | [0, 1] (nvidia-smi order) | GPU-uuid | cpu | cpu:2 | [{cpu: 1.0, memory: 2GiB}]. Default: auto.
    device: Option<Device>,
    /// Instead of `device`: this many free GPUs.
    #[schemars(range(min = 1, max = 1024))]
    gpus: Option<u32>,
    /// Seed of every random choice. Default: 0.
    #[schemars(range(min = 0, max = u32::MAX))]
    seed: Option<u64>,
    /// The trainer's own settings, such as lr0 or mosaic.
    args: Option<Settings>,
    /// What the containers can reach. Default: none, and bridge for `trainer: command`.
    network: Option<Network>,
    /// One container a device, or one a host for programs that start their own ranks. Default: per-device.
    containers: Option<Containers>,
    /// Ranks that the program starts by itself; with `containers: per-host`.
    #[schemars(range(min = 1, max = 1024))]
    nproc_per_node: Option<u32>,
    /// Image to run instead of the trainer's own.
    image: Option<Text>,
    /// Image to build and run: its folder, or a mapping as in compose.
    build: Option<Build>,
    /// Program and arguments of `trainer: command`: a string, split as a shell would, or a list.
    command: Option<Command>,
    /// The image's entry point replaced.
    entrypoint: Option<Command>,
    /// Environment: a mapping, or a list of KEY=VALUE. No value: that of the caller's environment.
    environment: Option<Environment>,
    /// Folders and files of this machine in the containers: `./data:/data:ro`, relative to the job file.
    volumes: Option<Vec<Volume>>,
    /// Working directory, absolute in the container.
    #[schemars(regex(pattern = "^/"))]
    working_dir: Option<String>,
    /// Size of /dev/shm, such as 2gb.
    shm_size: Option<Size>,
    /// User in the container: uid, uid:gid or a name of the image. Default: the caller.
    user: Option<Text>,
    /// How long a rank waits for its peers before it gives up, such as 30m. Default: 30m.
    timeout: Option<Text>,
    /// New starts of a run at most, when that can help: after out of memory, with smaller micro-batches. Default: 10.
    max_restarts: Option<u32>,
    /// Time between SIGTERM and SIGKILL, such as 10s. Default: 10s.
    stop_grace_period: Option<Text>,
    /// Folder of run records, relative to the current folder. Default: runs.
    runs: Option<Text>,
    /// Webhooks that are told when a run finishes, fails or recovers.
    #[schemars(length(max = 32))]
    notify: Option<Vec<Webhook>>,
    /// Where the experiment is tracked beside its record.
    track: Option<Track>,
}

/// A webhook: one of url, url_env and url_file is its address.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "described, never built")]
struct Webhook {
    /// An address that is no secret, such as http://ci.lab/evenkeel.
    #[schemars(regex(pattern = r"^\s*[hH][tT][tT][pP][sS]?:"))]
    url: Option<String>,
    /// Variable of the environment that holds the address.
    #[schemars(regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    url_env: Option<String>,
    /// File that holds the address.
    url_file: Option<String>,
    /// Whose format messages have. Default: the address tells.
    kind: Option<Service>,
    /// What it is told of. Default: all of it.
    #[schemars(length(min = 1))]
    on: Option<Vec<Moment>>,
    /// Variable of the environment that holds the secret that messages are signed with.
    #[schemars(regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    secret_env: Option<String>,
    /// File that holds that secret.
    secret_file: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "described, never built")]
enum Service {
    /// All facts as JSON.
    Generic,
    Slack,
    Feishu,
    DingTalk,
    WeCom,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "described, never built")]
enum Moment {
    /// The run is over, done or stopped.
    Finish,
    /// It ended by a failure.
    Failure,
    /// It was started again after one.
    Recovery,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "described, never built")]
struct Track {
    /// MLflow. Default: the server that MLFLOW_TRACKING_URI names, if it names one.
    mlflow: Option<Mlflow>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Mlflow {
    /// false: not in MLflow.
    Off(#[schemars(extend("const" = false))] bool),
    /// In MLflow.
    On(MlflowServer),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "described, never built")]
struct MlflowServer {
    /// Address of the server. Default: MLFLOW_TRACKING_URI.
    #[schemars(regex(pattern = r"^\s*[hH][tT][tT][pP][sS]?:"))]
    uri: Option<String>,
    /// Name of the experiment. Default: MLFLOW_EXPERIMENT_NAME, else the job's name.
    experiment: Option<Text>,
}

/// Text; a number stands for the text it was written as.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Text {
    Text(String),
    Number(f64),
}

/// A name that can be a folder's; YAML takes some for numbers.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Name {
    Text(#[schemars(regex(pattern = r"^[\p{L}\p{N}][\p{L}\p{M}\p{N}._-]*$"), length(max = 64))] String),
    Number(#[schemars(range(min = 0))] f64),
}

/// Filled in from the reader's table.
#[derive(JsonSchema)]
struct Settings {}

/// What computes.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "described, never built")]
enum Trainer {
    /// Ours: YOLOv8 in Rust.
    Native,
    /// The Python package.
    Ultralytics,
    /// Any program that reads torchrun's environment.
    Command,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum ImageSizes {
    /// One for the whole training.
    Side(Side),
    /// By epoch, counted from 0.
    #[schemars(extend("required" = ["0"]))]
    Schedule(BTreeMap<u32, Side>),
}

/// A multiple of 32.
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "described, never built")]
struct Side(#[schemars(range(min = 32, max = 8192), extend("multipleOf" = 32))] u32);

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Batch {
    /// The target alone; -1 for yolo's automatic batch.
    Target(Target),
    /// Target and micro-batch.
    Parts(BatchParts),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "described, never built")]
struct BatchParts {
    /// Images of one optimizer step over all ranks. Default: 64.
    target: Option<Target>,
    /// Images per forward/backward on one device. Default: auto.
    micro: Option<Micro>,
    /// Micro-batches of one rank in an optimizer step at most. Default: as many as the target takes.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_accumulation: Option<u32>,
    /// Whether micro-batches may differ in size: uniform gives all the same, uneven lets each device have its own. Default: auto, the
    /// planner decides.
    split: Option<Split>,
    /// What a trainer does that runs out of memory: step_down goes on with smaller micro-batches. Default: step_down where micro is auto,
    /// else fail.
    on_oom: Option<OnOom>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "described, never built")]
enum Split {
    Auto,
    Uniform,
    Uneven,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "described, never built")]
enum OnOom {
    StepDown,
    Fail,
}

#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "described, never built")]
struct Target(#[schemars(range(min = -1, max = 1_000_000), extend("not" = {"const": 0}))] i64);

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Micro {
    Auto(Auto),
    Fixed(Target),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "described, never built")]
enum Auto {
    Auto,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Device {
    /// auto, a GPU's UUID, cpu, or cpu:2; several with commas.
    Name(
        #[schemars(regex(
            pattern = r"^\s*(auto|cpu(:[1-9][0-9]*)?|((cuda:)?([0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+)(\s*,\s*)?)+)\s*$"
        ))]
        String,
    ),
    /// A GPU by its index in nvidia-smi's order.
    Index(#[schemars(range(min = 0, max = 1023))] i64),
    /// Several.
    List(#[schemars(length(min = 1))] Vec<DeviceItem>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum DeviceItem {
    /// A GPU's UUID.
    Name(String),
    /// A GPU by its index in nvidia-smi's order.
    Index(#[schemars(range(min = 0, max = 1023))] i64),
    /// A CPU device with a share of the processors and a cap on memory.
    Cpu(CpuDevice),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "described, never built")]
struct CpuDevice {
    /// Processors, such as 1.0. Default: an equal share.
    #[schemars(range(min = 0.01, max = 1024))]
    cpu: Option<f64>,
    /// Cap on memory, such as 2GiB.
    memory: Option<Size>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "described, never built")]
enum Network {
    /// Nothing but each other.
    None,
    /// The outside, through a bridge.
    Bridge,
    /// The host's own network.
    Host,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "described, never built")]
enum Containers {
    /// One container a device.
    PerDevice,
    /// One container a host.
    PerHost,
}

/// A size such as 512m or 2gb; a number is bytes.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Size {
    Text(String),
    Bytes(#[schemars(range(min = 1))] u64),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Build {
    /// The folder with the Dockerfile.
    Folder(String),
    /// As in compose.
    Parts(BuildParts),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "described, never built")]
struct BuildParts {
    /// Folder that is sent to the engine, relative to the job file. Default: the job file's.
    context: Option<String>,
    /// Dockerfile within it. Default: Dockerfile.
    dockerfile: Option<String>,
    /// Stage to stop at.
    target: Option<String>,
    /// Build arguments.
    args: Option<Environment>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Command {
    /// Split as a shell would.
    Line(String),
    /// Word by word.
    Words(#[schemars(length(min = 1))] Vec<Text>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Environment {
    /// Values by name; none stands for the caller's.
    Map(BTreeMap<String, Option<Scalar>>),
    /// KEY=VALUE, or KEY for the caller's value.
    List(Vec<String>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Scalar {
    Text(String),
    Number(f64),
    Flag(bool),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "described, never built")]
enum Volume {
    /// SOURCE:TARGET or SOURCE:TARGET:ro.
    Short(String),
    /// As in compose.
    Long(LongVolume),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "described, never built")]
struct LongVolume {
    /// Only bind.
    r#type: Option<VolumeType>,
    /// Path on this machine, relative to the job file.
    source: String,
    /// Absolute path in the container.
    target: String,
    /// Whether the container may not write there. Default: false.
    read_only: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "described, never built")]
enum VolumeType {
    Bind,
}
