//! The side of the training image: one for the whole training, or another from each of some epochs on.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use serde_yaml::Value;

use super::cursor::{Cursor, scalar};
use super::document::join;
use super::error::{JobError, printable};

/// What the network halves an image to, five times over.
const STRIDE: u32 = 32;
const MOST: u32 = 8192;
/// Epochs of a job at most.
pub(super) const MOST_EPOCHS: u32 = 1_000_000;

/// Sides of the square training image in pixels, each by the epoch from which it holds. There is always one for epoch 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSizes(BTreeMap<u32, u32>);

/// Epochs in a row that are trained at one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The first, from 0.
    pub from_epoch: u32,
    /// The first that is not part of it any more.
    pub until_epoch: u32,
    /// Side of its images in pixels.
    pub imgsz: u32,
}

impl From<u32> for ImageSizes {
    fn from(side: u32) -> Self {
        Self(BTreeMap::from([(0, side)]))
    }
}

impl ImageSizes {
    /// The side in an epoch, from 0.
    #[must_use]
    pub fn at(&self, epoch: u32) -> u32 {
        let (_, side) = self.0.range(..=epoch).next_back().expect("there is one for epoch 0");
        *side
    }

    /// The largest side: what takes the most memory.
    #[must_use]
    pub fn largest(&self) -> u32 {
        self.0.values().copied().max().expect("there is one for epoch 0")
    }

    /// Whether there are several entries.
    #[must_use]
    pub fn is_schedule(&self) -> bool {
        self.0.len() > 1
    }

    /// The stages of a training of so many epochs, in their order. Entries that begin later are none of it, and neighbours of one size are
    /// one stage.
    #[must_use]
    pub fn stages(&self, epochs: u32) -> Vec<Stage> {
        let mut stages: Vec<Stage> = Vec::new();
        for (&from_epoch, &imgsz) in self.0.range(..epochs) {
            match stages.last_mut() {
                Some(before) if before.imgsz == imgsz => continue,
                Some(before) => before.until_epoch = from_epoch,
                None => {}
            }
            stages.push(Stage { from_epoch, until_epoch: epochs, imgsz });
        }
        stages
    }

    /// The same with another side in place of one, as an override has it: `{0: 320, 50: 480}`.
    #[must_use]
    pub fn written_with(&self, old: u32, new: u32) -> String {
        let side = |side: u32| if side == old { new } else { side };
        let entries: Vec<String> = self.0.iter().map(|(epoch, size)| format!("{epoch}: {}", side(*size))).collect();
        format!("{{{}}}", entries.join(", "))
    }

    /// Epoch and side of the last entry.
    pub(super) fn last(&self) -> (u32, u32) {
        let (epoch, side) = self.0.last_key_value().expect("there is one for epoch 0");
        (*epoch, *side)
    }

    /// As a job file has it.
    pub(super) fn write(&self) -> Json {
        if self.is_schedule() {
            Json::Object(self.0.iter().map(|(epoch, side)| (epoch.to_string(), json!(side))).collect())
        } else {
            json!(self.at(0))
        }
    }
}

/// Reads one side, or sides by epoch.
pub(super) fn read(at: &Cursor<'_>) -> Result<ImageSizes, JobError> {
    let Some(schedule) = at.value.as_mapping() else {
        if !at.value.is_number() {
            return Err(at.wrong(format!("{}, or sizes by epoch such as `{{0: 320, 50: 640}}`", expected())).into());
        }
        return side(at).map(ImageSizes::from);
    };
    let mut sizes = BTreeMap::new();
    for (key, value) in schedule {
        let written = scalar(key).unwrap_or_default();
        let Some(epoch) = epoch(key) else {
            let (name, key) = (printable(&at.path), printable(&written));
            let message =
                format!("`{name}` has the epoch `{key}`, expected a whole number from 0 to {}", MOST_EPOCHS - 1);
            return Err(at.document.wrong_key(&join(&at.path, &written), message).into());
        };
        sizes.insert(epoch, side(&at.child(&written, value))?);
    }
    let Some((&first, size)) = sizes.first_key_value() else {
        let message = format!("`{}` is an empty mapping, expected sizes by epoch", printable(&at.path));
        let mut invalid = at.refuse(message);
        invalid.hint =
            Some("write one size such as `imgsz: 640`, or a schedule such as `imgsz: {0: 320, 50: 640}`".into());
        return Err(invalid.into());
    };
    if first > 0 {
        let message = format!("`{}` begins at epoch {first}, expected a size for epoch 0", printable(&at.path));
        let mut invalid = at.document.wrong_key(&join(&at.path, &first.to_string()), message);
        invalid.hint = Some(format!("epochs are counted from 0: write `0: {size}` to begin with {size}"));
        return Err(invalid.into());
    }
    Ok(ImageSizes(sizes))
}

/// An epoch as a key. JSON has no keys but text.
fn epoch(key: &Value) -> Option<u32> {
    let number = match key {
        Value::String(text) => text.parse().ok().filter(|number: &u64| number.to_string() == *text),
        other => other.as_u64(),
    };
    number.and_then(|number| u32::try_from(number).ok()).filter(|epoch| *epoch < MOST_EPOCHS)
}

fn expected() -> String {
    format!("a multiple of {STRIDE} from {STRIDE} to {MOST} (pixels)")
}

fn side(at: &Cursor<'_>) -> Result<u32, JobError> {
    let expected = expected();
    let side = at.value.as_u64().and_then(|side| u32::try_from(side).ok()).ok_or_else(|| at.wrong(&expected))?;
    if side % STRIDE == 0 && (STRIDE..=MOST).contains(&side) {
        return Ok(side);
    }
    let below = (side / STRIDE * STRIDE).clamp(STRIDE, MOST);
    let above = (below + STRIDE).min(MOST);
    let mut invalid = at.wrong(expected);
    invalid.hint = Some(if side < below || below == above {
        format!("the nearest is {below}")
    } else {
        format!("the nearest are {below} and {above}")
    });
    Err(invalid.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(entries: &[(u32, u32)]) -> ImageSizes {
        ImageSizes(entries.iter().copied().collect())
    }

    #[test]
    fn a_size_holds_until_the_next_entry() {
        let sizes = sizes(&[(0, 320), (50, 640), (80, 480)]);
        assert_eq!([0, 49, 50, 79, 80, 1000].map(|epoch| sizes.at(epoch)), [320, 320, 640, 640, 480, 480]);
        assert_eq!(sizes.largest(), 640);
        assert!(sizes.is_schedule() && !ImageSizes::from(640).is_schedule());
        assert_eq!(sizes.written_with(640, 512), "{0: 320, 50: 512, 80: 480}");
    }

    #[test]
    fn stages_follow_each_other_to_the_end() {
        let stage = |from_epoch, until_epoch, imgsz| Stage { from_epoch, until_epoch, imgsz };
        let three = sizes(&[(0, 320), (50, 480), (80, 640)]);
        assert_eq!(three.stages(100), [stage(0, 50, 320), stage(50, 80, 480), stage(80, 100, 640)]);
        assert_eq!(three.stages(81), [stage(0, 50, 320), stage(50, 80, 480), stage(80, 81, 640)]);
        assert_eq!(three.stages(80), [stage(0, 50, 320), stage(50, 80, 480)]);
        assert_eq!(three.stages(1), [stage(0, 1, 320)]);
        assert_eq!(ImageSizes::from(640).stages(3), [stage(0, 3, 640)]);
        let alike = sizes(&[(0, 320), (2, 320), (5, 640), (6, 640)]);
        assert_eq!(alike.stages(10), [stage(0, 5, 320), stage(5, 10, 640)]);
    }
}
