//! The targets of the rollout guide, and whether a figure meets them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Targets of times and successes.
#[derive(clap::Args, Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestTargets {
    /// Half of the requests take less, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 90.0, value_parser = above_zero)]
    pub p50: f64,
    /// 95 % of the requests take less, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 130.0, value_parser = above_zero)]
    pub p95: f64,
    /// 99 % of the requests take less, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 180.0, value_parser = above_zero)]
    pub p99: f64,
    /// More than this share of the requests succeeds, percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 99.9, value_parser = percent)]
    pub success: f64,
}

/// Targets of what gateways do beside that.
#[derive(clap::Args, Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayTargets {
    /// More than this share of the events is stored, percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 99.5, value_parser = percent)]
    pub completeness: f64,
    /// With `enableRouteCache` on, more than this share of routes is found in gateways' tables, percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 95.0, value_parser = percent)]
    pub route_hits: f64,
    /// With `enableIpBlacklistCache` on, more than this share of addresses is looked up there, percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 90.0, value_parser = percent)]
    pub ip_hits: f64,
}

fn number(text: &str, is_right: impl Fn(f64) -> bool, wanted: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number| is_right(*number)).ok_or_else(|| wanted.to_owned())
}

fn above_zero(text: &str) -> Result<f64, String> {
    number(text, |ms| ms > 0.0 && ms.is_finite(), "write milliseconds, as 130 or 0.5")
}

fn percent(text: &str) -> Result<f64, String> {
    number(
        text,
        |share| (0.0..100.0).contains(&share),
        "write a share in percent, from 0 to under 100, as 99.9",
    )
}

/// What a figure has to be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Target {
    /// Under this many milliseconds.
    UnderMs(f64),
    /// Over this many percent.
    OverPercent(f64),
}

impl Target {
    /// Whether `value`, in the target's unit, meets it.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::UnderMs(limit) => value < limit,
            Self::OverPercent(limit) => value > limit,
        }
    }

    /// The worse of two values.
    pub fn worse(self, one: f64, other: f64) -> f64 {
        match self {
            Self::UnderMs(_) => one.max(other),
            Self::OverPercent(_) => one.min(other),
        }
    }

    /// A value with its unit.
    pub fn shown(self, value: f64) -> String {
        match self {
            Self::UnderMs(_) => format!("{value:.3} ms"),
            // What is not all of them must not look like it.
            Self::OverPercent(_) if value < 100.0 => format!("{:.3} %", value.min(99.999)),
            Self::OverPercent(_) => "100 %".to_owned(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnderMs(limit) => write!(f, "< {limit} ms"),
            Self::OverPercent(limit) => write!(f, "> {limit} %"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_beyond_its_limit_only() {
        let (under, over) = (Target::UnderMs(90.0), Target::OverPercent(99.9));
        assert_eq!([89.9, 90.0].map(|ms| under.is_met(ms)), [true, false]);
        assert_eq!([99.9, 99.91].map(|share| over.is_met(share)), [false, true]);
        assert!(!under.is_met(f64::NAN) && !over.is_met(f64::NAN));
        assert_eq!((over.shown(99.999_99).as_str(), over.shown(100.0).as_str()), ("99.999 %", "100 %"));
        assert_eq!((under.worse(1.0, 2.0), over.worse(1.0, 2.0)), (2.0, 1.0));
    }

    #[test]
    fn limits_are_numbers_in_their_range() {
        assert_eq!((above_zero("0.5"), percent("0")), (Ok(0.5), Ok(0.0)));
        for wrong in ["", "0", "-1", "NaN", "inf", "x"] {
            assert!(above_zero(wrong).is_err(), "{wrong}");
        }
        for wrong in ["100", "-0.1", "NaN", "99,9"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
