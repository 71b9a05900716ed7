//! On which line of a file something stands.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line, from 1, on which the value at `pointer` begins in the document with this number, from
/// 0; where it is not there, its nearest parent. `None`: there is no such document.
#[must_use]
pub fn line_of(bytes: &[u8], document: usize, pointer: &str) -> Option<usize> {
    let path: Vec<String> =
        pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    if bytes.trim_ascii_start().starts_with(b"{")
        && let Some(line) = line_of_json(bytes, document, &path)
    {
        return Some(line);
    }
    let document = yaml_serde::Deserializer::from_slice(bytes).nth(document)?;
    Some(Seek(&path).deserialize(document).err()?.location()?.line())
}

fn line_of_json(bytes: &[u8], document: usize, path: &[String]) -> Option<usize> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    for _ in 0..document {
        IgnoredAny::deserialize(&mut reader).ok()?;
    }
    Seek(path).deserialize(&mut reader).err().filter(serde_json::Error::is_data).map(|error| error.line())
}

/// Reads up to the value at this path, and fails there: both readers say where they failed.
struct Seek<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("something else")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let here = || A::Error::custom("here");
        let (next, rest) = self.0.split_first().ok_or_else(here)?;
        while let Some(key) = map.next_key::<String>()? {
            if key == *next {
                return map.next_value_seed(Seek(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(here())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let here = || A::Error::custom("here");
        let (next, rest) = self.0.split_first().ok_or_else(here)?;
        for _ in 0..next.parse::<usize>().map_err(|_| here())? {
            list.next_element::<IgnoredAny>()?.ok_or_else(here)?;
        }
        list.next_element_seed(Seek(rest))?.ok_or_else(here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_yaml_and_json() {
        let yaml =
            "# first\na: 1\n---\nkind: X\nspec:\n  list:\n  - one\n  - b: {c: 5}\n    d/e: [\n      7]\n";
        for (document, pointer, line) in [
            (0, "/a", 2),
            (1, "", 4),
            (1, "/kind", 4),
            (1, "/spec/list/0", 7),
            (1, "/spec/list/1/b/c", 8),
            (1, "/spec/list/1/d~1e/0", 10),
            (1, "/spec/list/1/gone", 8),
            (1, "/spec/list/9", 7),
        ] {
            assert_eq!(line_of(yaml.as_bytes(), document, pointer), Some(line), "{document} {pointer}");
        }
        assert_eq!(line_of(yaml.as_bytes(), 2, ""), None);
        let json = "{\"a\": 1}\n{\n \"b\": [\n  1,\n  {\"c\": 5}\n ]\n}\n";
        for (document, pointer, line) in [(0, "/a", 1), (1, "/b/1/c", 5), (1, "/b/0", 4)] {
            assert_eq!(line_of(json.as_bytes(), document, pointer), Some(line), "{document} {pointer}");
        }
    }
}
