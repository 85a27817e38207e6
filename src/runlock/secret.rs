//! What of a job's settings is not written down: secrets. Pure.

use serde_json::Value;

use super::Setting;
use crate::image::{has_credentials, redact};

/// Parts of the names of variables that hold secrets.
const WORDS: [&str; 11] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "WEBHOOK",
];

/// Whether a variable, a file or a setting of this name is likely to be a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace('-', "_");
    WORDS.iter().any(|word| name.contains(word)) || name.ends_with("_KEY") || name.ends_with("_AUTH")
}

/// A setting as a lock has it: without what is secret in it.
#[must_use]
pub fn setting(path: &str, value: Value, origin: String) -> Setting {
    let variable = ["environment.", "build.args."].iter().find_map(|of| path.strip_prefix(of));
    if let (Some(name), Value::String(text)) = (variable, &value) {
        if is_secret(name) || has_credentials(text) {
            // As if the job took it from the environment of whoever runs it: that is where the next one has to find it.
            return Setting { value: Value::Null, origin, withheld: true };
        }
    }
    let mut withheld = false;
    let value = without_credentials(value, &mut withheld);
    Setting { value, origin, withheld }
}

/// The secrets that stand in a job's settings, to be masked wherever else they would be written down.
#[must_use]
pub fn values(settings: &[(String, Value, String)]) -> Vec<String> {
    /// Shorter ones stand in too many words to be masked, and are no secrets.
    const SHORTEST: usize = 4;
    let mut values = Vec::new();
    for (path, value, origin) in settings {
        if setting(path, value.clone(), origin.clone()).withheld {
            let is_variable = path.starts_with("environment.") || path.starts_with("build.args.");
            texts(value, is_variable, &mut values);
        }
    }
    values.retain(|value| value.len() >= SHORTEST);
    // A value that is part of another one comes after it.
    values.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
    values.dedup();
    values
}

fn texts(value: &Value, all: bool, found: &mut Vec<String>) {
    match value {
        Value::String(text) if all || has_credentials(text) => {
            forms(text, found);
            // One of several lines may stand indented, or behind the marks of a diff. Of what is no variable the other lines are no secrets.
            text.lines().map(str::trim).filter(|line| all || has_credentials(line)).for_each(|line| forms(line, found));
        }
        Value::Array(list) => list.iter().for_each(|value| texts(value, all, found)),
        Value::Object(map) => map.values().for_each(|value| texts(value, all, found)),
        _ => {}
    }
}

/// A text as it is, and as it may be written in YAML's double and single quotes.
fn forms(text: &str, found: &mut Vec<String>) {
    let quoted = Value::from(text).to_string();
    found.push(quoted[1..quoted.len() - 1].to_owned());
    found.push(text.replace('\'', "''"));
    found.push(text.to_owned());
}

/// Text with secrets masked.
#[must_use]
pub fn masked(text: &str, secrets: &[String]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
}

/// The same for text of any encoding.
#[must_use]
pub fn masked_bytes(text: &[u8], secrets: &[String]) -> Vec<u8> {
    let mut masked = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        match secrets.iter().find(|secret| rest.starts_with(secret.as_bytes())) {
            Some(secret) => {
                masked.extend_from_slice(b"***");
                rest = &rest[secret.len()..];
            }
            None => {
                masked.push(*first);
                rest = after;
            }
        }
    }
    masked
}

fn without_credentials(value: Value, withheld: &mut bool) -> Value {
    match value {
        Value::String(text) if has_credentials(&text) => {
            *withheld = true;
            Value::String(redact(&text).into_owned())
        }
        Value::Array(list) => list.into_iter().map(|value| without_credentials(value, withheld)).collect(),
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (key, without_credentials(value, withheld))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["HF_TOKEN", "wandb_api_key", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "SSH_KEY", "my-token"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["OMP_NUM_THREADS", "KEYBOARD", "NCCL_DEBUG", "PATH", "MONKEY"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn what_is_secret_is_not_in_the_lock() {
        let of = |path: &str, value: Value| {
            let Setting { value, withheld, .. } = setting(path, value, "default".into());
            (value, withheld)
        };
        assert_eq!(of("environment.HF_TOKEN", json!("abc")), (Value::Null, true));
        assert_eq!(of("environment.PROXY", json!("http://me:pw@proxy")), (Value::Null, true));
        assert_eq!(of("environment.HF_TOKEN", Value::Null), (Value::Null, false), "it was never in the job");
        assert_eq!(of("environment.MODE", json!("fast")), (json!("fast"), false));
        assert_eq!(of("command", json!(["get", "https://u:p@h/x"])), (json!(["get", "https://***@h/x"]), true));
        assert_eq!(of("epochs", json!(3)), (json!(3), false));
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let setting = |path: &str, value: Value| (path.to_owned(), value, String::new());
        let settings = [
            setting("environment.HF_TOKEN", json!("hf_a\"b")),
            setting("environment.A_TOKEN", json!("ab")),
            setting("environment.MODE", json!("fast")),
            setting("command", json!(["get", "https://u:p@h/x"])),
        ];
        let secrets = values(&settings);
        let text = "TOKEN: \"hf_a\\\"b\" or 'hf_a\"b', fast, ab, https://u:p@h/x";
        assert_eq!(masked(text, &secrets), "TOKEN: \"***\" or '***', fast, ab, ***");
        assert_eq!(masked_bytes(text.as_bytes(), &secrets), masked(text, &secrets).as_bytes());
    }

    #[test]
    fn a_secret_of_several_lines_is_masked_line_by_line() {
        let setting = |path: &str, value: &str| (path.to_owned(), json!(value), String::new());
        let settings = [
            setting("environment.SSH_KEY", "-----BEGIN\nabcdefgh\n  ijkl\n}\n"),
            setting("environment.A_TOKEN", "don't tell"),
        ];
        let secrets = values(&settings);
        let job = "SSH_KEY: |\n  -----BEGIN\n  abcdefgh\n    ijkl\n  }\nA_TOKEN: 'don''t tell'\n";
        let without = "SSH_KEY: |\n  ***\n  ***\n    ***\n  }\nA_TOKEN: '***'\n";
        assert_eq!(masked(job, &secrets), without);
        let patch = "+  abcdefgh\n+    ijkl\n";
        assert_eq!(masked_bytes(patch.as_bytes(), &secrets), b"+  ***\n+    ***\n");
    }
}
