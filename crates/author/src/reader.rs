//! Walks a JSON document and collects every error with its JSON pointer.

use serde_json::{Map, Value};

/// The most errors reported of one document; others show once these are corrected.
pub const MAX_PROBLEMS: usize = 64;

/// Characters of a name, at most.
const MAX_NAME: usize = 253;

/// What is wrong with a document.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct DocumentError {
    /// JSON pointer (RFC 6901) of the value, like `/spec/rules/0/matches/1/path/value`.
    pub pointer: String,
    /// The kind of problem: `unknown_field`, `not_supported`, `required`,
    /// `wrong_type`, `too_many`, `too_long`, `out_of_range`, `invalid`, `conflict`,
    /// `reserved`, `bad_regex` or `private_address`. Stable.
    pub code: &'static str,
    /// What is wrong, and what the value should be.
    pub message: String,
}

/// A value in a document, with its JSON pointer.
#[derive(Clone)]
pub struct DocumentNode<'d> {
    /// The value.
    pub value: &'d Value,
    pointer: String,
}

/// The errors so far.
#[derive(Default)]
pub struct DocumentErrors {
    found: Vec<DocumentError>,
}

impl DocumentErrors {
    /// Adds an error of the value at `pointer`. `code` and `message`: as of [`DocumentError`].
    pub fn note(&mut self, pointer: &str, code: &'static str, message: impl Into<String>) {
        if self.found.len() < MAX_PROBLEMS {
            self.found.push(DocumentError { pointer: pointer.to_owned(), code, message: message.into() });
        }
    }

    /// How many there are so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// The value, if it is there and nothing is wrong.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Vec<DocumentError>> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => Err(self.found),
        }
    }

    /// As [`into_result`](Self::into_result), with the first problem only. Neither a value
    /// nor a problem does not happen; it would give a problem without a pointer.
    ///
    /// # Errors
    /// The first problem.
    pub fn into_first<T>(self, value: Option<T>) -> Result<T, DocumentError> {
        let nowhere = || DocumentError {
            pointer: String::new(),
            code: "invalid",
            message: "must be another".to_owned(),
        };
        self.into_result(value).map_err(|found| found.into_iter().next().unwrap_or_else(nowhere))
    }
}

impl<'d> DocumentNode<'d> {
    /// A whole document.
    #[must_use]
    pub fn root(value: &'d Value) -> Self {
        Self { value, pointer: String::new() }
    }

    /// A value at `pointer` of another document.
    #[must_use]
    pub fn at(pointer: String, value: &'d Value) -> Self {
        Self { value, pointer }
    }

    /// Its JSON pointer.
    #[must_use]
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Adds an error of this value.
    pub fn note(&self, errors: &mut DocumentErrors, code: &'static str, message: impl Into<String>) {
        errors.note(&self.pointer, code, message);
    }

    /// The fields of an object. Those not in `known` are added to the errors.
    pub fn object(&self, known: &'static [&'static str], errors: &mut DocumentErrors) -> Option<Object<'d>> {
        let Value::Object(fields) = self.value else {
            self.wrong_type("an object", errors);
            return None;
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = format!("there is no such field here; there are {}", known.join(", "));
            errors.note(&join(&self.pointer, name), "unknown_field", message);
        }
        Some(Object { fields, pointer: self.pointer.clone() })
    }

    /// The members of a list, at most `max`.
    pub fn list(&self, max: usize, errors: &mut DocumentErrors) -> Vec<DocumentNode<'d>> {
        let Value::Array(members) = self.value else {
            self.wrong_type("a list", errors);
            return Vec::new();
        };
        if members.len() > max {
            self.note(errors, "too_many", format!("{} members, at most {max} are allowed", members.len()));
        }
        let node = |(index, value)| DocumentNode { value, pointer: format!("{}/{index}", self.pointer) };
        members.iter().enumerate().take(max).map(node).collect()
    }

    /// A text of `min` to `max` characters.
    pub fn text(&self, min: usize, max: usize, errors: &mut DocumentErrors) -> Option<&'d str> {
        let Value::String(text) = self.value else {
            self.wrong_type("a string", errors);
            return None;
        };
        let len = text.chars().count();
        if (min..=max).contains(&len) {
            return Some(text);
        }
        let code = if len > max { "too_long" } else { "invalid" };
        self.note(errors, code, format!("{len} characters, from {min} to {max} are allowed"));
        None
    }

    /// A whole number from `min` to `max`.
    pub fn integer(&self, min: u32, max: u32, errors: &mut DocumentErrors) -> Option<u32> {
        if !self.value.is_i64() && !self.value.is_u64() {
            self.wrong_type(&format!("a whole number from {min} to {max}"), errors);
            return None;
        }
        let number = self.value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.note(errors, "out_of_range", format!("{}: from {min} to {max} is allowed", self.value));
        }
        number
    }

    /// A number from `min` to `max`.
    pub fn number(&self, min: f64, max: f64, errors: &mut DocumentErrors) -> Option<f64> {
        let Some(number) = self.value.as_f64() else {
            self.wrong_type(&format!("a number from {min} to {max}"), errors);
            return None;
        };
        if (min..=max).contains(&number) {
            return Some(number);
        }
        self.note(errors, "out_of_range", format!("{}: from {min} to {max} is allowed", self.value));
        None
    }

    /// True or false.
    pub fn boolean(&self, errors: &mut DocumentErrors) -> Option<bool> {
        let found = self.value.as_bool();
        if found.is_none() {
            self.wrong_type("true or false", errors);
        }
        found
    }

    /// One of these names.
    pub fn one_of(&self, names: &[&'static str], errors: &mut DocumentErrors) -> Option<&'static str> {
        let text = self.text(0, usize::MAX, errors)?;
        let found = names.iter().find(|name| **name == text).copied();
        if found.is_none() {
            self.note(errors, "invalid", format!("must be one of {}", names.join(", ")));
        }
        found
    }

    /// Adds the error that this value is not `wanted`, in words.
    pub fn wrong_type(&self, wanted: &str, errors: &mut DocumentErrors) {
        let found = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(number) => &number.to_string(),
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.note(errors, "wrong_type", format!("must be {wanted}, is {found}"));
    }
}

/// An object's fields.
pub struct Object<'d> {
    fields: &'d Map<String, Value>,
    pointer: String,
}

impl<'d> Object<'d> {
    /// A field; null is absent, as in Kubernetes.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<DocumentNode<'d>> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        Some(DocumentNode { value, pointer: join(&self.pointer, name) })
    }

    /// A field; null is a value.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<DocumentNode<'d>> {
        Some(DocumentNode { value: self.fields.get(name)?, pointer: join(&self.pointer, name) })
    }

    /// Notes a `name` that is not `name`, by which a document is written; it may be left out.
    /// `is`: what the document is, in words.
    pub fn check_name(&self, is: &str, name: &str, errors: &mut DocumentErrors) {
        if let Some(node) = self.get("name")
            && node.text(1, MAX_NAME, errors).is_some_and(|written| written != name)
        {
            node.note(errors, "invalid", format!("{is} {name}: leave name out, or write that"));
        }
    }

    /// A field that must be there.
    pub fn require(&self, name: &str, errors: &mut DocumentErrors) -> Option<DocumentNode<'d>> {
        let node = self.get(name);
        if node.is_none() {
            errors.note(&join(&self.pointer, name), "required", "must be given");
        }
        node
    }
}

fn join(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}
