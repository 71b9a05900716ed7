//! Flags in JSON: `false`, `true`, `"shadow"` or `{"percent": 25}`, in the API and in
//! rows. A percentage can be limited to gateways, hostnames and routes that are named:
//! `{"percent": 100, "gateways": ["edge-1"], "hostnames": ["shop.example.com"], "routes": ["team-a/orders"]}`.

use serde_json::{Map, Value, json};

use super::names::covers;
use super::reader::{DocumentError, DocumentErrors, DocumentNode, Object};
use super::scope::{names, places, shown, write_scope};
use tidegate_policy::flags::{Flag, FlagScope, FlagState, Flags, ScopedShare};
use tidegate_policy::scope::Scope;
use tidegate_policy::wire::sync::Gateway;

const NAMES: &[&str] = &[
    Flag::RouteCache.name(),
    Flag::IpBlacklistCache.name(),
    Flag::GeoRulesCache.name(),
    Flag::ParallelExecution.name(),
    Flag::AsyncRecording.name(),
];

const SHARE_FIELDS: &[&str] = &["percent", "gateways", "hostnames", "routes"];

/// Reads the state of one flag. Nothing is guessed: `"true"`, `1`, `null` and
/// `{"percent": 25.0}` are refused.
///
/// # Errors
/// The problem; its pointer begins with the flag's name.
pub fn read_flag(flag: Flag, value: &Value) -> Result<FlagState, DocumentError> {
    let mut errors = DocumentErrors::default();
    let node = DocumentNode::at(format!("/{}", flag.name()), value);
    let state = state(flag, &node, &mut errors);
    errors.into_first(state)
}

/// Reads flags to be set: an object of states by flag name. In the order of
/// [`Flag::ALL`].
///
/// # Errors
/// All problems: unknown names and invalid states.
pub fn read_flags(document: &Value) -> Result<Vec<(Flag, FlagState)>, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    let flags = flags_at(&DocumentNode::root(document), &mut errors);
    errors.into_result(Some(flags))
}

/// As [`read_flags`], of a part of another document.
pub fn flags_at(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Vec<(Flag, FlagState)> {
    let mut flags = Vec::new();
    let Some(fields) = node.object(NAMES, errors) else { return flags };
    for flag in Flag::ALL {
        if let Some(node) = fields.given(flag.name())
            && let Some(state) = state(flag, &node, errors)
        {
            flags.push((flag, state));
        }
    }
    flags
}

/// A state as [`read_flag`] reads it.
#[must_use]
pub fn write_state(state: &FlagState) -> Value {
    match state {
        FlagState::Off => Value::Bool(false),
        FlagState::On => Value::Bool(true),
        FlagState::Shadow => json!("shadow"),
        FlagState::Share(percent) => json!({"percent": percent}),
        FlagState::Scoped(scoped) => {
            let mut fields = Map::new();
            fields.insert("percent".to_owned(), scoped.percent.into());
            if !scoped.scope.gateways.is_empty() {
                fields.insert("gateways".to_owned(), scoped.scope.gateways.clone().into());
            }
            if let Value::Object(places) = write_scope(&scoped.scope.place) {
                fields.extend(places);
            }
            Value::Object(fields)
        }
    }
}

/// Whether every request in the scope `narrow` is in `wide` as well; `None` is everywhere.
#[must_use]
pub fn is_within(narrow: Option<&FlagScope>, wide: Option<&FlagScope>) -> bool {
    let Some(wide) = wide else { return true };
    let everywhere = FlagScope::default();
    let narrow = narrow.unwrap_or(&everywhere);
    // What names nothing is everything.
    let has_all = |narrow: &[String], wide: &[String], fits: fn(&str, &str) -> bool| {
        wide.is_empty()
            || (!narrow.is_empty() && narrow.iter().all(|name| wide.iter().any(|wide| fits(wide, name))))
    };
    has_all(&narrow.gateways, &wide.gateways, |wide, name| wide == name)
        && has_all(&narrow.place.hostnames, &wide.place.hostnames, covers)
        && has_all(&narrow.place.routes, &wide.place.routes, |wide, name| wide == name)
}

/// All flags, as [`read_flags`] reads them.
#[must_use]
pub fn write_flags(flags: &Flags) -> Map<String, Value> {
    Flag::ALL.into_iter().map(|flag| (flag.name().to_owned(), write_state(flags.get(flag)))).collect()
}

fn state(flag: Flag, node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<FlagState> {
    match node.value {
        Value::Bool(false) => Some(FlagState::Off),
        Value::Bool(true) => Some(FlagState::On),
        Value::String(text) if text == "shadow" => {
            if flag.has_shadow() {
                return Some(FlagState::Shadow);
            }
            let message = format!("only a cache has a shadow: must be {}", right(flag));
            node.note(errors, "invalid", message);
            None
        }
        Value::String(_) => {
            node.note(errors, "invalid", format!("must be {}, is a string", right(flag)));
            None
        }
        Value::Object(_) => {
            let fields = node.object(SHARE_FIELDS, errors)?;
            let scope = scope(flag, &fields, errors);
            let percent = fields.require("percent", errors)?.integer(0, 100, errors)?;
            let percent = u8::try_from(percent).ok()?;
            Some(match scope.is_empty() {
                true => FlagState::Share(percent),
                false => FlagState::Scoped(Box::new(ScopedShare { percent, scope })),
            })
        }
        Value::Null | Value::Number(_) | Value::Array(_) => {
            node.wrong_type(right(flag), errors);
            None
        }
    }
}

/// What a share is limited to; nothing, if the object names nothing.
fn scope(flag: Flag, fields: &Object<'_>, errors: &mut DocumentErrors) -> FlagScope {
    let gateways = fields.get("gateways").map(|node| names(&node, errors, gateway)).unwrap_or_default();
    let place = match (flag, fields.get("routes")) {
        (Flag::RouteCache, Some(node)) => {
            let message = "the route is what is looked up in this flag's cache, so it cannot depend on it: name hostnames or \
                           gateways";
            node.note(errors, "not_supported", message);
            Scope::default()
        }
        _ => places(fields, errors),
    };
    FlagScope { gateways, place }
}

/// A gateway by Envoy's node id, as the list of gateways shows it.
fn gateway(text: &str) -> Result<String, String> {
    let form = "must be a node id as `tidegate gateways` shows it: 1 to 200 of A-Z, a-z, 0-9 and ._~:/@-";
    match Gateway::new(text.as_bytes(), 0).node == text {
        true => Ok(text.to_owned()),
        false => Err(format!("the gateway `{}` {form}", shown(text))),
    }
}

/// The states that a flag may have, as text for people.
fn right(flag: Flag) -> &'static str {
    if flag.has_shadow() {
        "false, true, \"shadow\" or {\"percent\": n} with n from 0 to 100, which may be limited to gateways, hostnames and routes"
    } else {
        "false, true or {\"percent\": n} with n from 0 to 100, which may be limited to gateways, hostnames and routes"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(document: &Value) -> Vec<(String, &'static str)> {
        let errors = read_flags(document).expect_err("must be refused");
        errors.into_iter().map(|problem| (problem.pointer, problem.code)).collect()
    }

    fn scope(gateways: &[&str], hostnames: &[&str], routes: &[&str]) -> FlagScope {
        let [gateways, hostnames, routes] = [gateways, hostnames, routes]
            .map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
        FlagScope { gateways, place: Scope { hostnames, routes } }
    }

    fn scoped(percent: u8, gateways: &[&str], hostnames: &[&str], routes: &[&str]) -> FlagState {
        let scope = scope(gateways, hostnames, routes);
        FlagState::Scoped(Box::new(ScopedShare { percent, scope }))
    }

    #[test]
    fn a_scope_is_within_another_if_all_that_it_names_is() {
        let edge = scope(&["edge-1"], &[], &[]);
        let both = scope(&["edge-1", "edge-2"], &[], &[]);
        let host = scope(&["edge-1"], &["a.example"], &[]);
        let wild = scope(&["edge-1"], &["*.example"], &[]);
        for (narrow, wide) in [(&edge, &both), (&host, &edge), (&host, &both), (&host, &wild), (&wild, &edge)]
        {
            assert!(
                is_within(Some(narrow), Some(wide)) && !is_within(Some(wide), Some(narrow)),
                "{narrow:?}"
            );
            assert!(is_within(Some(narrow), None) && !is_within(None, Some(narrow)));
            assert!(is_within(Some(narrow), Some(narrow)) && is_within(None, None));
        }
        let route = scope(&[], &[], &["shop"]);
        assert!(!is_within(Some(&route), Some(&edge)) && !is_within(Some(&edge), Some(&route)));
    }

    #[test]
    fn what_is_written_is_read() {
        for flag in Flag::ALL {
            for state in [
                FlagState::Off,
                FlagState::On,
                FlagState::Share(0),
                FlagState::Share(25),
                FlagState::Share(100),
                scoped(25, &["edge-1"], &["*.a.example", "b.example"], &[]),
                scoped(100, &["edge/1@a", "edge_2"], &[], &[]),
            ] {
                assert_eq!(read_flag(flag, &write_state(&state)), Ok(state));
            }
            assert_eq!(read_flag(flag, &write_state(&FlagState::Shadow)).is_ok(), flag.has_shadow());
            let by_route = scoped(1, &[], &[], &["shop", "team/r"]);
            let read = read_flag(flag, &write_state(&by_route));
            match flag {
                Flag::RouteCache => {
                    let refused = read.unwrap_err();
                    assert_eq!(
                        (refused.pointer.as_str(), refused.code),
                        ("/enableRouteCache/routes", "not_supported")
                    );
                }
                _ => assert_eq!(read, Ok(by_route)),
            }
        }
        let flags = Flags::all_on()
            .with(Flag::RouteCache, FlagState::Shadow)
            .with(Flag::GeoRulesCache, FlagState::Share(7));
        let written = Value::Object(write_flags(&flags));
        let read = read_flags(&written).unwrap();
        assert_eq!(read, Flag::ALL.map(|flag| (flag, flags.get(flag).clone())));
    }

    #[test]
    fn a_merge_names_only_what_it_changes() {
        let body = json!({"enableAsyncRecording": true, "enableRouteCache": {"percent": 5}});
        let wanted = vec![(Flag::RouteCache, FlagState::Share(5)), (Flag::AsyncRecording, FlagState::On)];
        assert_eq!(read_flags(&body), Ok(wanted));
        assert_eq!(read_flags(&json!({})), Ok(Vec::new()));
    }

    #[test]
    fn each_bad_state_is_named_with_what_would_be_right() {
        let percent = "/enableRouteCache/percent";
        let cases = [
            (json!("true"), "/enableRouteCache", "invalid"),
            (json!("Shadow"), "/enableRouteCache", "invalid"),
            (json!("50%"), "/enableRouteCache", "invalid"),
            (json!(1), "/enableRouteCache", "wrong_type"),
            (json!(50), "/enableRouteCache", "wrong_type"),
            (json!(null), "/enableRouteCache", "wrong_type"),
            (json!([true]), "/enableRouteCache", "wrong_type"),
            (json!({}), percent, "required"),
            (json!({"percent": null}), percent, "required"),
            (json!({"percent": -1}), percent, "out_of_range"),
            (json!({"percent": 101}), percent, "out_of_range"),
            (json!({"percent": u64::MAX}), percent, "out_of_range"),
            (json!({"percent": 25.5}), percent, "wrong_type"),
            (json!({"percent": 25.0}), percent, "wrong_type"),
            (json!({"percent": "25"}), percent, "wrong_type"),
            (json!({"percent": true}), percent, "wrong_type"),
            (json!({"percent": 25, "of": "clients"}), "/enableRouteCache/of", "unknown_field"),
            (json!({"hostnames": ["a.example"]}), percent, "required"),
            (json!({"percent": 25, "hostnames": []}), "/enableRouteCache/hostnames", "invalid"),
            (json!({"percent": 25, "gateways": []}), "/enableRouteCache/gateways", "invalid"),
            (json!({"percent": 25, "gateways": ["edge 1"]}), "/enableRouteCache/gateways/0", "invalid"),
            (json!({"percent": 25, "gateways": vec!["a"; 17]}), "/enableRouteCache/gateways", "too_many"),
            (json!({"percent": 25, "hostnames": ["A.example"]}), "/enableRouteCache/hostnames/0", "invalid"),
            (json!({"percent": 25, "hostnames": "a.example"}), "/enableRouteCache/hostnames", "wrong_type"),
        ];
        for (value, pointer, code) in cases {
            let body = json!({"enableRouteCache": value, "enableIpBlacklistCache": true});
            assert_eq!(refused(&body), [(pointer.to_owned(), code)], "{value}");
            let alone = read_flag(Flag::RouteCache, &value).expect_err("must be refused");
            assert_eq!((alone.pointer.as_str(), alone.code), (pointer, code));
        }
        let problem = read_flag(Flag::AsyncRecording, &json!("shadow")).expect_err("has no shadow");
        assert_eq!(problem.code, "invalid");
        assert!(problem.message.contains("{\"percent\": n}"), "{}", problem.message);
    }

    #[test]
    fn all_problems_of_a_body_are_named_at_once() {
        let body =
            json!({"enableGeoCache": true, "enableGeoRulesCache": 3, "enableAsyncRecording": "shadow"});
        let wanted = [
            ("/enableGeoCache", "unknown_field"),
            ("/enableGeoRulesCache", "wrong_type"),
            ("/enableAsyncRecording", "invalid"),
        ];
        assert_eq!(refused(&body), wanted.map(|(pointer, code)| (pointer.to_owned(), code)));
        let unknown = read_flags(&body).unwrap_err().remove(0);
        assert!(Flag::ALL.iter().all(|flag| unknown.message.contains(flag.name())), "{}", unknown.message);
        for body in [json!([]), json!(true), json!("x"), json!(null)] {
            assert_eq!(refused(&body), [(String::new(), "wrong_type")]);
        }
    }
}
