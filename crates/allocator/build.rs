//! Compiles the C++ half against the libtorch that tch-distributed found.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=csrc");
    let lib =
        PathBuf::from(env::var_os("DEP_TCH_DISTRIBUTED_SHIM_LIB").expect("tch-distributed's build script prints it"));
    // Tests of this package run where they were built.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    if let Ok(needed) = env::var("DEP_TCH_DISTRIBUTED_SHIM_NEEDED") {
        println!("cargo::rustc-link-arg=-Wl,-rpath-link,{needed}");
    }
    println!("cargo::rerun-if-env-changed=CLIPPY_ARGS");
    if env::var_os("CLIPPY_ARGS").is_some() {
        // Clippy reads Rust and links nothing.
        return;
    }
    let compiled = cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag("-isystem")
        .flag(lib.join("../include"))
        .file("csrc/allocator.cpp")
        .try_compile("evenkeel_allocator_shim");
    if let Err(error) = compiled {
        println!("cargo::error=failed to compile the allocator against libtorch: {error}");
        std::process::exit(1);
    }
}
