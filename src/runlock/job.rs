//! From a lock back to a job file. Pure.

use serde_yaml::{Mapping, Value};

use super::RunLock;

/// A setting whose value the lock does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the lock of {run} withholds `{key}`, which held a secret")]
pub struct Withheld {
    /// The run.
    pub run: String,
    /// The setting.
    pub key: String,
}

/// The text of a job file that asks for what the run was asked for. Settings that `given` names need not be known.
///
/// # Errors
///
/// A setting that nobody gives was a secret and no variable, which would come from the environment.
pub fn text(lock: &RunLock, given: &[&str]) -> Result<String, Withheld> {
    let mut root = Mapping::new();
    for (path, setting) in &lock.job.settings {
        let keys = keys(path);
        let is_given = || given.iter().any(|key| path == key || path.starts_with(&format!("{key}.")));
        if setting.withheld && !setting.value.is_null() && !is_given() {
            return Err(Withheld { run: lock.run.to_string(), key: path.clone() });
        }
        let value = serde_yaml::to_value(&setting.value).expect("JSON is YAML");
        insert(&mut root, &keys, value);
    }
    Ok(serde_yaml::to_string(&root).expect("plain data"))
}

/// The keys of a path. Variables may have dots in their names.
fn keys(path: &str) -> Vec<&str> {
    let depth = if path.starts_with("environment.") {
        2
    } else if path.starts_with("build.args.") {
        3
    } else {
        usize::MAX
    };
    path.splitn(depth, '.').collect()
}

fn insert(map: &mut Mapping, keys: &[&str], value: Value) {
    let [key, rest @ ..] = keys else { return };
    if rest.is_empty() {
        map.insert(written(key), value);
        return;
    }
    let inner = map.entry(written(key)).or_insert_with(|| Value::Mapping(Mapping::new()));
    if let Value::Mapping(inner) = inner {
        insert(inner, rest, value);
    }
}

/// A key as YAML has it: an epoch of `imgsz` is a number.
fn written(key: &str) -> Value {
    key.parse::<u64>().map_or_else(|_| key.into(), Value::from)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::{Bases, ResolvedJob, parse};
    use crate::runlock::tests::small;
    use crate::runlock::{Setting, secret};

    fn back(lock: &RunLock) -> ResolvedJob {
        let bases = Bases { folder: "/elsewhere".into(), home: None };
        parse("lock.yaml".as_ref(), text(lock, &[]).expect("whole"), &[], &bases).expect("a job")
    }

    #[test]
    fn a_job_comes_back_from_the_settings_of_its_lock() {
        let text = "name: t\ntrainer: ultralytics\ndata: d.yaml\nepochs: 100\nimgsz: {0: 320, 50: 480}\nbatch: {target: 32, micro: 8}\n\
                    device: [{cpu: 0.5, memory: 1GiB}, {cpu: 1}]\nargs: {lr0: 0.02, auto_augment: null}\n\
                    environment: {A.B: c, D: }\nvolumes: ['./code:/code:ro']\ntimeout: 1m30s\n";
        let bases = Bases { folder: "/home/a".into(), home: None };
        let given = parse("job.yaml".as_ref(), text.to_owned(), &[], &bases).expect("a job");
        let mut lock = small();
        let settings = given.settings().into_iter();
        lock.job.settings =
            settings.map(|(path, value, origin)| (path.clone(), secret::setting(&path, value, origin))).collect();
        assert_eq!(back(&lock).job, given.job);
    }

    #[test]
    fn a_withheld_variable_comes_from_the_environment_and_another_secret_must_be_given() {
        let mut lock = small();
        let hidden = |value| Setting { value, origin: "default".into(), withheld: true };
        lock.job.settings.insert("environment.HF_TOKEN".into(), hidden(json!(null)));
        assert_eq!(back(&lock).job.environment["HF_TOKEN"], None);
        lock.job.settings.insert("model".into(), hidden(json!("https://***@h/x.safetensors")));
        let error = text(&lock, &[]).expect_err("withheld");
        assert_eq!(error.key, "model");
        assert!(text(&lock, &["model"]).is_ok());
    }
}
