//! A job to begin with, written for a data set.

use std::fmt::Write as _;

use super::ResolvedData;

/// The text of a commented job that trains on a set. `data` is what `data:` shall say: a path or a known name.
#[must_use]
pub fn job_for(data: &str, set: &ResolvedData) -> String {
    let name = name_of(set);
    let target = target_for(set.train.images);
    let classes: Vec<&str> = set.data.names.values().map(String::as_str).collect();
    let mut shown: Vec<String> = classes.iter().take(8).map(|class| one_line(class)).collect();
    if classes.len() > shown.len() {
        shown.push(format!("and {} more", classes.len() - shown.len()));
    }
    let mut text = String::new();
    let _ = write!(
        text,
        "# A training job of evenkeel. `evenkeel plan FILE` says what it would do, `evenkeel train FILE --smoke` tries it\n\
         # on a few images, `evenkeel train FILE` runs it. Any value can be set on the command line: `epochs=20`.\n\
         #\n\
         # {train} images to train on ({labelled} with labels), {val} to validate on, {count} {noun}:\n\
         # {shown}\n\
         \n\
         # Runs are recorded in runs/{name}/.\n\
         name: {name}\n\
         \n\
         # What computes: `ultralytics` (the official package), `native` (ours, which starts from scratch or from weights that\n\
         # `evenkeel weights import yolov8n.pt` has made readable), or `command` (any program of yours).\n\
         trainer: ultralytics\n\
         \n\
         # `.yaml` starts from scratch, `.pt` from weights trained on COCO (fetched once). The letter is the size: n, s, m,\n\
         # l, x.\n\
         model: yolov8n.pt\n\
         \n\
         # Relative to the folder in which evenkeel is called.\n\
         data: {data}\n\
         \n\
         epochs: 100\n\
         \n\
         # Side of the square training image in pixels, a multiple of 32. Small objects need more, memory grows with its\n\
         # square. Or sizes by epoch, counted from 0: {{0: 320, 50: 480, 80: 640}}.\n\
         imgsz: 640\n\
         \n\
         batch:\n\
         \x20 # Images of one optimizer step over all devices, exactly; the same on one GPU and on eight.\n\
         \x20 target: {target}\n\
         \x20 # Images of one forward and backward pass on one device; auto: the target over the devices.\n\
         \x20 micro: auto\n\
         \n\
         # auto (every free GPU, else the CPU) | 0 | [0, 1] | cpu | cpu:2; or `gpus: 2` for any two free ones.\n\
         device: auto\n\
         \n\
         seed: 0\n\
         \n\
         # The trainer's own settings.\n\
         # args:\n\
         #   lr0: 0.01\n\
         #   mosaic: 1.0\n\
         #   workers: 8\n",
        train = set.train.images,
        labelled = set.train.labelled,
        val = set.val.images,
        count = classes.len(),
        noun = if classes.len() == 1 { "class" } else { "classes" },
        shown = shown.join(", "),
        data = quoted(data),
    );
    text
}

/// The set's name: its file's, or its folder's where the file is called like every other.
#[must_use]
pub fn name_of(set: &ResolvedData) -> String {
    let stem = set.yaml.file_stem().unwrap_or_default().to_string_lossy();
    let folder = set.yaml.parent().and_then(|parent| parent.file_name()).unwrap_or_default().to_string_lossy();
    let told = if matches!(stem.as_ref(), "data" | "dataset" | "") { folder } else { stem };
    let clean: String = told.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    let clean = clean.trim_matches(|c: char| !c.is_alphanumeric());
    if clean.is_empty() { "job".to_owned() } else { clean.chars().take(60).collect() }
}

/// The nominal batch of yolo, or less for a set that has less.
fn target_for(images: usize) -> usize {
    let mut target = 64;
    while target > 1 && target * 2 > images {
        target /= 2;
    }
    target
}

/// As a YAML scalar: plain where that is safe, else as JSON, which YAML reads the same.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    let safe = text.starts_with(|c: char| c.is_alphabetic() || c == '/' || c == '.') && text.chars().all(plain);
    if safe && text.contains(['/', '.']) { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// Nothing from a file may end the comment it stands in.
fn one_line(text: &str) -> String {
    text.chars()
        .take(40)
        .map(|c| if c.is_control() || "\u{85}\u{2028}\u{2029}".contains(c) { ' ' } else { c })
        .collect()
}
