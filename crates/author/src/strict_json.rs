//! Documents in JSON and YAML, read strictly and in the same way everywhere. A name that
//! an object has twice is refused: serde would keep the last value and silently drop the
//! other.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Some editors on Windows write this at the beginning of a file; neither format allows it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// The deepest nesting of brackets in a YAML text.
const MAX_YAML_DEPTH: usize = 128;

/// The text without the byte order mark that it may begin with.
#[must_use]
pub fn without_byte_order_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// Brackets of a YAML text that are nested too deeply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct YamlTooDeep {
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for YamlTooDeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "brackets are nested over {MAX_YAML_DEPTH} deep at line {}", self.line)
    }
}

/// Refuses a YAML text with brackets nested over 128 deep: the scanner's
/// time grows with the square of their depth. Brackets in strings count as well; no valid
/// document has so many unclosed ones.
///
/// # Errors
/// Where they are.
pub fn check_yaml_depth(yaml: &[u8]) -> Result<(), YamlTooDeep> {
    let mut depth = 0usize;
    for (number, line) in (1..).zip(yaml.split(|byte| *byte == b'\n')) {
        if line.starts_with(b"---") {
            depth = 0;
        }
        for byte in line {
            match byte {
                b'[' | b'{' => depth = depth.saturating_add(1),
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > MAX_YAML_DEPTH {
                return Err(YamlTooDeep { line: number });
            }
        }
    }
    Ok(())
}

/// Carries out the merge keys of a document that was read from YAML (<https://yaml.org/type/merge.html>):
/// an object gets the fields of the object that its `<<` has as value, or of all in a list, unless it
/// has them itself; of several that have a field the first counts.
///
/// # Errors
/// A `<<` that has another value.
pub fn carry_out_merges(value: &mut Value) -> Result<(), String> {
    match value {
        Value::Array(members) => members.iter_mut().try_for_each(carry_out_merges),
        Value::Object(fields) => {
            fields.values_mut().try_for_each(carry_out_merges)?;
            let sources = match fields.remove("<<") {
                None => return Ok(()),
                Some(Value::Array(sources)) => sources,
                Some(source) => vec![source],
            };
            for source in sources {
                let Value::Object(source) = source else {
                    return Err(
                        "the value of a merge key (<<) must be an object, or a list of objects".to_owned()
                    );
                };
                for (name, value) in source {
                    fields.entry(name).or_insert(value);
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A JSON value in which no object has a name twice.
pub struct StrictValue(pub Value);

impl<'de> Deserialize<'de> for StrictValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a value of JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        // YAML has more: taken for null, a field would be as if it were not given.
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(".nan and .inf are no numbers that are taken here"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some(StrictValue(member)) = from.next_element()? {
            members.push(member);
        }
        Ok(Value::Array(members))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format_args!("`{name}` stands twice in one object")));
            }
            let StrictValue(value) = from.next_value()?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The result of both readers for `text`: a value, or an error that both have.
    fn read(text: &str) -> Result<Value, String> {
        let from_json = serde_json::from_str::<StrictValue>(text);
        let from_yaml = yaml_serde::from_str::<StrictValue>(text);
        match (from_json, from_yaml) {
            (Ok(StrictValue(one)), Ok(StrictValue(other))) => {
                assert_eq!(one, other, "{text}");
                Ok(one)
            }
            (Err(one), Err(other)) => Err(format!("{one}; {other}")),
            (one, other) => panic!("{text}: {} and {}", one.is_ok(), other.is_ok()),
        }
    }

    #[test]
    fn what_json_has_no_number_for_is_no_null() {
        for number in [".nan", ".inf", "-.inf"] {
            let read = yaml_serde::from_str::<StrictValue>(&format!("confidence: {number}"));
            let error = read.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("confidence") || error.contains("no numbers"), "{error}");
        }
    }

    #[test]
    fn every_kind_of_value_is_read_as_it_is() {
        for value in [
            json!(null),
            json!(true),
            json!(-1),
            json!(u64::MAX),
            json!(2.5),
            json!("a\n\"\u{e9}"),
            json!([[], {}, [1, "x"]]),
            json!({"a": {"a": {"b": [{"a": 1}, {"a": 2}]}}, "b": false}),
        ] {
            assert_eq!(read(&value.to_string()), Ok(value));
        }
    }

    #[test]
    fn brackets_that_nest_too_deeply_are_seen_before_they_are_read() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check_yaml_depth(nested(MAX_YAML_DEPTH).as_bytes()), Ok(()));
        assert!(check_yaml_depth(nested(MAX_YAML_DEPTH + 1).as_bytes()).is_err());
        assert!(check_yaml_depth("a: {\n".repeat(MAX_YAML_DEPTH + 1).as_bytes()).is_err());
        let of_many = "---\nvalue: '[^[]'\n".repeat(MAX_YAML_DEPTH + 1);
        assert_eq!(check_yaml_depth(of_many.as_bytes()), Ok(()), "each document counts by itself");
    }

    #[test]
    fn a_mark_at_the_front_is_no_part_of_the_text() {
        assert_eq!(without_byte_order_mark(b"\xef\xbb\xbf{}"), b"{}");
        assert_eq!(without_byte_order_mark(b"{}\xef\xbb\xbf"), b"{}\xef\xbb\xbf");
        assert_eq!(without_byte_order_mark(b"\xef\xbb"), b"\xef\xbb");
    }

    #[test]
    fn merge_keys_give_what_an_object_does_not_have_itself() {
        let merged = |yaml: &str| {
            let StrictValue(mut value) = yaml_serde::from_str(yaml).unwrap();
            carry_out_merges(&mut value).map(|()| value)
        };
        let base = "base: &base {a: 1, b: {c: 1, d: 1}}\n";
        let of = |rest: &str| merged(&format!("{base}x: {rest}\n")).map(|value| value["x"].clone());
        assert_eq!(of("{<<: *base, a: 2}"), Ok(json!({"a": 2, "b": {"c": 1, "d": 1}})));
        assert_eq!(of("{b: {}, !!merge <<: *base}"), Ok(json!({"a": 1, "b": {}})));
        assert_eq!(of("[{<<: [{a: 3}, *base]}]"), Ok(json!([{"a": 3, "b": {"c": 1, "d": 1}}])));
        assert_eq!(of("{<<: {<<: *base, e: 1}, b: 0}"), Ok(json!({"a": 1, "b": 0, "e": 1})));
        for bad in ["{<<: 1}", "{<<: null}", "{<<: [[]]}"] {
            assert!(of(bad).unwrap_err().contains("merge key"), "{bad}");
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_an_error() {
        for text in
            [r#"{"a": 1, "b": 2, "a": 1}"#, r#"{"x": [{"a": {}, "a": []}]}"#, r#"{"a": 1, "\u0061": 2}"#]
        {
            let error = read(text).unwrap_err();
            assert_eq!(error.matches("`a` stands twice").count(), 2, "{error}");
        }
    }
}
