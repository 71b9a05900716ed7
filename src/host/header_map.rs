//! Envoy's form of a header map.

/// The number of pairs, the two lengths of each, then names and values, each followed by a
/// zero byte. All numbers are 32 bits, little endian.
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

    /// As `marshalPairs` of proxy-wasm-cpp-host (`src/pairs_util.cc`) writes it.
    #[test]
    fn counts_and_lengths_come_before_names_and_values() {
        let headers: [(&str, &[u8]); 2] = [("a", b""), ("at", b"/\xff")];
        let numbers = [2u32, 1, 0, 2, 2].map(u32::to_le_bytes).concat();
        assert_eq!(map_bytes(&headers), [&*numbers, b"a\0\0", b"at\0/\xff\0"].concat());
        assert_eq!(map_bytes(&[]), [0; 4]);
    }
}
