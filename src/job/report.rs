//! `notify` and `track`: who is told how a run goes. No secret stands in a job, since a job stands in the record of its runs:
//! addresses that are secrets, and secrets, are named by the variable or the file that holds them.

use std::path::PathBuf;

use serde_json::{Value as Json, json};
use url::Url;

use super::compose::Bases;
use super::cursor::Cursor;
use super::error::{Invalid, JobError, printable};

/// Keys of a webhook.
const WEBHOOK_KEYS: &[&str] = &["url", "url_env", "url_file", "kind", "on", "secret_env", "secret_file"];
const TRACK_KEYS: &[&str] = &["mlflow"];
const MLFLOW_KEYS: &[&str] = &["uri", "experiment"];

const SERVICES: &[(&str, Service)] = &[
    ("generic", Service::Generic),
    ("slack", Service::Slack),
    ("feishu", Service::Feishu),
    ("dingtalk", Service::DingTalk),
    ("wecom", Service::WeCom),
];
const MOMENTS: &[(&str, Moment)] =
    &[("finish", Moment::Finish), ("failure", Moment::Failure), ("recovery", Moment::Recovery)];

/// Webhooks of a job at most.
const MOST: usize = 32;
/// A part of an address that is as long, with a digit in it, is taken for a token.
const TOKEN: usize = 20;

/// An address that is told when something happens to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its address.
    pub url: Source,
    /// What listens there; absent: the address tells.
    pub kind: Option<Service>,
    /// What it is told of.
    pub on: Vec<Moment>,
    /// What messages are signed with.
    pub secret: Option<Source>,
}

/// Where a text is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the job: it is no secret.
    Plain(String),
    /// In a variable of the caller's environment.
    Variable(String),
    /// In a file.
    File(PathBuf),
}

/// Whose format a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Ours: all facts as JSON.
    Generic,
    /// Slack, and what takes messages as Slack does.
    Slack,
    /// Feishu, and Lark.
    Feishu,
    /// DingTalk.
    DingTalk,
    /// WeCom.
    WeCom,
}

impl Service {
    /// Name as it is written in a job.
    #[must_use]
    pub fn name(self) -> &'static str {
        SERVICES.iter().find(|(_, service)| *service == self).map_or("", |(name, _)| name)
    }

    /// What listens at a host, as far as its name tells.
    #[must_use]
    pub fn of_host(host: &str) -> Self {
        match host {
            "hooks.slack.com" | "hooks.slack-gov.com" => Self::Slack,
            "open.feishu.cn" | "open.larksuite.com" => Self::Feishu,
            "oapi.dingtalk.com" | "api.dingtalk.com" => Self::DingTalk,
            "qyapi.weixin.qq.com" => Self::WeCom,
            _ => Self::Generic,
        }
    }

    /// Whether a message can be signed.
    #[must_use]
    pub fn signs(self) -> bool {
        matches!(self, Self::Generic | Self::Feishu | Self::DingTalk)
    }
}

/// What a webhook is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The run is over, done or stopped.
    Finish,
    /// It ended by a failure.
    Failure,
    /// It was started again after one.
    Recovery,
}

impl Moment {
    /// Name as it is written in a job.
    #[must_use]
    pub fn name(self) -> &'static str {
        MOMENTS.iter().find(|(_, moment)| *moment == self).map_or("", |(name, _)| name)
    }
}

/// Where an experiment is tracked beside its record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// In MLflow.
    pub mlflow: MlflowWish,
}

/// Whether MLflow is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MlflowWish {
    /// Where the caller's environment names a server.
    #[default]
    Environment,
    /// No.
    Off,
    /// Yes.
    Given {
        /// The server; absent: the environment names it.
        uri: Option<String>,
        /// Absent: named by the environment, or as the job.
        experiment: Option<String>,
    },
}

/// Reads `notify`.
pub(super) fn notify(at: &Cursor<'_>, bases: &Bases) -> Result<Vec<Webhook>, JobError> {
    let hooks = at.items("a list of webhooks such as `{url_env: SLACK_WEBHOOK}`")?;
    if hooks.len() > MOST {
        return Err(at.refuse(format!("`notify` has {} webhooks, more than {MOST}", hooks.len())).into());
    }
    hooks.iter().map(|hook| webhook(hook, bases)).collect()
}

fn webhook(at: &Cursor<'_>, bases: &Bases) -> Result<Webhook, JobError> {
    at.only("a webhook such as `{url_env: SLACK_WEBHOOK}`", WEBHOOK_KEYS, |value, key| {
        (key == "secret").then(|| {
            let message = "a secret in a job would stand in the record of its runs";
            let mut invalid = value.document.wrong_key(&value.path, message);
            invalid.hint = Some("name what holds it: `secret_env: VARIABLE` or `secret_file: PATH`".into());
            invalid
        })
    })?;
    let kind = at.get("kind").map(|kind| kind.one_of(SERVICES)).transpose()?;
    let url = one_source(at, "url", bases)?.ok_or_else(|| {
        let mut invalid = at.refuse(format!("`{}` has no address", at.path));
        invalid.hint = Some("name what holds it: `url_env: VARIABLE` or `url_file: PATH`".into());
        JobError::from(invalid)
    })?;
    if let (Source::Plain(text), Some(given)) = (&url, at.get("url")) {
        check_plain(&given, text, kind)?;
    }
    let secret = one_source(at, "secret", bases)?;
    if let (Some(_), Some(kind)) = (&secret, kind.filter(|kind| !kind.signs())) {
        let message = format!("`{}` has a secret, and a message to {} bears no signature", at.path, kind.name());
        let mut invalid = at.refuse(message);
        invalid.hint = Some("leave the secret out: the address is the secret there".into());
        return Err(invalid.into());
    }
    let on = match at.get("on") {
        None => MOMENTS.iter().map(|(_, moment)| *moment).collect(),
        Some(given) => {
            let expected = "a list of `finish`, `failure` and `recovery`";
            let on =
                given.items(expected)?.iter().map(|moment| moment.one_of(MOMENTS)).collect::<Result<Vec<_>, _>>()?;
            if on.is_empty() {
                return Err(given.wrong(expected).into());
            }
            on
        }
    };
    Ok(Webhook { url, kind, on, secret })
}

/// What `key`, `key_env` or `key_file` says, of which there may be one.
fn one_source(at: &Cursor<'_>, key: &str, bases: &Bases) -> Result<Option<Source>, JobError> {
    let (plain, variable, file) = (key.to_owned(), format!("{key}_env"), format!("{key}_file"));
    let given: Vec<&String> = [&plain, &variable, &file].into_iter().filter(|key| at.get(key).is_some()).collect();
    let [name] = given[..] else {
        return match given[..] {
            [] => Ok(None),
            _ => Err(at.refuse(format!("`{}.{}` and `{}` are both given", at.path, given[0], given[1])).into()),
        };
    };
    let value = at.get(name).expect("it was found");
    let text =
        |expected: &str| value.value.as_str().map(str::to_owned).ok_or_else(|| JobError::from(value.wrong(expected)));
    Ok(Some(if *name == variable {
        let name = text("the name of a variable such as `SLACK_WEBHOOK`")?;
        let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        if name.is_empty() || !name.chars().all(fits) || name.starts_with(|first: char| first.is_ascii_digit()) {
            // The value itself may have been written here.
            return Err(name_of_variable(&value).into());
        }
        Source::Variable(name)
    } else if *name == file {
        text("the path of a file")?;
        Source::File(bases.expand(&value, value.word("the path of a file")?)?.into())
    } else {
        Source::Plain(text("an address such as `http://ci.lab/evenkeel`")?)
    }))
}

fn name_of_variable(at: &Cursor<'_>) -> Invalid {
    at.refuse(format!("`{}` is not the name of a variable, such as `SLACK_WEBHOOK`", printable(&at.path)))
}

/// An address may stand in a job when whoever reads it can do nothing with it.
fn check_plain(at: &Cursor<'_>, text: &str, kind: Option<Service>) -> Result<(), JobError> {
    let url = web_address(at, text)?;
    let service = kind.unwrap_or_else(|| Service::of_host(url.host_str().unwrap_or_default()));
    let token = |part: &str| part.len() >= TOKEN && part.bytes().any(|byte| byte.is_ascii_digit());
    let why = if service != Service::Generic {
        format!("the address of a {} webhook is a secret", service.name())
    } else if has_login(&url) {
        "the address holds a password".to_owned()
    } else if url.query().is_some() || url.fragment().is_some() || url.path().split('/').any(token) {
        "the address seems to hold a token".to_owned()
    } else {
        return Ok(());
    };
    let mut invalid = at.refuse(format!("{why}, and would stand in the record of the job's runs"));
    invalid.hint = Some("name what holds it: `url_env: VARIABLE` or `url_file: PATH`".into());
    Err(invalid.into())
}

fn has_login(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

fn web_address(at: &Cursor<'_>, text: &str) -> Result<Url, JobError> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| {
        at.refuse(format!("`{}` is no address that begins with `http://` or `https://`", printable(&at.path))).into()
    })
}

/// Reads `track`.
pub(super) fn track(at: &Cursor<'_>) -> Result<Track, JobError> {
    at.only("a mapping such as `{mlflow: {uri: http://mlflow.lab:5000}}`", TRACK_KEYS, |_, _| None)?;
    let Some(given) = at.get("mlflow") else { return Ok(Track::default()) };
    if given.value.as_bool() == Some(false) {
        return Ok(Track { mlflow: MlflowWish::Off });
    }
    given.only("`false` or a mapping such as `{uri: http://mlflow.lab:5000}`", MLFLOW_KEYS, |_, _| None)?;
    let uri = given.get("uri").map(|uri| server(&uri)).transpose()?;
    let experiment = given.get("experiment").map(|name| name.word("the name of an experiment")).transpose()?;
    Ok(Track { mlflow: MlflowWish::Given { uri, experiment } })
}

fn server(at: &Cursor<'_>) -> Result<String, JobError> {
    let expected = "the address of a server such as `http://mlflow.lab:5000`";
    let text = at.value.as_str().ok_or_else(|| at.wrong(expected))?;
    let url = web_address(at, text)?;
    if has_login(&url) || url.query().is_some() || url.fragment().is_some() {
        let mut invalid = at.refuse(format!("`{}` holds more than the address of a server", at.path));
        invalid.hint =
            Some("a name and a password go into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD".into());
        return Err(invalid.into());
    }
    Ok(text.to_owned())
}

/// `notify` as a job writes it.
pub(super) fn write_notify(hooks: &[Webhook]) -> Json {
    let one = |hook: &Webhook| {
        let mut map = serde_json::Map::new();
        let mut add = |key: &str, source: &Source| match source {
            Source::Plain(text) => map.insert(key.to_owned(), json!(text)),
            Source::Variable(name) => map.insert(format!("{key}_env"), json!(name)),
            Source::File(path) => map.insert(format!("{key}_file"), json!(path.to_string_lossy())),
        };
        add("url", &hook.url);
        if let Some(secret) = &hook.secret {
            add("secret", secret);
        }
        if let Some(kind) = hook.kind {
            map.insert("kind".into(), json!(kind.name()));
        }
        map.insert("on".into(), hook.on.iter().map(|moment| moment.name()).collect());
        Json::Object(map)
    };
    hooks.iter().map(one).collect()
}

/// `track` as a job writes it.
pub(super) fn write_track(track: &Track) -> Json {
    let mlflow = match &track.mlflow {
        MlflowWish::Environment => json!(null),
        MlflowWish::Off => json!(false),
        MlflowWish::Given { uri, experiment } => json!({ "uri": uri, "experiment": experiment }),
    };
    json!({ "mlflow": mlflow })
}
