//! What the build says where libtorch is missing or another one: the build script itself is asked, as cargo would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The build script that was run for this test's own package: the newest, where several have been compiled.
fn build_script() -> PathBuf {
    let mut folder = std::env::current_exe().expect("this test's own program");
    folder.pop();
    folder.pop();
    let entries = fs::read_dir(folder.join("build")).expect("cargo keeps build scripts there");
    let scripts = entries.filter_map(|entry| {
        let path = entry.expect("readable").path().join("build-script-build");
        let own = path.parent()?.file_name()?.to_str()?.starts_with("tch-distributed-");
        own.then(|| Some((fs::metadata(&path).and_then(|data| data.modified()).ok()?, path)))?
    });
    scripts.max().expect("a build script of this package").1
}

/// Runs the script for a libtorch in `root`; what cargo would show as the error.
fn error_for(root: Option<&Path>, features: &[&str]) -> String {
    let out = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(build_script());
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("OUT_DIR", out.path());
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB", "LIBTORCH_USE_PYTORCH", "CARGO_FEATURE_NCCL"] {
        command.env_remove(name);
    }
    command.envs(root.map(|root| ("LIBTORCH", root))).env_remove("TCH_DISTRIBUTED_CUDA_INCLUDE");
    command.envs(features.iter().map(|feature| (feature, "1")));
    let output = command.output().expect("it runs");
    assert!(!output.status.success(), "a build without libtorch");
    let text = String::from_utf8(output.stdout).expect("text");
    let errors: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("cargo::error=")).collect();
    let [error] = errors[..] else { panic!("one error: {text}") };
    error.to_owned()
}

/// A libtorch that has nothing but its version.
fn fake(version: [u32; 3]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("include/torch/headeronly");
    fs::create_dir_all(&folder).expect("writable");
    fs::create_dir(root.path().join("lib")).expect("writable");
    let [major, minor, patch] = version;
    let text = format!(
        "#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {minor}\n#define TORCH_VERSION_PATCH {patch}\n"
    );
    fs::write(folder.join("version.h"), text).expect("writable");
    root
}

#[test]
fn a_missing_libtorch_is_told_with_the_version_that_is_wanted() {
    let error = error_for(None, &[]);
    assert!(error.starts_with("libtorch 2.11.0 was not found: set LIBTORCH to the folder"), "{error}");
    let error = error_for(Some(Path::new("/nowhere")), &[]);
    assert!(error.contains("`/nowhere/include") && error.contains("libtorch 2.11.0 is needed"), "{error}");
}

#[test]
fn another_version_is_told_beside_the_one_that_is_wanted() {
    let root = fake([2, 13, 0]);
    let error = error_for(Some(root.path()), &[]);
    assert!(error.starts_with("libtorch 2.11.0 is needed") && error.contains("is of version 2.13.0"), "{error}");
}

#[test]
fn headers_without_a_library_are_told() {
    let root = fake([2, 11, 0]);
    let error = error_for(Some(root.path()), &[]);
    assert!(error.contains("no libtorch_cpu.so") && error.contains("libtorch 2.11.0 is needed"), "{error}");
}

#[test]
fn nccl_without_its_headers_names_the_wheels() {
    let root = fake([2, 11, 0]);
    fs::write(root.path().join("lib/libtorch_cpu.so"), "").expect("writable");
    let error = error_for(Some(root.path()), &["CARGO_FEATURE_NCCL"]);
    assert!(error.contains("`nccl.h`") && error.contains("nvidia-nccl-cu13"), "{error}");
}
