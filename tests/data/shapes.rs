//! The drawn set: the same bytes always, all or nothing, and left alone when it is there.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use evenkeel::dataset::shapes::{ShapesError, ShapesOptions, parse_labels, write};
use sha2::{Digest as _, Sha256};

fn options(dir: &Path) -> ShapesOptions {
    ShapesOptions { images: 10, imgsz: 64, seed: 7, ..ShapesOptions::new(dir) }
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").to_str().expect("ASCII").to_owned();
                found.insert(name, fs::read(&path).expect("readable"));
            }
        }
    }
    found
}

#[test]
fn a_seed_gives_the_same_bytes_on_every_machine() {
    let temp = tempfile::tempdir().expect("a folder");
    let set = write(&options(&temp.path().join("one"))).expect("written");
    // Pinned: a change here means that sets which people already have would no longer match their seed.
    assert_eq!(set.sha256, "4ccd1a2f66a7c36f51b4b388d651d8d67f14e309affbc163c5e65e315cd0a9ba");
    let hash = |name: &str| {
        let bytes = fs::read(temp.path().join("one").join(name)).expect("readable");
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(hash("images/train/000003.png"), "0bcacaae290e9b8488def8f6f4fcb3f7c4ec3ef6257c97bdc1ee850a957a6c85");
    assert_eq!(
        fs::read_to_string(temp.path().join("one/labels/train/000003.txt")).expect("readable"),
        "0 0.732422 0.541016 0.390625 0.390625\n0 0.380859 0.398438 0.312500 0.312500\n"
    );
}

#[test]
fn workers_do_not_change_the_bytes_and_more_images_keep_the_first_ones() {
    let temp = tempfile::tempdir().expect("a folder");
    let with = |name: &str, images, workers| {
        let workers = NonZeroUsize::new(workers);
        let dir = temp.path().join(name);
        write(&ShapesOptions { images, workers, ..options(&dir) }).expect("written");
        contents(&dir)
    };
    let one = with("one", 10, 1);
    assert_eq!(one.len(), 2 * (10 + 3) + 2, "images, labels, data.yaml, marker");
    assert_eq!(one, with("five", 10, 5));
    let more = with("more", 20, 3);
    assert!(one.iter().filter(|(name, _)| name.contains('/')).all(|(name, bytes)| more.get(name) == Some(bytes)));
}

#[test]
fn the_same_set_is_left_alone_and_anything_else_is_refused() {
    let temp = tempfile::tempdir().expect("a folder");
    let dir = temp.path().join("a b/形状");
    let first = write(&options(&dir)).expect("written");
    assert!(first.written);
    // A trainer's cache beside the labels is no change.
    fs::write(dir.join("labels/train.cache"), "x").expect("written");
    let again = write(&options(&dir)).expect("there");
    assert!(!again.written);
    assert_eq!((again.sha256, again.train, again.val), (first.sha256, 10, 3));

    let other = ShapesOptions { seed: 8, ..options(&dir) };
    let error = write(&other).expect_err("another set").to_string();
    assert!(error.contains("seed 7") && error.contains("seed 8"), "{error}");

    fs::remove_file(dir.join("images/val/000000.png")).expect("removed");
    assert!(matches!(write(&options(&dir)), Err(ShapesError::Incomplete { part: "images/val", found: 2, .. })));

    let foreign = temp.path().join("foreign");
    fs::create_dir(&foreign).expect("created");
    fs::write(foreign.join("thesis.tex"), "x").expect("written");
    assert!(matches!(write(&options(&foreign)), Err(ShapesError::Occupied(_))));
    assert_eq!(contents(&foreign).len(), 1);
}

#[test]
fn an_empty_folder_is_filled_and_a_failure_leaves_nothing() {
    let temp = tempfile::tempdir().expect("a folder");
    let dir = temp.path().join("set");
    fs::create_dir(&dir).expect("created");
    assert!(write(&options(&dir)).expect("written").written);
    assert_eq!(fs::read_dir(temp.path()).expect("a folder").count(), 1, "no partial folder is left");

    fs::write(temp.path().join("file"), "x").expect("written");
    assert!(matches!(write(&options(&temp.path().join("file/set"))), Err(ShapesError::Io { .. })));
    assert_eq!(fs::read_dir(temp.path()).expect("a folder").count(), 2);
}

#[test]
fn two_writers_at_once_end_with_one_set() {
    let temp = tempfile::tempdir().expect("a folder");
    let dir = temp.path().join("set");
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| write(&options(&dir)))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let sets: Vec<_> = results.into_iter().map(|result: Result<_, ShapesError>| result.expect("one set")).collect();
    assert_eq!(sets.iter().filter(|set| set.written).count(), 1, "one was first, the others found its set");
    assert!(sets.iter().all(|set| set.sha256 == sets[0].sha256));
    assert_eq!(fs::read_dir(temp.path()).expect("a folder").count(), 1, "no partial folder is left");
}

#[test]
fn options_out_of_range_are_named() {
    let dir = Path::new("/nonexistent/never");
    for (bad, word) in [
        (ShapesOptions { images: 0, ..options(dir) }, "number of images"),
        (ShapesOptions { imgsz: 8, ..options(dir) }, "image size"),
        (ShapesOptions { imgsz: 100_000, ..options(dir) }, "image size"),
        (ShapesOptions { labels: 1..=100_000, ..options(dir) }, "labels"),
    ] {
        let error = write(&bad).expect_err("out of range").to_string();
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(parse_labels("1..3").expect("a range"), 1..=3);
    assert_eq!(parse_labels("1..=3").expect("a range"), 1..=3);
    assert_eq!(parse_labels("200").expect("a number"), 200..=200);
    for bad in ["", "3..1", "a..b", "1...3", "-1..2", "1..", "99999999999"] {
        assert!(parse_labels(bad).is_err(), "{bad}");
    }
}
