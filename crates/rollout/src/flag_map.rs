//! [`Flags`] as JSON has them everywhere: an object of states by flag name.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use tidegate_author::{read_flags, write_flags};
use tidegate_policy::flags::Flags;

pub fn serialize<S: Serializer>(flags: &Flags, to: S) -> Result<S::Ok, S::Error> {
    write_flags(flags).serialize(to)
}

pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Flags, D::Error> {
    let document = Value::Object(Map::deserialize(from)?);
    match read_flags(&document) {
        Ok(states) => {
            Ok(states.into_iter().fold(Flags::default(), |flags, (flag, state)| flags.with(flag, state)))
        }
        Err(errors) => {
            let says = errors.first().map(|error| format!("{}: {}", error.pointer, error.message));
            Err(D::Error::custom(says.unwrap_or_default()))
        }
    }
}
