//! Compiles the C++ shim against the libtorch that torch-sys links.
//!
//! This crate depends on `tch` and not on `torch-sys` directly, on purpose: cargo would hold this script back until
//! torch-sys has been compiled (minutes), and a missing or foreign libtorch would be told in torch-sys's words.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The version whose headers the shim is written against, and that tch 0.24.0 binds.
const TORCH_VERSION: &str = "2.11.0";

const HOW: &str =
    "set LIBTORCH to the folder that holds its `include` and `lib` (the folder `torch` of the wheel will do)";

fn main() {
    if let Err(message) = build() {
        println!("cargo::error={message}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=csrc");
    let (include, lib) = find_libtorch()?;
    check_version(&include)?;
    if !lib.join("libtorch_cpu.so").exists() {
        return Err(format!("no libtorch_cpu.so in `{}`: libtorch {TORCH_VERSION} is needed; {HOW}", lib.display()));
    }
    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++17").pic(true).include("csrc/gloo");
    for system in [include.clone(), include.join("torch/csrc/api/include")] {
        // As system headers, so that the warnings shown are those of the shim.
        shim.flag("-isystem").flag(system);
    }
    shim.define("USE_C10D_GLOO", None)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .files(["csrc/guard.cpp", "csrc/store.cpp", "csrc/group.cpp", "csrc/gloo.cpp"])
        .files(["csrc/ddp.cpp", "csrc/sync_batch_norm.cpp"])
        .try_compile("tch_distributed_shim")
        .map_err(|error| format!("failed to compile the shim against libtorch {TORCH_VERSION}: {error}"))?;
    // libtorch.so itself is not named: it needs libtorch_cuda.so, which a machine without a GPU need not have.
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-lib=dylib=torch_cpu");
    println!("cargo::rustc-link-lib=dylib=c10");
    // The folder that the library is really in: `lib` may hold links, and the loader finds what libtorch needs beside it.
    let real = lib.join("libtorch_cpu.so").canonicalize().ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let real = real.unwrap_or(lib);
    // For the build scripts of programs, which decide on the run path: DEP_TCH_DISTRIBUTED_SHIM_LIB and ..._NEEDED.
    println!("cargo::metadata=LIB={}", real.display());
    // This package's own tests and examples run where they were built.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", real.display());
    // The linker follows links less well than the loader: it is shown the CUDA libraries that libtorch_cpu needs.
    let needed = real.join("../../nvidia/cu13/lib");
    if needed.exists() {
        println!("cargo::metadata=NEEDED={}", needed.display());
        println!("cargo::rustc-link-arg=-Wl,-rpath-link,{}", needed.display());
    }
    Ok(())
}

/// Folders of headers and libraries, by the rules of torch-sys.
fn find_libtorch() -> Result<(PathBuf, PathBuf), String> {
    let root = if variable("LIBTORCH_USE_PYTORCH").is_some() {
        root_of_python()?
    } else if let Some(root) = variable("LIBTORCH") {
        PathBuf::from(root)
    } else if Path::new("/usr/lib/libtorch.so").exists() {
        PathBuf::from("/usr")
    } else {
        return Err(format!("libtorch {TORCH_VERSION} was not found: {HOW}"));
    };
    let include = variable("LIBTORCH_INCLUDE").map_or_else(|| root.clone(), PathBuf::from).join("include");
    let lib = variable("LIBTORCH_LIB").map_or_else(|| root.clone(), PathBuf::from).join("lib");
    Ok((include, lib))
}

fn root_of_python() -> Result<PathBuf, String> {
    let script = "import os, torch; print(os.path.dirname(torch.__file__))";
    let python = if env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" };
    let output = Command::new(python).args(["-c", script]).output();
    match output {
        Ok(output) if output.status.success() => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        _ => {
            Err(format!("LIBTORCH_USE_PYTORCH is set, but `{python}` has no torch; version {TORCH_VERSION} is needed"))
        }
    }
}

fn check_version(include: &Path) -> Result<(), String> {
    let header = include.join("torch/headeronly/version.h");
    println!("cargo::rerun-if-changed={}", header.display());
    // Versions before 2.9 keep the header elsewhere: whatever they are, they are not the one wanted.
    let text = fs::read_to_string(&header).map_err(|error| {
        format!("failed to read `{}` ({error}): libtorch {TORCH_VERSION} is needed; {HOW}", header.display())
    })?;
    let number = |name: &str| {
        let define = format!("#define TORCH_VERSION_{name} ");
        text.lines().find_map(|line| line.strip_prefix(&define)).map_or("?", str::trim)
    };
    let found = [number("MAJOR"), number("MINOR"), number("PATCH")].join(".");
    if found == TORCH_VERSION {
        Ok(())
    } else {
        Err(format!("libtorch {TORCH_VERSION} is needed, `{}` is of version {found}; {HOW}", include.display()))
    }
}

fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok()
}
