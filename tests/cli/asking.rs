//! What the program says of itself.

use serde_json::Value;

use crate::support::Place;

#[test]
fn every_command_says_what_it_does() {
    let place = Place::new();
    for (command, words) in [
        (&["train"][..], "leave a run record"),
        (&["plan"], "what would run and why"),
        (&["reproduce"], "what a record's lock says"),
        (&["compare"], "how many digits"),
        (&["devices"], "devices of this machine"),
        (&["runs"], "whose records are here"),
        (&["show"], "what came of a run"),
        (&["logs"], "what the ranks of a run wrote"),
        (&["image"], "images that training runs in"),
        (&["image", "build"], "where the engine does not have them"),
        (&["image", "save"], "for a machine without a registry"),
        (&["dataset", "shapes"], "drawn shapes"),
        (&["init"], "commented job"),
        (&["sync"], "while its server was away"),
        (&["schema"], "JSON Schema"),
    ] {
        let ended = place.run(&[command, &["--help"]].concat()).with_code(0);
        assert!(ended.stdout.contains(words), "{command:?}: {}", ended.stdout);
        assert_eq!(ended.stderr, "", "{command:?}");
    }
    let help = place.run(&["--help"]).with_code(0).stdout;
    let commands = [
        "train",
        "reproduce",
        "compare",
        "plan",
        "runs",
        "show",
        "logs",
        "devices",
        "image",
        "dataset",
        "init",
        "schema",
        "sync",
    ];
    for command in commands {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is not in\n{help}");
    }
}

#[test]
fn nothing_asked_is_answered_with_help() {
    let ended = Place::new().run(&[]).with_code(2);
    assert!(ended.stderr.contains("Usage:"), "{}", ended.stderr);
}

#[test]
fn the_version_is_the_packages() {
    let ended = Place::new().run(&["--version"]).with_code(0);
    assert_eq!(ended.stdout, concat!("evenkeel ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn data_that_does_not_reach_its_file_is_a_failure() {
    let place = Place::new();
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    for args in [&["schema"][..], &["devices"], &["devices", "--json"]] {
        let output = place.evenkeel(args).stdout(full()).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("failed to write to stdout"), "{stderr}");
    }
}

#[test]
fn a_failure_is_json_where_json_was_asked_for() {
    let ended = Place::new().run(&["plan", "nowhere.yaml", "--json"]).with_code(2).saying("nowhere.yaml");
    let value: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(value["exit_code"], 2);
    assert!(value["error"].as_str().is_some_and(|error| error.contains("nowhere.yaml")), "{value}");
}

#[test]
fn the_schema_is_json() {
    let ended = Place::new().run(&["schema"]).with_code(0);
    let schema: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    for key in ["trainer", "batch", "device", "volumes"] {
        assert!(schema["properties"][key].is_object(), "no `{key}` in {schema}");
    }
    assert_eq!(ended.stderr, "");
}

#[test]
fn without_nvml_there_are_cpus_and_it_is_said() {
    let place = Place::new();
    let ended = place.run(&["devices"]).with_code(0);
    assert!(ended.stdout.contains("the CPU serves instead: `device: auto` makes it "), "{}", ended.stdout);
    let ended = place.run(&["devices", "--json"]).with_code(0);
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert!(report["version"].is_u64(), "{report}");
    // It can be given back as an inventory.
    place.write("devices.json", &ended.stdout);
    place.write("job.yaml", "trainer: command\nimage: a\ncommand: b\ndevice: cpu:2\n");
    place.run(&["plan", "job.yaml", "--inventory", "devices.json"]).with_code(0);
}
