//! Walking a JSON document, noting every problem by its place.

use serde_json::{Map, Value};

/// Problems noted of one document; what is wrong beyond them shows once these
/// are mended.
pub const MAX_PROBLEMS: usize = 64;

/// What is wrong with a document.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Problem {
    /// Where: a JSON pointer (RFC 6901), `/spec/rules/0/matches/1/path/value`.
    pub pointer: String,
    /// What kind of problem: `unknown_field`, `not_supported`, `required`,
    /// `wrong_type`, `too_many`, `too_long`, `out_of_range`, `invalid`, `conflict`,
    /// `reserved`, `bad_regex` or `private_address`. Stable.
    pub code: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A value and its place in the document.
#[derive(Clone)]
pub(super) struct Place<'d> {
    pub value: &'d Value,
    pointer: String,
}

/// The problems so far.
#[derive(Default)]
pub(super) struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    pub fn note(&mut self, pointer: &str, code: &'static str, message: impl Into<String>) {
        if self.found.len() < MAX_PROBLEMS {
            self.found.push(Problem { pointer: pointer.to_owned(), code, message: message.into() });
        }
    }

    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => Err(self.found),
        }
    }

    /// As [`into_result`](Self::into_result), with the first problem only. No value
    /// without a problem does not happen; it would be one of no certain place.
    pub fn into_first<T>(self, value: Option<T>) -> Result<T, Problem> {
        let nowhere =
            || Problem { pointer: String::new(), code: "invalid", message: "must be another".to_owned() };
        self.into_result(value).map_err(|found| found.into_iter().next().unwrap_or_else(nowhere))
    }
}

impl<'d> Place<'d> {
    pub fn root(value: &'d Value) -> Self {
        Self { value, pointer: String::new() }
    }

    /// A value that stands at `pointer` of something else.
    pub fn at(pointer: String, value: &'d Value) -> Self {
        Self { value, pointer }
    }

    pub fn note(&self, problems: &mut Problems, code: &'static str, message: impl Into<String>) {
        problems.note(&self.pointer, code, message);
    }

    /// The fields of an object. Those not in `known` are noted.
    pub fn object(&self, known: &'static [&'static str], problems: &mut Problems) -> Option<Object<'d>> {
        let Value::Object(fields) = self.value else {
            self.wrong_type("an object", problems);
            return None;
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = format!("there is no such field here; there are {}", known.join(", "));
            problems.note(&join(&self.pointer, name), "unknown_field", message);
        }
        Some(Object { fields, pointer: self.pointer.clone() })
    }

    /// The members of a list, at most `max`.
    pub fn list(&self, max: usize, problems: &mut Problems) -> Vec<Place<'d>> {
        let Value::Array(members) = self.value else {
            self.wrong_type("a list", problems);
            return Vec::new();
        };
        if members.len() > max {
            self.note(problems, "too_many", format!("{} members, at most {max} are allowed", members.len()));
        }
        let place = |(index, value)| Place { value, pointer: format!("{}/{index}", self.pointer) };
        members.iter().enumerate().take(max).map(place).collect()
    }

    /// A text of `min` to `max` characters.
    pub fn text(&self, min: usize, max: usize, problems: &mut Problems) -> Option<&'d str> {
        let Value::String(text) = self.value else {
            self.wrong_type("a string", problems);
            return None;
        };
        let len = text.chars().count();
        if (min..=max).contains(&len) {
            return Some(text);
        }
        let code = if len > max { "too_long" } else { "invalid" };
        self.note(problems, code, format!("{len} characters, from {min} to {max} are allowed"));
        None
    }

    /// A whole number from `min` to `max`.
    pub fn integer(&self, min: u32, max: u32, problems: &mut Problems) -> Option<u32> {
        if !self.value.is_i64() && !self.value.is_u64() {
            self.wrong_type(&format!("a whole number from {min} to {max}"), problems);
            return None;
        }
        let number = self.value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.note(problems, "out_of_range", format!("{}: from {min} to {max} is allowed", self.value));
        }
        number
    }

    /// True or false.
    pub fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        let found = self.value.as_bool();
        if found.is_none() {
            self.wrong_type("true or false", problems);
        }
        found
    }

    /// One of these names.
    pub fn one_of(&self, names: &[&'static str], problems: &mut Problems) -> Option<&'static str> {
        let text = self.text(0, usize::MAX, problems)?;
        let found = names.iter().find(|name| **name == text).copied();
        if found.is_none() {
            self.note(problems, "invalid", format!("must be one of {}", names.join(", ")));
        }
        found
    }

    pub fn wrong_type(&self, wanted: &str, problems: &mut Problems) {
        let found = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(number) => &number.to_string(),
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.note(problems, "wrong_type", format!("must be {wanted}, is {found}"));
    }
}

/// An object's fields.
pub(super) struct Object<'d> {
    fields: &'d Map<String, Value>,
    pointer: String,
}

impl<'d> Object<'d> {
    /// A field; null is absent, as in Kubernetes.
    pub fn get(&self, name: &str) -> Option<Place<'d>> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        Some(Place { value, pointer: join(&self.pointer, name) })
    }

    /// A field; null is a value.
    pub fn given(&self, name: &str) -> Option<Place<'d>> {
        Some(Place { value: self.fields.get(name)?, pointer: join(&self.pointer, name) })
    }

    /// A field that must be there.
    pub fn require(&self, name: &str, problems: &mut Problems) -> Option<Place<'d>> {
        let place = self.get(name);
        if place.is_none() {
            problems.note(&join(&self.pointer, name), "required", "must be given");
        }
        place
    }
}

fn join(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}
