//! The axes of a chart over time.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Steps between labels of the time axis, seconds.
const TIME_STEPS: [i64; 20] = [
    1, 2, 5, 10, 15, 30, 60, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800,
    604_800, 2_592_000,
];

/// How moments of an axis are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeForm {
    /// For [`strftime`](jiff::Timestamp::strftime).
    pub pattern: &'static str,
    /// What the page's script calls it.
    pub name: &'static str,
}

/// Unix seconds, from the beginning to the end of what is shown.
#[derive(Clone, Debug)]
pub struct TimeAxis(pub Range<i64>);

impl TimeAxis {
    /// How its moments are written: as finely as they differ.
    pub fn form(&self) -> TimeForm {
        let (pattern, name) = match self.0.end - self.0.start {
            ..=600 => ("%H:%M:%S", "seconds"),
            601..=259_200 => ("%H:%M", "clock"),
            _ => ("%m-%d %H:%M", "day"),
        };
        TimeForm { pattern, name }
    }
}

impl Ranged for TimeAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = i64;

    fn map(&self, value: &i64, (from, to): (i32, i32)) -> i32 {
        let length = (self.0.end - self.0.start).max(1);
        from + pixels((value - self.0.start) as f64 / length as f64 * f64::from(to - from))
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<i64> {
        let most = i64::try_from(hint.max_num_points()).unwrap_or(i64::MAX).max(1);
        let length = self.0.end - self.0.start;
        let step = TIME_STEPS.into_iter().find(|step| length / step <= most).unwrap_or(TIME_STEPS[19]);
        let first = self.0.start.div_euclid(step) * step;
        (0..=most + 1).map(|index| first + index * step).filter(|at| self.0.contains(at)).collect()
    }

    fn range(&self) -> Range<i64> {
        self.0.clone()
    }
}

impl ValueFormatter<i64> for TimeAxis {
    fn format(value: &i64) -> String {
        value.to_string()
    }
}

/// Values from low to high; by their logarithm, or as they are.
#[derive(Clone, Debug)]
pub struct ValueAxis {
    low: f64,
    high: f64,
    is_log: bool,
}

impl ValueAxis {
    /// From 0 to a little over the highest value.
    pub fn linear(highest: f64) -> Self {
        let high = if highest > 0.0 { highest * 1.08 } else { 1.0 };
        Self { low: 0.0, high, is_log: false }
    }

    /// Whole powers of ten around the lowest and the highest value, both over 0.
    pub fn log(lowest: f64, highest: f64) -> Self {
        let power = |value: f64, round: fn(f64) -> f64| 10f64.powf(round(value.max(1e-6).log10()));
        let (low, high) = (power(lowest, f64::floor), power(highest, f64::ceil));
        Self { low, high: high.max(low * 10.0), is_log: true }
    }

    /// The value at the bottom.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// The value at the top.
    pub fn high(&self) -> f64 {
        self.high
    }

    fn share(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        if self.is_log {
            (value / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }
}

impl Ranged for ValueAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + pixels(self.share(*value) * f64::from(to - from))
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if self.is_log {
            let powers = (self.high / self.low).log10().round();
            let (mut at, mut points) = (0.0, Vec::new());
            while at <= powers {
                points.push(self.low * 10f64.powf(at));
                at += 1.0;
            }
            return points;
        }
        let rough = self.high / hint.max_num_points().max(1) as f64;
        let power = 10f64.powf(rough.max(1e-9).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|of| of * power).find(|step| *step >= rough);
        let step = step.unwrap_or(power * 10.0);
        (0..=hint.max_num_points()).map(|index| index as f64 * step).filter(|at| *at <= self.high).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for ValueAxis {
    fn format(value: &f64) -> String {
        value.to_string()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a chart has some hundred pixels")]
fn pixels(length: f64) -> i32 {
    length.round() as i32
}

#[cfg(test)]
mod tests {
    use plotters::coord::ranged1d::BoldPoints;

    use super::*;

    #[test]
    fn labels_of_time_are_at_round_times() {
        let hour = TimeAxis(1_000_000_030..1_000_003_630);
        let points = hour.key_points(BoldPoints(6));
        assert!(points.len() >= 4 && points.len() <= 7, "{points:?}");
        assert!(points.iter().all(|at| at % 600 == 0), "{points:?}");
        let forms = [60, 3_600, 7 * 86_400].map(|length| TimeAxis(0..length).form().name);
        assert_eq!(forms, ["seconds", "clock", "day"]);
        assert_eq!(TimeAxis(100..109).key_points(BoldPoints(6)), [100, 102, 104, 106, 108]);
    }

    #[test]
    fn values_stay_within_the_chart() {
        let log = ValueAxis::log(0.3, 210.0);
        assert_eq!((log.low(), log.high().round()), (0.1, 1_000.0));
        assert_eq!([0.0, 0.1, 10.0, 5_000.0].map(|value| log.map(&value, (100, 0))), [100, 100, 50, 0]);
        assert_eq!(log.key_points(BoldPoints(5)).len(), 5);
        let linear = ValueAxis::linear(9.0);
        assert_eq!(linear.key_points(BoldPoints(5)), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ValueAxis::linear(0.0).high(), 1.0);
    }
}
