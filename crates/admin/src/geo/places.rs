//! The places of MaxMind's lists: blocks of addresses name the number of a place, and the country
//! of the place is in a file of its own.

use std::collections::HashMap;

/// Places, at most. MaxMind's list of cities has an eighth of it.
const MAX_PLACES: usize = 1 << 20;

/// The country codes of places, by their numbers; a continent has an empty one.
#[derive(Default)]
pub(super) struct Places(HashMap<u32, String>);

impl Places {
    /// Adds a place. The list of another language may have it already.
    ///
    /// # Errors
    /// When `number` is none or its country is another one, or there are too many.
    pub fn add(&mut self, number: &str, code: &str) -> Result<(), String> {
        let id = number_of(number)?;
        if self.0.len() == MAX_PLACES {
            return Err(format!("over {MAX_PLACES} places: no list has so many"));
        }
        match self.0.insert(id, code.to_owned()) {
            Some(other) if other != code => {
                Err(format!("place {id} is in `{code}`, and in `{other}` by an earlier line"))
            }
            _ => Ok(()),
        }
    }

    /// The country code of the first of these places that is in a country; empty: none is. A number
    /// that is not given is empty.
    ///
    /// # Errors
    /// When one is no number, or no place has it.
    pub fn code(&self, numbers: &[&str]) -> Result<&str, String> {
        for number in numbers.iter().filter(|number| !number.is_empty()) {
            let id = number_of(number)?;
            let code = self.0.get(&id).ok_or_else(|| {
                format!(
                    "no line says which country place {id} is in: give the folder or the zip archive \
                     that this file is from, or its file ...-Locations-en.csv as well"
                )
            })?;
            if !code.is_empty() {
                return Ok(code);
            }
        }
        Ok("")
    }
}

fn number_of(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(20).collect();
        format!("`{shown}` is not the number of a place")
    })
}
