//! Envoy's form of a header map. Read without trust in the lengths that it
//! names: what does not fit is no map, and never a read past the end.

use super::HeaderPairs;

/// Reads Envoy's form of a header map: the number of pairs, the two lengths of
/// each, then names and values, each followed by a zero byte. All numbers are
/// 32 bits, little endian. `None` when the bytes are not that.
#[must_use]
pub fn pairs(bytes: &[u8]) -> Option<HeaderPairs> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let (count, rest) = number(bytes)?;
    let lengths_len = count.checked_mul(8)?;
    let (mut lengths, mut data) = (rest.get(..lengths_len)?, rest.get(lengths_len..)?);
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let (name_len, after_name) = number(lengths)?;
        let (value_len, after_value) = number(after_name)?;
        lengths = after_value;
        let (name, after) = text(data, name_len)?;
        let (value, after) = text(after, value_len)?;
        data = after;
        pairs.push((name.to_vec(), value.to_vec()));
    }
    Some(pairs)
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*number)).ok()?, rest))
}

fn text(bytes: &[u8], len: usize) -> Option<(&[u8], &[u8])> {
    let (text, rest) = bytes.split_at_checked(len)?;
    Some((text, rest.split_first()?.1))
}

/// Writes what [`pairs`] reads.
#[must_use]
pub fn map_bytes(headers: &[(&str, &[u8])]) -> Vec<u8> {
    let len = |text: &[u8]| u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&u32::try_from(headers.len()).unwrap_or(0).to_le_bytes());
    for (name, value) in headers {
        bytes.extend_from_slice(&len(name.as_bytes()));
        bytes.extend_from_slice(&len(value));
    }
    for text in headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_it_wrote() {
        let headers: [(&str, &[u8]); 3] = [(":status", b"403"), ("empty", b""), ("location", b"/\xff")];
        let want: HeaderPairs = headers.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.to_vec())).collect();
        assert_eq!(pairs(&map_bytes(&headers)), Some(want));
        assert_eq!(pairs(&[]), Some(Vec::new()));
    }

    #[test]
    fn lengths_that_lie_are_no_map() {
        let good = map_bytes(&[("a", b"bc")]);
        for cut in 1..good.len() {
            assert_eq!(pairs(&good[..cut]), None, "cut at {cut}");
        }
        let mut many = good.clone();
        many[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(pairs(&many), None);
        let mut long = good;
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(pairs(&long), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_map_or_none(bytes: Vec<u8>) {
            let _ = pairs(&bytes);
        }

        #[test]
        fn values_are_bytes(value: Vec<u8>) {
            let mut bytes = map_bytes(&[("a", &b"x".repeat(value.len()))]);
            bytes[14..14 + value.len()].copy_from_slice(&value);
            prop_assert_eq!(pairs(&bytes), Some(vec![(b"a".to_vec(), value)]));
        }
    }
}
