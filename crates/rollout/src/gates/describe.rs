//! Gates and values in words.

use super::Unit;
use crate::plan::{Condition, Gate, LatencyLimit, MismatchLimit, ShareLimit, micros, span};

/// A gate's name, or its condition: `total P95 at most 1.1 x control`.
#[must_use]
pub fn name(gate: &Gate) -> String {
    if let Some(name) = &gate.name {
        return name.clone();
    }
    let window = gate.window_ms.map(|ms| format!(", last {}", span(ms))).unwrap_or_default();
    format!("{}{window}", condition(&gate.condition))
}

fn condition(condition: &Condition) -> String {
    match condition {
        Condition::Latency { of, percentile, limit } => {
            let limit = match limit {
                LatencyLimit::AtMost { us, .. } => micros(*us),
                LatencyLimit::TimesControl { times, .. } => format!("{times} x control"),
            };
            format!("{} P{percentile} at most {limit}", of.name())
        }
        Condition::Success { at_least } => format!("success at least {}", percent(*at_least)),
        Condition::ServerErrors(limit) => format!("5xx {}", share_limit(limit)),
        Condition::Denials(limit) => format!("denials {}", share_limit(limit)),
        Condition::Mismatches { limit, .. } => match limit {
            MismatchLimit::Count(count) => format!("mismatches at most {count}"),
            MismatchLimit::Share(share) => format!("mismatches at most {}", percent(*share)),
        },
        Condition::Completeness { at_least } => format!("completeness at least {}", percent(*at_least)),
        Condition::QueueDepth { at_most } => format!("queue depth at most {at_most}"),
        Condition::Dropped { at_most } => format!("dropped events at most {at_most}"),
        Condition::HitRatio { check, at_least } => {
            format!("hit ratio of {} at least {}", check.name(), percent(*at_least))
        }
        Condition::Health { gateways, recorder, tables_age_at_most_ms } => {
            let age = tables_age_at_most_ms.map(|ms| format!("tables at most {} old", span(ms)));
            let parts =
                [gateways.then(|| "gateways".to_owned()), recorder.then(|| "recorder".to_owned()), age];
            format!("health: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
    }
}

fn share_limit(limit: &ShareLimit) -> String {
    match limit {
        ShareLimit::AtMost { share, .. } => format!("at most {}", percent(*share)),
        ShareLimit::OverControl { by, .. } => format!("at most {} over control", percent(*by)),
    }
}

/// A share in percent, with three digits after the point at most.
#[must_use]
pub fn percent(share: f64) -> String {
    let text = format!("{:.3}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A time in milliseconds, with two digits at least: plans may have limits of a microsecond.
#[must_use]
pub fn milliseconds(us: f64) -> String {
    let ms = us / 1_000.0;
    match ms {
        0.0 => "0 ms".to_owned(),
        ms if ms < 0.1 => format!("{ms:.3} ms"),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// A value of a gate.
#[must_use]
pub fn value(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Microseconds => milliseconds(value),
        Unit::Share => percent(value),
        Unit::Times => format!("{value:.2} x"),
        Unit::Count => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn a_microsecond_is_not_nothing() {
        let times = [0.0, 1.0, 99.0, 100.0, 9_876.0, 12_345.0, 180_000.0];
        let words = ["0 ms", "0.001 ms", "0.099 ms", "0.10 ms", "9.88 ms", "12.3 ms", "180 ms"];
        assert_eq!(times.map(milliseconds), words);
    }
}
