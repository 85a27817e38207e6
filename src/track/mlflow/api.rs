//! MLflow's REST interface, as far as it is used: requests as functions of what they ask, answers as what they say.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Server;
use super::queue::Entry;
use crate::http::{Answer, Request};

/// Numbers that one request may carry.
pub const MOST_METRICS: usize = 1000;
/// Parameters and tags of one request.
pub const MOST_PARAMS: usize = 100;
/// Characters of a parameter's or a tag's value, as older servers have it.
const LONGEST_VALUE: usize = 500;
/// Characters of a name.
const LONGEST_NAME: usize = 250;
/// The tag by which a run is found again whose creation was not answered.
pub const KEY: &str = "evenkeel.key";

/// A number of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name, as the server takes it.
    pub key: String,
    /// It.
    pub value: f64,
    /// Epoch, from 1.
    pub step: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// What an answer other than success means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The server's code, such as `RESOURCE_DOES_NOT_EXIST`.
    pub code: String,
    /// Its words.
    pub message: String,
    /// Whether the same request may be answered otherwise later.
    pub later: bool,
}

/// The answer's content, or what is in its place.
///
/// # Errors
///
/// The server did not do it.
pub fn content(answer: &Answer) -> Result<Value, Refusal> {
    let value: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    if answer.status == 200 {
        return Ok(value);
    }
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let code =
        if text("error_code").is_empty() { format!("status {}", answer.status) } else { text("error_code").into() };
    let message: String = text("message").chars().map(|it| if it.is_control() { ' ' } else { it }).take(200).collect();
    Err(Refusal { code, message, later: answer.status >= 500 || matches!(answer.status, 408 | 429) })
}

/// Asks for an experiment.
#[must_use]
pub fn experiment_by_name(server: &Server, name: &str) -> Request {
    get(server, "experiments/get-by-name", &[("experiment_name", name)])
}

/// Makes an experiment.
#[must_use]
pub fn create_experiment(server: &Server, name: &str) -> Request {
    post(server, "experiments/create", &json!({ "name": name }))
}

/// Makes a run.
#[must_use]
pub fn create_run(server: &Server, experiment: &str, key: &str, name: &str, start_ms: u64) -> Request {
    let tags = tags(&[(KEY.to_owned(), key.to_owned()), ("mlflow.runName".to_owned(), name.to_owned())].into());
    let body = json!({ "experiment_id": experiment, "start_time": start_ms, "run_name": name, "tags": tags });
    post(server, "runs/create", &body)
}

/// Looks for a run that may have been made.
#[must_use]
pub fn find_run(server: &Server, experiment: &str, key: &str) -> Request {
    let filter = format!("tags.`{KEY}` = '{key}'");
    post(server, "runs/search", &json!({ "experiment_ids": [experiment], "filter": filter, "max_results": 1 }))
}

/// The identifier of a run in an answer: the run that was made, or the one that was found.
#[must_use]
pub fn run_id(content: &Value) -> Option<String> {
    let info = content.pointer("/run/info").or_else(|| content.pointer("/runs/0/info"))?;
    info["run_id"].as_str().map(str::to_owned)
}

/// The identifier of an experiment in an answer.
#[must_use]
pub fn experiment_id(content: &Value) -> Option<String> {
    let id = content.pointer("/experiment/experiment_id").or_else(|| content.get("experiment_id"))?;
    id.as_str().map(str::to_owned)
}

/// Tells numbers.
#[must_use]
pub fn log_metrics(server: &Server, run: &str, metrics: &[Metric]) -> Request {
    let metrics: Vec<Value> = metrics
        .iter()
        .map(|it| json!({ "key": it.key, "value": it.value, "timestamp": it.time_ms, "step": it.step }))
        .collect();
    post(server, "runs/log-batch", &json!({ "run_id": run, "metrics": metrics }))
}

/// Tells parameters and tags, in as many requests as it takes. Both may be told twice.
#[must_use]
pub fn log_texts(
    server: &Server,
    run: &str,
    params: &BTreeMap<String, String>,
    tags: &BTreeMap<String, String>,
) -> Vec<Request> {
    let param = |(key, value): (&String, &String)| json!({ "key": name(key), "value": short(value, LONGEST_VALUE) });
    let params: Vec<Value> = params.iter().map(param).collect();
    let tags = self::tags(tags);
    let batch = |params: &[Value], tags: &[Value]| {
        post(server, "runs/log-batch", &json!({ "run_id": run, "params": params, "tags": tags }))
    };
    let params = params.chunks(MOST_PARAMS).map(|some| batch(some, &[]));
    params.chain(tags.chunks(MOST_PARAMS).map(|some| batch(&[], some))).collect()
}

/// Tells a run's status; `end_ms` when it is over.
#[must_use]
pub fn update_run(server: &Server, run: &str, status: &str, end_ms: Option<u64>) -> Request {
    let mut body = json!({ "run_id": run, "status": status });
    if let Some(end) = end_ms {
        body["end_time"] = json!(end);
    }
    post(server, "runs/update", &body)
}

/// Asks what the server has of a number.
#[must_use]
pub fn history(server: &Server, run: &str, key: &str, page: Option<&str>) -> Request {
    let mut query = vec![("run_id", run), ("metric_key", key)];
    query.extend(page.map(|page| ("page_token", page)));
    get(server, "metrics/get-history", &query)
}

/// Steps and times that an answer about a number's history names, and the next page if there is one.
#[must_use]
pub fn told(content: &Value) -> (BTreeSet<(u64, u64)>, Option<String>) {
    // 64-bit numbers are text in JSON to some servers.
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let metrics = content["metrics"].as_array().into_iter().flatten();
    let seen = metrics.filter_map(|it| Some((number(&it["step"]).unwrap_or(0), number(&it["timestamp"])?)));
    let next = content["next_page_token"].as_str().filter(|token| !token.is_empty());
    (seen.collect(), next.map(str::to_owned))
}

/// The numbers of an entry of the queue.
#[must_use]
pub fn metrics_of(entry: &Entry) -> Vec<Metric> {
    let Entry::Metrics { epoch, time_ms, values } = entry else { return Vec::new() };
    let metric = |(key, value): (&String, &f64)| Metric {
        key: name(key),
        value: *value,
        step: u64::from(*epoch),
        time_ms: *time_ms,
    };
    values.iter().map(metric).collect()
}

/// A name as every server takes it: `metrics/mAP50(B)` becomes `metrics/mAP50B`, as the official trainer's own has it.
#[must_use]
pub fn name(text: &str) -> String {
    let fits = |letter: &char| letter.is_ascii_alphanumeric() || "_-./ ".contains(*letter);
    short(&text.chars().filter(fits).collect::<String>(), LONGEST_NAME)
}

fn short(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

fn tags(tags: &BTreeMap<String, String>) -> Vec<Value> {
    tags.iter().map(|(key, value)| json!({ "key": key, "value": short(value, LONGEST_VALUE) })).collect()
}

fn get(server: &Server, path: &str, query: &[(&str, &str)]) -> Request {
    let mut url = address(server, path);
    let pairs = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    url.push('?');
    url.push_str(&pairs);
    Request { url, headers: headers(server), body: None }
}

fn post(server: &Server, path: &str, body: &Value) -> Request {
    Request { url: address(server, path), headers: headers(server), body: Some(body.to_string()) }
}

fn address(server: &Server, path: &str) -> String {
    format!("{}/api/2.0/mlflow/{path}", server.uri)
}

fn headers(server: &Server) -> Vec<(&'static str, String)> {
    server.authorization.iter().map(|value| ("Authorization", value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server { uri: "http://lab:5000".into(), authorization: Some("Bearer t".into()) }
    }

    #[test]
    fn names_are_what_every_server_takes() {
        assert_eq!(name("metrics/mAP50-95(B)"), "metrics/mAP50-95B");
        let entry = Entry::Metrics { epoch: 3, time_ms: 7, values: [("val/box_loss".to_owned(), 0.5)].into() };
        let expected = Metric { key: "val/box_loss".into(), value: 0.5, step: 3, time_ms: 7 };
        assert_eq!(metrics_of(&entry), [expected]);
    }

    #[test]
    fn many_parameters_are_many_requests() {
        let params = (0..250).map(|number| (format!("p{number}"), "x".repeat(9000))).collect();
        let requests = log_texts(&server(), "r", &params, &BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        let count = |request: &Request, key: &str| {
            let body: Value = serde_json::from_str(request.body.as_deref().unwrap_or_default()).expect("JSON");
            body[key].as_array().map_or(0, Vec::len)
        };
        let counts: Vec<_> = requests.iter().map(|it| (count(it, "params"), count(it, "tags"))).collect();
        assert_eq!(counts, [(100, 0), (100, 0), (50, 0), (0, 1)]);
        assert!(!requests[0].body.as_deref().is_some_and(|body| body.contains(&"x".repeat(501))));
    }

    #[test]
    fn a_name_in_an_address_is_escaped() {
        let request = experiment_by_name(&server(), "a b&c/é");
        let path = "api/2.0/mlflow/experiments/get-by-name?experiment_name=a+b%26c%2F%C3%A9";
        assert_eq!(request.url, format!("http://lab:5000/{path}"));
        assert_eq!((request.body, request.headers), (None, vec![("Authorization", "Bearer t".to_owned())]));
    }

    #[test]
    fn an_answer_is_understood_whichever_way_it_writes_numbers() {
        let answer = |status, body: &str| Answer { status, body: body.into() };
        let history =
            r#"{"metrics": [{"key": "a", "timestamp": "17", "step": 2}, {"timestamp": 18}], "next_page_token": "n"}"#;
        let (seen, next) = told(&content(&answer(200, history)).expect("good"));
        assert_eq!((seen, next.as_deref()), ([(2, 17), (0, 18)].into(), Some("n")));
        let refusal = content(&answer(404, r#"{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}"#));
        let code = "RESOURCE_DOES_NOT_EXIST".to_owned();
        assert_eq!(refusal, Err(Refusal { code, message: "no".into(), later: false }));
        assert!(content(&answer(502, "<html>")).is_err_and(|refusal| refusal.later));
        let found = content(&answer(200, r#"{"runs": [{"info": {"run_id": "x"}}]}"#)).expect("good");
        assert_eq!((run_id(&found).as_deref(), run_id(&json!({}))), (Some("x"), None));
    }
}
