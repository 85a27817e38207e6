//! What compose has a name for, read as compose reads it: sizes, durations, commands, environments, volumes, builds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::Value;

use super::cursor::{Cursor, scalar};
use super::error::{JobError, printable};
use super::types::{Build, Volume};
use super::units::{parse_duration, parse_size, split, write_duration};

/// What paths in a job are relative to.
#[derive(Clone, Debug, Default)]
pub struct Bases {
    /// Folder of the job file: volumes and builds are relative to it, as in compose.
    pub folder: PathBuf,
    /// The caller's home folder, for `~`.
    pub home: Option<PathBuf>,
}

impl Bases {
    /// A path that is relative to the caller's folder, with `~` for the home folder.
    pub(super) fn expand(&self, at: &Cursor<'_>, text: String) -> Result<String, JobError> {
        Ok(self.at_home(at, &text)?.map_or(text, |path| path.display().to_string()))
    }

    /// The path that `~` or `~/...` stands for; none for any other text.
    fn at_home(&self, at: &Cursor<'_>, text: &str) -> Result<Option<PathBuf>, JobError> {
        let Some(rest) = text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
            return Ok(None);
        };
        let home = self.home.as_ref().ok_or_else(|| at.refuse("`~` is unknown: HOME is not set"))?;
        Ok(Some(plain(&home.join(rest.trim_start_matches('/')))))
    }

    fn resolve(&self, at: &Cursor<'_>, text: &str) -> Result<PathBuf, JobError> {
        if text.contains("${") || text.starts_with('$') {
            let message = format!("`{}` is not expanded: variables have no effect in a job", printable(text));
            let mut invalid = at.refuse(message);
            invalid.hint = Some("write the path out, with `~` for your home folder".into());
            return Err(invalid.into());
        }
        if let Some(path) = self.at_home(at, text)? {
            return Ok(path);
        }
        Ok(plain(&self.folder.join(text)))
    }
}

/// A path without `.` and doubled slashes. `..` stays: it may lead through a link.
fn plain(path: &Path) -> PathBuf {
    let parts: PathBuf = path.components().filter(|part| *part != std::path::Component::CurDir).collect();
    if parts.as_os_str().is_empty() { ".".into() } else { parts }
}

/// Bytes, as in compose: `512m`, `2gb`, `1.5g`, `2GiB`, or a number of bytes.
pub(super) fn size(at: &Cursor<'_>) -> Result<u64, JobError> {
    let expected = "a size such as `512m` or `2gb`, at least 1 byte";
    let text = at.text(expected)?;
    parse_size(&text).filter(|bytes| *bytes > 0).ok_or_else(|| at.wrong(expected).into())
}

/// A duration, as in compose: `10s`, `1m30s`, `500ms`; a bare number is seconds.
pub(super) fn duration(at: &Cursor<'_>, longest: Duration) -> Result<Duration, JobError> {
    let expected = format!("a duration such as `10s` or `1m30s`, at most {}", write_duration(longest));
    let text = at.text(&expected)?;
    parse_duration(&text).filter(|duration| *duration <= longest).ok_or_else(|| at.wrong(&expected).into())
}

/// A command line: a list of words, or one string that is split as a shell splits it.
pub(super) fn command(at: &Cursor<'_>) -> Result<Vec<String>, JobError> {
    let expected = "a command as one string or as a list of words";
    let words = match at.value {
        Value::Sequence(_) => {
            at.items(expected)?.iter().map(|word| word.text("a word of the command")).collect::<Result<Vec<_>, _>>()?
        }
        Value::String(text) => {
            split(text).ok_or_else(|| at.refuse(format!("`{}` has a quote that is not closed", at.path)))?
        }
        _ => return Err(at.wrong(expected).into()),
    };
    if words.first().is_none_or(|word| word.is_empty()) {
        return Err(at.wrong("a command with at least one word").into());
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err(at.refuse(format!("`{}` holds a zero byte", at.path)).into());
    }
    Ok(words)
}

/// An environment: a mapping, or a list of `KEY=VALUE` and `KEY`; no value stands for the caller's.
pub(super) fn environment(at: &Cursor<'_>) -> Result<BTreeMap<String, Option<String>>, JobError> {
    let expected = "variables as a mapping or as a list of `KEY=VALUE`";
    let mut variables = BTreeMap::new();
    if at.value.is_sequence() {
        for entry in at.items(expected)? {
            let text = entry.text("`KEY=VALUE` or `KEY`")?;
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (text.as_str(), None),
            };
            check_variable(&entry, key, value.as_deref())?;
            if variables.insert(key.to_owned(), value).is_some() {
                return Err(entry.refuse(format!("variable `{}` is given twice", printable(key))).into());
            }
        }
        return Ok(variables);
    }
    for (key, entry) in at.entries(expected)? {
        let value = match entry.value {
            Value::Null => None,
            Value::Bool(_) => scalar(entry.value),
            _ => Some(entry.text("text or a number")?),
        };
        check_variable(&entry, key, value.as_deref())?;
        variables.insert(key.to_owned(), value);
    }
    Ok(variables)
}

fn check_variable(at: &Cursor<'_>, key: &str, value: Option<&str>) -> Result<(), JobError> {
    let fault = if key.is_empty() || key.contains(['=', '\0']) || key.chars().any(char::is_whitespace) {
        "is no name of a variable"
    } else if key.starts_with("EVENKEEL_") {
        "is set by evenkeel itself"
    } else if value.is_some_and(|value| value.contains('\0')) {
        "has a value with a zero byte"
    } else {
        return Ok(());
    };
    Err(at.refuse(format!("`{}` {fault}", printable(key))).into())
}

/// Volumes in compose's short (`source:target:ro`) and long form. Only folders and files of the host.
pub(super) fn volumes(at: &Cursor<'_>, bases: &Bases) -> Result<Vec<Volume>, JobError> {
    let mut volumes: Vec<Volume> = Vec::new();
    for entry in at.items("a list of volumes such as `./data:/data:ro`")? {
        let volume = if entry.value.is_mapping() { long(&entry, bases)? } else { short(&entry, bases)? };
        let target = volume.target.trim_end_matches('/');
        if target.is_empty() || !volume.target.starts_with('/') || target.split('/').any(|part| part == "..") {
            let message = format!("target `{}` is not an absolute path below `/`", printable(&volume.target));
            return Err(entry.refuse(message).into());
        }
        if target == "/evenkeel" || target.starts_with("/evenkeel/") {
            return Err(entry.refuse(format!("target `{target}` belongs to evenkeel itself")).into());
        }
        if volumes.iter().any(|other| other.target == target) {
            return Err(entry.refuse(format!("target `{}` is given twice", printable(target))).into());
        }
        volumes.push(Volume { target: target.to_owned(), ..volume });
    }
    Ok(volumes)
}

fn short(at: &Cursor<'_>, bases: &Bases) -> Result<Volume, JobError> {
    let text = at.word("a volume such as `./data:/data:ro`")?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        [_] => {
            let mut invalid = at.refuse(format!("volume `{}` has no source", printable(&text)));
            invalid.hint = Some("write `SOURCE:TARGET`, both of them paths".into());
            return Err(invalid.into());
        }
        _ => {
            let mut invalid = at.refuse(format!("volume `{}` has too many colons", printable(&text)));
            invalid.hint = Some("a path that holds a colon needs the long form: `{source: ..., target: ...}`".into());
            return Err(invalid.into());
        }
    };
    if !source.starts_with(['/', '.', '~', '$']) {
        let message = format!("`{}` names a volume of the engine, expected a path", printable(source));
        let mut invalid = at.refuse(message);
        invalid.hint =
            Some(format!("write `./{}:{}` for the folder beside the job", printable(source), printable(target)));
        return Err(invalid.into());
    }
    let mut read_only = false;
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // SELinux labels mean nothing to the binds that are made here, and compose files carry them.
            "rw" | "z" | "Z" => {}
            _ => {
                let message = format!("`{}` is no option of a volume, expected `ro` or `rw`", printable(option));
                return Err(at.refuse(message).into());
            }
        }
    }
    Ok(Volume { source: bases.resolve(at, source)?, target: target.to_owned(), read_only })
}

fn long(at: &Cursor<'_>, bases: &Bases) -> Result<Volume, JobError> {
    at.only("a volume", &["type", "source", "target", "read_only"], |_, _| None)?;
    if let Some(kind) = at.get("type") {
        kind.one_of(&[("bind", ())])?;
    }
    let missing = |key: &str| at.refuse(format!("`{}` has no `{key}`", at.path));
    let source = at.get("source").ok_or_else(|| missing("source"))?;
    let target = at.get("target").ok_or_else(|| missing("target"))?;
    Ok(Volume {
        source: bases.resolve(&source, &source.word("a path on this machine")?)?,
        target: target.word("an absolute path in the container")?,
        read_only: at.get("read_only").map_or(Ok(false), |flag| flag.flag())?,
    })
}

/// A build: its folder, or a mapping.
pub(super) fn build(at: &Cursor<'_>, bases: &Bases) -> Result<Build, JobError> {
    let context = |at: &Cursor<'_>| {
        let text = at.word("a folder")?;
        if text.contains("://") || text.starts_with("git@") {
            return Err(at.wrong("a folder of this machine").into());
        }
        bases.resolve(at, &text)
    };
    if !at.value.is_mapping() {
        let plain =
            Build { context: context(at)?, dockerfile: "Dockerfile".into(), target: None, args: BTreeMap::new() };
        return Ok(plain);
    }
    at.only("a folder or a mapping", &["context", "dockerfile", "target", "args"], |_, _| None)?;
    Ok(Build {
        context: match at.get("context") {
            Some(folder) => context(&folder)?,
            None => plain(&bases.folder),
        },
        dockerfile: at.get("dockerfile").map_or(Ok("Dockerfile".into()), |file| file.word("a file"))?,
        target: at.get("target").map(|stage| stage.word("the name of a stage")).transpose()?,
        args: at.get("args").map_or(Ok(BTreeMap::new()), |args| environment(&args))?,
    })
}
