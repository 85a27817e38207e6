//! Data sets as people have them: absolute paths, links that leave the root, lists, names in Chinese.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use evenkeel::dataset::{DataError, Mount, Places, ResolvedData, resolve};
use evenkeel::error::Failure;

/// A folder of its own for one test, by its true name.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().canonicalize().expect("it is there").join(below)
    }

    fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("below")).expect("created");
        fs::write(&path, text).expect("written");
        path
    }

    /// Images `0.jpg` ... in `images/part` below `root`, with labels.
    fn images(&self, root: &str, part: &str, count: usize) {
        for n in 0..count {
            self.write(&format!("{root}/images/{part}/{n}.jpg"), "pixels");
            self.write(&format!("{root}/labels/{part}/{n}.txt"), "0 0.5 0.5 0.1 0.1\n");
        }
    }

    fn link(&self, below: &str, target: impl AsRef<Path>) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("below")).expect("created");
        symlink(target, path).expect("linked");
    }

    fn resolve(&self, below: &str) -> Result<ResolvedData, DataError> {
        resolve(&self.path(below), &Places { cwd: self.path(""), datasets: vec![self.path("datasets")] })
    }

    fn mount(&self, below: &str) -> Mount {
        Mount { target: self.path(below), source: self.path(below) }
    }

    fn text(&self, below: &str) -> String {
        self.path(below).to_str().expect("UTF-8").to_owned()
    }
}

const YAML: &str = "train: images/train\nval: images/val\nnames: [thing]\n";

#[test]
fn the_usual_set_is_one_mount() {
    let disk = Disk::new();
    disk.images("set", "train", 3);
    disk.images("set", "train/deeper", 2);
    disk.images("set", "val", 2);
    disk.write("set/images/train/background.PNG", "pixels");
    disk.write("set/images/train/notes.md", "no image");
    disk.write("set/images/train/.hidden.jpg", "no image");
    disk.write("set/data.yaml", YAML);
    let data = disk.resolve("set/data.yaml").expect("good");
    assert_eq!((data.train.images, data.train.labelled, data.train.missing), (6, 5, 0));
    assert_eq!((data.val.images, data.val.labelled), (2, 2));
    assert_eq!(data.mounts, [disk.mount("set")]);
    assert_eq!(data.data.path, disk.text("set"));
    assert_eq!(data.data.train, [disk.text("set/images/train")]);
    assert_eq!(data.data.names[&0], "thing");
    assert!(data.warnings.is_empty(), "{:?}", data.warnings);
    assert_eq!(disk.resolve("set").expect("the folder will do").yaml, disk.path("set/data.yaml"));
}

#[test]
fn names_and_paths_in_chinese_and_with_spaces() {
    let disk = Disk::new();
    disk.images("数据 集", "训练", 2);
    disk.images("数据 集", "验 证", 1);
    disk.write("数据 集/数据.yaml", "train: images/训练\nval: images/验 证\nnames: {0: 猫, 1: 交通灯}\n");
    let data = disk.resolve("数据 集/数据.yaml").expect("good");
    assert_eq!((data.train.labelled, data.val.labelled), (2, 1));
    assert_eq!(data.data.train, [disk.text("数据 集/images/训练")]);
    assert_eq!(data.data.names[&1], "交通灯");
}

#[test]
fn an_absolute_path_is_where_it_says() {
    let disk = Disk::new();
    disk.images("big disk/coco", "train", 2);
    disk.images("big disk/coco", "val", 1);
    disk.write("project/coco.yaml", &format!("path: {}\n{YAML}", disk.text("big disk/coco")));
    let data = disk.resolve("project/coco.yaml").expect("good");
    assert_eq!(data.mounts, [disk.mount("big disk/coco")], "the project itself is not needed");
}

#[test]
fn a_relative_path_is_tried_where_people_mean_it() {
    for place in ["project/sets/coco", "sets/coco", "datasets/sets/coco"] {
        let disk = Disk::new();
        disk.images(place, "train", 1);
        disk.images(place, "val", 1);
        disk.write("project/coco.yaml", &format!("path: sets/coco\n{YAML}"));
        assert_eq!(disk.resolve("project/coco.yaml").expect(place).data.path, disk.text(place));
    }
}

#[test]
fn an_export_with_one_parent_too_many() {
    let disk = Disk::new();
    for split in ["train", "valid"] {
        disk.write(&format!("export/{split}/images/a.jpg"), "pixels");
        disk.write(&format!("export/{split}/labels/a.txt"), "0 0.5 0.5 0.1 0.1\n");
    }
    disk.write("export/data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['x']\n");
    let data = disk.resolve("export/data.yaml").expect("good");
    assert_eq!(data.data.val, [disk.text("export/valid/images")]);
    assert_eq!(data.val.labelled, 1);
}

#[test]
fn links_that_leave_the_root_are_mounted_where_they_point() {
    let disk = Disk::new();
    disk.images("store/a", "x", 2);
    disk.images("store/b", "y", 2);
    // A folder of links, absolute and relative, to files; labels are links, too.
    for n in 0..2 {
        disk.link(&format!("set/images/train/{n}.jpg"), disk.path(&format!("store/a/images/x/{n}.jpg")));
        disk.link(&format!("set/labels/train/{n}.txt"), format!("../../../store/a/labels/x/{n}.txt"));
    }
    // A linked folder, and a link to a link.
    disk.link("set/images/val/more", disk.path("store/b/images/y"));
    disk.link("set/labels/val/more", disk.path("second/hop"));
    disk.link("second/hop", "../store/b/labels/y");
    disk.write("set/data.yaml", YAML);
    let data = disk.resolve("set/data.yaml").expect("good");
    assert_eq!((data.train.labelled, data.val.labelled), (2, 2));
    let mut expected: Vec<Mount> =
        ["second", "set", "store/a/images/x", "store/a/labels/x", "store/b/images/y", "store/b/labels/y"]
            .iter()
            .map(|below| disk.mount(below))
            .collect();
    expected.sort();
    assert_eq!(data.mounts, expected);
    assert!(container_sees(&disk, &data));
}

#[test]
fn a_set_reached_through_a_link_further_up() {
    let disk = Disk::new();
    disk.images("mnt/big/set", "train", 2);
    disk.images("mnt/big/set", "val", 2);
    disk.link("home", disk.path("mnt/big"));
    // The list and one link use the name through `home`, which the container must know as well.
    let line = |n: usize| format!("{}\n", disk.path("home").join(format!("set/images/train/{n}.jpg")).display());
    disk.write("mnt/big/set/train.txt", &(line(0) + &line(1)));
    disk.link("mnt/big/set/images/val/linked.jpg", disk.path("home/set/images/train/0.jpg"));
    disk.write("mnt/big/set/data.yaml", "train: train.txt\nval: images/val\nnames: [x]\n");
    let data = disk.resolve("home/set/data.yaml").expect("good");
    assert_eq!((data.train.labelled, data.val.images, data.val.labelled), (2, 3, 2));
    assert!(data.mounts.contains(&disk.mount("mnt/big/set")));
    let through = Mount { target: disk.path("home/set/images/train"), source: disk.path("mnt/big/set/images/train") };
    assert!(data.mounts.contains(&through), "{:?}", data.mounts);
    assert!(container_sees(&disk, &data));
}

#[test]
fn a_linked_split_keeps_the_labels_that_lie_beside_either_name() {
    let disk = Disk::new();
    disk.write("pictures/0.jpg", "pixels");
    disk.link("set/images/train", disk.path("pictures"));
    disk.write("set/labels/train/0.txt", "0 0.5 0.5 0.1 0.1\n");
    disk.images("set", "val", 1);
    disk.write("set/data.yaml", YAML);
    let data = disk.resolve("set/data.yaml").expect("good");
    assert_eq!(data.data.train, [disk.text("set/images/train")], "its labels lie beside the name as written");
    assert!(container_sees(&disk, &data));

    let disk = Disk::new();
    disk.images("store", "train", 1);
    disk.link("set/images/train", disk.path("store/images/train"));
    disk.images("set", "val", 1);
    disk.write("set/data.yaml", YAML);
    let data = disk.resolve("set/data.yaml").expect("good");
    assert_eq!(data.data.train, [disk.text("store/images/train")], "its labels lie beside the true name");
    assert!(container_sees(&disk, &data));
}

#[test]
fn lists_of_images() {
    let disk = Disk::new();
    disk.images("set", "a", 3);
    disk.images("other", "b", 2);
    let absolute = disk.text("other/images/b/1.jpg");
    disk.write("set/lists/train.txt", &format!("./../images/a/0.jpg\r\n\n{absolute}\n./../images/a/gone.jpg\n"));
    disk.write("set/val.txt", "./images/a/1.jpg\n./images/a/2.jpg");
    disk.write("set/data.yaml", "train: [lists/train.txt, images/a]\nval: val.txt\nnames: [x]\n");
    let data = disk.resolve("set/data.yaml").expect("good");
    assert_eq!((data.train.images, data.train.labelled, data.train.missing), (5, 5, 1));
    assert_eq!(data.val.labelled, 2);
    assert_eq!(data.data.train, [disk.text("set/lists/train.txt"), disk.text("set/images/a")]);
    assert!(data.warnings.iter().any(|warning| warning.starts_with("1 images of `train:`")), "{:?}", data.warnings);
    assert!(container_sees(&disk, &data));

    // Plain relative lines start where their images are: at the root, beside the list, or where the command was typed.
    for (place, line) in [("set", "images/a/0.jpg"), ("set/lists", "../images/a/0.jpg"), ("", "set/images/a/0.jpg")] {
        disk.write("set/lists/plain.txt", line);
        disk.write("set/data.yaml", "train: lists/plain.txt\nval: val.txt\nnames: [x]\n");
        let data = disk.resolve("set/data.yaml").expect(place);
        assert_eq!(Path::new(&data.data.path), disk.path(place).components().collect::<PathBuf>(), "{line}");
        assert_eq!(data.train.labelled, 1);
    }
}

#[test]
fn a_round_of_links_ends_and_broken_ones_are_counted() {
    let disk = Disk::new();
    disk.images("set", "train", 2);
    disk.images("set", "val", 1);
    disk.link("set/images/train/again", disk.path("set/images"));
    disk.link("set/images/train/self.jpg", "self.jpg");
    disk.link("set/images/train/gone.jpg", "/nonexistent/1.jpg");
    disk.link("set/images/train/README", "/etc/hostname");
    disk.write("set/data.yaml", YAML);
    let data = disk.resolve("set/data.yaml").expect("good");
    assert_eq!(data.train.missing, 2);
    assert!(data.train.images >= 2);
    assert_eq!(data.mounts, [disk.mount("set")], "a read-me is no reason to mount /etc");
}

#[test]
fn a_set_that_cannot_be_written_to() {
    let disk = Disk::new();
    disk.images("set", "train", 1);
    disk.images("set", "val", 1);
    disk.write("set/data.yaml", YAML);
    for below in ["set/labels/train", "set/images/train", "set"] {
        fs::set_permissions(disk.path(below), fs::Permissions::from_mode(0o555)).expect("set");
    }
    assert_eq!(disk.resolve("set/data.yaml").expect("reading is enough").train.labelled, 1);
    fs::set_permissions(disk.path("set"), fs::Permissions::from_mode(0o755)).expect("set");
}

#[test]
fn what_is_missing_is_named_with_the_way_out() {
    let message = |disk: &Disk, below: &str| Failure::from(disk.resolve(below).expect_err("bad")).render();
    let check = |text: String, parts: &[&str]| {
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    };
    let disk = Disk::new();
    check(message(&disk, "none.yaml"), &["there is no data set", "none.yaml", "hint:"]);

    disk.write("set/data.yaml", YAML);
    check(message(&disk, "set"), &["`train: images/train` does not exist", &disk.text("set/images/train"), "hint:"]);
    fs::create_dir_all(disk.path("set/images/train")).expect("created");
    check(message(&disk, "set"), &["`val: images/val` does not exist"]);
    fs::create_dir_all(disk.path("set/images/val")).expect("created");
    check(message(&disk, "set"), &["`train:` has no images", "images end in"]);
    disk.write("set/images/train/1.jpg", "pixels");
    check(message(&disk, "set"), &["none of the 1 images", &disk.text("set/labels/train"), "class x y"]);
    disk.write("set/labels/train/1.txt", "");
    check(message(&disk, "set"), &["`val:` has no images"]);

    disk.write("set/data.yaml", "train: images/train\nval: images/val\n");
    check(message(&disk, "set"), &["`names:` is missing", "names: [first"]);
    disk.write("set/data.yaml", "train: images/train\nnames: [x]\n");
    check(message(&disk, "set"), &["`val:` is missing"]);
    disk.write("set/data.yaml", "train: D:\\sets\\train\nval: x\nnames: [x]\n");
    check(message(&disk, "set"), &["Windows"]);
    disk.write("set/data.yaml", "path: nowhere\ntrain: a\nval: b\nnames: [x]\ndownload: |\n  import os\n  os.system('rm -rf /')\n  url = 'https://example.com/set.zip'\n");
    check(message(&disk, "set"), &["never executed", "from https://example.com/set.zip", "nowhere"]);
}

#[test]
fn hostile_files_are_refused_and_never_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs/data");
    let disk = Disk::new();
    let mut seen = 0;
    for entry in fs::read_dir(corpus).expect("the corpus") {
        let path = entry.expect("an entry").path();
        seen += 1;
        let text = fs::read(&path).expect("readable");
        fs::write(disk.path("data.yaml"), text).expect("written");
        let error = disk.resolve("data.yaml").expect_err(&path.display().to_string());
        let text = Failure::from(error).render();
        assert!(text.starts_with("error: ") && text.len() < 2000, "{}: {text}", path.display());
    }
    assert!(seen >= 15, "the corpus is there");

    // Every prefix of a good file, and every file with one byte turned.
    let good = b"path: .\ntrain: [images/train, \"b\"]\nval: {a: *x}\nnames:\n  0: &x a\n  1: 'b'\nnc: 2\n";
    for cut in 0..good.len() {
        fs::write(disk.path("data.yaml"), &good[..cut]).expect("written");
        assert!(disk.resolve("data.yaml").is_err());
        let mut turned = good.to_vec();
        turned[cut] ^= 0x55;
        fs::write(disk.path("data.yaml"), turned).expect("written");
        assert!(disk.resolve("data.yaml").is_err());
    }
}

#[test]
fn a_path_that_is_no_text_is_refused() {
    let disk = Disk::new();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let root = disk.path("").join(name);
    for part in ["images/train", "images/val", "labels/train", "labels/val"] {
        fs::create_dir_all(root.join(part)).expect("created");
        let file = if part.starts_with("images") { "1.jpg" } else { "1.txt" };
        fs::write(root.join(part).join(file), "").expect("written");
    }
    fs::write(root.join("data.yaml"), YAML).expect("written");
    let result = resolve(&root.join("data.yaml"), &Places { cwd: disk.path(""), datasets: vec![] });
    assert!(matches!(result, Err(DataError::NotUnicode(_))), "{result:?}");
}

/// Whether every image and label of the set is found by a walk in which only the mounts exist: links are followed by
/// hand, from the paths that the trainer is told.
fn container_sees(disk: &Disk, data: &ResolvedData) -> bool {
    // A file of the container's view: its host path, links followed inside the view.
    fn look(mounts: &[Mount], path: &Path, depth: usize) -> Option<PathBuf> {
        if depth > 40 {
            return None;
        }
        let mut at = PathBuf::from("/");
        let parts: Vec<_> = path.components().skip(1).collect();
        for (number, part) in parts.iter().enumerate() {
            if part.as_os_str() == ".." {
                at.pop();
                continue;
            }
            at.push(part);
            // The innermost mount shows this place; above all mounts there are only empty folders.
            let mount = mounts
                .iter()
                .filter(|mount| at.starts_with(&mount.target))
                .max_by_key(|m| m.target.components().count());
            let Some(mount) = mount else {
                if mounts.iter().any(|mount| mount.target.starts_with(&at)) { continue } else { return None }
            };
            let host = mount.source.join(at.strip_prefix(&mount.target).expect("below"));
            if at != mount.target && fs::symlink_metadata(&host).ok()?.file_type().is_symlink() {
                let target = fs::read_link(&host).expect("a link");
                let rest: PathBuf = parts[number + 1..].iter().collect();
                return look(mounts, &at.parent().expect("below /").join(target).join(rest), depth + 1);
            }
        }
        let mount = mounts
            .iter()
            .filter(|mount| at.starts_with(&mount.target))
            .max_by_key(|m| m.target.components().count())?;
        let host = mount.source.join(at.strip_prefix(&mount.target).expect("below"));
        host.exists().then_some(host)
    }
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, files)
            } else if path.exists() {
                files.push(path)
            }
        }
    }
    let mut files = Vec::new();
    for source in data.data.train.iter().chain(&data.data.val).map(Path::new) {
        if source.is_dir() {
            walk(source, &mut files);
            continue;
        }
        files.push(source.to_owned());
        for line in fs::read_to_string(source).expect("a list").lines().filter(|line| !line.is_empty()) {
            let path = match line.strip_prefix("./") {
                Some(rest) => source.parent().expect("below").join(rest),
                None => Path::new(&data.data.path).join(line),
            };
            if path.exists() {
                files.push(path);
            }
        }
    }
    let labels = files.iter().filter_map(|image| {
        let text = image.to_str()?.replace("/images/", "/labels/");
        let label = Path::new(&text).with_extension("txt");
        label.exists().then_some(label)
    });
    let all: Vec<PathBuf> = files.iter().cloned().chain(labels).collect();
    assert!(all.iter().filter(|path| path.extension().is_some_and(|e| e == "txt")).count() > 0, "labels are looked at");
    all.iter().all(|path| {
        let seen = look(&data.mounts, path, 0).and_then(|host| host.canonicalize().ok());
        let same = seen == path.canonicalize().ok();
        assert!(same, "{} is not seen through {:?} (below {:?})", path.display(), data.mounts, disk.path(""));
        same
    })
}
