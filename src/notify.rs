//! Who is told how a run goes: webhooks, in the formats of those who listen.
//!
//! ```text
//! what happened ─▶ message (words and facts) ─▶ request of a service, signed ─▶ sent beside the training
//! ```
//!
//! `message.rs` and `request.rs` are functions of their arguments; `send.rs` has the clock and the network.

use std::collections::BTreeMap;
use std::fmt;

use url::Url;

use crate::error::{ExitCode, Failure};
use crate::job::{Moment, Service, Source, Webhook};

pub mod message;
pub mod request;
pub mod send;

/// Bytes of a file with a secret at most.
const LONGEST: u64 = 16 << 10;

/// A webhook with everything that is needed to tell it something. What shows it shows no secret.
#[derive(Clone)]
pub struct Hook {
    /// Its place in the job, from 0.
    pub number: usize,
    /// What listens there.
    pub service: Service,
    /// Its host, which is no secret.
    pub host: String,
    /// What it is told of.
    pub on: Vec<Moment>,
    url: String,
    secret: Option<String>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "notify[{}] ({} at {})", self.number, self.service.name(), self.host)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.service.name(), self.host)
    }
}

/// A webhook cannot be told anything. The words hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// A variable is not there.
    #[error("`notify[{number}]` names the variable `{name}`, which is not set")]
    Unset {
        /// The webhook's place in the job.
        number: usize,
        /// The variable.
        name: String,
    },
    /// A file cannot be read.
    #[error("`notify[{number}]` names the file `{path}`, which cannot be read")]
    Unreadable {
        /// The webhook's place in the job.
        number: usize,
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// What was found is not what it should be.
    #[error("what {place} holds for `notify[{number}]` {fault}")]
    Unfit {
        /// The webhook's place in the job.
        number: usize,
        /// The variable or the file.
        place: String,
        /// Why.
        fault: &'static str,
    },
    /// A signature is wanted where there are none.
    #[error("`notify[{number}]` has a secret, and a message to {service} bears no signature")]
    Unsigned {
        /// The webhook's place in the job.
        number: usize,
        /// What listens there.
        service: &'static str,
    },
}

impl From<NotifyError> for Failure {
    fn from(error: NotifyError) -> Self {
        let hint = match &error {
            NotifyError::Unset { name, .. } => format!("`export {name}=...`, or train without: `notify=[]`"),
            NotifyError::Unreadable { .. } => "make the file, or train without: `notify=[]`".into(),
            NotifyError::Unfit { .. } => "it is the address or the secret alone, as the service shows it".into(),
            NotifyError::Unsigned { .. } => "leave the secret out: the address is the secret there".into(),
        };
        Self::new(ExitCode::BadRequest, error).hint(hint)
    }
}

/// Finds addresses and secrets where the job says that they are.
///
/// # Errors
///
/// One is not there, or no address.
pub fn resolve(webhooks: &[Webhook], environment: &BTreeMap<String, String>) -> Result<Vec<Hook>, NotifyError> {
    resolve_each(webhooks, environment).collect()
}

/// The same, each by itself.
pub fn resolve_each<'a>(
    webhooks: &'a [Webhook],
    environment: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = Result<Hook, NotifyError>> + 'a {
    webhooks.iter().enumerate().map(|(number, webhook)| hook(number, webhook, environment))
}

fn hook(number: usize, webhook: &Webhook, environment: &BTreeMap<String, String>) -> Result<Hook, NotifyError> {
    let unfit = |source: &Source, fault| NotifyError::Unfit { number, place: place(source), fault };
    let url = look_up(number, &webhook.url, environment)?;
    let parsed = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let host = parsed.as_ref().and_then(Url::host_str).map(str::to_owned);
    let host = host.ok_or_else(|| unfit(&webhook.url, "is no address that begins with `http://` or `https://`"))?;
    let service = webhook.kind.unwrap_or_else(|| Service::of_host(&host));
    if webhook.secret.is_some() && !service.signs() {
        return Err(NotifyError::Unsigned { number, service: service.name() });
    }
    let secret = webhook.secret.as_ref().map(|source| look_up(number, source, environment)).transpose()?;
    Ok(Hook { number, service, host, on: webhook.on.clone(), url, secret })
}

/// The text that a source holds, without the line feed that editors leave.
fn look_up(number: usize, source: &Source, environment: &BTreeMap<String, String>) -> Result<String, NotifyError> {
    let text = match source {
        Source::Plain(text) => text.clone(),
        Source::Variable(name) => match environment.get(name).filter(|value| !value.trim().is_empty()) {
            Some(value) => value.clone(),
            None => return Err(NotifyError::Unset { number, name: name.clone() }),
        },
        Source::File(path) => {
            let read = || {
                let mut text = String::new();
                let file = std::io::Read::take(std::fs::File::open(path)?, LONGEST);
                std::io::Read::read_to_string(&mut { file }, &mut text)?;
                Ok(text)
            };
            read().map_err(|source| NotifyError::Unreadable { number, path: path.display().to_string(), source })?
        }
    };
    let text = text.trim();
    let fault = if text.is_empty() {
        Some("is empty")
    } else if text.chars().any(char::is_control) {
        Some("has more than one line")
    } else {
        None
    };
    match fault {
        Some(fault) => Err(NotifyError::Unfit { number, place: place(source), fault }),
        None => Ok(text.to_owned()),
    }
}

fn place(source: &Source) -> String {
    match source {
        Source::Plain(_) => "`url`".into(),
        Source::Variable(name) => format!("the variable `{name}`"),
        Source::File(path) => format!("the file `{}`", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(url: Source, secret: Option<Source>) -> Webhook {
        Webhook { url, kind: None, on: vec![Moment::Finish], secret }
    }

    #[test]
    fn addresses_come_from_where_the_job_says_and_tell_the_service() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("hook");
        std::fs::write(&file, "https://open.feishu.cn/open-apis/bot/v2/hook/x\n").expect("written");
        let environment = BTreeMap::from([("KEY".to_owned(), "hush".to_owned())]);
        let hooks = [webhook(Source::File(file), Some(Source::Variable("KEY".into())))];
        let hooks = resolve(&hooks, &environment).expect("resolved");
        assert_eq!((hooks[0].service, hooks[0].secret.as_deref()), (Service::Feishu, Some("hush")));
        let shown = format!("{:?} {}", hooks[0], hooks[0]);
        assert_eq!(shown, "notify[0] (feishu at open.feishu.cn) feishu at open.feishu.cn");
    }

    #[test]
    fn what_is_not_there_is_named_and_what_is_there_is_not_shown() {
        let environment = BTreeMap::from([("HOOK".to_owned(), "hush-hush".to_owned())]);
        let told = |hook: Webhook| Failure::from(resolve(&[hook], &environment).expect_err("refused")).render();
        let unset = told(webhook(Source::Variable("NONE".into()), None));
        assert!(unset.contains("names the variable `NONE`, which is not set"), "{unset}");
        let unfit = told(webhook(Source::Variable("HOOK".into()), None));
        assert!(unfit.contains("the variable `HOOK`") && !unfit.contains("hush"), "{unfit}");
        let slack = Webhook {
            kind: Some(Service::Slack),
            ..webhook(Source::Plain("http://a.b".into()), Some(Source::Variable("HOOK".into())))
        };
        assert!(told(slack).contains("bears no signature"));
    }
}
