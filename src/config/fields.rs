//! The reader of one JSON object of the configuration.

use std::time::Duration;

use serde_json::{Map, Value};
use tidegate_policy::duration;

/// Why a configuration is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// JSON pointer of the field; empty for the whole.
    pub pointer: String,
    /// What is wrong, and what the value should be.
    pub message: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = if self.pointer.is_empty() { "/" } else { &self.pointer };
        f.write_str("plugin configuration ")?;
        f.write_str(at)?;
        f.write_str(": ")?;
        f.write_str(&self.message)
    }
}

/// Longest text of a field, in bytes.
const MAX_TEXT: usize = 4096;

/// The fields of one JSON object, all of them known.
pub struct Fields<'v> {
    map: &'v Map<String, Value>,
    pointer: &'static str,
}

impl<'v> Fields<'v> {
    /// The fields of `value`, which stands at `pointer`.
    ///
    /// # Errors
    /// When it is no object, or has a field that is not among `known`.
    pub fn of(value: &'v Value, pointer: &'static str, known: &[&str]) -> Result<Self, ConfigError> {
        let Value::Object(map) = value else {
            return Err(wrong(pointer, "must be a JSON object".to_owned()));
        };
        let fields = Self { map, pointer };
        match map.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(fields),
            Some(key) => Err(fields.wrong(
                &key.chars().take(60).collect::<String>(),
                &["is unknown: known are ", &known.join(", ")].concat(),
            )),
        }
    }

    /// An error at the field `name`.
    pub fn wrong(&self, name: &str, message: &str) -> ConfigError {
        wrong(&[self.pointer, "/", &name.replace('~', "~0").replace('/', "~1")].concat(), message.to_owned())
    }

    /// The field's value.
    pub fn get(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name)
    }

    /// The field, a string.
    ///
    /// # Errors
    /// When it is no string, empty or too long.
    pub fn text(&self, name: &str) -> Result<Option<&'v str>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_TEXT => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be a string of 1 to 4096 bytes")),
        }
    }

    /// The field, true or false.
    ///
    /// # Errors
    /// It is neither.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(is_set)) => Ok(Some(*is_set)),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
    }

    /// The field, one of `choices` by name.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn one_of<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match choices.iter().find(|(choice, _)| value.as_str() == Some(choice)) {
            Some((_, chosen)) => Ok(Some(*chosen)),
            None => {
                let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
                Err(self.wrong(name, &["must be one of ", &names.join(", ")].concat()))
            }
        }
    }

    /// The field, a whole number.
    ///
    /// # Errors
    /// When it is none, or not between `min` and `max`.
    pub fn number(&self, name: &str, min: usize, max: usize) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(
                name,
                &["must be a whole number from ", &min.to_string(), " to ", &max.to_string()].concat(),
            )),
        }
    }

    /// The field, a duration like `250ms` or `5s` from `min_ms` milliseconds to a
    /// minute.
    ///
    /// # Errors
    /// When it is none, or out of range.
    pub fn duration(&self, name: &str, min_ms: u64) -> Result<Option<Duration>, ConfigError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let range = Duration::from_millis(min_ms)..=Duration::from_secs(60);
        match duration::parse(text).filter(|span| range.contains(span)) {
            Some(span) => Ok(Some(span)),
            None => {
                let least = min_ms.to_string();
                let says =
                    ["must be a duration from ", &least, "ms to 60s, like \"250ms\" or \"5s\""].concat();
                Err(self.wrong(name, &says))
            }
        }
    }
}

/// An error at `pointer`.
pub fn wrong(pointer: &str, message: String) -> ConfigError {
    ConfigError { pointer: pointer.to_owned(), message }
}
