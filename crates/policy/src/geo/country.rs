//! Country codes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A country, as its ISO 3166-1 alpha-2 code in capitals. Other codes that a table or a
/// trusted header uses (`XK`, `T1`, `A1`) are accepted too: two letters, or a letter and a
/// digit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "[u8; 2]", into = "[u8; 2]")]
pub struct Country([u8; 2]);

/// The text is not a country code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a country is two characters: a letter, then a letter or digit")]
pub struct NoCountry;

impl Country {
    /// The country of a code in either case; `None` when it is no country. `ZZ`, `XX` and
    /// `??`, which tables use for "unknown", are none. `UK`, which some use for the
    /// assigned `GB`, is `GB`, so that no list has to name both.
    #[must_use]
    pub fn new(code: &[u8]) -> Option<Self> {
        let code = <[u8; 2]>::try_from(code).ok()?.map(|byte| byte.to_ascii_uppercase());
        let [first, second] = if code == *b"UK" { *b"GB" } else { code };
        let fits = first.is_ascii_uppercase() && (second.is_ascii_uppercase() || second.is_ascii_digit());
        let unknown = matches!([first, second], [b'Z', b'Z'] | [b'X', b'X']);
        (fits && !unknown).then_some(Self([first, second]))
    }

    /// The two bytes of its code, ASCII capitals.
    #[must_use]
    pub fn code(self) -> [u8; 2] {
        self.0
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0.map(char::from);
        write!(f, "{first}{second}")
    }
}

impl FromStr for Country {
    type Err = NoCountry;

    fn from_str(text: &str) -> Result<Self, NoCountry> {
        Self::new(text.as_bytes()).ok_or(NoCountry)
    }
}

impl TryFrom<[u8; 2]> for Country {
    type Error = NoCountry;

    fn try_from(code: [u8; 2]) -> Result<Self, NoCountry> {
        Self::new(&code).ok_or(NoCountry)
    }
}

impl From<Country> for [u8; 2] {
    fn from(country: Country) -> Self {
        country.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_two_characters_in_either_case() {
        for (text, code) in [("de", Some("DE")), ("XK", Some("XK")), ("t1", Some("T1")), ("uk", Some("GB"))] {
            assert_eq!(Country::new(text.as_bytes()).map(|country| country.to_string()).as_deref(), code);
        }
        for text in ["", "D", "DEU", "1A", "??", "ZZ", "xx", "d\u{e9}", "  "] {
            assert_eq!(Country::new(text.as_bytes()), None, "{text}");
        }
    }
}
