//! The resolved job as text: every value with where it came from. It is a job file itself and reads back as the same
//! job, wherever it lies.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};
use serde_yaml::Value;

use super::document::{Document, written};
use super::error::printable;
use super::types::{Job, Micro, Volume};
use super::units::write_duration;
use super::{Origin, ResolvedJob, device, report};

impl ResolvedJob {
    /// The text of `resolved.yaml`.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let file = printable(&self.file.display().to_string());
        let mut text = format!("# The job as it was understood, from {file}: every value, and where it came from.\n");
        // The name alone on every line: the folder stands above.
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        for entry in entries(&self.job) {
            let line = format!("{}{}:{}", "  ".repeat(entry.depth), entry.written_key(), entry.text());
            let origin = self.origins.get(&entry.path()).map(|origin| told(origin, &name));
            let _ = match origin {
                Some(origin) => writeln!(text, "{line:<40}  # {origin}"),
                None => writeln!(text, "{line}"),
            };
        }
        text
    }

    /// Every value with its dotted path and where it came from, as `resolved.yaml` says it.
    #[must_use]
    pub fn settings(&self) -> Vec<(String, Json, String)> {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let entries = entries(&self.job).into_iter();
        entries
            .filter_map(|entry| {
                let path = entry.path();
                let origin = self.origins.get(&path).map_or_else(String::new, |origin| told(origin, &name));
                Some((path, entry.value?, origin))
            })
            .collect()
    }

    /// Every value that may be told to others, by dotted path: environments may hold secrets, and who is told is no setting of a training.
    #[must_use]
    pub fn values(&self) -> Vec<(String, Json)> {
        let private = ["environment", "build", "notify", "track"];
        let told = |entry: &Entry| !private.contains(&entry.keys[0].as_str());
        let entries = entries(&self.job).into_iter().filter(told);
        entries.filter_map(|entry| Some((entry.path(), entry.value?))).collect()
    }
}

/// An origin in words; `file` is the job file's name.
fn told(origin: &Origin, file: &str) -> String {
    match origin {
        Origin::Default => "default".to_owned(),
        Origin::CommandLine => "command line".to_owned(),
        Origin::File { line, column } => format!("{}:{line}:{column}", printable(file)),
        Origin::Derived(from) => format!("from {from}"),
    }
}

/// Where every value of the job came from, by dotted path.
pub(super) fn origins(job: &Job, document: &Document) -> Vec<(String, Origin)> {
    let entries = entries(job);
    entries.iter().filter(|entry| entry.value.is_some()).map(|entry| (entry.path(), origin(entry, document))).collect()
}

fn origin(entry: &Entry, document: &Document) -> Origin {
    let path = entry.path();
    if !given(&document.value, &entry.keys) {
        return match path.as_str() {
            "name" => Origin::Derived("the name of the file".into()),
            "network" => Origin::Derived("the trainer".into()),
            _ => Origin::Default,
        };
    }
    match (document.override_of(&path), document.spot_of(&path)) {
        (Some(_), _) => Origin::CommandLine,
        (None, Some(spot)) => Origin::File { line: spot.key.line, column: spot.key.column },
        (None, None) => Origin::Default,
    }
}

/// Whether the document gives a value for these keys, in a long or a short form.
fn given(root: &Value, keys: &[String]) -> bool {
    let mut at = root;
    for (depth, key) in keys.iter().enumerate() {
        match at {
            Value::Mapping(map) => match map.get(written(map, key)) {
                Some(value) => at = value,
                None => return false,
            },
            // `batch: 64` gives the target, `batch: -1` the micro-batch, `build: .` the context.
            Value::Number(number) if keys[0] == "batch" => return (number.as_i64() == Some(-1)) == (key == "micro"),
            Value::String(_) if keys[0] == "build" => return key == "context",
            Value::Sequence(_) => return true,
            _ => return false,
        }
        // A variable without a value takes the caller's: that is something given.
        if at.is_null() && !(depth > 0 && keys[depth - 1] == "environment") {
            return false;
        }
    }
    true
}

/// One line of the resolved job.
struct Entry {
    keys: Vec<String>,
    key: String,
    depth: usize,
    /// No value: a heading, whose entries follow.
    value: Option<Json>,
}

impl Entry {
    fn path(&self) -> String {
        self.keys.join(".")
    }

    /// The key as text of YAML; an epoch is a number.
    fn written_key(&self) -> String {
        if self.depth > 0 && self.keys[0] == "imgsz" { self.key.clone() } else { scalar(&self.key) }
    }

    fn text(&self) -> String {
        self.value.as_ref().map_or(String::new(), |value| format!(" {}", flow(value)))
    }
}

/// Every value of the job, in the order of a job file.
fn entries(job: &Job) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut add = |key: &str, value: Json| add(&mut all, &[key], value);
    add("name", json!(job.name));
    add("trainer", json!(job.trainer.name()));
    add("model", json!(job.model));
    add("data", json!(job.data));
    add("epochs", json!(job.epochs));
    add("imgsz", job.imgsz.write());
    let micro = match job.batch.micro {
        Micro::Auto => json!("auto"),
        Micro::Fixed(micro) => json!(micro),
    };
    let batch = json!({
        "target": job.batch.target,
        "micro": micro,
        "max_accumulation": job.batch.max_accumulation,
        "split": job.batch.split.name(),
        "on_oom": job.batch.on_oom.name(),
    });
    add("batch", batch);
    let (key, value) = device::write(&job.device);
    add(key, value);
    add("seed", json!(job.seed));
    add("args", json!(job.args));
    add("network", json!(job.network.name()));
    add("containers", json!(job.containers.name()));
    add("nproc_per_node", json!(job.nproc_per_node));
    add("image", json!(job.image));
    let build = job.build.as_ref().map(|build| {
        json!({
            "context": build.context.to_string_lossy(),
            "dockerfile": build.dockerfile,
            "target": build.target,
            "args": build.args,
        })
    });
    add("build", json!(build));
    add("command", json!(job.command));
    add("entrypoint", json!(job.entrypoint));
    add("environment", json!(job.environment));
    add("volumes", job.volumes.iter().map(volume).collect());
    add("working_dir", json!(job.working_dir));
    add("shm_size", json!(job.shm_size));
    add("user", json!(job.user));
    add("timeout", json!(write_duration(job.timeout)));
    add("max_restarts", json!(job.max_restarts));
    add("stop_grace_period", json!(write_duration(job.stop_grace_period)));
    add("runs", json!(job.runs.to_string_lossy()));
    add("notify", report::write_notify(&job.notify));
    add("track", report::write_track(&job.track));
    all
}

/// Adds a value; the values inside a mapping get a line each.
fn add(all: &mut Vec<Entry>, keys: &[&str], value: Json) {
    let entry = |value| Entry {
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        key: keys[keys.len() - 1].to_owned(),
        depth: keys.len() - 1,
        value,
    };
    match value {
        Json::Object(map) if !map.is_empty() => {
            all.push(entry(None));
            for (key, value) in map {
                add(all, &[keys, &[key.as_str()]].concat(), value);
            }
        }
        value => all.push(entry(Some(value))),
    }
}

fn volume(volume: &Volume) -> Json {
    let mut map = Map::new();
    map.insert("source".into(), json!(volume.source.to_string_lossy()));
    map.insert("target".into(), json!(volume.target));
    if volume.read_only {
        map.insert("read_only".into(), json!(true));
    }
    Json::Object(map)
}

/// A value on one line.
fn flow(value: &Json) -> String {
    match value {
        Json::String(text) => scalar(text),
        Json::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::Object(map) => {
            let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{}: {}", scalar(key), flow(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

/// Text without quotes where every reader of YAML, old or new, takes it for text; in double quotes otherwise.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.chars().all(|character| character.is_ascii_alphanumeric() || "_./-".contains(character));
    // Also what only older readers take for something else.
    let taken = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if plain && !taken.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
