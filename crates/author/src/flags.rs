//! Flags in JSON: `false`, `true`, `"shadow"` or `{"percent": 25}`, in the API and in
//! rows.

use serde_json::{Map, Value, json};

use super::reader::{DocumentError, DocumentErrors, DocumentNode};
use tidegate_policy::flags::{Flag, FlagState, Flags};

const NAMES: &[&str] = &[
    Flag::RouteCache.name(),
    Flag::IpBlacklistCache.name(),
    Flag::GeoRulesCache.name(),
    Flag::ParallelExecution.name(),
    Flag::AsyncRecording.name(),
];

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
    let node = DocumentNode::root(document);
    let Some(fields) = node.object(NAMES, &mut errors) else {
        return errors.into_result(None);
    };
    let mut flags = Vec::new();
    for flag in Flag::ALL {
        if let Some(node) = fields.given(flag.name())
            && let Some(state) = state(flag, &node, &mut errors)
        {
            flags.push((flag, state));
        }
    }
    errors.into_result(Some(flags))
}

/// A state as [`read_flag`] reads it.
#[must_use]
pub fn write_state(state: FlagState) -> Value {
    match state {
        FlagState::Off => Value::Bool(false),
        FlagState::On => Value::Bool(true),
        FlagState::Shadow => json!("shadow"),
        FlagState::Share(percent) => json!({"percent": percent}),
    }
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
            let percent = node.object(&["percent"], errors)?.require("percent", errors)?;
            let percent = percent.integer(0, 100, errors)?;
            Some(FlagState::Share(u8::try_from(percent).ok()?))
        }
        Value::Null | Value::Number(_) | Value::Array(_) => {
            node.wrong_type(right(flag), errors);
            None
        }
    }
}

/// The states that a flag may have, as text for people.
fn right(flag: Flag) -> &'static str {
    if flag.has_shadow() {
        "false, true, \"shadow\" or {\"percent\": n} with n from 0 to 100"
    } else {
        "false, true or {\"percent\": n} with n from 0 to 100"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(document: &Value) -> Vec<(String, &'static str)> {
        let errors = read_flags(document).expect_err("must be refused");
        errors.into_iter().map(|problem| (problem.pointer, problem.code)).collect()
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
            ] {
                assert_eq!(read_flag(flag, &write_state(state)), Ok(state));
            }
            assert_eq!(read_flag(flag, &write_state(FlagState::Shadow)).is_ok(), flag.has_shadow());
        }
        let flags = Flags::all_on()
            .with(Flag::RouteCache, FlagState::Shadow)
            .with(Flag::GeoRulesCache, FlagState::Share(7));
        let written = Value::Object(write_flags(&flags));
        let read = read_flags(&written).unwrap();
        assert_eq!(read, Flag::ALL.map(|flag| (flag, flags.get(flag))));
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
