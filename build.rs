//! Packs what the images are built from into one archive inside the controller.
fn main() {
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("images.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&out).expect("a file in OUT_DIR"));
    tar.mode(tar::HeaderMode::Deterministic);
    for path in ["Cargo.toml", "Cargo.lock", "rustfmt.toml"] {
        tar.append_path(path).expect("a file");
        println!("cargo::rerun-if-changed={path}");
    }
    for path in ["images", "crates"] {
        tar.append_dir_all(path, path).expect("a folder");
        println!("cargo::rerun-if-changed={path}");
    }
    tar.finish().expect("a finished archive");
    println!("cargo::rustc-env=EVENKEEL_IMAGES_TAR={}", out.display());
}
