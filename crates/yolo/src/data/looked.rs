//! What a look at a picture and its labels found, and the bytes in which that goes to the other ranks and to the next training.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::label::Label;

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Looked {
    /// What the files were when they were looked at.
    pub stamp: Stamp,
    /// Width, height and objects of a picture that can be used.
    pub found: Option<(u32, u32, Vec<Label>)>,
    /// What is the matter with it.
    pub trouble: Option<Trouble>,
}

/// What is the matter with a picture or its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Whether it is about the label file.
    pub of_labels: bool,
    pub why: String,
    /// Whether the picture is left out for it.
    pub skipped: bool,
}

/// Sizes and times of a picture and its label file: what has the same ones was not changed. A file that is not there has a size that none has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([i64; 4]);

impl Stamp {
    /// As the files are now.
    pub fn of(picture: &Path, labels: &Path) -> Self {
        let mark = |found: io::Result<Metadata>| match found {
            Ok(found) => {
                [found.size() as i64, found.mtime().wrapping_mul(1_000_000_000).wrapping_add(found.mtime_nsec())]
            }
            Err(_) => [-1, 0],
        };
        let ([a, b], [c, d]) = (mark(picture.metadata()), mark(labels.metadata()));
        Self([a, b, c, d])
    }
}

/// Finds with a number each, as bytes.
pub(super) fn encode<'a>(all: impl IntoIterator<Item = (u64, &'a Looked)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, looked) in all {
        bytes.extend(number.to_le_bytes());
        looked.stamp.0.iter().for_each(|part| bytes.extend(part.to_le_bytes()));
        match &looked.found {
            None => bytes.push(0),
            Some((width, height, labels)) => {
                bytes.push(1);
                for value in [*width, *height, labels.len() as u32] {
                    bytes.extend(value.to_le_bytes());
                }
                for label in labels {
                    bytes.extend(label.class.to_le_bytes());
                    label.area.iter().for_each(|share| bytes.extend(share.to_le_bytes()));
                }
            }
        }
        match &looked.trouble {
            None => bytes.push(0),
            Some(trouble) => {
                bytes.push(1 | (u8::from(trouble.of_labels) << 1) | (u8::from(trouble.skipped) << 2));
                bytes.extend((trouble.why.len() as u32).to_le_bytes());
                bytes.extend(trouble.why.as_bytes());
            }
        }
    }
    bytes
}

/// What [`encode`] was given; `None` for bytes that it did not make.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<(u64, Looked)>> {
    let mut rest = Rest(bytes);
    let mut all = Vec::new();
    while !rest.0.is_empty() {
        all.push(rest.one()?);
    }
    Some(all)
}

/// Bytes that are still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn one(&mut self) -> Option<(u64, Looked)> {
        let number = u64::from_le_bytes(self.take()?);
        let mut stamp = [0; 4];
        for part in &mut stamp {
            *part = i64::from_le_bytes(self.take()?);
        }
        let [has] = self.take()?;
        let found = if has == 1 {
            let (width, height, count) = (self.u32()?, self.u32()?, self.u32()?);
            let labels = (0..count).map(|_| self.label()).collect::<Option<_>>()?;
            Some((width, height, labels))
        } else {
            None
        };
        let [flags] = self.take()?;
        let trouble = if flags & 1 == 1 {
            let length = self.u32()? as usize;
            let (why, rest) = self.0.split_at_checked(length)?;
            self.0 = rest;
            let why = String::from_utf8(why.to_vec()).ok()?;
            Some(Trouble { of_labels: flags & 2 != 0, why, skipped: flags & 4 != 0 })
        } else {
            None
        };
        Some((number, Looked { stamp: Stamp(stamp), found, trouble }))
    }

    fn label(&mut self) -> Option<Label> {
        let class = self.u32()?;
        let mut area = [0.0; 4];
        for share in &mut area {
            *share = f32::from_le_bytes(self.take()?);
        }
        Some(Label { class, area })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_a_part_of_it_does_not() {
        let label = |class| Label { class, area: [0.1, 0.2, 0.3, f32::MIN_POSITIVE] };
        let trouble = |of_labels, skipped| Trouble { of_labels, why: "Über".into(), skipped };
        let all = [
            (
                7,
                Looked {
                    stamp: Stamp([1, -2, 3, i64::MAX]),
                    found: Some((640, 480, vec![label(1), label(9)])),
                    trouble: None,
                },
            ),
            (u64::MAX, Looked { stamp: Stamp([-1, 0, -1, 0]), found: None, trouble: Some(trouble(false, true)) }),
            (0, Looked { stamp: Stamp([0; 4]), found: Some((1, 1, Vec::new())), trouble: Some(trouble(true, false)) }),
        ];
        let bytes = encode(all.iter().map(|(number, looked)| (*number, looked)));
        assert_eq!(decode(&bytes), Some(all.to_vec()));
        for end in 1..bytes.len() {
            // Cut between two of them, it is fewer; anywhere else it is nothing.
            assert!(decode(&bytes[..end]).is_none_or(|fewer| fewer.len() < all.len()), "{end}");
        }
        assert_eq!(decode(&[]), Some(Vec::new()));
    }
}
