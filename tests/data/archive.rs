//! Archives that want out of their folder, or are no archives at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use evenkeel::fetch::{FetchError, Limits, unpack};
use zip::write::{SimpleFileOptions, ZipWriter};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir(place.dir()).expect("created");
        place
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("into")
    }

    fn zip(&self, entries: &[(&str, &[u8])]) -> PathBuf {
        let path = self.0.path().join("a.zip");
        let mut zip = ZipWriter::new(File::create(&path).expect("created"));
        for (name, bytes) in entries {
            zip.start_file(*name, SimpleFileOptions::default()).expect("started");
            zip.write_all(bytes).expect("written");
        }
        zip.finish().expect("finished");
        path
    }

    /// A tar with these names as they are: the library would refuse to write the bad ones.
    fn tar(&self, entries: &[(&str, tar::EntryType, &[u8])]) -> PathBuf {
        let path = self.0.path().join("a.tar");
        let mut tar = tar::Builder::new(File::create(&path).expect("created"));
        for (name, kind, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o777);
            if *kind == tar::EntryType::Symlink {
                header.set_link_name("/etc").expect("short");
            }
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            tar.append(&header, *bytes).expect("written");
        }
        tar.into_inner().expect("finished");
        path
    }

    fn unpack(&self, archive: &Path) -> Result<(), String> {
        self.unpack_within(archive, Limits::default())
    }

    fn unpack_within(&self, archive: &Path, limits: Limits) -> Result<(), String> {
        match unpack(archive, &self.dir(), limits, &|_, _| ()) {
            Ok(()) => Ok(()),
            Err(FetchError::Archive { problem, .. }) => Err(problem),
            Err(other) => panic!("{other}"),
        }
    }

    /// Everything beside the folder and the archive is an escape.
    fn assert_nothing_outside(&self) {
        for entry in fs::read_dir(self.0.path()).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            assert!(["into", "a.zip", "a.tar", "a.bin"].iter().any(|known| name == *known), "{name:?} escaped");
        }
    }
}

#[test]
fn files_land_where_they_belong() {
    let place = Place::new();
    let zip =
        place.zip(&[("set/images/1.jpg", b"a"), ("./set/标签/1 2.txt", b"b"), ("__MACOSX/x", b"c"), ("empty", b"")]);
    place.unpack(&zip).expect("unpacked");
    assert_eq!(fs::read(place.dir().join("set/images/1.jpg")).expect("there"), b"a");
    assert_eq!(fs::read(place.dir().join("set/标签/1 2.txt")).expect("there"), b"b");
    assert!(place.dir().join("empty").exists() && !place.dir().join("__MACOSX").exists());

    for gzip in [false, true] {
        let place = Place::new();
        let mut tar =
            place.tar(&[("set/", tar::EntryType::Directory, b""), ("set/1.jpg", tar::EntryType::Regular, b"a")]);
        if gzip {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packed.write_all(&fs::read(&tar).expect("there")).expect("packed");
            tar = place.0.path().join("a.bin");
            fs::write(&tar, packed.finish().expect("packed")).expect("written");
        }
        place.unpack(&tar).expect("unpacked");
        assert_eq!(fs::read(place.dir().join("set/1.jpg")).expect("there"), b"a");
    }
}

#[test]
fn nothing_lands_outside_of_the_folder() {
    for name in ["../evil", "a/../../evil", "/tmp/evenkeel-evil", "..\\evil", "a/..", "a\\..\\..\\evil"] {
        let place = Place::new();
        let problem = place.unpack(&place.zip(&[("good", b"x"), (name, b"x")])).expect_err(name);
        assert!(problem.contains("outside") || problem.contains("twice"), "{name}: {problem}");
        place.assert_nothing_outside();
    }
    for name in ["../evil", "a/../../evil", "/tmp/evenkeel-evil"] {
        let place = Place::new();
        let tar = place.tar(&[("good", tar::EntryType::Regular, b"x"), (name, tar::EntryType::Regular, b"x")]);
        assert!(place.unpack(&tar).expect_err(name).contains("outside"));
        place.assert_nothing_outside();
    }
    assert!(!Path::new("/tmp/evenkeel-evil").exists());
}

#[test]
fn links_and_devices_are_refused() {
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Fifo] {
        let place = Place::new();
        let tar = place.tar(&[("way-out", kind, b""), ("way-out/evil", tar::EntryType::Regular, b"x")]);
        assert!(place.unpack(&tar).expect_err("a link").contains("link"));
        assert!(!place.dir().join("way-out").exists());
    }
    let place = Place::new();
    let path = place.0.path().join("a.zip");
    let mut zip = ZipWriter::new(File::create(&path).expect("created"));
    zip.add_symlink("way-out", "/etc", SimpleFileOptions::default()).expect("added");
    zip.finish().expect("finished");
    assert!(place.unpack(&path).expect_err("a link").contains("link"));
}

#[test]
fn an_archive_that_swells_is_stopped() {
    let place = Place::new();
    let zip = place.zip(&[("zeros", &vec![0; 1 << 20])]);
    assert!(fs::metadata(&zip).expect("there").len() < 10_000);
    let limits = Limits { bytes: 1000, ..Limits::default() };
    assert!(place.unpack_within(&zip, limits).expect_err("too much").contains("more than"));
    assert!(fs::metadata(place.dir().join("zeros")).expect("there").len() <= 1000);

    let place = Place::new();
    let zip = place.zip(&[("a", b""), ("b", b""), ("c", b"")]);
    assert!(
        place
            .unpack_within(&zip, Limits { entries: 2, ..Limits::default() })
            .expect_err("too many")
            .contains("too many")
    );
}

#[test]
fn broken_archives_are_named_as_such() {
    let place = Place::new();
    let good = fs::read(place.zip(&[("a", &[7; 5000]), ("b", b"x")])).expect("there");
    let bad = place.0.path().join("a.bin");
    for bytes in [&b""[..], b"PK", b"hello world", b"<html></html>", b"\x1f\x8bgarbage", &good[..good.len() / 2]] {
        fs::write(&bad, bytes).expect("written");
        assert!(place.unpack(&bad).is_err(), "{:?}", &bytes[..bytes.len().min(8)]);
    }
    // One byte turned anywhere: refused or unpacked, but never a panic, and never outside.
    for at in 0..good.len() {
        let place = Place::new();
        let mut turned = good.clone();
        turned[at] ^= 0x41;
        let path = place.0.path().join("a.bin");
        fs::write(&path, turned).expect("written");
        let _ = unpack(&path, &place.dir(), Limits::default(), &|_, _| ());
        place.assert_nothing_outside();
    }
}
