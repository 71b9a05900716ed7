//! Reads the document of an automatic ban into an [`AutoBan`].
//!
//! ```json
//! {"match": {"status": ["401", "404"], "route": "login"}, "key": "ip", "threshold": 10, "window": "1m",
//!  "share": 50, "ban": {"ttl": "1h", "factor": 2, "max_ttl": "7d"}, "max_bans": 100, "mode": "shadow"}
//! ```

use serde_json::Value;
use tidegate_policy::decide::Reason;
use tidegate_policy::duration;
use tidegate_policy::scope::Scope;

use super::names::{is_label, is_token};
use super::reader::{DocumentError, DocumentErrors, DocumentNode, Object};
use super::route_id::{ROUTE_ID_FORM, read_route_id};
use super::scope::scope;

const FIELDS: &[&str] = &[
    "name",
    "match",
    "key",
    "threshold",
    "window",
    "share",
    "ban",
    "max_bans",
    "mode",
    "include_private",
    "applies_to",
];
const MATCH_FIELDS: &[&str] = &["status", "reason", "route", "template", "method"];
/// Characters of a name: with `auto.` in front it is a source of bans.
const MAX_NAME: usize = 58;
/// Values of one condition.
const MAX_VALUES: usize = 64;
const MAX_THRESHOLD: u32 = 1_000_000;
/// Seconds of a window.
const MAX_WINDOW: u32 = 86_400;
/// Seconds of a ban.
const MAX_TTL: u32 = 366 * 86_400;
const MAX_FACTOR: u32 = 100;
/// Bans within a window that a document may ask for, and those that it gets without a word.
const MAX_BANS: u32 = 100_000;
const DEFAULT_BANS: u32 = 100;

/// A rule that bans who sent `threshold` requests of a kind within a window.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AutoBan {
    /// Its name.
    pub name: String,
    /// Which requests count.
    pub matches: BadRequests,
    /// By what they are counted, and what is banned.
    pub key: AutoBanKey,
    /// How many it takes.
    pub threshold: u32,
    /// Within how many seconds.
    pub window_s: u32,
    /// Only if over so many percent of the key's requests in the window count.
    pub share: Option<u32>,
    /// For how many seconds the first ban is.
    pub ttl_s: u32,
    /// By what each further one is longer,
    pub factor: u32,
    /// up to so many seconds. Repetitions are forgotten so long after the end of a ban.
    pub max_ttl_s: u32,
    /// Bans in one window, at most.
    pub max_bans: u32,
    /// Counts, and bans nobody.
    pub is_shadow: bool,
    /// Bans in private networks, too.
    pub include_private: bool,
    /// Where its bans apply; `None`: everywhere.
    pub applies_to: Option<Scope>,
}

/// By what requests are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoBanKey {
    /// By address.
    Address,
    /// By address, and in IPv6 by the block of 64 bits that it is in.
    Network,
}

/// Which requests count: each condition that is there must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BadRequests {
    /// One of these statuses; empty: any, or none.
    pub statuses: Vec<StatusMatch>,
    /// Denied for one of these reasons; empty: denied or not.
    pub reasons: Vec<String>,
    /// To one of these routes.
    pub routes: Vec<String>,
    /// With one of these path templates, as their routes have them.
    pub templates: Vec<String>,
    /// With one of these methods.
    pub methods: Vec<String>,
}

/// Statuses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StatusMatch {
    /// This one.
    One(u16),
    /// All that begin with this digit.
    Class(u16),
}

impl StatusMatch {
    /// Whether `status` is one of them.
    #[must_use]
    pub fn has(self, status: u16) -> bool {
        match self {
            Self::One(one) => one == status,
            Self::Class(class) => class == status / 100,
        }
    }
}

impl BadRequests {
    /// Whether requests count that were denied because of a ban.
    #[must_use]
    pub fn has_banned(&self) -> bool {
        self.reasons.iter().any(|reason| reason == Reason::IpBanned.code())
    }
}

impl AutoBan {
    /// What its bans have as their source.
    #[must_use]
    pub fn source(&self) -> String {
        format!("auto.{}", self.name)
    }

    /// For how many seconds a ban is that comes after so many `earlier` ones.
    #[must_use]
    pub fn ttl_after(&self, earlier: u32) -> u32 {
        let longer =
            u64::from(self.factor).checked_pow(earlier).and_then(|by| by.checked_mul(self.ttl_s.into()));
        longer.and_then(|ttl| u32::try_from(ttl).ok()).map_or(self.max_ttl_s, |ttl| ttl.min(self.max_ttl_s))
    }
}

/// Reads the rule of this name. `match` with a condition at least, `threshold`, `window` and
/// `ban.ttl` are required; by default `key` is `/64`, there is no `share`, `factor` is 1, `max_ttl`
/// the `ttl`, `max_bans` 100 and `mode` `enforce`. A `name` in the document must be this one.
///
/// # Errors
/// All problems of the document, up to [`MAX_PROBLEMS`](super::MAX_PROBLEMS).
/// A problem with `name` itself has the pointer `/name`.
pub fn read_auto_ban(name: &str, document: &Value) -> Result<AutoBan, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    if name.len() > MAX_NAME || !name.split('.').all(is_label) {
        let message = format!(
            "the name must be labels of a-z, 0-9 and - with dots between, up to {MAX_NAME} characters, as in logins"
        );
        errors.note("/name", "invalid", message);
    }
    let rule = auto_ban(name, &DocumentNode::root(document), &mut errors);
    errors.into_result(rule)
}

fn auto_ban(name: &str, document: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<AutoBan> {
    let fields = document.object(FIELDS, errors)?;
    fields.check_name("the rule is called", name, errors);
    let matches = fields.require("match", errors).and_then(|node| bad_requests(&node, errors));
    let key = match fields.get("key") {
        None => Some(AutoBanKey::Network),
        Some(node) => node.one_of(&["ip", "/64"], errors).map(|key| match key {
            "ip" => AutoBanKey::Address,
            _ => AutoBanKey::Network,
        }),
    };
    let threshold =
        fields.require("threshold", errors).and_then(|node| node.integer(1, MAX_THRESHOLD, errors));
    let window_s = fields.require("window", errors).and_then(|node| seconds(&node, MAX_WINDOW, errors));
    let share = match fields.get("share") {
        Some(node) => node.integer(1, 99, errors).map(Some),
        None => Some(None),
    };
    let ban = fields.require("ban", errors).and_then(|node| ban(&node, errors));
    let max_bans = match fields.get("max_bans") {
        Some(node) => node.integer(1, MAX_BANS, errors),
        None => Some(DEFAULT_BANS),
    };
    let mode = match fields.get("mode") {
        Some(node) => node.one_of(&["enforce", "shadow"], errors),
        None => Some("enforce"),
    };
    let include_private = fields.get("include_private").map_or(Some(false), |node| node.boolean(errors));
    let BanLength { ttl_s, factor, max_ttl_s } = ban?;
    Some(AutoBan {
        name: name.to_owned(),
        matches: matches?,
        key: key?,
        threshold: threshold?,
        window_s: window_s?,
        share: share?,
        ttl_s,
        factor,
        max_ttl_s,
        max_bans: max_bans?,
        is_shadow: mode? == "shadow",
        include_private: include_private?,
        applies_to: match fields.get("applies_to") {
            Some(node) => Some(scope(&node, errors)?),
            None => None,
        },
    })
}

struct BanLength {
    ttl_s: u32,
    factor: u32,
    max_ttl_s: u32,
}

fn ban(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<BanLength> {
    let fields = node.object(&["ttl", "factor", "max_ttl"], errors)?;
    let ttl_s = fields.require("ttl", errors).and_then(|node| seconds(&node, MAX_TTL, errors));
    let factor = match fields.get("factor") {
        Some(node) => node.integer(1, MAX_FACTOR, errors),
        None => Some(1),
    };
    let max_ttl_s = match fields.get("max_ttl") {
        Some(node) => {
            let max_ttl_s = seconds(&node, MAX_TTL, errors);
            if let (Some(max), Some(ttl)) = (max_ttl_s, ttl_s)
                && max < ttl
            {
                node.note(errors, "out_of_range", "must not be shorter than ttl, which is the first ban");
            }
            if factor == Some(1) {
                node.note(errors, "conflict", "without a factor of 2 or more no ban is longer than ttl");
            }
            max_ttl_s
        }
        None if factor.is_some_and(|factor| factor > 1) => fields.require("max_ttl", errors).and(None),
        None => ttl_s,
    };
    Some(BanLength { ttl_s: ttl_s?, factor: factor?, max_ttl_s: max_ttl_s? })
}

/// A span of whole seconds, one at least.
fn seconds(node: &DocumentNode<'_>, most: u32, errors: &mut DocumentErrors) -> Option<u32> {
    let text = node.text(1, 20, errors)?;
    let Some(span) = duration::parse(text) else {
        node.note(errors, "invalid", "must be a span, as in 10s, 5m, 1h30m or 7d");
        return None;
    };
    let whole = u32::try_from(span.as_secs()).ok().filter(|_| span.subsec_nanos() == 0);
    let in_range = whole.filter(|seconds| (1..=most).contains(seconds));
    if in_range.is_none() {
        let message = format!("{text}: whole seconds, from 1s to {}h are allowed", most / 3_600);
        node.note(errors, "out_of_range", message);
    }
    in_range
}

fn bad_requests(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<BadRequests> {
    let fields = node.object(MATCH_FIELDS, errors)?;
    let statuses = one_or_more(&fields, "status", errors, status);
    let reasons = one_or_more(&fields, "reason", errors, reason);
    let routes = one_or_more(&fields, "route", errors, route);
    let templates = one_or_more(&fields, "template", errors, |node, errors| {
        node.text(1, 1_024, errors).map(str::to_owned)
    });
    let methods = one_or_more(&fields, "method", errors, method);
    if MATCH_FIELDS.iter().all(|field| fields.get(field).is_none()) {
        let message = format!("must have a condition, or every request counts: {}", MATCH_FIELDS.join(", "));
        node.note(errors, "required", message);
    }
    Some(BadRequests {
        statuses: statuses?,
        reasons: reasons?,
        routes: routes?,
        templates: templates?,
        methods: methods?,
    })
}

/// A value, or a list of them; sorted, and each once.
fn one_or_more<T: Ord>(
    fields: &Object<'_>,
    name: &str,
    errors: &mut DocumentErrors,
    read: impl Fn(&DocumentNode<'_>, &mut DocumentErrors) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(node) = fields.get(name) else { return Some(Vec::new()) };
    let places = match node.value {
        Value::Array(members) if members.is_empty() => {
            node.note(errors, "invalid", format!("an empty list matches nothing: leave {name} out"));
            return None;
        }
        Value::Array(_) => node.list(MAX_VALUES, errors),
        _ => vec![node],
    };
    let mut values: Vec<T> = places.iter().filter_map(|node| read(node, errors)).collect();
    values.sort_unstable();
    values.dedup();
    Some(values)
}

/// `404`, as a number or a text, or `4xx`.
fn status(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<StatusMatch> {
    let text = match node.value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.to_ascii_lowercase(),
        _ => String::new(),
    };
    let number = |text: &str, least, most| text.parse().ok().filter(|found| (least..=most).contains(found));
    let found = match text.strip_suffix("xx") {
        Some(class) => number(class, 1, 5).map(StatusMatch::Class),
        None => number(&text, 100, 599).map(StatusMatch::One),
    };
    if found.is_none() {
        node.note(errors, "invalid", "must be a status or a class of them, as in 404 or 4xx");
    }
    found
}

fn reason(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    node.one_of(&Reason::ALL.map(Reason::code), errors).map(str::to_owned)
}

fn route(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    let id = read_route_id(node.text(0, usize::MAX, errors)?);
    if id.is_none() {
        node.note(errors, "invalid", ROUTE_ID_FORM);
    }
    id
}

fn method(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    let method = node.text(1, 32, errors)?;
    if !is_token(method) {
        node.note(errors, "invalid", "must be a method, as in POST");
        return None;
    }
    Some(method.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A valid rule, with one field changed.
    fn with(field: &str, value: Value) -> Value {
        let mut document =
            json!({"match": {"status": "4xx"}, "threshold": 10, "window": "1m", "ban": {"ttl": "1h"}});
        document[field] = value;
        document
    }

    fn read(document: &Value) -> AutoBan {
        read_auto_ban("logins", document).unwrap_or_else(|errors| panic!("{document}: {errors:?}"))
    }

    #[test]
    fn what_is_left_out_is_what_most_want() {
        let plain = read(&with("share", json!(null)));
        let wanted = AutoBan {
            name: "logins".into(),
            matches: BadRequests { statuses: vec![StatusMatch::Class(4)], ..BadRequests::default() },
            key: AutoBanKey::Network,
            threshold: 10,
            window_s: 60,
            share: None,
            ttl_s: 3_600,
            factor: 1,
            max_ttl_s: 3_600,
            max_bans: 100,
            is_shadow: false,
            include_private: false,
            applies_to: None,
        };
        assert_eq!(plain, wanted);
        let full = json!({
            "name": "logins", "key": "ip", "threshold": 3, "window": "10s", "share": 50, "max_bans": 7,
            "match": {"status": [404, "401", "5XX", 404], "reason": "ip_banned", "route": ["default/b", "a"],
                "template": "/u/{id}", "method": ["POST", "GET"]},
            "ban": {"ttl": "90s", "factor": 3, "max_ttl": "1h"}, "mode": "shadow", "include_private": true,
            "applies_to": {"routes": ["default/a"]},
        });
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let wanted = AutoBan {
            name: "logins".into(),
            matches: BadRequests {
                statuses: vec![StatusMatch::One(401), StatusMatch::One(404), StatusMatch::Class(5)],
                reasons: owned(&["ip_banned"]),
                routes: owned(&["a", "b"]),
                templates: owned(&["/u/{id}"]),
                methods: owned(&["GET", "POST"]),
            },
            key: AutoBanKey::Address,
            threshold: 3,
            window_s: 10,
            share: Some(50),
            ttl_s: 90,
            factor: 3,
            max_ttl_s: 3_600,
            max_bans: 7,
            is_shadow: true,
            include_private: true,
            applies_to: Some(Scope { hostnames: vec![], routes: owned(&["a"]) }),
        };
        let full = read(&full);
        assert_eq!(full, wanted);
        assert!(full.matches.has_banned());
        assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(|n| full.ttl_after(n)), [90, 270, 810, 2_430, 3_600, 3_600]);
        assert_eq!(wanted.source(), "auto.logins");
        assert_eq!(plain.ttl_after(9), 3_600);
    }

    #[test]
    fn each_bad_field_is_named() {
        let ban = |field: &str, value: Value| {
            let mut ban = json!({"ttl": "1h", "factor": 2, "max_ttl": "2h"});
            ban[field] = value;
            ban
        };
        let many: Vec<u16> = (200..=200 + MAX_VALUES as u16).collect();
        let cases = [
            ("match", json!(null), "/match", "required"),
            ("match", json!({}), "/match", "required"),
            ("match", json!("4xx"), "/match", "wrong_type"),
            ("match", json!({"path": "/", "status": 404}), "/match/path", "unknown_field"),
            ("match", json!({"status": 99}), "/match/status", "invalid"),
            ("match", json!({"status": 600}), "/match/status", "invalid"),
            ("match", json!({"status": "6xx"}), "/match/status", "invalid"),
            ("match", json!({"status": "xx"}), "/match/status", "invalid"),
            ("match", json!({"status": 404.5}), "/match/status", "invalid"),
            ("match", json!({"status": true}), "/match/status", "invalid"),
            ("match", json!({"status": []}), "/match/status", "invalid"),
            ("match", json!({"status": [404, "no"]}), "/match/status/1", "invalid"),
            ("match", json!({"status": many}), "/match/status", "too_many"),
            ("match", json!({"reason": "banned"}), "/match/reason", "invalid"),
            ("match", json!({"reason": ["ip_banned", 5]}), "/match/reason/1", "wrong_type"),
            ("match", json!({"route": "A"}), "/match/route", "invalid"),
            ("match", json!({"template": ""}), "/match/template", "invalid"),
            ("match", json!({"method": "GET /"}), "/match/method", "invalid"),
            ("key", json!("/48"), "/key", "invalid"),
            ("key", json!(64), "/key", "wrong_type"),
            ("threshold", json!(null), "/threshold", "required"),
            ("threshold", json!(0), "/threshold", "out_of_range"),
            ("threshold", json!(1_000_001), "/threshold", "out_of_range"),
            ("threshold", json!("10"), "/threshold", "wrong_type"),
            ("window", json!(null), "/window", "required"),
            ("window", json!(60), "/window", "wrong_type"),
            ("window", json!("0s"), "/window", "out_of_range"),
            ("window", json!("500ms"), "/window", "out_of_range"),
            ("window", json!("25h"), "/window", "out_of_range"),
            ("window", json!("minute"), "/window", "invalid"),
            ("share", json!(0), "/share", "out_of_range"),
            ("share", json!(100), "/share", "out_of_range"),
            ("share", json!(0.5), "/share", "wrong_type"),
            ("ban", json!(null), "/ban", "required"),
            ("ban", json!({}), "/ban/ttl", "required"),
            ("ban", ban("ttl", json!("3h")), "/ban/max_ttl", "out_of_range"),
            ("ban", ban("ttl", json!("367d")), "/ban/ttl", "out_of_range"),
            ("ban", ban("ttl", json!("for ever")), "/ban/ttl", "invalid"),
            ("ban", ban("factor", json!(0)), "/ban/factor", "out_of_range"),
            ("ban", ban("factor", json!(1)), "/ban/max_ttl", "conflict"),
            ("ban", ban("max_ttl", json!(null)), "/ban/max_ttl", "required"),
            ("ban", ban("for", json!("1h")), "/ban/for", "unknown_field"),
            ("max_bans", json!(0), "/max_bans", "out_of_range"),
            ("max_bans", json!(100_001), "/max_bans", "out_of_range"),
            ("mode", json!("on"), "/mode", "invalid"),
            ("include_private", json!(1), "/include_private", "wrong_type"),
            ("name", json!("other"), "/name", "invalid"),
            ("limit", json!(5), "/limit", "unknown_field"),
        ];
        for (field, value, pointer, code) in cases {
            let errors = read_auto_ban("logins", &with(field, value.clone())).expect_err("must be refused");
            let found: Vec<_> = errors.into_iter().map(|problem| (problem.pointer, problem.code)).collect();
            assert_eq!(found, [(pointer.to_owned(), code)], "{field}: {value}");
        }
        for name in ["", "A", "a b", "-a", "a..b", "a/b", &"a".repeat(59)] {
            let found = read_auto_ban(name, &with("share", json!(null))).unwrap_err();
            assert_eq!((found[0].pointer.as_str(), found[0].code, found.len()), ("/name", "invalid", 1));
        }
    }
}
