//! Builds what travels inside the controller: the agent, linked statically so that it runs in any image
//! (`EVENKEEL_AGENT`: path of the program), and the sources that images are built from (`EVENKEEL_IMAGES_TAR`: path of an
//! archive, the same bytes for the same sources).

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Takes this program in place of building one: for packagers, and for machines without a static C library.
const PREBUILT: &str = "EVENKEEL_AGENT_PREBUILT";
/// What the archive holds, relative to this folder.
const PACKED: [&str; 5] = ["Cargo.lock", "Cargo.toml", "crates", "images", "rustfmt.toml"];
/// What running a program leaves behind in those folders.
const LEFT_OUT: [&str; 4] = ["target", "__pycache__", ".pytest_cache", ".venv"];

fn main() {
    let outcome = variable("CARGO_MANIFEST_DIR").and_then(|root| {
        let (root, out) = (PathBuf::from(root), PathBuf::from(variable("OUT_DIR")?));
        println!("cargo::rerun-if-env-changed={PREBUILT}");
        for path in PACKED {
            println!("cargo::rerun-if-changed={path}");
        }
        println!("cargo::rustc-env=EVENKEEL_AGENT={}", agent(&root, &out)?.display());
        println!("cargo::rustc-env=EVENKEEL_IMAGES_TAR={}", pack(&root, &out)?.display());
        Ok(())
    });
    if let Err(error) = outcome {
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
    }
}

/// The path of a statically linked agent.
fn agent(root: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let program = match env::var_os(PREBUILT).filter(|value| !value.is_empty()) {
        Some(program) => PathBuf::from(program),
        None => build_agent(root, out)?,
    };
    let bytes = fs::read(&program).map_err(|error| format!("failed to read agent `{}`: {error}", program.display()))?;
    match is_static(&bytes) {
        Some(true) => Ok(program),
        Some(false) => {
            Err(format!("agent `{}` is linked dynamically: it would not run in every image", program.display()).into())
        }
        None => Err(format!("agent `{}` is no 64-bit Linux program", program.display()).into()),
    }
}

fn build_agent(root: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let target = variable("TARGET")?;
    if !target.contains("-linux-") {
        return Err(format!(
            "the agent runs in Linux containers and cannot be built for `{target}`; give one in {PREBUILT}"
        )
        .into());
    }
    let folder = out.join("agent");
    // What this build needs is a part of what the controller needs, so it is on this machine already. Only where that is
    // not so is the registry asked.
    let mut output = cargo(root, &folder, &target, &["--offline"])?;
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("offline") {
        output = cargo(root, &folder, &target, &[])?;
    }
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let without_libc = ["-lc", "-lgcc_eh", "crt1.o", "crtbeginT.o"]
            .iter()
            .any(|missing| log.lines().any(|line| line.contains("find") && line.contains(missing)));
        return Err(if without_libc {
            "the static C library is missing, which the agent is linked with: \
             install `libc6-dev` (Debian, Ubuntu) or `glibc-static` (Fedora, Rocky), and build again"
                .into()
        } else {
            format!("failed to build the agent:\n{log}").into()
        });
    }
    Ok(folder.join(target).join("agent/evenkeel-agent"))
}

fn cargo(root: &Path, folder: &Path, target: &str, more: &[&str]) -> Result<Output, Box<dyn Error>> {
    let mut command = Command::new(variable("CARGO")?);
    command
        .args(["build", "--locked", "--package", "evenkeel-agent", "--profile", "agent", "--color", "never"])
        // With a target given, the flags reach the agent only, not build scripts and macros.
        .args(["--target", target])
        .args(more)
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(folder)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        // `cargo clippy` would look at the agent here, and build it anew each time.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CLIPPY_ARGS");
    command.output().map_err(|error| format!("failed to start cargo for the agent: {error}").into())
}

/// Whether an ELF program asks for no loader; `None` when it is none.
fn is_static(elf: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let headers = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (half(54)?, half(56)?);
    let kinds = (0..count).map(|index| {
        let at = headers + index * size;
        Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?))
    });
    Some(!kinds.collect::<Option<Vec<_>>>()?.contains(&INTERPRETER))
}

/// Packs the sources that images are built from. Order, owner, mode and time depend on nothing but the sources.
fn pack(root: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut files = Vec::new();
    for path in PACKED {
        collect(root, Path::new(path), &mut files).map_err(|error| format!("failed to list `{path}`: {error}"))?;
    }
    files.sort();
    let archive = out.join("images.tar");
    let mut tar = tar::Builder::new(File::create(&archive)?);
    for path in files {
        let from = root.join(&path);
        let content = fs::read(&from).map_err(|error| format!("failed to read `{}`: {error}", from.display()))?;
        let executable = fs::metadata(&from)?.permissions().mode() & 0o100 != 0;
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(if executable { 0o755 } else { 0o644 });
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, &path, &*content)?;
    }
    tar.into_inner()?;
    Ok(archive)
}

fn collect(root: &Path, path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    if LEFT_OUT.iter().any(|left_out| name == *left_out) || path.extension().is_some_and(|extension| extension == "pyc")
    {
        return Ok(());
    }
    // Links are followed: an archive that is unpacked elsewhere has nothing for them to point at.
    let full = root.join(path);
    if !full.is_dir() {
        // A folder that does not exist yet holds nothing.
        if full.exists() {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    for entry in fs::read_dir(full)? {
        collect(root, &path.join(entry?.file_name()), files)?;
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    env::var(name).map_err(|error| format!("cargo has not set `{name}`: {error}").into())
}
