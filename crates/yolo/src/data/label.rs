//! Label files: one object a line, its class and its box as shares of the image's width and height, or a polygon around it.

use std::collections::HashSet;

/// An object as its label says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// Class, from 0.
    pub class: u32,
    /// Centre, width and height as shares of the image's, from 0 to 1.
    pub area: [f32; 4],
}

/// What a label file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels {
    /// Its objects, each once.
    pub objects: Vec<Label>,
    /// Lines that say what an earlier one said.
    pub duplicates: usize,
}

/// A line that makes no sense. The image is left out then: an object that is there but not labelled would teach the wrong thing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct LabelError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// Shares may exceed an image by this much, as rounding does; they are cut to it then.
const SLACK: f32 = 0.01;

/// Reads the lines of a label file. `classes` is the number of classes of the set.
///
/// # Errors
///
/// The first line that is no object of the set.
pub fn parse(bytes: &[u8], classes: u32) -> Result<Labels, LabelError> {
    let mut labels = Labels::default();
    let mut seen = HashSet::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let wrong = |why: String| LabelError { line: number + 1, why };
        let text = std::str::from_utf8(line).map_err(|_| wrong("not UTF-8".into()))?;
        // A mark of UTF-8 that some editors put first.
        let text = if number == 0 { text.trim_start_matches('\u{feff}') } else { text };
        let mut words = text.split_ascii_whitespace();
        let Some(class) = words.next() else { continue };
        let label = object(class, words, classes).map_err(wrong)?;
        // Bit patterns: two lines are the same if they read the same.
        if seen.insert((label.class, label.area.map(f32::to_bits))) {
            labels.objects.push(label);
        } else {
            labels.duplicates += 1;
        }
    }
    Ok(labels)
}

fn object<'a>(class: &str, words: impl Iterator<Item = &'a str>, classes: u32) -> Result<Label, String> {
    let class: f64 = class.parse().map_err(|_| format!("`{}` is no class", shown(class)))?;
    if class.fract() != 0.0 || !(0.0..f64::from(classes)).contains(&class) {
        return Err(format!("class {class} is not one of the set's {classes}, which are numbered from 0"));
    }
    let mut shares = Vec::new();
    for word in words {
        let share: f32 = word.parse().map_err(|_| format!("`{}` is no number", shown(word)))?;
        if !(-SLACK..=1.0 + SLACK).contains(&share) {
            return Err(format!("{share} is not a share of the image, from 0 to 1"));
        }
        shares.push(share);
    }
    let area = match shares[..] {
        [x, y, width, height] => [x, y, width, height],
        // A polygon of at least three corners.
        ref corners if corners.len() >= 6 && corners.len() % 2 == 0 => around(corners),
        _ => {
            return Err(format!(
                "{} numbers after the class, where a box has 4 and a polygon pairs, from 6",
                shares.len()
            ));
        }
    };
    let area = within(area);
    if area[2] <= 0.0 || area[3] <= 0.0 {
        return Err("a box without an area".into());
    }
    Ok(Label { class: class as u32, area })
}

/// The box around a polygon's corners, `x, y, x, y, ...`.
fn around(corners: &[f32]) -> [f32; 4] {
    let ends = |start: usize| {
        let of_axis = || corners.iter().skip(start).step_by(2).copied();
        (of_axis().fold(f32::INFINITY, f32::min), of_axis().fold(f32::NEG_INFINITY, f32::max))
    };
    let ((left, right), (top, bottom)) = (ends(0), ends(1));
    [(left + right) / 2.0, (top + bottom) / 2.0, right - left, bottom - top]
}

/// The part of a box that is in the image. One that fits is left to the bit.
fn within(area: [f32; 4]) -> [f32; 4] {
    let [x, y, width, height] = area;
    let axis = |middle: f32, size: f32| {
        let (low, high) = (middle - size / 2.0, middle + size / 2.0);
        if low >= -SLACK && high <= 1.0 + SLACK {
            return (middle.clamp(0.0, 1.0), size.min(1.0));
        }
        let (low, high) = (low.max(0.0), high.min(1.0));
        ((low + high) / 2.0, high - low)
    };
    let ((x, width), (y, height)) = (axis(x, width), axis(y, height));
    [x, y, width, height]
}

/// Enough of a word to find it, without what a terminal would act on.
fn shown(word: &str) -> String {
    word.chars().take(20).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(text: &str) -> Vec<Label> {
        parse(text.as_bytes(), 3).expect("sound").objects
    }

    fn complaint(text: &[u8]) -> String {
        parse(text, 3).expect_err("unsound").to_string()
    }

    #[test]
    fn boxes_and_polygons_are_objects() {
        assert_eq!(objects("2 0.5 0.5 0.25 0.5\n"), [Label { class: 2, area: [0.5, 0.5, 0.25, 0.5] }]);
        assert_eq!(objects("1.0 0.25 0.25 0.75 0.25 0.5 0.75"), [Label { class: 1, area: [0.5, 0.5, 0.5, 0.5] }]);
        assert_eq!(objects("\u{feff}0 0.5 0.5 1 1\r\n\r\n"), [Label { class: 0, area: [0.5, 0.5, 1.0, 1.0] }]);
        assert_eq!(objects(""), []);
    }

    #[test]
    fn what_is_said_twice_counts_once() {
        let labels = parse(b"0 .5 .5 .1 .1\n1 .5 .5 .1 .1\n0 0.5 0.5 0.1 0.1", 3).expect("sound");
        assert_eq!((labels.objects.len(), labels.duplicates), (2, 1));
    }

    #[test]
    fn a_complaint_names_the_line() {
        for (text, part) in [
            ("0 .5 .5 .1 .1\n3 .5 .5 .1 .1", "line 2: class 3 is not one of the set's 3"),
            ("-1 .5 .5 .1 .1", "line 1: class -1"),
            ("0.5 .5 .5 .1 .1", "class 0.5"),
            ("NaN .5 .5 .1 .1", "class NaN"),
            ("cat .5 .5 .1 .1", "`cat` is no class"),
            ("0 nan .5 .1 .1", "NaN is not a share"),
            ("0 .5 inf .1 .1", "inf is not a share"),
            ("0 .5 1.5 .1 .1", "1.5 is not a share"),
            ("0 .5 x .1 .1", "`x` is no number"),
            ("0 .5 .5 .1", "3 numbers"),
            ("0 .5 .5 .1 .1 .9", "5 numbers"),
            ("0 .5 .5 0 .1", "without an area"),
        ] {
            assert!(complaint(text.as_bytes()).contains(part), "{text:?}: {}", complaint(text.as_bytes()));
        }
        assert_eq!(complaint(b"0 .5 .5 .1 .1\n\xff\xfe"), "line 2: not UTF-8");
    }

    #[test]
    fn what_sticks_out_is_cut() {
        let [label] = objects("0 0.9 0.5 0.4 0.2")[..] else { panic!("one object") };
        assert!((label.area[0] - 0.85).abs() < 1e-6 && (label.area[2] - 0.3).abs() < 1e-6, "{label:?}");
    }
}
