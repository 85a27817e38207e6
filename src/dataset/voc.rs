//! Pascal VOC's own layout and labels, turned into YOLO's.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// Year and split of VOC, which become folders of that name.
const SPLITS: [(&str, &str); 5] =
    [("2012", "train"), ("2012", "val"), ("2007", "train"), ("2007", "val"), ("2007", "test")];

/// Folders to train on, below the set's root: everything but the test of 2007.
pub const TRAIN: [&str; 4] = ["images/train2012", "images/val2012", "images/train2007", "images/val2007"];
/// Folders to validate on.
pub const VAL: [&str; 1] = ["images/test2007"];

/// Turns `dir/VOCdevkit` into `dir/images` and `dir/labels`, and removes it.
///
/// # Errors
/// When a file is missing or a label cannot be read; the text names it.
pub fn convert(dir: &Path, names: &[&str]) -> Result<(), String> {
    let kit = dir.join("VOCdevkit");
    let told =
        |path: &Path, error: io::Error| format!("`{}`: {error}", path.strip_prefix(dir).unwrap_or(path).display());
    for (year, split) in SPLITS {
        let (images, labels) = (dir.join(format!("images/{split}{year}")), dir.join(format!("labels/{split}{year}")));
        for folder in [&images, &labels] {
            fs::create_dir_all(folder).map_err(|error| told(folder, error))?;
        }
        let list = kit.join(format!("VOC{year}/ImageSets/Main/{split}.txt"));
        let ids = fs::read_to_string(&list).map_err(|error| told(&list, error))?;
        for id in ids.split_whitespace() {
            if id.contains(['/', '\\']) {
                return Err(format!("`{id}` in {split}{year} is no image's name"));
            }
            let xml = kit.join(format!("VOC{year}/Annotations/{id}.xml"));
            let text = fs::read_to_string(&xml).map_err(|error| told(&xml, error))?;
            let label = label(&text, names).ok_or_else(|| format!("`{id}.xml` of {year} is no annotation of VOC"))?;
            let path = labels.join(format!("{id}.txt"));
            fs::write(&path, label).map_err(|error| told(&path, error))?;
            let image = kit.join(format!("VOC{year}/JPEGImages/{id}.jpg"));
            fs::rename(&image, images.join(format!("{id}.jpg"))).map_err(|error| told(&image, error))?;
        }
    }
    fs::remove_dir_all(&kit).map_err(|error| told(&kit, error))
}

/// The lines of a label file for an annotation. Objects marked as difficult are left out, as everybody does who trains
/// on VOC. Nothing, when the text is no annotation.
fn label(xml: &str, names: &[&str]) -> Option<String> {
    let size = element(xml, "size")?.0;
    let (width, height): (f64, f64) = (number(size, "width")?, number(size, "height")?);
    if width <= 0.0 || height <= 0.0 {
        return None;
    }
    let mut lines = String::new();
    let mut rest = xml;
    while let Some((object, after)) = element(rest, "object") {
        rest = after;
        let name = element(object, "name")?.0.trim();
        let difficult = element(object, "difficult").is_some_and(|(text, _)| text.trim() == "1");
        let Some(class) = names.iter().position(|known| *known == name).filter(|_| !difficult) else { continue };
        let bounds = element(object, "bndbox")?.0;
        let (left, right) = (number(bounds, "xmin")?, number(bounds, "xmax")?);
        let (top, bottom) = (number(bounds, "ymin")?, number(bounds, "ymax")?);
        // VOC counts pixels from 1, and both ends belong to the box: the left edge of pixel 1 is 0.
        let part = |low: f64, high: f64, size: f64| {
            let (low, high) = ((low - 1.0).clamp(0.0, size), high.clamp(0.0, size));
            ((low + high) / 2.0 / size, (high - low) / size)
        };
        let ((x, w), (y, h)) = (part(left, right, width), part(top, bottom, height));
        if w > 0.0 && h > 0.0 {
            let _ = writeln!(lines, "{class} {x:.6} {y:.6} {w:.6} {h:.6}");
        }
    }
    Some(lines)
}

/// The text inside the first element of a name, and what comes after it. VOC's annotations have no attributes, and
/// nothing in them repeats inside itself; a part of an object has a box of its own, after the object's.
fn element<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = xml.find(&open)? + open.len();
    let length = xml[start..].find(&close)?;
    Some((&xml[start..start + length], &xml[start + length + close.len()..]))
}

fn number(xml: &str, name: &str) -> Option<f64> {
    element(xml, name)?.0.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<annotation><folder>VOC2007</folder><size><width>200</width><height>100</height><depth>3</depth></size>
        <object><name>dog</name><difficult>0</difficult>
          <bndbox><xmin>1</xmin><ymin>51</ymin><xmax>100</xmax><ymax>100</ymax></bndbox>
          <part><name>head</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></part></object>
        <object><name>cat</name><difficult>1</difficult>
          <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>
        <object><name>unicorn</name><bndbox></bndbox></object>
        <object><name>cat</name><bndbox><xmin>45.7</xmin><ymin>1</ymin><xmax>200</xmax><ymax>100</ymax></bndbox></object>
        </annotation>";

    #[test]
    fn boxes_become_fractions() {
        let lines = label(XML, &["cat", "dog"]).expect("an annotation");
        assert_eq!(lines, "1 0.250000 0.750000 0.500000 0.500000\n0 0.611750 0.500000 0.776500 1.000000\n");
    }

    #[test]
    fn what_is_no_annotation_is_refused() {
        for text in ["", "<html>", "<size><width>0</width><height>5</height></size>", "<size><width>x</width></size>"] {
            assert_eq!(label(text, &["cat"]), None, "{text}");
        }
        assert_eq!(label("<size><width>5</width><height>5</height></size>", &["cat"]), Some(String::new()));
    }

    #[test]
    fn the_kit_becomes_a_set() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path();
        let write = |below: &str, text: &str| {
            let path = dir.join("VOCdevkit").join(below);
            fs::create_dir_all(path.parent().expect("below")).expect("created");
            fs::write(path, text).expect("written");
        };
        for (number, (year, split)) in SPLITS.iter().enumerate() {
            write(&format!("VOC{year}/ImageSets/Main/{split}.txt"), &format!("00000{number}\n"));
            write(&format!("VOC{year}/Annotations/00000{number}.xml"), XML);
            write(&format!("VOC{year}/JPEGImages/00000{number}.jpg"), "pixels");
        }
        convert(dir, &["cat", "dog"]).expect("converted");
        assert!(!dir.join("VOCdevkit").exists());
        for folder in TRAIN.iter().chain(&VAL) {
            assert_eq!(fs::read_dir(dir.join(folder)).expect("a folder").count(), 1, "{folder}");
            assert_eq!(fs::read_dir(dir.join(folder.replace("images", "labels"))).expect("a folder").count(), 1);
        }
        assert!(convert(dir, &["cat"]).expect_err("gone").contains("train.txt"));
    }
}
