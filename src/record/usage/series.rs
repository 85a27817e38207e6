//! A course in time, kept in few points however long it gets. Pure.

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Points that a course has at most.
const MOST: usize = 240;
/// What a point stands for, at first.
const FINEST_MS: u64 = 1000;

/// A course in points of one length of time, each the mean of what fell into it.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    begin_ms: u64,
    step_ms: u64,
    /// Sum and count of each point.
    points: Vec<(f64, u32)>,
}

impl Default for Series {
    fn default() -> Self {
        Self::from(0)
    }
}

impl Series {
    /// An empty course that begins at a time.
    #[must_use]
    pub fn from(begin_ms: u64) -> Self {
        Self { begin_ms, step_ms: FINEST_MS, points: Vec::new() }
    }

    /// Adds what was seen at a time; what was seen before the beginning counts as seen then.
    pub fn add(&mut self, time_ms: u64, value: Option<f64>) {
        let Some(value) = value else { return };
        let place = |step_ms: u64| time_ms.saturating_sub(self.begin_ms) / step_ms;
        // A time that is far off, as of a clock that was set, makes coarse points and not many.
        let mut step_ms = self.step_ms;
        while place(step_ms) >= MOST as u64 {
            step_ms *= 2;
        }
        let place = usize::try_from(place(step_ms)).unwrap_or(MOST - 1);
        while self.step_ms < step_ms {
            self.coarsen();
        }
        if self.points.len() <= place {
            self.points.resize(place + 1, (0.0, 0));
        }
        let (sum, count) = &mut self.points[place];
        (*sum, *count) = (*sum + value, *count + 1);
    }

    fn coarsen(&mut self) {
        self.step_ms *= 2;
        let pairs = self.points.chunks(2);
        self.points = pairs.map(|pair| pair.iter().fold((0.0, 0), |all, one| (all.0 + one.0, all.1 + one.1))).collect();
    }

    /// Its points by the milliseconds since the beginning; a gap where nothing was seen.
    pub fn points(&self) -> impl Iterator<Item = (u64, Option<f64>)> {
        let value = |(sum, count): &(f64, u32)| (*count > 0).then(|| sum / f64::from(*count));
        self.points.iter().zip(0..).map(move |(point, number)| (number * self.step_ms, value(point)))
    }
}

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = serializer.serialize_struct("Series", 3)?;
        text.serialize_field("begin_ms", &self.begin_ms)?;
        text.serialize_field("step_ms", &self.step_ms)?;
        text.serialize_field("values", &self.points().map(|(_, value)| value).collect::<Vec<_>>())?;
        text.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(series: &Series) -> Vec<(u64, Option<f64>)> {
        series.points().collect()
    }

    #[test]
    fn a_short_course_is_kept_by_the_second_with_its_gaps() {
        let mut series = Series::from(10_000);
        for (time, value) in [(9_000, Some(1.0)), (10_900, Some(3.0)), (11_000, None), (12_100, Some(5.0))] {
            series.add(time, value);
        }
        assert_eq!(values(&series), [(0, Some(2.0)), (1000, None), (2000, Some(5.0))]);
        let text = serde_json::to_string(&series).expect("plain data");
        assert_eq!(text, r#"{"begin_ms":10000,"step_ms":1000,"values":[2.0,null,5.0]}"#);
    }

    #[test]
    fn a_long_course_has_few_points_and_the_same_mean() {
        let mut series = Series::from(0);
        for second in 0..3600_u32 {
            series.add(u64::from(second) * 1000, Some(f64::from(second)));
        }
        let all = values(&series);
        assert!(all.len() <= MOST && all.len() > MOST / 2, "{}", all.len());
        assert_eq!(all[0], (0, Some(7.5)));
        assert_eq!(all[1].0, 16_000);
        // A clock that was set to the far future.
        series.add(u64::MAX, Some(1.0));
        assert!(values(&series).len() <= MOST);
    }
}
