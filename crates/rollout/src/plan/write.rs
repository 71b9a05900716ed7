//! Writes a plan's document.

use serde_json::{Map, Value};
use tidegate_author::write_state;

use super::read::{default_min_requests, default_timeout_ms};
use super::{
    CONFIDENCE, Condition, Gate, LatencyLimit, MismatchLimit, OnFailure, Plan, ShareLimit, Stage, Webhook,
};

pub(super) fn plan(plan: &Plan) -> Value {
    let mut document = Map::new();
    set(&mut document, "name", plan.name.as_str());
    if !plan.description.is_empty() {
        set(&mut document, "description", plan.description.as_str());
    }
    if plan.on_failure != OnFailure::default() {
        set(&mut document, "on_failure", plan.on_failure.name());
    }
    if !plan.webhooks.is_empty() {
        set(&mut document, "webhooks", plan.webhooks.iter().map(webhook).collect::<Vec<_>>());
    }
    set(&mut document, "stages", plan.stages.iter().map(stage).collect::<Vec<_>>());
    Value::Object(document)
}

fn set(document: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    document.insert(name.to_owned(), value.into());
}

fn webhook(webhook: &Webhook) -> Value {
    let mut document = Map::new();
    set(&mut document, "url", webhook.url.as_str());
    if let Some(file) = &webhook.secret_file {
        set(&mut document, "secret_file", file.as_str());
    }
    for (name, is_set) in
        [("allow_insecure", webhook.allow_insecure), ("allow_private", webhook.allow_private)]
    {
        if is_set {
            set(&mut document, name, true);
        }
    }
    Value::Object(document)
}

fn stage(stage: &Stage) -> Value {
    let mut document = Map::new();
    set(&mut document, "name", stage.name.as_str());
    let flags = stage.flags.iter().map(|(flag, state)| (flag.name().to_owned(), write_state(state)));
    set(&mut document, "flags", flags.collect::<Map<_, _>>());
    set(&mut document, "hold", span(stage.hold_ms));
    if stage.min_requests != default_min_requests(&stage.gates) {
        set(&mut document, "min_requests", stage.min_requests);
    }
    if stage.timeout_ms != default_timeout_ms(stage.hold_ms) {
        set(&mut document, "timeout", span(stage.timeout_ms));
    }
    if stage.approve {
        set(&mut document, "approve", true);
    }
    if let Some(action) = stage.on_failure {
        set(&mut document, "on_failure", action.name());
    }
    if !stage.gates.is_empty() {
        set(&mut document, "gates", stage.gates.iter().map(gate).collect::<Vec<_>>());
    }
    Value::Object(document)
}

fn gate(gate: &Gate) -> Value {
    let mut document = Map::new();
    if let Some(name) = &gate.name {
        set(&mut document, "name", name.as_str());
    }
    if let Some(window_ms) = gate.window_ms {
        set(&mut document, "window", span(window_ms));
    }
    set(&mut document, gate.condition.kind(), condition(&gate.condition));
    Value::Object(document)
}

fn condition(condition: &Condition) -> Value {
    let mut fields = Map::new();
    match condition {
        Condition::Latency { of, percentile, limit } => {
            set(&mut fields, "of", of.name());
            set(&mut fields, "percentile", whole_number(*percentile));
            match limit {
                LatencyLimit::AtMost { us, confidence } => {
                    with_confidence(&mut fields, "at_most", micros(*us), *confidence);
                }
                LatencyLimit::TimesControl { times, confidence } => {
                    with_confidence(&mut fields, "at_most_times_control", *times, *confidence);
                }
            }
        }
        Condition::Success { at_least } | Condition::Completeness { at_least } => {
            set(&mut fields, "at_least", *at_least);
        }
        Condition::ServerErrors(limit) | Condition::Denials(limit) => match limit {
            ShareLimit::AtMost { share, confidence } => {
                with_confidence(&mut fields, "at_most", *share, *confidence);
            }
            ShareLimit::OverControl { by, confidence } => {
                with_confidence(&mut fields, "over_control_at_most", *by, *confidence);
            }
        },
        Condition::Mismatches { limit, compared_at_least } => {
            match limit {
                MismatchLimit::Count(count) => set(&mut fields, "at_most", *count),
                MismatchLimit::Share(share) => set(&mut fields, "at_most_share", *share),
            }
            if *compared_at_least != 1 {
                set(&mut fields, "compared_at_least", *compared_at_least);
            }
        }
        Condition::QueueDepth { at_most } | Condition::Dropped { at_most } => {
            set(&mut fields, "at_most", *at_most);
        }
        Condition::HitRatio { check, at_least } => {
            set(&mut fields, "check", check.name());
            set(&mut fields, "at_least", *at_least);
        }
        Condition::Health { gateways, recorder, tables_age_at_most_ms } => {
            for (name, is_set) in [("gateways", *gateways), ("recorder", *recorder)] {
                if is_set {
                    set(&mut fields, name, true);
                }
            }
            if let Some(ms) = tables_age_at_most_ms {
                set(&mut fields, "tables_age_at_most", span(*ms));
            }
        }
    }
    Value::Object(fields)
}

fn with_confidence(fields: &mut Map<String, Value>, name: &str, limit: impl Into<Value>, confidence: f64) {
    set(fields, name, limit);
    if confidence != CONFIDENCE {
        set(fields, "confidence", confidence);
    }
}

/// 95 rather than 95.0.
fn whole_number(number: f64) -> Value {
    if number.fract() == 0.0 { (number as u64).into() } else { number.into() }
}

/// A span as documents have it: `1h30m`.
pub(crate) fn span(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let parts = [(ms / 3_600_000, "h"), (ms / 60_000 % 60, "m"), (ms / 1_000 % 60, "s"), (ms % 1_000, "ms")];
    parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

/// A time as documents have it, in the largest unit of which it is a whole number.
pub(crate) fn micros(us: u64) -> String {
    match us {
        us if us.is_multiple_of(1_000_000) => format!("{}s", us / 1_000_000),
        us if us.is_multiple_of(1_000) => format!("{}ms", us / 1_000),
        us => format!("{us}us"),
    }
}
