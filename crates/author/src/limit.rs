//! Reads the document of a limit into a [`Limit`].
//!
//! ```json
//! {"key": "ip", "match": {"route": "login", "cidr": ["0.0.0.0/0"]}, "rate": 100, "per": "minute",
//!  "burst": 20, "shadow": false, "headers": true, "v6_prefix": 64, "count_preflights": false}
//! ```

use serde_json::Value;

use super::names::{is_subdomain, is_token};
use super::reader::{DocumentError, DocumentErrors, DocumentNode, Object};
use super::route_id::{ROUTE_ID_FORM, read_route_id};
use tidegate_policy::address::Prefix;
use tidegate_policy::duration;
use tidegate_policy::limit::{Limit, LimitKey, MAX_MATCHES, MAX_PER_S, MAX_RATE, MAX_REFILL_S, V6_PREFIX};

const FIELDS: &[&str] =
    &["name", "key", "match", "rate", "per", "burst", "shadow", "headers", "v6_prefix", "count_preflights"];
/// Prefixes of the filter's and Envoy's own headers: a client's are removed.
const OWN_PREFIXES: [&str; 2] = ["x-tidegate-", "x-envoy-"];
/// Headers of the framing of a message or a connection (RFC 9110 7.6.1, RFC 9112 6): they
/// do not identify a client, and Envoy removes or rewrites most of them.
const FRAMING: [&str; 7] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// Reads the limit of this name. `key`, `rate` and `per` are required; by default `match`
/// is all requests, `burst` the rate, `shadow`, `headers` and `count_preflights` false, and `v6_prefix` 64. A
/// `name` in the document must be this one.
///
/// # Errors
/// All problems of the document, up to [`MAX_PROBLEMS`](super::MAX_PROBLEMS).
/// A problem with `name` itself has the pointer `/name`.
pub fn read_limit(name: &str, document: &Value) -> Result<Limit, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    if !is_subdomain(name) {
        let message = "a limit's name must be labels of a-z, 0-9 and - with dots between, as in per-client";
        errors.note("/name", "invalid", message);
    }
    let limit = limit(name, &DocumentNode::root(document), &mut errors);
    errors.into_result(limit)
}

fn limit(name: &str, document: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Limit> {
    let fields = document.object(FIELDS, errors)?;
    fields.check_name("the limit is called", name, errors);
    let key = fields.require("key", errors).and_then(|node| key(&node, errors));
    let matches = fields.get("match").map_or(Some(Matches::default()), |node| matches(&node, errors));
    let rate = fields.require("rate", errors).and_then(|node| node.integer(1, MAX_RATE, errors));
    let per_s = fields.require("per", errors).and_then(|node| period(&node, errors));
    let burst = match fields.get("burst") {
        Some(node) => node.integer(1, MAX_RATE, errors),
        None => rate,
    };
    let shadow = flag(&fields, "shadow", errors);
    let headers = flag(&fields, "headers", errors);
    let count_preflights = flag(&fields, "count_preflights", errors);
    let v6_prefix = match fields.get("v6_prefix") {
        Some(node) => node.integer(1, 128, errors).and_then(|len| u8::try_from(len).ok()),
        None => Some(V6_PREFIX),
    };
    let Matches { routes, cidrs } = matches?;
    let limit = Limit {
        name: name.to_owned(),
        key: key?,
        routes,
        cidrs,
        rate: rate?,
        per_s: per_s?,
        burst: burst?,
        shadow: shadow?,
        headers: headers?,
        v6_prefix: v6_prefix?,
        count_preflights: count_preflights?,
    };
    if limit.refill_s() > MAX_REFILL_S {
        let message = "at this rate it would take over a hundred years until the whole burst is there again: \
                       a higher rate, a shorter per or a lower burst is allowed";
        errors.note("/burst", "out_of_range", message);
    }
    Some(limit)
}

fn flag(fields: &Object<'_>, name: &str, errors: &mut DocumentErrors) -> Option<bool> {
    fields.get(name).map_or(Some(false), |node| node.boolean(errors))
}

fn key(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<LimitKey> {
    let text = node.text(1, 300, errors)?;
    let key = match text.split_once(':') {
        None if text == "ip" => Some(LimitKey::Ip),
        None if text == "route" => Some(LimitKey::Route),
        None if text == "global" => Some(LimitKey::Global),
        Some(("header", name)) => return header(name, node, errors),
        _ => None,
    };
    if key.is_none() {
        node.note(errors, "invalid", "must be ip, route, global, or header:NAME, as in header:x-api-key");
    }
    key
}

fn header(name: &str, node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<LimitKey> {
    let lower = name.to_ascii_lowercase();
    let problem = if lower.starts_with(':') || lower == "host" {
        Some("pseudo-headers and host are not counted by: name routes in match, and give these hostnames")
    } else if !is_token(&lower) || lower.len() > 253 {
        Some("after header: there must be the name of a header, as in header:x-api-key")
    } else if OWN_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) {
        Some(
            "headers whose names begin with x-tidegate- or x-envoy- are the gate's and Envoy's: no client's passes",
        )
    } else if FRAMING.contains(&lower.as_str()) {
        Some("this header says how the message is framed, and nothing of who sends it")
    } else {
        None
    };
    if let Some(problem) = problem {
        node.note(errors, "invalid", problem);
        return None;
    }
    Some(LimitKey::Header(lower))
}

/// Seconds of a period.
fn period(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<u32> {
    let text = node.text(1, 20, errors)?;
    let seconds = match text {
        "second" => Some(1),
        "minute" => Some(60),
        "hour" => Some(3_600),
        "day" => Some(86_400),
        _ => match duration::parse(text) {
            Some(span) if span.subsec_nanos() == 0 => u32::try_from(span.as_secs()).ok(),
            Some(_) => {
                node.note(errors, "out_of_range", format!("{text}: only whole seconds are allowed"));
                return None;
            }
            None => {
                let message = "must be second, minute, hour, day, or a span, as in 10s, 5m or 1h30m";
                node.note(errors, "invalid", message);
                return None;
            }
        },
    };
    let in_range = seconds.filter(|seconds| (1..=MAX_PER_S).contains(seconds));
    if in_range.is_none() {
        node.note(errors, "out_of_range", format!("{text}: from 1s to 24h is allowed"));
    }
    in_range
}

/// The requests that a limit holds for; empty: all.
#[derive(Default)]
struct Matches {
    routes: Vec<String>,
    cidrs: Vec<Prefix>,
}

fn matches(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Matches> {
    let fields = node.object(&["route", "cidr"], errors)?;
    let routes = one_or_more(&fields, "route", errors, route);
    let cidrs = one_or_more(&fields, "cidr", errors, cidr);
    Some(Matches { routes: routes?, cidrs: cidrs? })
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
        Value::String(_) => vec![node],
        Value::Array(members) if members.is_empty() => {
            node.note(errors, "invalid", format!("an empty list matches nothing: leave {name} out"));
            return None;
        }
        Value::Array(_) => node.list(MAX_MATCHES, errors),
        _ => {
            node.wrong_type("a string, or a list of strings", errors);
            return None;
        }
    };
    let mut values: Vec<T> = places.iter().filter_map(|node| read(node, errors)).collect();
    values.sort_unstable();
    values.dedup();
    Some(values)
}

fn route(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    let id = read_route_id(node.text(0, usize::MAX, errors)?);
    if id.is_none() {
        node.note(errors, "invalid", ROUTE_ID_FORM);
    }
    id
}

fn cidr(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Prefix> {
    let text = node.text(0, usize::MAX, errors)?;
    text.parse()
        .map_err(|error: tidegate_policy::address::PrefixError| {
            node.note(errors, "invalid", error.to_string());
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use tidegate_policy::limit::Limits;

    /// A valid limit, with one field changed.
    fn with(field: &str, value: Value) -> Value {
        let mut document = json!({"key": "ip", "rate": 100, "per": "minute"});
        document[field] = value;
        document
    }

    fn read(document: &Value) -> Limit {
        let limit = read_limit("l", document).unwrap_or_else(|errors| panic!("{document}: {errors:?}"));
        let table = Limits::new([limit.clone()]);
        assert_eq!(Limits::from_bytes(&table.to_bytes().unwrap()), Ok(table), "what is read is a table");
        limit
    }

    fn refused(document: &Value) -> Vec<(String, &'static str)> {
        let errors = read_limit("l", document).expect_err("must be refused");
        errors.into_iter().map(|problem| (problem.pointer, problem.code)).collect()
    }

    #[test]
    fn what_is_left_out_is_what_most_want() {
        let plain = read(&with("match", json!(null)));
        let wanted = Limit { name: "l".into(), rate: 100, per_s: 60, burst: 100, ..Limit::new(LimitKey::Ip) };
        assert_eq!(plain, wanted);
        assert_eq!(read(&with("match", json!({}))), wanted);
        let full = json!({"name": "l", "key": "header:X-API-Key", "rate": 5, "per": "10s", "burst": 7,
            "match": {"route": ["b", "a", "b"], "cidr": "10.1.2.3/8"}, "shadow": true, "headers": true,
            "v6_prefix": 48, "count_preflights": true});
        let wanted = Limit {
            name: "l".into(),
            key: LimitKey::Header("x-api-key".into()),
            routes: vec!["a".into(), "b".into()],
            cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            rate: 5,
            per_s: 10,
            burst: 7,
            shadow: true,
            headers: true,
            v6_prefix: 48,
            count_preflights: true,
        };
        assert_eq!(read(&full), wanted);
        let both = json!({"route": ["team-a/a.b", "default/b", "b"], "cidr": ["::/0", "0.0.0.0/0"]});
        let both = read(&with("match", both));
        assert_eq!((both.routes, both.cidrs.len()), (vec!["b".to_owned(), "team-a/a.b".to_owned()], 2));
    }

    #[test]
    fn periods_are_named_or_spans_of_whole_seconds() {
        for (text, seconds) in [
            ("second", 1),
            ("minute", 60),
            ("hour", 3_600),
            ("day", 86_400),
            ("1s", 1),
            ("86400s", 86_400),
            ("1m", 60),
            ("24h", 86_400),
            ("1h30m", 5_400),
            ("1000ms", 1),
            ("1.5m", 90),
            ("1d", 86_400),
        ] {
            assert_eq!(read(&with("per", json!(text))).per_s, seconds);
        }
        for (text, code) in [
            ("0s", "out_of_range"),
            ("86401s", "out_of_range"),
            ("99999h", "out_of_range"),
            ("24h1s", "out_of_range"),
            ("500ms", "out_of_range"),
            ("1s500ms", "out_of_range"),
            ("999999s", "out_of_range"),
            ("week", "invalid"),
            ("s", "invalid"),
            ("-1s", "invalid"),
            ("1.5s", "out_of_range"),
            ("10", "invalid"),
            ("", "invalid"),
        ] {
            assert_eq!(refused(&with("per", json!(text))), [("/per".to_owned(), code)], "{text}");
        }
    }

    #[test]
    fn each_bad_field_is_named() {
        let many: Vec<String> = (0..=MAX_MATCHES).map(|i| format!("r{i}")).collect();
        let cases = [
            ("key", json!(null), "/key", "required"),
            ("key", json!("ips"), "/key", "invalid"),
            ("key", json!("ip:x"), "/key", "invalid"),
            ("key", json!("header:"), "/key", "invalid"),
            ("key", json!("header:a b"), "/key", "invalid"),
            ("key", json!("header::path"), "/key", "invalid"),
            ("key", json!("header:Host"), "/key", "invalid"),
            ("key", json!("header:X-Tidegate-Cluster"), "/key", "invalid"),
            ("key", json!("header:X-Envoy-External-Address"), "/key", "invalid"),
            ("key", json!("header:Content-Length"), "/key", "invalid"),
            ("key", json!("header:te"), "/key", "invalid"),
            ("key", json!("header:transfer-encoding"), "/key", "invalid"),
            ("key", json!("header:connection"), "/key", "invalid"),
            ("key", json!(1), "/key", "wrong_type"),
            ("rate", json!(null), "/rate", "required"),
            ("rate", json!(0), "/rate", "out_of_range"),
            ("rate", json!(-1), "/rate", "out_of_range"),
            ("rate", json!(1_000_000_001), "/rate", "out_of_range"),
            ("rate", json!(1.5), "/rate", "wrong_type"),
            ("rate", json!(100.0), "/rate", "wrong_type"),
            ("rate", json!("100"), "/rate", "wrong_type"),
            ("per", json!(null), "/per", "required"),
            ("per", json!(60), "/per", "wrong_type"),
            ("burst", json!(0), "/burst", "out_of_range"),
            ("burst", json!(1_000_000_001), "/burst", "out_of_range"),
            ("burst", json!(0.5), "/burst", "wrong_type"),
            ("shadow", json!("yes"), "/shadow", "wrong_type"),
            ("headers", json!(1), "/headers", "wrong_type"),
            ("count_preflights", json!("no"), "/count_preflights", "wrong_type"),
            ("v6_prefix", json!(0), "/v6_prefix", "out_of_range"),
            ("v6_prefix", json!(129), "/v6_prefix", "out_of_range"),
            ("window", json!(5), "/window", "unknown_field"),
            ("name", json!("other"), "/name", "invalid"),
            ("match", json!("all"), "/match", "wrong_type"),
            ("match", json!({"path": "/"}), "/match/path", "unknown_field"),
            ("match", json!({"route": "A"}), "/match/route", "invalid"),
            ("match", json!({"route": "a/b/c"}), "/match/route", "invalid"),
            ("match", json!({"route": 5}), "/match/route", "wrong_type"),
            ("match", json!({"route": []}), "/match/route", "invalid"),
            ("match", json!({"route": ["a", ""]}), "/match/route/1", "invalid"),
            ("match", json!({"route": ["a", 5]}), "/match/route/1", "wrong_type"),
            ("match", json!({"route": many}), "/match/route", "too_many"),
            ("match", json!({"cidr": "10.0.0.0/33"}), "/match/cidr", "invalid"),
            ("match", json!({"cidr": ["::/0", "x"]}), "/match/cidr/1", "invalid"),
        ];
        for (field, value, pointer, code) in cases {
            let found = refused(&with(field, value.clone()));
            assert_eq!(found, [(pointer.to_owned(), code)], "{field}: {value}");
        }
        for document in [json!(null), json!([]), json!("ip")] {
            assert_eq!(refused(&document), [(String::new(), "wrong_type")]);
        }
        for name in ["", "A", "a b", "-a", "a..b", &"a".repeat(254)] {
            let found = read_limit(name, &with("match", json!(null))).unwrap_err();
            assert_eq!((found[0].pointer.as_str(), found[0].code, found.len()), ("/name", "invalid", 1));
        }
    }

    #[test]
    fn a_burst_that_no_one_lives_to_see_again_is_refused() {
        let document =
            |rate: u32, burst: u32| json!({"key": "ip", "rate": rate, "per": "day", "burst": burst});
        assert_eq!(read(&document(1, 36_525)).refill_s(), MAX_REFILL_S);
        assert_eq!(refused(&document(1, 36_526)), [("/burst".to_owned(), "out_of_range")]);
        assert_eq!(read(&document(MAX_RATE, MAX_RATE)).refill_s(), 86_400);
    }
}
