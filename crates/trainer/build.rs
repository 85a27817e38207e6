//! Writes into the program where it finds libtorch: where it was built, or the folders of `EVENKEEL_LIBTORCH_PATH`
//! (colon-separated), for a program that is built in one place and copied to another.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=EVENKEEL_LIBTORCH_PATH");
    let built_with = env::var("DEP_TCH_DISTRIBUTED_SHIM_LIB").expect("tch-distributed's build script prints it");
    let path = env::var("EVENKEEL_LIBTORCH_PATH").unwrap_or(built_with);
    for folder in path.split(':').filter(|folder| !folder.is_empty()) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
    if let Ok(needed) = env::var("DEP_TCH_DISTRIBUTED_SHIM_NEEDED") {
        println!("cargo::rustc-link-arg=-Wl,-rpath-link,{needed}");
    }
}
