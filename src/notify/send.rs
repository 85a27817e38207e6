//! Messages on their way: each is a task of its own beside the training, with a few tries and short limits of time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Hook;
use super::message::Message;
use super::request::{Refused, request, understood};
use crate::http::Http;

/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(4);
/// Pauses between the tries.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_millis(1500), Duration::from_secs(10)];

/// What became of a message so far.
#[derive(Clone, Debug)]
struct Fate {
    /// Which of those that were sent.
    ticket: usize,
    tries: u32,
    outcome: Result<(), String>,
    /// Whether no other try follows.
    last: bool,
}

/// A message that is on its way, or was.
struct Sent {
    hook: Hook,
    event: &'static str,
    fate: Option<Fate>,
}

/// Sends messages to webhooks.
pub struct Sender {
    http: Http,
    hooks: Vec<Hook>,
    sent: Vec<Sent>,
    fates: UnboundedReceiver<Fate>,
    reply: UnboundedSender<Fate>,
}

impl Sender {
    /// For these webhooks.
    #[must_use]
    pub fn new(http: Http, hooks: Vec<Hook>) -> Self {
        let (reply, fates) = unbounded_channel();
        Self { http, hooks, sent: Vec::new(), fates, reply }
    }

    /// Sends a message to whoever wants it, and returns at once.
    pub fn send(&mut self, message: Message) {
        let message = Arc::new(message);
        for hook in self.hooks.iter().filter(|hook| hook.on.contains(&message.moment)) {
            let ticket = self.sent.len();
            self.sent.push(Sent { hook: hook.clone(), event: message.moment.name(), fate: None });
            let (http, hook, message, reply) = (self.http.clone(), hook.clone(), message.clone(), self.reply.clone());
            tokio::spawn(async move {
                deliver(&http, &hook, &message, |tries, outcome, last| {
                    // Nobody listens any more when the run has ended.
                    let _ = reply.send(Fate { ticket, tries, outcome, last });
                })
                .await;
            });
        }
    }

    /// Waits for what is still on its way.
    pub async fn settle(&mut self) {
        while self.sent.iter().any(|sent| sent.fate.as_ref().is_none_or(|fate| !fate.last)) {
            match self.fates.recv().await {
                Some(fate) => self.note(fate),
                None => return,
            }
        }
    }

    fn note(&mut self, fate: Fate) {
        if let Some(sent) = self.sent.get_mut(fate.ticket) {
            sent.fate = Some(fate);
        }
    }

    /// What became of every message, as facts for the record; and a line for the person when one did not arrive.
    pub fn report(&mut self) -> (Vec<Value>, Option<String>) {
        while let Ok(fate) = self.fates.try_recv() {
            self.note(fate);
        }
        let why = |sent: &Sent| match &sent.fate {
            None => Some("no answer yet".to_owned()),
            Some(fate) => fate.outcome.clone().err(),
        };
        let fact = |sent: &Sent| {
            json!({
                "event": sent.event, "webhook": sent.hook.number, "kind": sent.hook.service.name(), "host": sent.hook.host,
                "arrived": sent.fate.as_ref().map(|fate| fate.outcome.is_ok()),
                "tries": sent.fate.as_ref().map(|fate| fate.tries), "message": why(sent),
            })
        };
        let lost: Vec<String> = self
            .sent
            .iter()
            .filter_map(|sent| Some(format!("{} to {} ({})", sent.event, sent.hook, why(sent)?)))
            .collect();
        let line = (!lost.is_empty()).then(|| format!("not notified: {}", lost.join("; ")));
        (self.sent.iter().map(fact).collect(), line)
    }
}

/// Tries until the service has taken the message or will not, and tells what became of each try.
async fn deliver(http: &Http, hook: &Hook, message: &Message, tell: impl Fn(u32, Result<(), String>, bool)) {
    let mut pauses = PAUSES.iter();
    let mut tries = 0;
    loop {
        tries += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let request = request(hook.service, &hook.url, hook.secret.as_deref(), message, now);
        let refused = match http.send(&request, LIMIT).await {
            Ok(answer) => match understood(hook.service, answer.status, &answer.body) {
                Ok(()) => return tell(tries, Ok(()), true),
                Err(refused) => refused,
            },
            Err(silence) => Refused { why: silence.to_string(), again: true },
        };
        let pause = pauses.next().filter(|_| refused.again);
        tell(tries, Err(refused.why), pause.is_none());
        match pause {
            Some(pause) => tokio::time::sleep(*pause).await,
            None => return,
        }
    }
}
