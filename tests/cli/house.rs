//! What docs/architecture.md says of the house, where a test can keep it.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Files of the controller that name a crate.
fn users(name: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let names = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("text");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.into_iter().any(|line| line.contains(&format!("{name}::")))
    };
    let mut found: Vec<String> = files
        .iter()
        .filter(|path| names(path))
        .map(|path| path.strip_prefix(&root).expect("below it").display().to_string())
        .collect();
    found.sort();
    found
}

#[test]
fn each_external_system_lives_in_one_file() {
    assert_eq!(users("bollard"), ["docker.rs"]);
    assert_eq!(users("nvml_wrapper"), ["inventory/nvml.rs"]);
    // One for what is downloaded, one for who is told something.
    assert_eq!(users("reqwest"), ["fetch.rs", "http.rs"]);
    assert_eq!(users("indicatif"), ["output.rs"]);
}

#[test]
fn what_is_pure_knows_no_clock_no_disk_and_no_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in [
        "event.rs",
        "failure.rs",
        "follow.rs",
        "launch.rs",
        "notify/message.rs",
        "notify/request.rs",
        "plan.rs",
        "plan/batch.rs",
        "plan/cut.rs",
        "plan/cut/uneven.rs",
        "plan/cut/uniform.rs",
        "plan/draw.rs",
        "plan/draw/even.rs",
        "plan/draw/fitted.rs",
        "plan/draw/near.rs",
        "plan/knowledge.rs",
        "plan/memory.rs",
        "runlock.rs",
        "runlock/difference.rs",
        "runlock/job.rs",
        "runlock/listing.rs",
        "runlock/secret.rs",
        "trajectory.rs",
        "track/mlflow/api.rs",
        "track/tensorboard/frame.rs",
        "watch/pace.rs",
        "watch/state.rs",
        "logs/since.rs",
        "logs/write.rs",
        "output/chart.rs",
        "output/live.rs",
        "output/runs.rs",
        "output/show.rs",
        "output/show/usage.rs",
        "output/words.rs",
        "record/past.rs",
        "report.rs",
        "report/bars.rs",
        "report/chart.rs",
        "report/course.rs",
        "report/markup.rs",
        "report/page.rs",
        "report/pictures.rs",
        "report/series.rs",
        "record/summary.rs",
        "record/told.rs",
        "record/usage.rs",
        "record/usage/series.rs",
        "inventory/select.rs",
    ] {
        let text = std::fs::read_to_string(root.join(file)).expect("text");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for impure in ["std::fs", "Instant::now", "SystemTime", "std::env", "tokio", "std::process"] {
            assert!(!code.contains(impure), "`{impure}` in {file}");
        }
    }
}
