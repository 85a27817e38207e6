//! Who is told how a run goes: the formats and signatures of every service, and endpoints that do not answer as they should.

use std::path::Path;
use std::time::Instant;

use base64::Engine as _;
use hmac::Mac as _;
use serde_json::{Value, json};

use crate::listener::{Answer, Listener, Request};
use crate::needs_engine;
use crate::support::{Place, Running, entries, job, nothing_left, until};

/// A program that runs out of memory in its first launch and ends well in the second.
fn recovers(place: &Place, more: &str) {
    let script = "[ $EVENKEEL_MICRO_BATCH -le 8 ] && exit; [ $RANK = 0 ] && exec sleep 600\n\
         echo 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB' >&2; exit 1";
    job(place, script, &format!("batch: 32\n{more}"));
}

fn hmac(key: &str, text: &str) -> Vec<u8> {
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).expect("any key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Answers as the service at a path does.
fn services(request: &Request) -> Answer {
    match request.route() {
        "/feishu/token-f" => Answer::ok(r#"{"code":0,"msg":"success","data":{}}"#),
        "/dingtalk" | "/wecom" => Answer::ok(r#"{"errcode":0,"errmsg":"ok"}"#),
        "/slack/token-s" | "/generic" => Answer::ok("ok"),
        _ => Answer::Text(404, String::new()),
    }
}

/// All of a folder's files, as one text.
fn everything(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() {
            text += &everything(&path);
        } else if path.is_file() {
            text += &String::from_utf8_lossy(&std::fs::read(&path).expect("readable"));
        }
    }
    text
}

#[test]
fn every_service_is_told_in_its_own_format_and_no_secret_is_kept() {
    needs_engine!();
    let place = Place::new();
    let lab = Listener::start(services);
    place.write("dingtalk-secret", "SECding\n");
    let more = "notify:\n\
         - {url_env: SLACK, kind: slack, on: [finish]}\n\
         - {url_env: FEISHU, kind: feishu, secret_env: FEISHU_SECRET}\n\
         - {url_env: DING, kind: dingtalk, secret_file: dingtalk-secret}\n\
         - {url_env: WECOM, kind: wecom}\n\
         - {url_env: GENERIC, secret_env: GENERIC_SECRET}\n";
    recovers(&place, more);
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    for (name, value) in [
        ("SLACK", format!("{}/slack/token-s", lab.url)),
        ("FEISHU", format!("{}/feishu/token-f", lab.url)),
        ("DING", format!("{}/dingtalk?access_token=token-d", lab.url)),
        ("WECOM", format!("{}/wecom?key=token-w", lab.url)),
        ("GENERIC", format!("{}/generic", lab.url)),
        ("FEISHU_SECRET", "feishu-hush".into()),
        ("GENERIC_SECRET", "generic-hush".into()),
    ] {
        command.env(name, value);
    }
    let ended = Running::start(command).end().with_code(0);
    assert!(!ended.stderr.contains("not notified"), "{}", ended.stderr);

    let slack = lab.to("/slack/token-s");
    assert_eq!(slack.len(), 1, "it wants to hear of the end alone");
    let told = slack[0].json();
    assert!(told["text"].as_str().is_some_and(|text| text.starts_with("evenkeel: job: done in")), "{told}");
    assert_eq!(told["blocks"][0]["type"], "section");

    let feishu = lab.to("/feishu/token-f");
    assert_eq!(feishu.len(), 2);
    for request in &feishu {
        let told = request.json();
        let timestamp = told["timestamp"].as_str().expect("a time");
        assert_eq!(told["sign"], base64(&hmac(&format!("{timestamp}\nfeishu-hush"), "")));
        assert_eq!(told["msg_type"], "text");
        assert!(told["content"]["text"].is_string(), "{told}");
    }
    let dingtalk = lab.to("/dingtalk");
    assert_eq!(dingtalk.len(), 2);
    for request in &dingtalk {
        let timestamp = request.query("timestamp").expect("a time");
        assert_eq!(timestamp.len(), 13, "milliseconds: {timestamp}");
        assert_eq!(request.query("sign"), Some(base64(&hmac("SECding", &format!("{timestamp}\nSECding")))));
        assert_eq!(request.query("access_token").as_deref(), Some("token-d"));
        assert_eq!(request.json()["msgtype"], "text");
    }
    let wecom: Vec<Value> = lab.to("/wecom").iter().map(Request::json).collect();
    assert!(wecom.iter().all(|told| told["msgtype"] == "text" && told["text"]["content"].is_string()), "{wecom:?}");
    let recovery = wecom[0]["text"]["content"].as_str().expect("text");
    assert!(recovery.contains("starting again with 8, 32 images a step as before"), "{recovery}");

    let generic = lab.to("/generic");
    for request in &generic {
        let (time, sign) = (request.header("x-evenkeel-timestamp"), request.header("x-evenkeel-signature"));
        let expected = hmac("generic-hush", &format!("{}.{}", time.expect("a time"), request.body));
        let hex: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sign, Some(&*format!("sha256={hex}")));
    }
    let events: Vec<Value> = generic.iter().map(|request| request.json()["event"].clone()).collect();
    assert_eq!(events, ["recovery", "finish"]);
    let last = generic[1].json();
    assert_eq!((&last["version"], &last["outcome"], &last["run"]["name"]), (&json!(1), &json!("done"), &json!("job")));
    assert_eq!(last["run"]["record"].as_str().map(Path::new), Some(&*place.record().canonicalize().expect("it is")));

    let journal = place.journal();
    let notified = entries(&journal, "notified");
    assert_eq!(notified.len(), 9);
    assert!(notified.iter().all(|fact| fact["detail"]["arrived"] == true), "{notified:?}");
    let kept = everything(&place.path().join("runs"));
    assert!(kept.contains("FEISHU_SECRET"), "the record names where secrets are");
    for secret in ["token-", "hush", "SECding"] {
        assert!(!kept.contains(secret) && !ended.stderr.contains(secret), "`{secret}` is kept or shown");
    }
    nothing_left(&place);
}

#[test]
fn endpoints_that_hang_refuse_or_are_gone_delay_nothing_and_are_named() {
    needs_engine!();
    let place = Place::new();
    let lab = Listener::start(|request| match request.route() {
        "/hangs" => Answer::Silence,
        "/fails" => Answer::Text(500, String::new()),
        _ => Answer::ok(r#"{"errcode":310000,"errmsg":"sign not match"}"#),
    });
    let more = format!(
        "notify:\n- {{url: \"{0}/hangs\"}}\n- {{url: \"{0}/fails\"}}\n- {{url_env: DING, kind: dingtalk}}\n\
         - {{url: \"http://127.0.0.1:9/gone\"}}\n",
        lab.url
    );
    recovers(&place, &more);
    let begin = Instant::now();
    let mut command = place.evenkeel(&["train", "job.yaml", "--json"]);
    command.env("DING", format!("{}/dingtalk?access_token=t", lab.url));
    let ended = Running::start(command).end().with_code(0).saying("not notified: ");
    let whole = begin.elapsed().as_secs_f64();
    let result: Value = serde_json::from_str(&ended.stdout).expect("one JSON value");
    let seconds = result["seconds"].as_f64().expect("a number");
    assert!(whole < seconds + 6.5, "{whole} s in all, the run took {seconds} s");
    let lines: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("not notified: ")).collect();
    assert_eq!(lines.len(), 1, "{}", ended.stderr);
    assert_eq!(result["untold"], json!(lines));
    for words in [
        "finish to generic at 127.0.0.1 (no answer",
        "finish to generic at 127.0.0.1 (status 500)",
        "finish to dingtalk at 127.0.0.1 (its code 310000: sign not match)",
        "finish to generic at 127.0.0.1 (Connection refused",
    ] {
        assert!(lines[0].contains(words), "no `{words}` in {}", lines[0]);
    }
    assert!(lab.to("/fails").len() > 2, "a server that fails is asked again");
    assert_eq!(lab.to("/dingtalk").len(), 2, "one that refuses is not");
    let journal = place.journal();
    let at = |entry: &str, generation: u64| {
        let found = entries(&journal, entry).into_iter().find(|it| it["detail"]["generation"] == generation);
        found.and_then(|it| it["time_ms"].as_u64()).unwrap_or_else(|| panic!("no {entry} of {generation}"))
    };
    let pause = at("create", 2) - at("attempt", 1);
    assert!(pause < 500, "{pause} ms between two launches");
    let notified = entries(&journal, "notified");
    assert_eq!(notified.len(), 8);
    assert!(notified.iter().all(|fact| fact["detail"]["arrived"] != true), "{notified:?}");
    nothing_left(&place);
}

#[test]
fn a_failure_and_a_stop_are_told_as_what_they_are() {
    needs_engine!();
    let lab = Listener::start(services);
    let hook = format!("notify: [{{url: \"{}/generic\"}}]", lab.url);
    let place = Place::new();
    job(&place, "[ $RANK = 0 ] && exec sleep 600; echo the reason >&2; exit 7", &hook);
    place.run(&["train", "job.yaml"]).with_code(1);
    let told = lab.to("/generic")[0].json();
    assert_eq!((&told["event"], &told["outcome"]), (&json!("failure"), &json!("failed")));
    assert_eq!((&told["failure"]["rank"], &told["failure"]["class"]), (&json!(1), &json!("code")));

    let place = Place::new();
    job(&place, "echo up; exec sleep 600", &hook);
    let running = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("the trainers' start", || entries(&place.journal_so_far(), "go").first().map(|_| ()));
    running.signal("TERM");
    running.end().with_code(143);
    let told = lab.to("/generic")[1].json();
    assert_eq!((&told["event"], &told["outcome"]), (&json!("finish"), &json!("stopped")));
    assert!(told["title"].as_str().is_some_and(|title| title.contains("stopped by SIGTERM")), "{told}");
    nothing_left(&place);
}
