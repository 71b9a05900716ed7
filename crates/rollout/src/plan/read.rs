//! Reads a plan's document.

mod gate;

use serde_json::Value;
use tidegate_author::reader::{DocumentErrors, DocumentNode, Object};
use tidegate_author::{
    DocumentError, FILE_FORM, MAX_FILE, MAX_URL, Reach, flags_at, is_file_name, url_problem,
};
use tidegate_policy::duration;

use super::{Gate, MAX_GATES, MAX_STAGES, MAX_WEBHOOKS, OnFailure, Plan, Stage, Webhook, check};

/// `status` is what the API shows beside the document: a document that was got can be put back.
const FIELDS: &[&str] = &["name", "description", "on_failure", "webhooks", "stages", "status"];
const STAGE_FIELDS: &[&str] =
    &["name", "flags", "hold", "min_requests", "timeout", "approve", "on_failure", "gates"];
const WEBHOOK_FIELDS: &[&str] = &["url", "secret_file", "allow_insecure", "allow_private"];
/// Characters of a description.
const MAX_DESCRIPTION: usize = 1_000;
/// Characters of the name of a stage or gate.
pub(super) const MAX_LABEL: usize = 100;
/// The longest hold, milliseconds.
const MAX_HOLD_MS: u64 = 30 * 86_400_000;
/// The longest timeout.
pub(super) const MAX_TIMEOUT_MS: u64 = 4 * MAX_HOLD_MS;
const MAX_REQUESTS: u32 = 1_000_000_000;
/// Why a notice is not sent without TLS.
const IN_THE_CLEAR: &str = "is told in the clear, so that anybody on the way can read it";

pub(super) fn plan(name: &str, document: &Value) -> Result<Plan, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if !(1..=63).contains(&name.len()) || !name.bytes().all(is_plain) || name.starts_with('.') {
        let message = "a rollout's name must be 1 to 63 of a-z, 0-9, `.`, `_` and `-`, and not begin with `.`, as in guide";
        errors.note("/name", "invalid", message);
    }
    let plan = whole(name, &DocumentNode::root(document), &mut errors);
    if let Some(plan) = &plan {
        check::contradictions(plan, &mut errors);
    }
    errors.into_result(plan)
}

/// A plan that was stored, by what is needed to understand it and no other rule. A field that is not known is refused here,
/// too: what it says of a stage must not be passed over. One without stages is that of a run that could not be read.
pub(super) fn stored(name: &str, document: &Value) -> Result<Plan, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    match whole(name, &DocumentNode::root(document), &mut errors) {
        Some(plan) if plan.stages.is_empty() => Ok(plan),
        plan => errors.into_result(plan),
    }
}

fn whole(name: &str, document: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Plan> {
    let fields = document.object(FIELDS, errors)?;
    fields.check_name("the rollout is called", name, errors);
    let description = match fields.get("description") {
        Some(node) => node.text(0, MAX_DESCRIPTION, errors).map(str::to_owned),
        None => Some(String::new()),
    };
    let on_failure = on_failure(&fields, errors).map(Option::unwrap_or_default);
    let webhooks = fields.get("webhooks").map_or_else(Vec::new, |node| node.list(MAX_WEBHOOKS, errors));
    let webhooks = all(webhooks, errors, webhook);
    let stages = fields.require("stages", errors).and_then(|node| {
        let stages = node.list(MAX_STAGES, errors);
        if stages.is_empty() && node.value.is_array() {
            node.note(errors, "required", "must have a stage at least");
        }
        all(stages, errors, stage)
    });
    Some(Plan {
        name: name.to_owned(),
        description: description?,
        on_failure: on_failure?,
        webhooks: webhooks?,
        stages: stages?,
    })
}

/// All members, each read to its end so that all that is wrong is found.
pub(super) fn all<T>(
    nodes: Vec<DocumentNode<'_>>,
    errors: &mut DocumentErrors,
    read: fn(&DocumentNode<'_>, &mut DocumentErrors) -> Option<T>,
) -> Option<Vec<T>> {
    let members: Vec<_> = nodes.iter().map(|node| read(node, errors)).collect();
    members.into_iter().collect()
}

fn on_failure(fields: &Object<'_>, errors: &mut DocumentErrors) -> Option<Option<OnFailure>> {
    let Some(node) = fields.get("on_failure") else { return Some(None) };
    let name = node.one_of(&OnFailure::ALL.map(OnFailure::name), errors)?;
    Some(OnFailure::ALL.into_iter().find(|action| action.name() == name))
}

fn webhook(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Webhook> {
    let fields = node.object(WEBHOOK_FIELDS, errors)?;
    let [allow_insecure, allow_private] = ["allow_insecure", "allow_private"]
        .map(|name| fields.get(name).map_or(Some(false), |node| node.boolean(errors)));
    let secret_file = match fields.get("secret_file") {
        Some(node) => file(&node, errors).map(Some),
        None => Some(None),
    };
    let url = fields.require("url", errors).and_then(|node| {
        let url = node.text(1, MAX_URL, errors)?;
        let reach = Reach { allow_insecure: allow_insecure?, allow_private: allow_private? };
        match url_problem(url, reach, IN_THE_CLEAR) {
            Some((code, message)) => {
                node.note(errors, code, message);
                None
            }
            None => Some(url.to_owned()),
        }
    });
    Some(Webhook {
        url: url?,
        secret_file: secret_file?,
        allow_insecure: allow_insecure?,
        allow_private: allow_private?,
    })
}

fn file(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    let text = node.text(1, MAX_FILE, errors)?;
    if is_file_name(text) {
        return Some(text.to_owned());
    }
    node.note(errors, "invalid", FILE_FORM);
    None
}

fn stage(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Stage> {
    let fields = node.object(STAGE_FIELDS, errors)?;
    let name = fields.require("name", errors).and_then(|node| label(&node, errors));
    let before = errors.count();
    let flags = fields.require("flags", errors).map(|node| flags_at(&node, errors));
    let flags = flags.filter(|flags| {
        if flags.is_empty() && errors.count() == before {
            let message = "must set a flag at least, as in {\"enableRouteCache\": \"shadow\"}";
            errors.note(&format!("{}/flags", node.pointer()), "required", message);
        }
        errors.count() == before
    });
    let hold_ms = fields.require("hold", errors).and_then(|node| milliseconds(&node, 0, MAX_HOLD_MS, errors));
    let gates = fields.get("gates").map_or_else(Vec::new, |node| node.list(MAX_GATES, errors));
    let gates = all(gates, errors, gate::gate);
    let min_requests = match fields.get("min_requests") {
        Some(node) => node.integer(0, MAX_REQUESTS, errors).map(u64::from),
        None => gates.as_ref().map(|gates| default_min_requests(gates)),
    };
    let timeout_ms = match fields.get("timeout") {
        Some(node) => milliseconds(&node, 1, MAX_TIMEOUT_MS, errors),
        None => hold_ms.map(default_timeout_ms),
    };
    let approve = fields.get("approve").map_or(Some(false), |node| node.boolean(errors));
    Some(Stage {
        on_failure: on_failure(&fields, errors)?,
        name: name?,
        flags: flags?,
        hold_ms: hold_ms?,
        min_requests: min_requests?,
        timeout_ms: timeout_ms?,
        approve: approve?,
        gates: gates?,
    })
}

/// Requests that a stage needs if its document says nothing.
pub(super) fn default_min_requests(gates: &[Gate]) -> u64 {
    u64::from(gates.iter().any(|gate| gate.condition.needs_requests()))
}

/// A stage's timeout if its document says nothing.
pub(super) fn default_timeout_ms(hold_ms: u64) -> u64 {
    hold_ms.saturating_mul(3).max(hold_ms.saturating_add(60_000))
}

pub(super) fn label(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    let text = node.text(1, MAX_LABEL, errors)?;
    if text.trim() != text || text.chars().any(char::is_control) {
        node.note(errors, "invalid", "must have no line breaks, and no blanks around it");
        return None;
    }
    Some(text.to_owned())
}

/// A span of whole milliseconds.
pub(super) fn milliseconds(
    node: &DocumentNode<'_>,
    min: u64,
    max: u64,
    errors: &mut DocumentErrors,
) -> Option<u64> {
    let text = node.text(0, 40, errors)?;
    let Some(span) = duration::parse(text) else {
        node.note(errors, "invalid", "must be a span, as in 500ms, 30s, 15m, 24h or 7d");
        return None;
    };
    let ms = u64::try_from(span.as_millis()).ok().filter(|_| span.subsec_nanos() % 1_000_000 == 0);
    let in_range = ms.filter(|ms| (min..=max).contains(ms));
    if in_range.is_none() {
        let message =
            format!("{text}: whole milliseconds, from {min}ms to {}d are allowed", max / 86_400_000);
        node.note(errors, "out_of_range", message);
    }
    in_range
}
