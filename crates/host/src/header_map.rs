//! Header lines as Envoy hands them over, read where they are.

use std::ops::Range;

/// The lines of a header map, in Envoy's order: one allocation has all names and values.
///
/// Envoy's form (`marshalPairs` of proxy-wasm-cpp-host, `src/pairs_util.cc`): the number of lines, the two
/// lengths of each, then names and values, each followed by a zero byte. All numbers are 32 bits, little
/// endian. Names and values are any bytes: what clients and upstreams send need not be UTF-8.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeaderMap {
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

/// Where a line is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    name: Range<usize>,
    value: Range<usize>,
}

impl HeaderMap {
    /// The lines in bytes of Envoy's form, with names in lower case: Envoy's are already, this only makes
    /// sure. Bytes of another form, which Envoy does not write, are no lines.
    #[must_use]
    pub fn from_bytes(mut bytes: Vec<u8>) -> Self {
        let lines = lines(&bytes).unwrap_or_default();
        for line in &lines {
            if let Some(name) = bytes.get_mut(line.name.clone()) {
                name.make_ascii_lowercase();
            }
        }
        Self { bytes, lines }
    }

    /// These lines, in Envoy's form.
    #[must_use]
    pub fn of<N: AsRef<[u8]>, V: AsRef<[u8]>>(lines: &[(N, V)]) -> Self {
        Self::from_bytes(map_bytes(lines))
    }

    /// Whether there is no line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn size(&self) -> u64 {
        let len = |line: &Line| line.name.len().saturating_add(line.value.len()) as u64;
        self.lines.iter().map(len).fold(0, u64::saturating_add)
    }

    /// Names and values.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> + Clone {
        self.lines.iter().map(|line| (self.at(&line.name), self.at(&line.value)))
    }

    /// The value of the line `at`, counted from 0.
    #[must_use]
    pub fn value(&self, at: usize) -> Option<&[u8]> {
        self.lines.get(at).map(|line| self.at(&line.value))
    }

    /// The values of a header's lines. `name` in lower case.
    pub fn values<'m>(&'m self, name: &'m [u8]) -> impl DoubleEndedIterator<Item = &'m [u8]> + Clone {
        self.iter().filter(move |(other, _)| *other == name).map(|(_, value)| value)
    }

    /// A header's first value.
    #[must_use]
    pub fn first(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    fn at(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }
}

/// Where the lines are; `None`: the bytes are of another form.
fn lines(bytes: &[u8]) -> Option<Vec<Line>> {
    let (count, rest) = bytes.split_first_chunk()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (lengths, texts) = rest.split_at_checked(count.checked_mul(8)?)?;
    let mut at = bytes.len().checked_sub(texts.len())?;
    let mut text = |len: &[u8; 4]| {
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let range = at..at.checked_add(len)?;
        at = range.end.checked_add(1)?;
        (at <= bytes.len()).then_some(range)
    };
    let mut lines = Vec::with_capacity(count);
    for pair in lengths.as_chunks::<4>().0.as_chunks::<2>().0 {
        let [name, value] = pair;
        lines.push(Line { name: text(name)?, value: text(value)? });
    }
    Some(lines)
}

/// Header lines in Envoy's form; see [`HeaderMap`].
#[must_use]
pub fn map_bytes<N: AsRef<[u8]>, V: AsRef<[u8]>>(lines: &[(N, V)]) -> Vec<u8> {
    let len = |text: &[u8]| u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&u32::try_from(lines.len()).unwrap_or(0).to_le_bytes());
    for (name, value) in lines {
        bytes.extend_from_slice(&len(name.as_ref()));
        bytes.extend_from_slice(&len(value.as_ref()));
    }
    for text in lines.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]) {
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_lengths_come_before_names_and_values() {
        let headers: [(&str, &[u8]); 2] = [("a", b""), ("at", b"/\xff")];
        let numbers = [2u32, 1, 0, 2, 2].map(u32::to_le_bytes).concat();
        assert_eq!(map_bytes(&headers), [&*numbers, b"a\0\0", b"at\0/\xff\0"].concat());
        assert_eq!(map_bytes::<&str, &str>(&[]), [0; 4]);
    }

    #[test]
    fn lines_are_read_where_they_are() {
        let headers: [(&str, &[u8]); 4] = [("a", b""), ("at", b"/\xff\0"), ("b", b"1"), ("at", b"2")];
        let map = HeaderMap::of(&headers);
        let lines: Vec<_> = map.iter().collect();
        assert_eq!(lines, headers.map(|(name, value)| (name.as_bytes(), value)));
        assert_eq!((map.first(b"at"), map.first(b"c")), (Some(&b"/\xff\0"[..]), None));
        assert_eq!(map.values(b"at").rev().collect::<Vec<_>>(), [&b"2"[..], b"/\xff\0"]);
        assert_eq!((map.len(), map.size(), map.is_empty()), (4, 11, false));
        assert!(HeaderMap::default().is_empty() && HeaderMap::of::<&str, &str>(&[]).is_empty());
    }

    #[test]
    fn bytes_of_another_form_are_no_lines() {
        let whole = map_bytes(&[("a", "xyz"), ("at", "/")]);
        for end in 0..whole.len() {
            assert!(HeaderMap::from_bytes(whole[..end].to_vec()).is_empty(), "{end}");
        }
        for at in 0..20 {
            let mut bytes = whole.clone();
            bytes[at] = 0xff;
            assert!(HeaderMap::from_bytes(bytes).is_empty(), "{at}");
        }
    }
}
