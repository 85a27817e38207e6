//! From the document to the [`Job`]: every key in turn, then what they must not say together.

use std::path::Path;
use std::time::Duration;

use serde_yaml::Value;

use super::compose::{self, Bases};
use super::cursor::Cursor;
use super::document::Document;
use super::error::{Invalid, JobError, printable};
use super::image_sizes::MOST_EPOCHS;
use super::types::{Batch, Containers, Job, Micro, Network, OnOom, SplitWish, Trainer};
use super::{device, image_sizes, report, settings};

/// Keys of a job at the top level.
pub(super) const KEYS: &[&str] = &[
    "name",
    "trainer",
    "model",
    "data",
    "epochs",
    "imgsz",
    "batch",
    "device",
    "gpus",
    "seed",
    "args",
    "network",
    "containers",
    "nproc_per_node",
    "image",
    "build",
    "command",
    "entrypoint",
    "environment",
    "volumes",
    "working_dir",
    "shm_size",
    "user",
    "timeout",
    "max_restarts",
    "stop_grace_period",
    "runs",
    "notify",
    "track",
];

/// Keys of `batch`.
pub(super) const BATCH_KEYS: &[&str] = &["target", "micro", "max_accumulation", "split", "on_oom"];

/// The nominal batch of yolo.
pub(super) const TARGET: u32 = 64;

/// New starts of a run, unless the job says otherwise: halving goes from 1,024 images to one.
const RESTARTS: u32 = 10;
const MOST_RESTARTS: u32 = 1000;

/// What trains when nobody says.
const TRAINER: Trainer = Trainer::Native;

const TRAINERS: &[(&str, Trainer)] =
    &[("native", Trainer::Native), ("ultralytics", Trainer::Ultralytics), ("command", Trainer::Command)];
const ON_OOM: &[(&str, OnOom)] = &[("step_down", OnOom::StepDown), ("fail", OnOom::Fail)];
const SPLITS: &[(&str, SplitWish)] =
    &[("auto", SplitWish::Auto), ("uniform", SplitWish::Uniform), ("uneven", SplitWish::Uneven)];
const NETWORKS: &[(&str, Network)] = &[("none", Network::None), ("bridge", Network::Bridge), ("host", Network::Host)];
const CONTAINERS: &[(&str, Containers)] = &[("per-device", Containers::PerDevice), ("per-host", Containers::PerHost)];

/// Images of a step or of a device at most: a typing error is far above, every machine far below.
const MOST_IMAGES: u32 = 1_000_000;
const DAY: Duration = Duration::from_secs(86_400);

/// Reads the job, and notes what the person should know about how it was understood.
pub(super) fn job(document: &Document, bases: &Bases, notes: &mut Vec<String>) -> Result<Job, JobError> {
    let root = Cursor::root(document);
    if root.value.is_null() {
        let mut invalid = document.wrong_value("", "the file is empty, expected a job");
        invalid.hint = Some("the least is a data set: `data: path/to/data.yaml`".into());
        return Err(invalid.into());
    }
    root.only("a job: keys with values, such as `epochs: 10`", KEYS, explain)?;

    let trainer = trainer(&root)?;
    let image = root.get("image").map(|image| reference(&image)).transpose()?;
    let build = root.get("build").map(|build| compose::build(&build, bases)).transpose()?;
    let path = |at: &Cursor<'_>, expected: &str| bases.expand(at, at.word(expected)?);
    let list = |key: &str| root.get(key).map(|words| compose::command(&words)).transpose();
    let job = Job {
        name: name(&root, document)?,
        trainer,
        model: root
            .get("model")
            .map_or(Ok("yolov8n.yaml".into()), |model| path(&model, "a model such as `yolov8n.yaml`"))?,
        data: root.get("data").map(|data| path(&data, "a data set such as `data/shapes/data.yaml`")).transpose()?,
        epochs: root.get("epochs").map_or(Ok(100), |epochs| epochs.whole32(1..=MOST_EPOCHS, ""))?,
        imgsz: root.get("imgsz").map_or(Ok(640.into()), |sizes| image_sizes::read(&sizes))?,
        batch: batch(&root, trainer, notes)?,
        device: device::read(&root)?,
        seed: root.get("seed").map_or(Ok(0), |seed| seed.whole(0..=u64::from(u32::MAX), ""))?,
        args: root.get("args").map_or(Ok(Default::default()), |args| settings::read(&args, trainer))?,
        network: match root.get("network") {
            Some(network) => network.one_of(NETWORKS)?,
            None if trainer == Trainer::Command => Network::Bridge,
            None => Network::None,
        },
        containers: root.get("containers").map_or(Ok(Containers::PerDevice), |kind| kind.one_of(CONTAINERS))?,
        nproc_per_node: root.get("nproc_per_node").map(|ranks| ranks.whole32(1..=1024, "ranks")).transpose()?,
        image,
        build,
        command: list("command")?,
        entrypoint: list("entrypoint")?,
        environment: root.get("environment").map_or(Ok(Default::default()), |all| compose::environment(&all))?,
        volumes: root.get("volumes").map_or(Ok(Vec::new()), |all| compose::volumes(&all, bases))?,
        working_dir: root.get("working_dir").map(|folder| absolute(&folder)).transpose()?,
        shm_size: root.get("shm_size").map(|size| compose::size(&size)).transpose()?,
        user: root.get("user").map(|user| self::user(&user)).transpose()?,
        timeout: match root.get("timeout") {
            Some(timeout) => {
                let duration = compose::duration(&timeout, DAY)?;
                // It crosses to the ranks in whole seconds.
                if duration.as_secs() == 0 || duration.subsec_nanos() != 0 {
                    return Err(timeout.wrong("a duration of whole seconds, at least `1s`").into());
                }
                duration
            }
            None => Duration::from_secs(1800),
        },
        max_restarts: root
            .get("max_restarts")
            .map_or(Ok(RESTARTS), |most| most.whole32(0..=MOST_RESTARTS, "new starts of a run"))?,
        stop_grace_period: root
            .get("stop_grace_period")
            .map_or(Ok(Duration::from_secs(10)), |period| compose::duration(&period, DAY))?,
        runs: root.get("runs").map_or(Ok("runs".into()), |runs| path(&runs, "a folder").map(Into::into))?,
        notify: root.get("notify").map_or(Ok(Vec::new()), |hooks| report::notify(&hooks, bases))?,
        track: root.get("track").map_or(Ok(Default::default()), |track| report::track(&track))?,
    };
    agree(&root, &job)?;
    Ok(job)
}

/// Refuses what keys must not say together.
fn agree(root: &Cursor<'_>, job: &Job) -> Result<(), JobError> {
    let refuse = |key: &str, message: String, hint: &str| {
        let mut invalid = root.document.wrong_key(key, message);
        invalid.hint = Some(hint.to_owned());
        Err(JobError::from(invalid))
    };
    let command = job.trainer == Trainer::Command;
    let trainer = job.trainer.name();
    if command && job.image.is_none() && job.build.is_none() {
        return refuse("trainer", "`trainer: command` needs an `image` or a `build`".into(), "write `image: NAME`");
    }
    if !command && job.data.is_none() {
        return refuse("", format!("trainer `{trainer}` needs `data`"), "write `data: path/to/data.yaml`");
    }
    if job.trainer == Trainer::Native && !is_native_model(&job.model) {
        let message = format!("trainer `native` does not train the model `{}`", printable(&job.model));
        let hint = if job.model.ends_with(".pt") {
            "make safetensors of a YOLOv8's by `evenkeel weights import FILE`, or write `trainer: ultralytics`"
        } else {
            "it trains yolov8n.yaml to yolov8x.yaml and `.safetensors` made of them; `trainer: ultralytics` trains others"
        };
        return refuse("model", message, hint);
    }
    if job.imgsz.is_schedule() && command {
        let message =
            "`imgsz` changes from epoch to epoch, and a program of `trainer: command` is told one size".into();
        return refuse("imgsz", message, "write one size such as `imgsz: 640`");
    }
    let (epoch, side) = job.imgsz.last();
    if epoch >= job.epochs {
        let message = format!(
            "`imgsz` becomes {side} at epoch {epoch}, counted from 0, and the training has {} epochs",
            job.epochs
        );
        return refuse(&format!("imgsz.{epoch}"), message, "leave this entry out, or give `epochs` a larger number");
    }
    if job.build.is_some() && job.image.is_some() {
        return refuse(
            "image",
            "`image` and `build` are both given".into(),
            "keep one: what is built is named by its content",
        );
    }
    for (key, given) in [("command", job.command.is_some()), ("entrypoint", job.entrypoint.is_some())] {
        if given && !command {
            let message = format!("`{key}` is for `trainer: command`, and the trainer is `{trainer}`");
            return refuse(key, message, "write `trainer: command` to run a program of your own");
        }
    }
    if job.containers == Containers::PerHost && !command {
        let message = format!("`containers: per-host` is for `trainer: command`, and the trainer is `{trainer}`");
        return refuse("containers", message, "leave it out: the ranks of a host share what they need");
    }
    if job.nproc_per_node.is_some() && job.containers == Containers::PerDevice {
        let message = "`nproc_per_node` needs `containers: per-host`".to_owned();
        return refuse(
            "nproc_per_node",
            message,
            "a program in a container per device is started once for each device",
        );
    }
    if let (Some(target), Micro::Fixed(micro)) = (job.batch.target, job.batch.micro) {
        if micro > target {
            let message = format!("`batch.micro` is {micro}, more than `batch.target`, which is {target}");
            return refuse("batch.micro", message, "a step takes at least one micro-batch");
        }
    }
    if job.batch.split == SplitWish::Uneven {
        if let Micro::Fixed(micro) = job.batch.micro {
            let message =
                format!("`batch.micro` is {micro} for every device, and `batch.split: uneven` lets them differ");
            return refuse("batch.split", message, "keep one of the two");
        }
        if job.trainer != Trainer::Native {
            let message = format!("trainer `{trainer}` has micro-batches of one size, so there is no `uneven` split");
            return refuse("batch.split", message, "leave it out, or write `trainer: native`, which can do it");
        }
    }
    Ok(())
}

/// Whether our own trainer knows a model, by its name.
fn is_native_model(model: &str) -> bool {
    let size = model.strip_prefix("yolov8").and_then(|rest| rest.strip_suffix(".yaml"));
    size.is_some_and(|size| ["n", "s", "m", "l", "x"].contains(&size)) || model.ends_with(".safetensors")
}

fn trainer(root: &Cursor<'_>) -> Result<Trainer, JobError> {
    root.get("trainer").map_or(Ok(TRAINER), |given| given.one_of(TRAINERS))
}

fn batch(root: &Cursor<'_>, trainer: Trainer, notes: &mut Vec<String>) -> Result<Batch, JobError> {
    let default = (trainer != Trainer::Command).then_some(TARGET);
    let mut batch = Batch {
        target: default,
        micro: Micro::Auto,
        max_accumulation: None,
        split: SplitWish::Auto,
        on_oom: OnOom::StepDown,
    };
    let Some(given) = root.get("batch") else { return Ok(batch) };
    if !given.value.is_mapping() {
        match short_batch(&given)? {
            Some(target) => batch.target = Some(target),
            None => notes.push(match default {
                Some(target) => format!("`batch: -1` is understood as `batch: {{target: {target}, micro: auto}}`"),
                None => "`batch: -1` is understood as `batch: {micro: auto}`".into(),
            }),
        }
        return Ok(batch);
    }
    given.only("a number of images or a mapping", BATCH_KEYS, explain)?;
    if let Some(target) = given.get("target") {
        batch.target = short_batch(&target)?.or(default);
    }
    if let Some(micro) = given.get("micro") {
        batch.micro = match micro.value {
            Value::String(text) if text == "auto" => Micro::Auto,
            value if value.as_i64() == Some(-1) => Micro::Auto,
            Value::Number(_) => Micro::Fixed(micro.whole32(1..=MOST_IMAGES, "images on one device")?),
            _ => return Err(micro.wrong("`auto` or a number of images").into()),
        };
    }
    if let Some(most) = given.get("max_accumulation") {
        batch.max_accumulation = Some(most.whole32(1..=MOST_IMAGES, "micro-batches of one rank in a step")?);
    }
    if let Some(split) = given.get("split") {
        batch.split = split.one_of(SPLITS)?;
    }
    let portions = [
        ("micro", batch.micro != Micro::Auto),
        ("max_accumulation", batch.max_accumulation.is_some()),
        ("split", batch.split != SplitWish::Auto),
    ];
    if let Some((key, _)) = portions.iter().find(|(_, set)| *set).filter(|_| batch.target.is_none()) {
        let at = given.get(key).expect("it was read");
        let mut invalid = at.refuse(format!("`batch.{key}` needs `batch.target`"));
        invalid.hint = Some("a program that is told no target batches as it likes".into());
        return Err(invalid.into());
    }
    batch.on_oom = match (given.get("on_oom"), batch.micro) {
        (Some(on_oom), _) => on_oom.one_of(ON_OOM)?,
        (None, Micro::Auto) => OnOom::StepDown,
        // Who says how many images a device takes at once means it.
        (None, Micro::Fixed(_)) => OnOom::Fail,
    };
    Ok(batch)
}

/// A target, or nothing for yolo's `-1`.
fn short_batch(at: &Cursor<'_>) -> Result<Option<u32>, JobError> {
    if at.value.as_i64() == Some(-1) {
        return Ok(None);
    }
    if at.value.as_f64().is_some_and(|share| share > 0.0 && share < 1.0) {
        let mut invalid = at.wrong("a whole number of images");
        invalid.hint = Some("a share of the memory is not a batch; write `batch: {micro: auto}`".into());
        return Err(invalid.into());
    }
    at.whole32(1..=MOST_IMAGES, "images of one optimizer step, over all ranks").map(Some)
}

fn name(root: &Cursor<'_>, document: &Document) -> Result<String, JobError> {
    const LONGEST: usize = 64;
    let expected =
        "a name of letters, digits, `.`, `_` and `-`, at most 64 bytes, that begins with a letter or a digit";
    let fits = |character: char| character.is_alphanumeric() || matches!(character, '.' | '_' | '-');
    let Some(given) = root.get("name") else {
        return Ok(name_of_file(&document.file, fits, LONGEST));
    };
    let name = given.text(expected)?;
    if !name.starts_with(char::is_alphanumeric) || !name.chars().all(fits) || name.len() > LONGEST {
        return Err(given.wrong(expected).into());
    }
    Ok(name)
}

/// The file's name without its ending, made fit to be a folder.
fn name_of_file(file: &Path, fits: impl Fn(char) -> bool, longest: usize) -> String {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let mut name = String::new();
    for character in stem.chars().map(|character| if fits(character) { character } else { '-' }) {
        if name.len() + character.len_utf8() > longest {
            break;
        }
        name.push(character);
    }
    let name = name.trim_start_matches(|character: char| !character.is_alphanumeric());
    if name.is_empty() { "job".into() } else { name.to_owned() }
}

fn reference(at: &Cursor<'_>) -> Result<String, JobError> {
    let expected = "the name of an image such as `debian:trixie-slim`";
    let text = at.word(expected)?;
    let fits = |character: char| character.is_ascii_alphanumeric() || "._-/:@".contains(character);
    // The repository is in small letters; a registry's host, a tag and a digest need not be.
    if !text.chars().all(fits) || !text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Err(at.wrong(expected).into());
    }
    Ok(text)
}

fn absolute(at: &Cursor<'_>) -> Result<String, JobError> {
    let text = at.word("an absolute path in the container")?;
    if text.starts_with('/') { Ok(text) } else { Err(at.wrong("an absolute path in the container").into()) }
}

fn user(at: &Cursor<'_>) -> Result<String, JobError> {
    let expected = "a user as `uid`, `uid:gid` or a name of the image";
    let text = at.word(expected)?;
    let fits = |part: &str| {
        !part.is_empty()
            && part.chars().all(|character| character.is_ascii_alphanumeric() || "._-$".contains(character))
    };
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() <= 2 && parts.iter().all(|part| fits(part)) { Ok(text) } else { Err(at.wrong(expected).into()) }
}

/// Keys that other programs have and a job has under another name.
fn explain(value: &Cursor<'_>, key: &str) -> Option<Invalid> {
    let (message, hint) = settings::habit(key, value.value)?;
    let mut invalid = value.document.wrong_key(&value.path, message);
    invalid.hint = Some(hint);
    Some(invalid)
}
