//! The job from outside: a corpus of good and bad files, overrides, the resolved form, the schema, and files that no
//! person wrote.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evenkeel::error::{ExitCode, Failure};
use evenkeel::job::{self, Bases, ImageSizes, JobError, Micro, Network, Origin, ResolvedJob, Stage, Trainer};

/// Job files of one kind, sorted.
fn specs(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs/jobs").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the corpus is part of the sources")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() > 10, "{} holds a corpus", folder.display());
    files
}

/// Understands text as the file `jobs/a.yaml`.
fn parse(text: &str, overrides: &[&str]) -> Result<ResolvedJob, JobError> {
    let overrides: Vec<String> = overrides.iter().map(|&given| given.to_owned()).collect();
    let bases = Bases { folder: "/home/ann/jobs".into(), home: Some("/home/ann".into()) };
    job::parse(Path::new("jobs/a.yaml"), text.to_owned(), &overrides, &bases)
}

fn good(text: &str, overrides: &[&str]) -> ResolvedJob {
    parse(text, overrides).unwrap_or_else(|error| panic!("{overrides:?}: {error}"))
}

fn bad(text: &str, overrides: &[&str]) -> String {
    let error = parse(text, overrides).expect_err("a mistake");
    let failure = Failure::from(error);
    assert_eq!(failure.code(), ExitCode::BadRequest);
    failure.render()
}

#[test]
fn every_good_job_is_understood() {
    for file in specs("good") {
        if let Err(error) = job::load(&file, &[]) {
            panic!("{}: {}", file.display(), Failure::from(error).render());
        }
    }
}

/// Each bad file has the whole message beside it. `BLESS=1` writes them anew, for review.
#[test]
fn every_bad_job_gets_its_message() {
    let mut wrong = Vec::new();
    for file in specs("bad") {
        let start = Instant::now();
        let error = match job::load(&file, &[]) {
            Err(error) => error,
            Ok(resolved) => panic!("{} was accepted: {resolved:?}", file.display()),
        };
        assert!(start.elapsed() < Duration::from_secs(2), "{} took {:?}", file.display(), start.elapsed());
        let failure = Failure::from(error);
        assert_eq!(failure.code(), ExitCode::BadRequest);
        let folder = format!("{}/", file.parent().expect("in the corpus").display());
        let message = failure.render().replace(&folder, "") + "\n";
        let name = file.file_name().expect("a file").to_string_lossy();
        assert!(message.contains(&*name), "{message}");
        let expected = file.with_extension("txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&expected, &message).expect("the corpus is writable when blessed");
        } else if std::fs::read_to_string(&expected).ok().as_ref() != Some(&message) {
            wrong.push(message);
        }
    }
    assert!(wrong.is_empty(), "messages that differ from those beside the files:\n{}", wrong.join("\n"));
}

#[test]
fn what_nobody_set_has_the_defaults() {
    let ResolvedJob { job, origins, .. } = good("data: d.yaml", &[]);
    assert_eq!((job.name.as_str(), job.model.as_str()), ("a", "yolov8n.yaml"));
    assert_eq!((job.epochs, &job.imgsz, job.seed), (100, &ImageSizes::from(640), 0));
    assert_eq!((job.batch.target, job.batch.micro), (Some(64), Micro::Auto));
    assert_eq!((job.trainer, job.network), (Trainer::Native, Network::None));
    assert_eq!((job.stop_grace_period, job.timeout), (Duration::from_secs(10), Duration::from_secs(1800)));
    assert_eq!(origins["data"], Origin::File { line: 1, column: 1 });
    assert_eq!(origins["epochs"], Origin::Default);
    assert!(matches!(origins["name"], Origin::Derived(_)));
}

#[test]
fn a_command_has_a_network_and_no_target_of_its_own() {
    let job = good("{trainer: command, image: debian}", &[]).job;
    assert_eq!((job.network, job.batch.target), (Network::Bridge, None));
}

#[test]
fn numbers_are_what_a_person_means() {
    let job = good("data: d\nargs: {lr0: 5e-7, lrf: 1e-2}\nepochs: 1e2", &[]).job;
    assert_eq!(job.args["lr0"].as_f64(), Some(5e-7));
    assert_eq!((job.args["lrf"].as_f64(), job.epochs), (Some(0.01), 100));
}

#[test]
fn an_override_sets_and_is_named_as_the_origin() {
    let text = "data: d\nbatch: 64\nargs: {lr0: 0.01, mosaic: 1.0}";
    let resolved = good(text, &["batch.micro=8", "imgsz=320", "args.lr0=5e-3", "epochs=3", "epochs=4", "device=cpu:2"]);
    let job = &resolved.job;
    assert_eq!((job.batch.target, job.batch.micro), (Some(64), Micro::Fixed(8)));
    assert_eq!((&job.imgsz, job.epochs), (&ImageSizes::from(320), 4));
    assert_eq!((job.args["lr0"].as_f64(), job.args["mosaic"].as_f64()), (Some(0.005), Some(1.0)));
    assert_eq!(resolved.origins["batch.micro"], Origin::CommandLine);
    assert_eq!(resolved.origins["batch.target"], Origin::File { line: 2, column: 1 });
    assert_eq!(resolved.origins["args.lr0"], Origin::CommandLine);
    assert_eq!(resolved.origins["args.mosaic"], Origin::File { line: 3, column: 19 });
}

#[test]
fn a_short_batch_on_the_command_line_is_the_target_alone() {
    let job = good("data: d\nbatch: {target: 64, micro: 8}", &["batch=32"]).job;
    assert_eq!((job.batch.target, job.batch.micro), (Some(32), Micro::Fixed(8)));
    let job = good("data: d\nbatch: {target: 64, micro: 8}", &["batch=-1"]).job;
    assert_eq!((job.batch.target, job.batch.micro), (Some(64), Micro::Auto));
}

#[test]
fn sizes_may_change_from_epoch_to_epoch() {
    let text = "data: d\nepochs: 100\nimgsz:\n  0: 320\n  50: 480\n  80: 640\n";
    let resolved = good(text, &["imgsz.50=512", "imgsz.90=32"]);
    let stage = |from_epoch, until_epoch, imgsz| Stage { from_epoch, until_epoch, imgsz };
    let stages = [stage(0, 50, 320), stage(50, 80, 512), stage(80, 90, 640), stage(90, 100, 32)];
    assert_eq!(resolved.job.imgsz.stages(100), stages);
    assert_eq!(resolved.origins["imgsz.0"], Origin::File { line: 4, column: 3 });
    assert_eq!(resolved.origins["imgsz.50"], Origin::CommandLine);
    let lines: Vec<String> =
        resolved.to_yaml().lines().map(|line| line.split("  #").next().map_or("", str::trim_end).to_owned()).collect();
    let at = lines.iter().position(|line| line == "imgsz:").expect("a heading");
    assert_eq!(lines[at + 1..at + 5], ["  0: 320", "  50: 512", "  80: 640", "  90: 32"]);

    assert_eq!(good(text, &["imgsz=64"]).job.imgsz, ImageSizes::from(64));
    let given = good("data: d", &["imgsz={0: 320, 5: 640}"]);
    assert_eq!(given.job.imgsz.stages(6), [stage(0, 5, 320), stage(5, 6, 640)]);
    assert_eq!(given.origins["imgsz.5"], Origin::CommandLine);
    // A size of the file is that of the first epochs.
    let widened = good("data: d\nimgsz: 320", &["imgsz.5=640"]);
    assert_eq!(widened.job, given.job);
    assert_eq!(widened.origins["imgsz.0"], Origin::File { line: 2, column: 1 });
    // JSON has no keys but text.
    assert_eq!(good(r#"{"data": "d", "imgsz": {"5": 640, "0": 320}}"#, &[]).job, given.job);
}

#[test]
fn an_override_reaches_into_lists_of_variables_and_takes_values_away() {
    let text = "{trainer: command, image: debian, environment: [A=1, B], command: ls}";
    let resolved = good(text, &["environment.A=1.10", "environment.C=x=y", "command="]);
    let job = &resolved.job;
    assert_eq!(job.environment["A"].as_deref(), Some("1.10"));
    assert_eq!(job.environment["B"], None);
    assert_eq!(job.environment["C"].as_deref(), Some("x=y"));
    assert_eq!(job.command, None);
    assert_eq!(resolved.origins["command"], Origin::Default);
}

#[test]
fn a_wrong_override_is_named() {
    for (given, expected) in [
        ("imgs=3", "unknown key `imgs`; did you mean `imgsz`?"),
        ("batch.mikro=3", "unknown key `mikro` in `batch`; did you mean `micro`?"),
        ("lr0=0.02", "`lr0` is a setting of the trainer, its place is under `args`"),
        ("epochs=none", "`epochs` is the text `none`, expected a whole number from 1 to 1000000"),
        ("epochs", "an override is `key=value`"),
        ("=3", "`` is no key"),
        ("a..b=3", "`a..b` is no key"),
        ("epochs.x=3", "`epochs` is not a mapping"),
        ("imgsz.5=640", "`imgsz` begins at epoch 5"),
        ("imgsz={0: 320, 10: 640}", "`imgsz` becomes 640 at epoch 10, counted from 0, and the training has 10 epochs"),
        ("volumes[0]=a:b", "write `volumes=[...]`"),
        ("device=[0", "not YAML"),
        ("model=yolov9n.yaml", "trainer `native` does not train the model `yolov9n.yaml`"),
        ("epochs=1\n---\n2", "a second one begins here"),
    ] {
        let message = bad("data: d\nepochs: 10", &[given]);
        assert!(message.contains(expected), "{message}");
        let shown = given.replace('\n', "\u{fffd}");
        assert!(message.contains(&format!("\n  --> override `{shown}` of jobs/a.yaml")), "{message}");
    }
}

#[test]
fn a_mistake_of_the_file_is_shown_in_the_file_when_there_are_overrides() {
    let message = bad("data: d\nepoch: 10", &["imgsz=64"]);
    assert!(message.contains("--> jobs/a.yaml:2:1\n  |\n2 | epoch: 10\n  | ^^^^^"), "{message}");
}

#[test]
fn paths_of_volumes_are_those_of_compose() {
    let text = "{trainer: command, image: debian, volumes: ['./a:/a', '../b:/b:ro', '~/c:/c/', '/d:/d:rw']}";
    let volumes = good(text, &[]).job.volumes;
    let seen: Vec<_> = volumes
        .iter()
        .map(|volume| (volume.source.to_str().expect("ASCII"), volume.target.as_str(), volume.read_only))
        .collect();
    let expected = [
        ("/home/ann/jobs/a", "/a", false),
        ("/home/ann/jobs/../b", "/b", true),
        ("/home/ann/c", "/c", false),
        ("/d", "/d", false),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn what_is_understood_differently_than_written_is_noted() {
    let resolved = good("data: d\nbatch: -1", &[]);
    assert_eq!(resolved.notes, ["`batch: -1` is understood as `batch: {target: 64, micro: auto}`"]);
}

#[test]
fn the_resolved_job_reads_back_as_the_same_job() {
    for file in specs("good") {
        let first = job::load(&file, &["seed=7".into()]).expect("a good job");
        let text = first.to_yaml();
        let elsewhere = Bases { folder: "/elsewhere".into(), home: None };
        let again = job::parse(Path::new("resolved.yaml"), text.clone(), &[], &elsewhere)
            .unwrap_or_else(|error| panic!("{}: {error}\n{text}", file.display()));
        assert_eq!(again.job, first.job, "{text}");
        assert!(text.lines().any(|line| line.starts_with("seed: 7 ") && line.ends_with("# command line")), "{text}");
        assert!(text.lines().any(|line| line.contains("# default")), "{text}");
    }
}

/// A job as an editor's checker sees it: every key is text, as in JSON.
fn as_json(text: &str) -> serde_json::Value {
    let value: serde_yaml::Value = serde_yaml::from_str(text.trim_start_matches('\u{feff}')).expect("YAML");
    serde_json::to_value(value).expect("keys that are words or numbers")
}

#[test]
fn the_schema_describes_the_corpus() {
    let schema = job::schema();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for file in specs("good") {
        let text = std::fs::read_to_string(&file).expect("a good job is text");
        let value = as_json(&text);
        if let Err(error) = validator.validate(&value) {
            panic!("{}: {error}", file.display());
        }
    }
    for name in [
        "misspelt",
        "misspelt-nested",
        "batch-zero",
        "epochs-zero",
        "epochs-text",
        "imgsz-odd",
        "imgsz-empty",
        "imgsz-epoch",
        "imgsz-late",
        "imgsz-schedule-odd",
        "trainer-unknown",
        "network",
        "list",
        "name-slash",
        "device-unknown",
        "device-mps",
        "device-zero-cpus",
        "misspelt-setting",
        "lr0-text",
        "optimizer",
        "amp-no",
        "args-rect",
        "webhook-key",
        "webhook-kind",
        "webhook-map",
        "webhook-never",
        "webhook-secret",
        "webhook-variable",
        "mlflow-key",
        "mlflow-file",
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/specs/jobs/bad/{name}.yaml"));
        let text = std::fs::read_to_string(file).expect("text");
        assert!(!validator.is_valid(&as_json(&text)), "{name}");
    }
}

#[test]
fn a_file_that_is_no_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let message = |path: &Path| Failure::from(job::load(path, &[]).expect_err("not a job")).render();
    assert!(message(folder.path()).contains("a folder is no job"));
    assert!(message(&folder.path().join("none.yaml")).contains("No such file"));
    let large = folder.path().join("large.yaml");
    let file = std::fs::File::create(&large).expect("a file");
    file.set_len(100 << 20).expect("a sparse file");
    let start = Instant::now();
    assert!(message(&large).contains("larger than"));
    assert!(start.elapsed() < Duration::from_secs(2));
}

/// A small generator of numbers: the same cases on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self, sides: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides.max(1) as u64) as usize
    }
}

#[test]
fn no_mutation_of_a_good_job_is_met_with_silence_or_panic() {
    let texts: Vec<Vec<u8>> = specs("good").iter().map(|file| std::fs::read(file).expect("readable")).collect();
    let tokens: [&[u8]; 12] =
        [b"{", b"[", b": ", b"\n", b"\t", b"\"", b"*a", b"&a ", b"- ", b"-1", b"\xe6\x95\xb0", b"\0"];
    let validator = jsonschema::validator_for(&job::schema()).expect("a schema");
    let mut dice = Dice(2026);
    let (mut accepted, mut refused) = (0, 0);
    for case in 0..2000 {
        let mut bytes = texts[dice.next(texts.len())].clone();
        for _ in 0..=dice.next(4) {
            let (one, two) = (dice.next(bytes.len() + 1), dice.next(bytes.len() + 1));
            let (from, to) = (one.min(two), one.max(two));
            match dice.next(5) {
                0 => bytes.truncate(to),
                1 => {
                    bytes.drain(from..to.min(from + 8));
                }
                2 => {
                    let part = bytes[from..to].to_vec();
                    bytes.splice(from..from, part);
                }
                3 if one < bytes.len() && two < bytes.len() => bytes.swap(one, two),
                _ => {
                    let token = tokens[dice.next(tokens.len())];
                    bytes.splice(from..from, token.iter().copied());
                }
            }
        }
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let start = Instant::now();
        match parse(&text, &[]) {
            Ok(resolved) => {
                accepted += 1;
                // An editor that follows the schema must not refuse what is understood.
                if let Err(error) = validator.validate(&as_json(&text)) {
                    panic!("case {case}: {error}: {text}");
                }
                let again = good(&resolved.to_yaml(), &[]);
                assert_eq!(again.job, resolved.job, "case {case}: {text}");
            }
            Err(error) => {
                refused += 1;
                let message = error.to_string();
                assert!(message.contains("jobs/a.yaml"), "case {case}: {message}");
                assert!(
                    !message.chars().any(|character| character.is_control() && character != '\n'),
                    "case {case}: {message}"
                );
            }
        }
        assert!(start.elapsed() < Duration::from_secs(2), "case {case} took {:?}: {text}", start.elapsed());
    }
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
}

#[test]
fn no_mutation_of_an_override_is_met_with_panic() {
    let given = [
        "batch.target=32",
        "args.lr0=5e-3",
        "device=[0, 1]",
        "environment.A=x",
        "batch=-1",
        "volumes=[a:b]",
        "name=",
        "imgsz={0: 64}",
        "imgsz.5=64",
    ];
    let letters: Vec<char> = "=.[]{}:,-*&!|>'\"\\#%@`~ \t\n0aé数\u{0}".chars().collect();
    let mut dice = Dice(7);
    for case in 0..2000 {
        let mut text: Vec<char> = given[dice.next(given.len())].chars().collect();
        for _ in 0..=dice.next(3) {
            let at = dice.next(text.len() + 1);
            match dice.next(2) {
                0 => text.insert(at, letters[dice.next(letters.len())]),
                _ => text.truncate(at.max(1)),
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = parse("data: d\nenvironment: [A=1]", &[&text]) {
            let message = error.to_string();
            assert!(message.contains("jobs/a.yaml"), "case {case}: {message}");
        }
    }
}
