//! MLflow's REST interface, by a server that keeps what it is told as MLflow's file store does: what is told twice is there twice.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::listener::{Answer, Listener, Request};
use crate::needs_engine;
use crate::support::{Place, Running, entries, job, nothing_left};

/// How the server treats its clients.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    /// It hangs up on everybody.
    Away,
    /// It does what it is asked, and hangs up before it answers, on every request that it sees for the first time.
    Mute,
}

struct Mlflow {
    experiments: Vec<String>,
    /// Body of the creation, then what came.
    runs: Vec<Run>,
    mood: Mood,
    muted: Vec<String>,
}

#[derive(Clone, Default)]
struct Run {
    created: Value,
    metrics: Vec<Value>,
    params: Vec<Value>,
    tags: Vec<Value>,
    updates: Vec<Value>,
}

struct Server {
    listener: Listener,
    state: Arc<Mutex<Mlflow>>,
}

impl Server {
    fn start(mood: Mood) -> Self {
        let state = Mlflow { experiments: Vec::new(), runs: Vec::new(), mood, muted: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let answering = state.clone();
        let listener = Listener::start(move |request| answering.lock().expect("no panic").answer(request));
        Self { listener, state }
    }

    fn set(&self, mood: Mood) {
        self.state.lock().expect("no panic").mood = mood;
    }

    fn runs(&self) -> Vec<Run> {
        self.state.lock().expect("no panic").runs.clone()
    }
}

impl Mlflow {
    fn answer(&mut self, request: &Request) -> Answer {
        if self.mood == Mood::Away {
            return Answer::HangUp;
        }
        let answer = self.act(request);
        let same = format!("{} {}", request.path, request.body);
        if self.mood == Mood::Mute && request.method == "POST" && !self.muted.contains(&same) {
            self.muted.push(same);
            return Answer::HangUp;
        }
        answer
    }

    fn act(&mut self, request: &Request) -> Answer {
        let refusal =
            |status, code: &str| Answer::Text(status, json!({ "error_code": code, "message": "no" }).to_string());
        let body = if request.method == "POST" { request.json() } else { json!({}) };
        let number = |id: &Value| id.as_str().and_then(|id| id.parse::<usize>().ok()).expect("a number of ours");
        match request.route().trim_start_matches("/api/2.0/mlflow/") {
            "experiments/get-by-name" => {
                let name = request.query("experiment_name").expect("a name");
                match self.experiments.iter().position(|it| *it == name) {
                    Some(at) => Answer::ok(json!({ "experiment": { "experiment_id": at.to_string() } }).to_string()),
                    None => refusal(404, "RESOURCE_DOES_NOT_EXIST"),
                }
            }
            "experiments/create" => {
                let name = body["name"].as_str().expect("a name").to_owned();
                if self.experiments.contains(&name) {
                    return refusal(400, "RESOURCE_ALREADY_EXISTS");
                }
                self.experiments.push(name);
                Answer::ok(json!({ "experiment_id": (self.experiments.len() - 1).to_string() }).to_string())
            }
            "runs/create" => {
                let tags = body["tags"].as_array().expect("tags").clone();
                self.runs.push(Run { created: body, tags, ..Run::default() });
                let id = (self.runs.len() - 1).to_string();
                Answer::ok(json!({ "run": { "info": { "run_id": id } } }).to_string())
            }
            "runs/search" => {
                let filter = body["filter"].as_str().expect("a filter");
                let has = |run: &Run| {
                    let key = run.tags.iter().find(|tag| tag["key"] == "evenkeel.key").expect("its key");
                    filter == format!("tags.`evenkeel.key` = '{}'", key["value"].as_str().expect("text"))
                };
                let runs: Vec<Value> = (0..self.runs.len())
                    .filter(|at| has(&self.runs[*at]))
                    .map(|at| json!({ "info": { "run_id": at.to_string() } }))
                    .collect();
                Answer::ok(json!({ "runs": runs }).to_string())
            }
            "runs/log-batch" => {
                let run = &mut self.runs[number(&body["run_id"])];
                let list = |key: &str| body[key].as_array().cloned().unwrap_or_default();
                assert!(
                    list("metrics").iter().all(|it| it["key"].as_str().is_some_and(|key| !key.contains(['(', ')'])))
                );
                run.metrics.extend(list("metrics"));
                run.params.extend(list("params"));
                run.tags.extend(list("tags"));
                Answer::ok("{}")
            }
            "runs/update" => {
                self.runs[number(&body["run_id"])].updates.push(body.clone());
                Answer::ok("{}")
            }
            "metrics/get-history" => {
                let run = &self.runs[number(&json!(request.query("run_id")))];
                let key = request.query("metric_key");
                let metrics = run.metrics.iter().filter(|it| it["key"].as_str() == key.as_deref());
                Answer::ok(json!({ "metrics": metrics.collect::<Vec<_>>() }).to_string())
            }
            other => panic!("nobody asks for {other}"),
        }
    }
}

impl Run {
    /// Names, steps and values of the numbers, in the order in which they came.
    fn told(&self) -> Vec<(String, u64, f64)> {
        let one = |it: &Value| {
            let step = it["step"].as_u64().expect("an epoch");
            (it["key"].as_str().expect("a name").to_owned(), step, it["value"].as_f64().expect("a number"))
        };
        self.metrics.iter().map(one).collect()
    }

    fn param(&self, key: &str) -> Vec<&str> {
        self.params.iter().filter(|it| it["key"] == key).filter_map(|it| it["value"].as_str()).collect()
    }
}

/// A program of `epochs` epochs of one step each, of half a second; `more` are further lines of the job.
fn trains(place: &Place, epochs: u32, more: &str) {
    let step = "{\\\"kind\\\":\\\"step\\\",\\\"epoch\\\":$e,\\\"epochs\\\":9,\\\"step\\\":$e,\\\"steps_per_epoch\\\":1,\\\"images\\\":8,\
         \\\"loss\\\":1.5,\\\"terms\\\":{},\\\"lr\\\":0.01,\\\"memory_bytes\\\":null,\\\"time_ms\\\":500}";
    let metrics = "{\\\"kind\\\":\\\"metrics\\\",\\\"epoch\\\":$e,\\\"values\\\":{\\\"metrics/mAP50(B)\\\":0.$e,\\\"val/box_loss\\\":1.$e}}";
    let last = epochs - 1;
    let script = format!(
        "for e in $(seq 0 {last}); do echo \"{step}\" >&$EVENKEEL_EVENTS_FD; sleep 0.2; \
         [ $RANK = 0 ] && echo \"{metrics}\" >&$EVENKEEL_EVENTS_FD; sleep 0.2; done; true"
    );
    job(place, &script, &format!("epochs: {epochs}\n{more}"));
}

/// What a server is to have of such a program.
fn expected(epochs: u32) -> Vec<(String, u64, f64)> {
    let mut all = Vec::new();
    for epoch in 0..epochs {
        let step = u64::from(epoch + 1);
        let tenth = f64::from(epoch) / 10.0;
        all.push(("metrics/mAP50B".to_owned(), step, tenth));
        all.push(("val/box_loss".to_owned(), step, 1.0 + tenth));
    }
    all
}

#[track_caller]
fn assert_told(run: &Run, epochs: u32) {
    let told: Vec<_> = run.told().into_iter().filter(|(key, _, _)| key != "images_per_second").collect();
    assert_eq!(told, expected(epochs));
}

fn train(place: &Place, uri: &str) -> crate::support::Ended {
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    command.env("MLFLOW_TRACKING_URI", uri).env("MLFLOW_TRACKING_TOKEN", "hush-hush");
    Running::start(command).end()
}

#[test]
fn a_run_is_tracked_with_its_settings_its_epochs_and_its_end() {
    needs_engine!();
    let (place, server) = (Place::new(), Server::start(Mood::Well));
    trains(&place, 3, "batch: 32\ntrack: {mlflow: {experiment: \"shapes of a lab\"}}");
    train(&place, &server.listener.url).with_code(0).saying("mlflow:  experiment shapes of a lab at http://127.0.0.1:");
    let runs = server.runs();
    let [run] = &runs[..] else { panic!("{} runs", runs.len()) };
    assert_told(run, 3);
    let id = place.record().file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(run.created["run_name"], json!(id));
    assert_eq!(
        (run.param("epochs"), run.param("batch.target"), run.param("world_size")),
        (vec!["3"], vec!["32"], vec!["2"])
    );
    assert_eq!(run.param("environment"), Vec::<&str>::new());
    let speeds: Vec<f64> =
        run.told().into_iter().filter(|(key, _, _)| key == "images_per_second").map(|(_, _, speed)| speed).collect();
    assert_eq!(speeds, [32.0; 3]);
    assert_eq!(run.updates.len(), 1);
    assert_eq!(run.updates[0]["status"], "FINISHED");
    assert!(run.updates[0]["end_time"].as_u64() > run.created["start_time"].as_u64());
    let requests = server.listener.requests();
    assert!(requests.iter().all(|request| request.header("authorization") == Some("Bearer hush-hush")));
    let journal = place.journal();
    assert_eq!(entries(&journal, "mlflow")[0]["detail"]["left"], 0);
    assert!(
        !place.recorded("mlflow/state.json").contains("hush") && !place.recorded("mlflow/queue.jsonl").contains("hush")
    );
    let events: Vec<_> = std::fs::read_dir(place.record().join("tensorboard")).expect("a folder").collect();
    assert_eq!(events.len(), 1, "one event file");
    nothing_left(&place);
}

#[test]
fn answers_that_are_lost_double_nothing() {
    needs_engine!();
    let (place, server) = (Place::new(), Server::start(Mood::Mute));
    trains(&place, 4, &format!("track: {{mlflow: {{uri: \"{}\"}}}}", server.listener.url));
    // Every request is done and not answered once, each after a longer pause: something may be left.
    place.run(&["train", "job.yaml"]).with_code(0);
    let mut tries = 0;
    while place.run(&["sync"]).code != Some(0) {
        tries += 1;
        assert!(tries < 20, "it comes to no end");
    }
    let runs = server.runs();
    assert_eq!(runs.len(), 1, "one run was made");
    assert_told(&runs[0], 4);
    assert_eq!(runs[0].updates.last().map(|update| &update["status"]), Some(&json!("FINISHED")));
}

#[test]
fn what_a_server_that_was_away_missed_is_sent_by_sync() {
    needs_engine!();
    let (place, server) = (Place::new(), Server::start(Mood::Away));
    trains(&place, 2, "");
    let begin = std::time::Instant::now();
    let ended = train(&place, &server.listener.url).with_code(0).saying("entries wait in the record (");
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    let line = ended.stderr.lines().find(|line| line.contains("evenkeel sync")).expect("the way out");
    let command = line.split('`').nth(1).expect("a command").trim_start_matches("evenkeel ");
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(entries(&place.journal(), "mlflow")[0]["detail"]["left"], 4);

    place.run(&words).with_code(3).saying("not all was sent");
    server.set(Mood::Well);
    let again = place.run(&[&words[..], &["--json"]].concat()).with_code(0);
    let told: Value = serde_json::from_str(&again.stdout).expect("one JSON value");
    assert_eq!((&told["runs"][0]["sent"], &told["runs"][0]["left"]), (&json!(4), &json!(0)));
    let runs = server.runs();
    assert_eq!(runs.len(), 1);
    assert_told(&runs[0], 2);
    assert_eq!(runs[0].updates[0]["status"], "FINISHED");
    place.run(&["sync"]).with_code(0).saying("nothing is left to send");
    place.run(&["sync", "job.yaml"]).with_code(2).saying("neither a run that MLflow is told of");
}

#[test]
fn the_next_training_sends_what_an_earlier_one_left() {
    needs_engine!();
    let (place, server) = (Place::new(), Server::start(Mood::Away));
    trains(&place, 2, "");
    train(&place, &server.listener.url).with_code(0).saying("entries wait in the record");
    server.set(Mood::Well);
    let ended = train(&place, &server.listener.url).with_code(0);
    assert!(!ended.stderr.contains("wait in the record"), "{}", ended.stderr);
    let runs = server.runs();
    assert_eq!(runs.len(), 2);
    runs.iter().for_each(|run| assert_told(run, 2));
}
