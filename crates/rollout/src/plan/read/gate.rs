//! Reads a stage's gates.

use tidegate_author::reader::{DocumentErrors, DocumentNode, Object};
use tidegate_policy::check::Check;
use tidegate_policy::duration;

use super::{MAX_TIMEOUT_MS, label, milliseconds};
use crate::plan::{
    CONFIDENCE, Condition, Gate, LatencyLimit, MIN_SLICE_MS, MismatchLimit, ShareLimit, Times,
};

const KINDS: [&str; 10] = [
    "latency",
    "success",
    "server_errors",
    "denials",
    "mismatches",
    "completeness",
    "queue_depth",
    "dropped",
    "hit_ratio",
    "health",
];
const FIELDS: &[&str] = &[
    "name",
    "window",
    "latency",
    "success",
    "server_errors",
    "denials",
    "mismatches",
    "completeness",
    "queue_depth",
    "dropped",
    "hit_ratio",
    "health",
];
const MAX_COUNT: u32 = u32::MAX;
const MAX_LATENCY_US: u64 = 3_600_000_000;
const MAX_AGE_MS: u64 = 86_400_000;

pub(super) fn gate(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Gate> {
    let fields = node.object(FIELDS, errors)?;
    let name = match fields.get("name") {
        Some(node) => label(&node, errors).map(Some),
        None => Some(None),
    };
    let window_ms = match fields.get("window") {
        Some(node) => milliseconds(&node, MIN_SLICE_MS, MAX_TIMEOUT_MS, errors).map(Some),
        None => Some(None),
    };
    let mut kinds = KINDS.into_iter().filter_map(|kind| fields.get(kind).map(|node| (kind, node)));
    let Some((kind, content)) = kinds.next() else {
        node.note(errors, "required", format!("must have one of {}", KINDS.join(", ")));
        return None;
    };
    if let Some((_, other)) = kinds.next() {
        let message = format!("a gate has one condition, and this one has {kind}: make it a gate of its own");
        other.note(errors, "conflict", message);
    }
    let condition = condition(kind, &content, errors);
    Some(Gate { name: name?, window_ms: window_ms?, condition: condition? })
}

fn condition(kind: &str, node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Condition> {
    match kind {
        "latency" => latency(node, errors),
        "success" => Some(Condition::Success { at_least: at_least(node, errors)? }),
        "server_errors" => Some(Condition::ServerErrors(share_limit(node, errors)?)),
        "denials" => Some(Condition::Denials(share_limit(node, errors)?)),
        "mismatches" => mismatches(node, errors),
        "completeness" => Some(Condition::Completeness { at_least: at_least(node, errors)? }),
        "queue_depth" => Some(Condition::QueueDepth { at_most: at_most(node, errors)? }),
        "dropped" => Some(Condition::Dropped { at_most: at_most(node, errors)? }),
        "hit_ratio" => hit_ratio(node, errors),
        _ => health(node, errors),
    }
}

fn latency(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Condition> {
    let known = &["of", "percentile", "at_most", "at_most_times_control", "confidence"];
    let fields = node.object(known, errors)?;
    let of = fields.require("of", errors).and_then(|node| node.one_of(&["gate", "total"], errors));
    let percentile = fields.require("percentile", errors).and_then(|node| node.number(1.0, 99.9, errors));
    let confidence = confidence(&fields, errors);
    let limit = match one_limit(node, &fields, ["at_most", "at_most_times_control"], errors)? {
        (0, node) => microseconds(&node, errors)
            .and_then(|us| Some(LatencyLimit::AtMost { us, confidence: confidence? })),
        (_, node) => node
            .number(0.01, 100.0, errors)
            .and_then(|times| Some(LatencyLimit::TimesControl { times, confidence: confidence? })),
    };
    Some(Condition::Latency {
        of: if of? == "gate" { Times::Gate } else { Times::Total },
        percentile: percentile?,
        limit: limit?,
    })
}

fn share_limit(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<ShareLimit> {
    let fields = node.object(&["at_most", "over_control_at_most", "confidence"], errors)?;
    let confidence = confidence(&fields, errors);
    let (which, limit) = one_limit(node, &fields, ["at_most", "over_control_at_most"], errors)?;
    let share = share(&limit, errors);
    Some(match which {
        0 => ShareLimit::AtMost { share: share?, confidence: confidence? },
        _ => ShareLimit::OverControl { by: share?, confidence: confidence? },
    })
}

/// The one limit of two that a condition has, and which it is.
fn one_limit<'d>(
    node: &DocumentNode<'d>,
    fields: &Object<'d>,
    [one, other]: [&'static str; 2],
    errors: &mut DocumentErrors,
) -> Option<(usize, DocumentNode<'d>)> {
    match (fields.get(one), fields.get(other)) {
        (Some(limit), None) => Some((0, limit)),
        (None, Some(limit)) => Some((1, limit)),
        (Some(_), Some(limit)) => {
            limit.note(errors, "conflict", format!("a gate has {one} or {other}: make it a gate of its own"));
            None
        }
        (None, None) => {
            node.note(errors, "required", format!("must have {one} or {other}"));
            None
        }
    }
}

fn mismatches(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Condition> {
    let fields = node.object(&["at_most", "at_most_share", "compared_at_least"], errors)?;
    let compared = match fields.get("compared_at_least") {
        Some(node) => node.integer(1, MAX_COUNT, errors).map(u64::from),
        None => Some(1),
    };
    let limit = match one_limit(node, &fields, ["at_most", "at_most_share"], errors)? {
        (0, node) => node.integer(0, MAX_COUNT, errors).map(|count| MismatchLimit::Count(count.into())),
        (_, node) => share(&node, errors).map(MismatchLimit::Share),
    };
    Some(Condition::Mismatches { limit: limit?, compared_at_least: compared? })
}

fn hit_ratio(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Condition> {
    let fields = node.object(&["check", "at_least"], errors)?;
    let check = fields.require("check", errors);
    let check = check.and_then(|node| node.one_of(&Check::ALL.map(Check::name), errors));
    let at_least = fields.require("at_least", errors).and_then(|node| share(&node, errors));
    let check = check?;
    let check = Check::ALL.into_iter().find(|known| known.name() == check)?;
    Some(Condition::HitRatio { check, at_least: at_least? })
}

fn health(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Condition> {
    let fields = node.object(&["gateways", "recorder", "tables_age_at_most"], errors)?;
    let [gateways, recorder] = ["gateways", "recorder"]
        .map(|name| fields.get(name).map_or(Some(false), |node| node.boolean(errors)));
    let age = match fields.get("tables_age_at_most") {
        Some(node) => milliseconds(&node, 1, MAX_AGE_MS, errors).map(Some),
        None => Some(None),
    };
    if gateways == Some(false) && recorder == Some(false) && age == Some(None) {
        let message =
            "must look at something: \"gateways\": true, \"recorder\": true or \"tables_age_at_most\"";
        node.note(errors, "required", message);
        return None;
    }
    Some(Condition::Health { gateways: gateways?, recorder: recorder?, tables_age_at_most_ms: age? })
}

fn confidence(fields: &Object<'_>, errors: &mut DocumentErrors) -> Option<f64> {
    fields.get("confidence").map_or(Some(CONFIDENCE), |node| node.number(0.5, 0.999_999, errors))
}

fn share(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<f64> {
    node.number(0.0, 1.0, errors)
}

fn at_least(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<f64> {
    share(&node.object(&["at_least"], errors)?.require("at_least", errors)?, errors)
}

fn at_most(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<u64> {
    let limit = node.object(&["at_most"], errors)?.require("at_most", errors)?;
    limit.integer(0, MAX_COUNT, errors).map(u64::from)
}

/// A time of whole microseconds.
fn microseconds(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<u64> {
    let text = node.text(0, 40, errors)?;
    let Some(time) = duration::parse(text) else {
        node.note(errors, "invalid", "must be a time, as in 130ms, 1.5s or 200us");
        return None;
    };
    let us = u64::try_from(time.as_micros()).ok().filter(|us| (1..=MAX_LATENCY_US).contains(us));
    if us.is_none() {
        node.note(errors, "out_of_range", format!("{text}: from 1us to 1h is allowed"));
    }
    us
}
