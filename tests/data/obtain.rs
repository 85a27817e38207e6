//! A set of the catalog, from archives that lie in a folder: nothing here leaves the machine.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use evenkeel::dataset::catalog::{self, Layout, Set};
use evenkeel::dataset::{Places, obtain, resolve};
use evenkeel::fetch::{Asset, FetchError, FetchOptions, Fetcher};
use zip::write::{SimpleFileOptions, ZipWriter};

fn zip(path: &Path, names: &[&str]) {
    let mut zip = ZipWriter::new(File::create(path).expect("created"));
    for name in names {
        zip.start_file(*name, SimpleFileOptions::default()).expect("started");
        zip.write_all(b"0 0.5 0.5 0.1 0.1\n").expect("written");
    }
    zip.finish().expect("finished");
}

/// A set as the catalog has it, but without a hash, as the archive is ours.
fn tiny(folder: &'static str) -> &'static Set {
    let archives = Box::leak(Box::new([Asset { file: "tiny.zip", sources: &[], sha256: None, bytes: None }]));
    let layout = Layout::Yolo { folder, train: "images/train", val: "images/val" };
    let set = Set { name: "tiny", about: "a test", archives, layout, names: &["a", "b: c"], unpacked_bytes: 1 << 20 };
    Box::leak(Box::new(set))
}

fn fetch(cache: &Path, mirror: &Path, set: &'static Set) -> Result<PathBuf, FetchError> {
    let mirrors = vec![mirror.to_str().expect("UTF-8").to_owned()];
    let fetcher =
        Fetcher::new(cache, FetchOptions { mirrors, direct: true, ..FetchOptions::default() }).expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(obtain(&fetcher, set, &|_| ()))
}

#[test]
fn a_set_is_unpacked_once_and_can_be_trained_on() {
    let temp = tempfile::tempdir().expect("a folder");
    let (cache, mirror) = (temp.path().join("cache"), temp.path().join("mirror"));
    fs::create_dir(&mirror).expect("created");
    zip(
        &mirror.join("tiny.zip"),
        &[
            "tiny/images/train/1.jpg",
            "tiny/labels/train/1.txt",
            "tiny/images/val/2.jpg",
            "tiny/labels/val/2.txt",
            "LICENSE",
        ],
    );
    let set = tiny("tiny");
    // What a killed process left behind is no obstacle.
    fs::create_dir_all(cache.join("datasets/.tiny.partial/tiny")).expect("created");
    fs::create_dir_all(cache.join("datasets/tiny/images")).expect("created");
    let data = fetch(&cache, &mirror, set).expect("fetched");
    assert_eq!(data, cache.join("datasets/tiny/data.yaml"));
    let places = Places { cwd: temp.path().to_owned(), datasets: Vec::new() };
    let resolved = resolve(&data, &places).expect("good");
    assert_eq!((resolved.train.labelled, resolved.val.labelled), (1, 1));
    assert_eq!(resolved.data.names[&1], "b: c");
    assert!(!cache.join("datasets/.tiny.partial").exists());

    // From here on nothing is fetched.
    fs::remove_dir_all(&mirror).expect("removed");
    let before = fs::metadata(&data).and_then(|about| about.modified()).expect("a time");
    assert_eq!(fetch(&cache, &mirror, set).expect("there"), data);
    assert_eq!(fs::metadata(&data).and_then(|about| about.modified()).expect("a time"), before);
}

#[test]
fn an_archive_of_something_else_leaves_no_set() {
    let temp = tempfile::tempdir().expect("a folder");
    zip(&temp.path().join("tiny.zip"), &["other/1.jpg"]);
    let cache = temp.path().join("cache");
    let error = fetch(&cache, temp.path(), tiny("tiny")).expect_err("another set");
    assert!(error.to_string().contains("`tiny/images/train`"), "{error}");
    assert!(!cache.join("datasets/tiny").exists());
}

#[test]
fn a_pinned_archive_that_is_another_one_is_refused() {
    let temp = tempfile::tempdir().expect("a folder");
    zip(&temp.path().join("coco8.zip"), &["coco8/images/train/1.jpg"]);
    let place = temp.path().join("cache/downloads/coco8.zip");
    fs::create_dir_all(place.parent().expect("below")).expect("created");
    fs::copy(temp.path().join("coco8.zip"), &place).expect("copied");
    let set = catalog::set("coco8").expect("known");
    let error = fetch(&temp.path().join("cache"), temp.path(), set).expect_err("not the one");
    assert!(matches!(&error, FetchError::Changed { path, .. } if *path == place), "{error}");
}
