//! The settings of a training under the names that people know from the official package, with its defaults.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What a setting may be; see [`TABLE`].
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// True or false.
    Flag,
    /// A number between two bounds.
    Number(f64, f64),
    /// A whole number between two bounds.
    Whole(i64, i64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number of steps from 1, or minutes such as `10m`.
    StepsOrMinutes,
}

const PORTION: Kind = Kind::Number(0.0, 1.0);
const GAIN: Kind = Kind::Number(0.0, 1e6);

// The controller has the same table, so that a job is refused before a container starts; a test of its compares them line by line.
/// Every setting and what it may be.
#[rustfmt::skip]
pub const TABLE: &[(&str, Kind)] = &[
    ("amp", Kind::Flag),
    ("box", GAIN),
    ("channels_last", Kind::Flag),
    ("clip", GAIN),
    ("close_mosaic", Kind::Whole(0, 1_000_000)),
    ("cls", GAIN),
    ("conf", PORTION),
    ("cos_lr", Kind::Flag),
    ("degrees", Kind::Number(0.0, 360.0)),
    ("dfl", GAIN),
    ("fliplr", PORTION),
    ("flipud", PORTION),
    ("hsv_h", PORTION),
    ("hsv_s", PORTION),
    ("hsv_v", PORTION),
    ("iou", PORTION),
    ("lr0", PORTION),
    ("lrf", PORTION),
    ("max_det", Kind::Whole(1, 1_000_000)),
    ("momentum", PORTION),
    ("mosaic", PORTION),
    ("normalizer", Kind::Word(&["step", "micro"])),
    ("optimizer", Kind::Word(&["auto", "SGD", "AdamW"])),
    ("overlap", Kind::Flag),
    ("patience", Kind::Whole(0, 1_000_000)),
    ("plots", Kind::Flag),
    ("reduce", Kind::Word(&["fast", "exact"])),
    ("save_every", Kind::StepsOrMinutes),
    ("scale", PORTION),
    ("shear", Kind::Number(-360.0, 360.0)),
    ("single_cls", Kind::Flag),
    ("translate", PORTION),
    ("val", Kind::Flag),
    ("warmup_bias_lr", PORTION),
    ("warmup_epochs", Kind::Number(0.0, 1e6)),
    ("warmup_momentum", PORTION),
    ("weight_decay", PORTION),
    ("workers", Kind::Whole(0, 1024)),
];

/// All settings.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Mixed precision where the device has it.
    pub amp: bool,
    /// Weight of the boxes' loss.
    #[serde(rename = "box")]
    pub boxes: f64,
    /// Convolutions on memory with the channels innermost.
    pub channels_last: bool,
    /// Longest gradient; longer ones are shortened to it.
    pub clip: f64,
    /// Last epochs without mosaics.
    pub close_mosaic: u32,
    /// Weight of the classes' loss.
    pub cls: f64,
    /// Least confidence of a detection in a validation.
    pub conf: f64,
    /// A learning rate that falls along a cosine, not a line.
    pub cos_lr: bool,
    /// Rotation at most, in degrees.
    pub degrees: f64,
    /// Weight of the distances' loss.
    pub dfl: f64,
    /// How often an image is mirrored, left to right.
    pub fliplr: f64,
    /// How often an image is mirrored, up to down.
    pub flipud: f64,
    /// Change of the hue at most, as a share of the circle.
    pub hsv_h: f64,
    /// Change of the saturation at most, as a share.
    pub hsv_s: f64,
    /// Change of the brightness at most, as a share.
    pub hsv_v: f64,
    /// Overlap above which the less sure one of two detections goes, in a validation.
    pub iou: f64,
    /// Learning rate after the warm-up.
    pub lr0: f64,
    /// Learning rate at the end, as a share of `lr0`.
    pub lrf: f64,
    /// Detections of an image at most, in a validation.
    pub max_det: usize,
    /// SGD's momentum, AdamW's first beta.
    pub momentum: f64,
    /// How often an image is joined with three others.
    pub mosaic: f64,
    /// What the loss is divided by: the target scores of the whole step, or of each micro-batch as in the official package.
    pub normalizer: Normalizer,
    /// How weights follow from gradients.
    pub optimizer: OptimizerChoice,
    /// Gradients are reduced while the last backward pass still runs: pays on slow links. Memory that runs out there ends the ranks.
    pub overlap: bool,
    /// Epochs without improvement after which a training ends; 0: never.
    pub patience: u32,
    /// Pictures of what was learnt.
    pub plots: bool,
    /// How sums over micro-batches are taken.
    pub reduce: Reduction,
    /// How often a state is written to continue from.
    pub save_every: SaveEvery,
    /// Change of the size at most, as a share.
    pub scale: f64,
    /// Shear at most, in degrees.
    pub shear: f64,
    /// All objects are of one class.
    pub single_cls: bool,
    /// Shift at most, as a share of the side.
    pub translate: f64,
    /// A validation after each epoch; the last epoch always has one.
    pub val: bool,
    /// Learning rate of the biases at the warm-up's start.
    pub warmup_bias_lr: f64,
    /// Epochs of warm-up, and 100 steps at least, if there is one.
    pub warmup_epochs: f64,
    /// Momentum at the warm-up's start.
    pub warmup_momentum: f64,
    /// Decay of the weights, in the official scale.
    pub weight_decay: f64,
    /// Threads that decode and augment; absent: as many as the device can use.
    pub workers: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            amp: true,
            boxes: 7.5,
            channels_last: true,
            clip: 10.0,
            close_mosaic: 10,
            cls: 0.5,
            conf: 0.001,
            cos_lr: false,
            degrees: 0.0,
            dfl: 1.5,
            fliplr: 0.5,
            flipud: 0.0,
            hsv_h: 0.015,
            hsv_s: 0.7,
            hsv_v: 0.4,
            iou: 0.7,
            lr0: 0.01,
            lrf: 0.01,
            max_det: 300,
            momentum: 0.937,
            mosaic: 1.0,
            normalizer: Normalizer::Step,
            optimizer: OptimizerChoice::Auto,
            overlap: false,
            patience: 100,
            plots: true,
            reduce: Reduction::Fast,
            save_every: SaveEvery::Minutes(10),
            scale: 0.5,
            shear: 0.0,
            single_cls: false,
            translate: 0.1,
            val: true,
            warmup_bias_lr: 0.1,
            warmup_epochs: 3.0,
            warmup_momentum: 0.8,
            weight_decay: 0.0005,
            workers: None,
        }
    }
}

/// What the loss of a step is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalizer {
    /// The target scores of all micro-batches of all ranks: the gradient does not depend on the cut.
    Step,
    /// Those of each micro-batch.
    Micro,
}

/// How weights follow from gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum OptimizerChoice {
    /// What the length of the training and the number of classes suggest; `lr0` and `momentum` are chosen with it.
    #[serde(rename = "auto")]
    Auto,
    /// Stochastic gradient descent with Nesterov's momentum.
    #[serde(rename = "SGD")]
    Sgd,
    /// Adam with decoupled decay.
    AdamW,
}

/// How sums over micro-batches and ranks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// In floating point: they agree to rounding, however a step was cut.
    Fast,
    /// In fixed point: they agree to the bit.
    Exact,
}

/// How often a state is written to continue from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum SaveEvery {
    /// After so many optimizer steps.
    Steps(u64),
    /// With the first step after so many minutes.
    Minutes(u64),
}

impl TryFrom<Value> for SaveEvery {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let minutes = value.as_str().and_then(|text| text.strip_suffix('m')).and_then(|minutes| minutes.parse().ok());
        let every = value.as_u64().map(Self::Steps).or(minutes.map(Self::Minutes));
        every
            .filter(|every| !matches!(every, Self::Steps(0) | Self::Minutes(0)))
            .ok_or("steps such as 500, or minutes such as `10m`")
    }
}

/// A setting that does not exist, or a value that it cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No setting has this name.
    #[error("there is no setting `{name}`{}", near.map_or(String::new(), |near| format!("; did you mean `{near}`?")))]
    Unknown {
        /// The name.
        name: String,
        /// The nearest that exists, if one is near.
        near: Option<&'static str>,
    },
    /// Two settings contradict each other.
    #[error("`overlap` sends gradients before they are whole, `reduce: exact` adds whole ones: choose one of the two")]
    OverlapExact,
    /// The value is of another kind or out of range.
    #[error("`{name}` is {value}, expected {expected}")]
    Unfit {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
}

impl Settings {
    /// The settings that are named, with defaults for the rest.
    ///
    /// # Errors
    ///
    /// The first that does not exist or does not fit.
    pub fn read(named: &Map<String, Value>) -> Result<Self, SettingsError> {
        for (name, value) in named {
            let Some((name, kind)) = TABLE.iter().find(|(known, _)| known == name) else {
                let near = TABLE.iter().map(|(known, _)| (strsim::damerau_levenshtein(known, name), *known)).min();
                let near = near.filter(|(apart, _)| *apart <= 2).map(|(_, known)| known);
                return Err(SettingsError::Unknown { name: name.clone(), near });
            };
            if let Err(expected) = kind.check(value) {
                return Err(SettingsError::Unfit { name, value: value.to_string(), expected });
            }
        }
        let read: Self = serde_json::from_value(Value::Object(named.clone())).expect("every value was checked");
        if read.overlap && read.reduce == Reduction::Exact {
            return Err(SettingsError::OverlapExact);
        }
        Ok(read)
    }
}

impl Kind {
    /// What was expected, if `value` is something else.
    fn check(self, value: &Value) -> Result<(), String> {
        let (fits, expected) = match self {
            Self::Flag => (value.is_boolean(), "true or false".to_owned()),
            Self::Number(least, most) => {
                let fits = value.as_f64().is_some_and(|number| (least..=most).contains(&number));
                (fits, format!("a number from {least} to {most}"))
            }
            Self::Whole(least, most) => {
                let fits = value.as_i64().is_some_and(|number| (least..=most).contains(&number));
                (fits, format!("a whole number from {least} to {most}"))
            }
            Self::Word(words) => {
                (value.as_str().is_some_and(|word| words.contains(&word)), format!("one of {}", words.join(", ")))
            }
            Self::StepsOrMinutes => match SaveEvery::try_from(value.clone()) {
                Ok(_) => (true, String::new()),
                Err(expected) => (false, expected.to_owned()),
            },
        };
        if fits { Ok(()) } else { Err(expected) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Settings, String> {
        Settings::read(&serde_json::from_str(json).expect("an object")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        assert_eq!(read("{}"), Ok(Settings::default()));
        let read =
            read(r#"{"lr0": 0.5, "box": 3, "optimizer": "SGD", "save_every": "5m", "workers": 2}"#).expect("sound");
        assert_eq!((read.lr0, read.boxes, read.optimizer), (0.5, 3.0, OptimizerChoice::Sgd));
        assert_eq!((read.save_every, read.workers, read.lrf), (SaveEvery::Minutes(5), Some(2), 0.01));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        for (json, part) in [
            (r#"{"lr": 0.1}"#, "no setting `lr`; did you mean `lr0`?"),
            (r#"{"mosiac": 0.1}"#, "did you mean `mosaic`?"),
            (r#"{"something_else": 0.1}"#, "no setting `something_else`"),
            (r#"{"lr0": 2}"#, "`lr0` is 2, expected a number from 0 to 1"),
            (r#"{"lr0": "fast"}"#, "`lr0` is \"fast\""),
            (r#"{"amp": 1}"#, "true or false"),
            (r#"{"close_mosaic": 0.5}"#, "a whole number"),
            (r#"{"reduce": "slow"}"#, "one of fast, exact"),
            (r#"{"overlap": true, "reduce": "exact"}"#, "choose one of the two"),
            (r#"{"save_every": 0}"#, "steps such as 500"),
            (r#"{"save_every": "10h"}"#, "minutes such as `10m`"),
        ] {
            let complaint = read(json).expect_err("unfit");
            assert!(complaint.contains(part), "{json}: {complaint}");
        }
    }

    #[test]
    fn every_setting_of_the_table_is_a_field() {
        for (name, kind) in TABLE {
            let value = match kind {
                Kind::Flag => Value::from(true),
                Kind::Number(least, _) => Value::from(*least),
                Kind::Whole(least, _) => Value::from(*least),
                Kind::Word(words) => Value::from(words[0]),
                Kind::StepsOrMinutes => Value::from(1),
            };
            // A field that is missing would leave two different values with the same outcome.
            let other = match kind {
                Kind::Flag => Value::from(false),
                Kind::Number(_, most) => Value::from(*most),
                Kind::Whole(_, most) => Value::from(*most),
                Kind::Word(words) => Value::from(words[1]),
                Kind::StepsOrMinutes => Value::from(2),
            };
            let with = |value: Value| Settings::read(&Map::from_iter([((*name).to_owned(), value)])).expect("sound");
            assert_ne!(with(value), with(other), "{name}");
        }
    }
}
