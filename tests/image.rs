//! Images on a real engine. Without one every test says so and passes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use evenkeel::docker::Engine;
use evenkeel::endpoint;
use evenkeel::error::{ExitCode, Failure};
use evenkeel::image::{self, ImageError, ImageName, Options, OwnBuild, Progress, Settings};

/// The engine, unless there is none.
async fn engine() -> Option<Engine> {
    let environment = endpoint::Environment { host: std::env::var("DOCKER_HOST").ok(), ..Default::default() };
    let found = match endpoint::resolve(&environment) {
        Ok(endpoint) => Engine::connect(&endpoint).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = &found {
        assert!(std::env::var("EVENKEEL_TEST_ENGINE").as_deref() != Ok("required"), "{error}");
        // Not by `println!`: the output of a test that passes is not shown.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}: {error}", std::thread::current().name().unwrap_or("?"));
    }
    found.ok()
}

/// This machine's settings. The locks are those of all tests: two of them must not bootstrap Debian at once.
fn options() -> Options {
    let cache = env!("CARGO_TARGET_TMPDIR").into();
    Options { cache, settings: Settings::read(&|name| std::env::var(name).ok()), ..Options::default() }
}

/// Prints what is said, for who reads a failed test, and keeps it.
#[derive(Debug, Default)]
struct Told(Vec<String>);

impl Told {
    fn hear(&mut self) -> impl FnMut(Progress) + Send + '_ {
        |progress| {
            if !matches!(progress, Progress::Layer { .. }) {
                println!("{progress}");
                self.0.push(progress.to_string());
            }
        }
    }

    fn has(&self, text: &str) -> bool {
        self.0.iter().any(|line| line.contains(text))
    }
}

/// A folder with a Dockerfile that starts from our Debian.
async fn context(engine: &Engine, steps: &str) -> (tempfile::TempDir, OwnBuild) {
    let debian = image::ensure(engine, ImageName::Debian, &options(), &mut Told::default().hear())
        .await
        .expect("Debian, from a registry or bootstrapped");
    let folder = tempfile::tempdir().expect("a folder");
    // Two runs of a test must not find each other's image: the folder's name makes it unique.
    let text = format!("FROM {}\nARG WORD=none\nLABEL of={}\n{steps}\n", debian.name, folder.path().display());
    fs::write(folder.path().join("Dockerfile"), text).expect("a Dockerfile");
    let context = folder.path().to_owned();
    (folder, OwnBuild { context, dockerfile: "Dockerfile".into(), target: None, args: BTreeMap::new() })
}

#[tokio::test]
async fn the_base_is_built_once() {
    let Some(engine) = engine().await else { return };
    let options = options();
    let first = image::ensure(&engine, ImageName::Base, &options, &mut Told::default().hear()).await.expect("the base");
    assert_eq!(first.image.labels.get("evenkeel.image").map(String::as_str), Some("base"));
    let mut told = Told::default();
    let started = Instant::now();
    let second = image::ensure(&engine, ImageName::Base, &options, &mut told.hear()).await.expect("the base");
    assert_eq!((first.name, first.image.id), (second.name, second.image.id));
    assert_eq!(told.0, Vec::<String>::new(), "nothing is done twice");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

/// Either builder, in place of the engine's choice.
const BUILDERS: [bool; 2] = [false, true];

fn with(buildkit: bool) -> Options {
    Options { buildkit: Some(buildkit), ..options() }
}

#[tokio::test]
async fn a_job_s_own_image_is_built_once_and_again_when_it_changes() {
    let Some(engine) = engine().await else { return };
    for buildkit in BUILDERS {
        let (folder, mut build) = context(&engine, "COPY . /own\nRUN echo word=$WORD; cat /own/file").await;
        fs::write(folder.path().join("file"), "first\n").expect("a file");
        build.args.insert("WORD".into(), "here & there".into());
        let options = with(buildkit);
        let mut told = Told::default();
        let first = image::build_own(&engine, &build, &options, &mut told.hear()).await.expect("a built image");
        assert!(told.has("word=here & there") && told.has("first") && told.has("RUN echo word"), "{:?}", told.0);

        let mut told = Told::default();
        let again = image::build_own(&engine, &build, &options, &mut told.hear()).await.expect("the same image");
        assert_eq!((&first.name, told.0), (&again.name, Vec::new()));

        fs::write(folder.path().join("file"), "second\n").expect("a file");
        let mut told = Told::default();
        let changed = image::build_own(&engine, &build, &options, &mut told.hear()).await.expect("a built image");
        assert!(told.has("second") && changed.name != first.name);
        for name in [first.name, changed.name] {
            engine.remove_image(&name).await.expect("removed");
        }
    }
}

#[tokio::test]
async fn a_failed_step_is_told_with_its_last_lines() {
    let Some(engine) = engine().await else { return };
    for buildkit in BUILDERS {
        let (_folder, build) = context(&engine, "RUN echo before >&2; echo from https://me:word@host/; exit 7").await;
        let result = image::build_own(&engine, &build, &with(buildkit), &mut Told::default().hear()).await;
        let failure = Failure::from(result.expect_err("a failed step"));
        let text = failure.render();
        assert_eq!(failure.code(), ExitCode::BadRequest, "the job's own Dockerfile is the job's fault");
        assert!(text.contains("`RUN echo before") && text.contains("exit code 7"), "{text}");
        assert!(text.contains("\n    before") && text.contains("https://***@host/"), "{text}");
        assert!(!text.contains("me:word"), "{text}");
    }
}

#[tokio::test]
async fn a_mount_is_given_to_the_builder_that_knows_it() {
    let Some(engine) = engine().await else { return };
    let (_folder, build) = context(&engine, "RUN --mount=type=cache,target=/cache echo mounted").await;
    // The engine's choice, and a user who insists on the builder that cannot.
    let mut told = Told::default();
    let ready = image::build_own(&engine, &build, &options(), &mut told.hear()).await.expect("built by BuildKit");
    assert!(told.has("mounted"), "{:?}", told.0);
    engine.remove_image(&ready.name).await.expect("removed");
    let mut told = Told::default();
    let ready = image::build_own(&engine, &build, &with(false), &mut told.hear()).await.expect("built by BuildKit");
    assert!(told.has("the engine's other builder"), "{:?}", told.0);
    engine.remove_image(&ready.name).await.expect("removed");
}

#[tokio::test]
async fn a_dropped_build_ends_on_the_engine() {
    let Some(engine) = engine().await else { return };
    for (buildkit, seconds) in BUILDERS.into_iter().zip(["1801", "1802"]) {
        let (_folder, build) = context(&engine, &format!("RUN echo begun; sleep {seconds}")).await;
        let (begun, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let mut progress = |progress| {
            if progress == Progress::Line("begun".into()) {
                begun.send(()).expect("heard");
            }
        };
        let options = with(buildkit);
        tokio::select! {
            result = image::build_own(&engine, &build, &options, &mut progress) => panic!("it ended: {result:?}"),
            _ = hears.recv() => {}
        }
        let asked = Instant::now();
        while runs(seconds) && asked.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!runs(seconds), "the step still runs");
        println!("buildkit {buildkit}: the engine ended the step {:?} after it was dropped", asked.elapsed());
    }
}

/// Whether any process of this machine sleeps for so long; the engine is on this machine.
fn runs(seconds: &str) -> bool {
    let wanted = format!("/bin/sh\0-c\0echo begun; sleep {seconds}");
    let folders = fs::read_dir("/proc").expect("/proc").flatten();
    let mut lines = folders.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| line.starts_with(wanted.as_bytes()))
}

#[tokio::test]
async fn two_builds_of_the_same_image_are_one() {
    let Some(engine) = engine().await else { return };
    let (_folder, build) = context(&engine, "RUN sleep 1").await;
    let options = options();
    let (mut left, mut right) = (Told::default(), Told::default());
    let (mut hear_left, mut hear_right) = (left.hear(), right.hear());
    let (one, two) = tokio::join!(
        image::build_own(&engine, &build, &options, &mut hear_left),
        image::build_own(&engine, &build, &options, &mut hear_right),
    );
    drop((hear_left, hear_right));
    let (one, two) = (one.expect("an image"), two.expect("an image"));
    assert_eq!(one.image.id, two.image.id);
    assert!(left.0.is_empty() != right.0.is_empty(), "one built, the other found: {left:?} {right:?}");
    engine.remove_image(&one.name).await.expect("removed");
}

#[tokio::test]
async fn an_image_that_nobody_has_is_refused() {
    let Some(engine) = engine().await else { return };
    // Nothing listens at this port of the loopback: a registry that does not answer.
    let error =
        image::find_own(&engine, "127.0.0.1:9/none:1", &mut Told::default().hear()).await.expect_err("no image");
    assert!(matches!(&error, ImageError::NoRegistry { .. }), "{error}");
    assert_eq!(Failure::from(error).code(), ExitCode::MachineNotReady);
    let error = image::find_own(&engine, "No/Such:Image:x", &mut Told::default().hear()).await.expect_err("no name");
    assert_eq!(Failure::from(error).code(), ExitCode::BadRequest);
}

#[tokio::test]
async fn a_saved_image_is_found_after_loading() {
    let Some(engine) = engine().await else { return };
    let (folder, build) = context(&engine, "RUN echo saved > /saved").await;
    let options = options();
    let built = image::build_own(&engine, &build, &options, &mut Told::default().hear()).await.expect("an image");
    for file in ["images.tar", "images.tar.gz"] {
        let file = folder.path().with_extension(file);
        let names = [built.name.clone()];
        let bytes = image::save(&engine, &names, &file, &mut Told::default().hear()).await.expect("a file");
        assert_eq!(bytes, fs::metadata(&file).expect("the file").len());
        engine.remove_image(&built.name).await.expect("removed");
        let loaded = image::load(&engine, &file, &mut Told::default().hear()).await.expect("loaded");
        assert_eq!(loaded, names);
        let found = image::build_own(&engine, &build, &options, &mut Told::default().hear()).await.expect("found");
        assert_eq!(found.image.id, built.image.id, "the content is the same");
        fs::remove_file(&file).expect("removed");
    }
    engine.remove_image(&built.name).await.expect("removed");
    let (file, names) = (folder.path().join("x"), ["evenkeel/none:1".to_owned()]);
    let nothing = image::save(&engine, &names, &file, &mut Told::default().hear()).await.expect_err("nothing to save");
    assert!(matches!(nothing, ImageError::NoSuchImage { .. }));
    assert!(!file.exists(), "no half file is left");
}

#[tokio::test]
async fn debian_is_bootstrapped_whole_or_not_at_all() {
    let Some(engine) = engine().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    // A registry that does not answer, and a mmdebstrap of ours.
    let pinned = "127.0.0.1:9/debian:none";
    let options = Options { arguments: [("DEBIAN_IMAGE".to_owned(), pinned.to_owned())].into(), ..options() };
    let tag = image::tags(&options).of(ImageName::Debian).to_owned();
    let bootstrap = |script: &str| {
        let program = folder.path().join("mmdebstrap");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
        let path = std::env::var("PATH").expect("a PATH");
        std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .args(["image", "build", "debian", "--progress", "plain", "--build-arg", &format!("DEBIAN_IMAGE={pinned}")])
            .env("PATH", format!("{}:{path}", folder.path().display()))
            .env("XDG_CACHE_HOME", folder.path())
            .output()
            .expect("the program")
    };
    // What it has written is a valid archive, of nothing.
    let failed = bootstrap("head -c 10240 /dev/zero; echo 'E: Temporary failure in name resolution' >&2; exit 25");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(3), "{said}");
    assert!(said.contains("`mmdebstrap` ended with exit status: 25") && said.contains("DEBIAN_MIRROR"), "{said}");
    assert!(engine.image(&tag).await.expect("an answer").is_none(), "half a Debian is none");

    let whole = bootstrap("tar -c /etc/hostname");
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let made = engine.image(&tag).await.expect("an answer").expect("the image");
    assert_eq!(made.labels.get("evenkeel.image").map(String::as_str), Some("debian"));
    let latest = engine.image("evenkeel/debian:latest").await.expect("an answer");
    assert!(latest.is_none_or(|latest| latest.id != made.id), "a variant does not take the short name");
    engine.remove_image(&tag).await.expect("removed");
}

#[tokio::test]
#[ignore = "downloads gigabytes: `make check-long` does it"]
async fn every_image_is_built() {
    let Some(engine) = engine().await else { return };
    for image in [ImageName::Worker, ImageName::Ultralytics, ImageName::Workbench] {
        let started = Instant::now();
        let ready =
            image::ensure(&engine, image, &options(), &mut Told::default().hear()).await.unwrap_or_else(|error| {
                panic!("{}", Failure::from(error).render());
            });
        println!("{} has {} bytes after {:?}", ready.name, ready.image.size_bytes, started.elapsed());
        assert_eq!(ready.image.labels.get("evenkeel.image").map(String::as_str), Some(image.as_str()));
    }
}
