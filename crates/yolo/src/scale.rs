//! The five sizes of one architecture: how many blocks, how wide.

use std::fmt;
use std::str::FromStr;

/// A size of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scale {
    /// `yolov8n`, 3.2 million parameters with 80 classes.
    N,
    /// `yolov8s`, 11.2 million.
    S,
    /// `yolov8m`, 25.9 million.
    M,
    /// `yolov8l`, 43.7 million.
    L,
    /// `yolov8x`, 68.2 million.
    X,
}

/// No size of YOLOv8 has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown model `{0}`: the models are yolov8n, yolov8s, yolov8m, yolov8l and yolov8x")]
pub struct UnknownScale(String);

impl Scale {
    /// All, smallest first.
    pub const ALL: [Self; 5] = [Self::N, Self::S, Self::M, Self::L, Self::X];

    /// Factor of repeats, factor of channels, and the most channels before that factor.
    fn factors(self) -> (f64, f64, i64) {
        match self {
            Self::N => (0.33, 0.25, 1024),
            Self::S => (0.33, 0.50, 1024),
            Self::M => (0.67, 0.75, 768),
            Self::L => (1.00, 1.00, 512),
            Self::X => (1.00, 1.25, 512),
        }
    }

    /// Channels of a layer that has `full` in the table of the architecture: a multiple of 8.
    #[must_use]
    pub fn channels(self, full: i64) -> i64 {
        let (_, width, most) = self.factors();
        (full.min(most) as f64 * width / 8.0).ceil() as i64 * 8
    }

    /// Repeats of a block that has `full` in the table.
    #[must_use]
    pub fn repeats(self, full: i64) -> i64 {
        let (depth, ..) = self.factors();
        ((full as f64 * depth).round() as i64).max(1)
    }

    /// Its letter.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::N => 'n',
            Self::S => 's',
            Self::M => 'm',
            Self::L => 'l',
            Self::X => 'x',
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "yolov8{}", self.letter())
    }
}

impl FromStr for Scale {
    type Err = UnknownScale;

    /// `yolov8n` or `yolov8n.yaml`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_suffix(".yaml").unwrap_or(text);
        let found = Self::ALL.into_iter().find(|scale| scale.to_string() == name);
        found.ok_or_else(|| UnknownScale(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_are_those_of_the_table() {
        let widths = |scale: Scale| [64, 128, 256, 512, 1024].map(|full| scale.channels(full));
        assert_eq!(widths(Scale::N), [16, 32, 64, 128, 256]);
        assert_eq!(widths(Scale::M), [48, 96, 192, 384, 576]);
        assert_eq!(widths(Scale::X), [80, 160, 320, 640, 640]);
        assert_eq!(
            Scale::ALL.map(|scale| (scale.repeats(3), scale.repeats(6))),
            [(1, 2), (1, 2), (2, 4), (3, 6), (3, 6)]
        );
    }

    #[test]
    fn a_name_says_the_size() {
        assert_eq!("yolov8m.yaml".parse(), Ok(Scale::M));
        assert!("yolov9m".parse::<Scale>().is_err_and(|error| error.to_string().contains("`yolov9m`")));
    }
}
