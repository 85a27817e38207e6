//! Compiles the C++ shim against the libtorch that torch-sys links.
//!
//! This crate depends on `tch` and not on `torch-sys` directly, on purpose: cargo would hold this script back until
//! torch-sys has been compiled (minutes), and a missing or foreign libtorch would be told in torch-sys's words.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The version whose headers the shim is written against, and that tch 0.24.0 binds.
const TORCH_VERSION: &str = "2.11.0";

const SOURCES: [&str; 8] = [
    "csrc/guard.cpp",
    "csrc/store.cpp",
    "csrc/group.cpp",
    "csrc/collective.cpp",
    "csrc/closing.cpp",
    "csrc/gloo.cpp",
    "csrc/ddp.cpp",
    "csrc/sync_batch_norm.cpp",
];

/// For this crate's own tests: a sanitizer that the shim is compiled with, such as `address`.
const SANITIZE: &str = "TCH_DISTRIBUTED_SANITIZE";

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
    let nccl = variable("CARGO_FEATURE_NCCL").is_some();
    // The folder that the library is really in: `lib` may hold links, and the loader finds what libtorch needs beside it.
    let real = lib.join("libtorch_cpu.so").canonicalize().ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let real = real.unwrap_or_else(|| lib.clone());
    let library = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("libtchd_nccl.so");
    if variable("CLIPPY_ARGS").is_some() {
        // Clippy reads Rust and links nothing: minutes of C++ would be for nobody. src/nccl.rs names the library, though.
        fs::write(&library, []).map_err(|error| format!("failed to write `{}`: {error}", library.display()))?;
    } else {
        if nccl {
            build_nccl(&include, &real, &library)?;
        }
        build_shim(&include, nccl)?;
    }
    // libtorch.so itself is not named: it needs libtorch_cuda.so, which a machine without a GPU need not have.
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-lib=dylib=torch_cpu");
    println!("cargo::rustc-link-lib=dylib=c10");
    // For the build scripts of programs, which decide on the run path: DEP_TCH_DISTRIBUTED_SHIM_LIB and ..._NEEDED.
    println!("cargo::metadata=LIB={}", real.display());
    // This package's own tests and examples run where they were built.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", real.display());
    if variable(SANITIZE).is_some_and(|sanitizer| sanitizer == "address") {
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed,-lasan,--as-needed");
    }
    // The linker follows links less well than the loader: it is shown the CUDA libraries that libtorch_cpu needs.
    let needed = real.join("../../nvidia/cu13/lib");
    if needed.exists() {
        println!("cargo::metadata=NEEDED={}", needed.display());
        println!("cargo::rustc-link-arg=-Wl,-rpath-link,{}", needed.display());
    }
    Ok(())
}

fn build_shim(include: &Path, nccl: bool) -> Result<(), String> {
    compiler(include)
        .include("csrc/gloo")
        .define("USE_C10D_GLOO", None)
        .files(SOURCES)
        .files(nccl.then_some("csrc/nccl_loader.cpp"))
        .try_compile("tch_distributed_shim")
        .map_err(|error| format!("failed to compile the shim against libtorch {TORCH_VERSION}: {error}"))
}

/// The compiler with libtorch's headers.
fn compiler(include: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").pic(true).define("_GLIBCXX_USE_CXX11_ABI", "1");
    for system in [include.to_path_buf(), include.join("torch/csrc/api/include")] {
        // As system headers, so that the warnings shown are those of the shim.
        build.flag("-isystem").flag(system);
    }
    if let Some(sanitizer) = variable(SANITIZE) {
        build.flag(format!("-fsanitize={sanitizer}")).flag("-fno-omit-frame-pointer");
    }
    build
}

/// csrc/nccl.cpp as a `library` of its own, which src/nccl.rs takes into the program. It is linked here against libtorch_cuda, so
/// that a symbol that is missing there is missed now and not on somebody's GPU machine.
fn build_nccl(include: &Path, lib: &Path, library: &Path) -> Result<(), String> {
    let headers = nccl_headers(lib)?;
    if !lib.join("libtorch_cuda.so").exists() {
        let lib = lib.display();
        return Err(format!("the feature `nccl` needs libtorch for CUDA, and `{lib}` has no libtorch_cuda.so"));
    }
    let mut build = compiler(include);
    build.flag("-fvisibility=hidden").define("USE_C10D_NCCL", None);
    for folder in headers {
        build.flag("-isystem").flag(folder);
    }
    build.flag("-idirafter").flag("csrc/cuda");
    let mut command = build.get_compiler().to_command();
    command.args(["csrc/nccl.cpp", "csrc/guard.cpp", "-shared", "-o"]).arg(library).arg("-L").arg(lib);
    // What libtorch_cuda itself needs need not be here, but for the CUDA runtime, which libtorch's headers call.
    command.args(["-Wl,--no-undefined", "-Wl,--allow-shlib-undefined"]);
    command.args(["-ltorch_cuda", "-lc10_cuda", "-ltorch_cpu", "-lc10", "-ldl", "-s"]);
    let runtime = lib.join("../../nvidia/cu13/lib/libcudart.so.13");
    if runtime.exists() {
        command.arg(runtime);
    } else {
        command.arg("-lcudart");
    }
    let output = command.output().map_err(|error| format!("failed to start the C++ compiler: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.contains("error") || line.contains("undefined")).unwrap_or("no message");
    Err(format!("failed to build the NCCL part against libtorch {TORCH_VERSION}: {line}"))
}

/// Folders of CUDA's and NCCL's headers: those named by `TCH_DISTRIBUTED_CUDA_INCLUDE` (colon-separated), or those that the wheels
/// put beside torch.
fn nccl_headers(lib: &Path) -> Result<Vec<PathBuf>, String> {
    let folders: Vec<PathBuf> = match variable("TCH_DISTRIBUTED_CUDA_INCLUDE") {
        Some(folders) => folders.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from).collect(),
        None => {
            let nvidia = lib.join("../../nvidia");
            ["nccl/include", "cu13/include", "cu13/include/cccl"].map(|folder| nvidia.join(folder)).into()
        }
    };
    for header in ["nccl.h", "cuda_runtime_api.h", "crt/host_defines.h", "cuda/std/utility"] {
        if !folders.iter().any(|folder| folder.join(header).exists()) {
            let folders = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(format!(
                "the feature `nccl` needs `{header}`, which is not in {folders}: install the wheels nvidia-nccl-cu13, \
                 nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-cuda-cccl beside torch, or set \
                 TCH_DISTRIBUTED_CUDA_INCLUDE to the folders of the headers"
            ));
        }
    }
    Ok(folders)
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
