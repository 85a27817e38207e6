//! Data sets and weights that are known by name: where they are, and how to tell that they are the right ones.

use std::path::Path;

use crate::fetch::Asset;

/// Where Ultralytics publishes sets.
macro_rules! set_url {
    ($file:literal) => {
        concat!("https://github.com/ultralytics/assets/releases/download/v0.0.0/", $file)
    };
}

/// Where Ultralytics publishes weights. The files of later releases are the same bytes.
macro_rules! weights_url {
    ($release:literal, $file:literal) => {
        concat!("https://github.com/ultralytics/assets/releases/download/", $release, "/", $file)
    };
}

/// Weights by their usual name, with the hashes that the release page states.
macro_rules! weights {
    ($file:literal, $sha256:literal, $bytes:expr) => {
        Asset {
            file: $file,
            sources: &[weights_url!("v8.4.0", $file), weights_url!("v8.3.0", $file)],
            sha256: Some($sha256),
            bytes: $bytes,
        }
    };
}

/// A data set that can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// What `data:` says.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The archives it is made of.
    pub archives: &'static [Asset<'static>],
    /// How its folder is made of them.
    pub layout: Layout,
    /// Class names, in order.
    pub names: &'static [&'static str],
    /// Bytes of the unpacked set, about.
    pub unpacked_bytes: u64,
}

/// How the files of a set's archives become its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The archive holds one folder in YOLO's format.
    Yolo {
        /// Its name.
        folder: &'static str,
        /// Training images below it.
        train: &'static str,
        /// Validation images below it.
        val: &'static str,
    },
    /// Pascal VOC's own: `VOCdevkit/VOC2007` and so on, labels as XML.
    Voc,
}

/// All sets.
pub const SETS: &[Set] = &[
    Set {
        name: "coco8",
        about: "the first 8 images of COCO train2017, 4 to train and 4 to validate: to see that all works",
        archives: &[Asset {
            file: "coco8.zip",
            sources: &[set_url!("coco8.zip")],
            sha256: Some("54c67fe9ef88313e021ec0e92b73c200167bb0a86633e8df8658d832cca828c9"),
            bytes: Some(443_158),
        }],
        layout: Layout::Yolo { folder: "coco8", train: "images/train", val: "images/val" },
        names: &COCO,
        unpacked_bytes: 2_000_000,
    },
    Set {
        name: "coco128",
        about: "the first 128 images of COCO train2017, trained and validated on the same: to see that a model can learn",
        archives: &[Asset {
            file: "coco128.zip",
            sources: &[
                set_url!("coco128.zip"),
                "https://github.com/ultralytics/yolov5/releases/download/v1.0/coco128.zip",
            ],
            sha256: Some("61e5e3028863d8ffc3b81d6a514603954889f0edd5e4b44c4ce60b2da99aeb8e"),
            bytes: Some(6_983_030),
        }],
        layout: Layout::Yolo { folder: "coco128", train: "images/train2017", val: "images/train2017" },
        names: &COCO,
        unpacked_bytes: 20_000_000,
    },
    Set {
        name: "voc",
        about: "Pascal VOC 2007 and 2012: 16,551 images to train, 4,952 of the 2007 test to validate, 20 classes",
        // No trustworthy source states the hashes of these: what is fetched first counts from then on.
        archives: &[
            Asset {
                file: "VOCtrainval_06-Nov-2007.zip",
                sources: &[set_url!("VOCtrainval_06-Nov-2007.zip")],
                sha256: None,
                bytes: Some(469_982_116),
            },
            Asset {
                file: "VOCtest_06-Nov-2007.zip",
                sources: &[set_url!("VOCtest_06-Nov-2007.zip")],
                sha256: None,
                bytes: Some(451_614_552),
            },
            Asset {
                file: "VOCtrainval_11-May-2012.zip",
                sources: &[set_url!("VOCtrainval_11-May-2012.zip")],
                sha256: None,
                bytes: Some(2_059_061_419),
            },
        ],
        layout: Layout::Voc,
        names: &VOC,
        unpacked_bytes: 3_200_000_000,
    },
];

/// All weights.
pub const WEIGHTS: &[Asset<'static>] = &[
    weights!("yolov8n.pt", "f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36", Some(6_549_796)),
    weights!("yolov8s.pt", "1f47a78bf100391c2a140b7ac73a1caae18c32779be7d310658112f7ac9aa78a", None),
    weights!("yolov8m.pt", "5d4a90cdc7a21786cc59cd19778e9eafff836df9e2da32524737c7ee6efe4fe5", None),
    weights!("yolov8l.pt", "64c9115303f6a25575f82200d1b22ec409fa6bd7d08d0313884fc20d919478cd", None),
    weights!("yolov8x.pt", "3df4ada6b4dad6d657868f2fdf7faecfb34dcfccf3a25c4b82079064718524c8", None),
];

/// The set of a name: `coco8`, `coco8.yaml`, `VOC.yaml`.
#[must_use]
pub fn set(name: &str) -> Option<&'static Set> {
    let name = name.to_ascii_lowercase();
    let stem = name.strip_suffix(".yaml").or(name.strip_suffix(".yml")).unwrap_or(&name);
    SETS.iter().find(|set| set.name == stem)
}

/// The weights of a name: `yolov8n.pt`.
#[must_use]
pub fn weights(name: &str) -> Option<&'static Asset<'static>> {
    WEIGHTS.iter().find(|weights| weights.file == name)
}

/// The names of all sets, for a message.
#[must_use]
pub fn set_names() -> String {
    SETS.iter().map(|set| set.name).collect::<Vec<_>>().join(", ")
}

/// The names of all weights, for a message.
#[must_use]
pub fn weights_names() -> String {
    WEIGHTS.iter().map(|weights| weights.file).collect::<Vec<_>>().join(", ")
}

/// The set that a `data.yaml` with this `download:` is, if we know it.
#[must_use]
pub fn set_for(yaml: &Path, download: &str) -> Option<&'static str> {
    let stem = yaml.file_stem().unwrap_or_default().to_string_lossy();
    let named = |set: &&Set| set.archives.iter().any(|archive| download.contains(&format!("/{}", archive.file)));
    set(&stem).or_else(|| SETS.iter().find(named)).map(|set| set.name)
}

const COCO: [&str; 80] = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];

const VOC: [&str; 20] = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_people_type_them() {
        assert_eq!(set("coco8").expect("known").name, "coco8");
        assert_eq!(set("VOC.yaml").expect("known").name, "voc");
        assert!(set("coco").is_none() && set("data/coco8.yaml").is_none());
        assert_eq!(weights("yolov8n.pt").expect("known").bytes, Some(6_549_796));
        assert!(weights("yolov8n.yaml").is_none());
        assert_eq!(set_for(Path::new("/a/mine.yaml"), "curl -L https://x/coco128.zip"), Some("coco128"));
        assert_eq!(set_for(Path::new("/a/VOC.yaml"), "import os"), Some("voc"));
        assert_eq!(set_for(Path::new("/a/mine.yaml"), "https://x/mycoco8.zip"), None);
    }

    #[test]
    fn the_catalog_is_well_formed() {
        let archives = SETS.iter().flat_map(|set| set.archives);
        for asset in archives.chain(WEIGHTS) {
            assert!(
                !asset.sources.is_empty() && asset.sources.iter().all(|url| url.starts_with("https://")),
                "{asset:?}"
            );
            assert!(asset.sources.iter().all(|url| url.ends_with(&format!("/{}", asset.file))), "{asset:?}");
            let hex = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            assert!(asset.sha256.is_none_or(hex), "{asset:?}");
        }
        assert!(SETS.iter().all(|set| set.name == set.name.to_ascii_lowercase()));
    }
}
