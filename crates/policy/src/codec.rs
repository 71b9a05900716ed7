//! Reading and writing the formats of this crate: a version byte, then postcard. Input is
//! not trusted: decoding any bytes gives a value or a [`FormatError`], never a panic, and
//! allocates no more than a small multiple of the input.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, SeqAccess, Visitor};

/// The most bytes of one table, except the base of bans.
pub const MAX_TABLE: usize = 64 << 20;
/// The most bytes of the base of bans: 10 million of IPv4 and 5 million of IPv6 with ends are
/// 204 MB. Two fit into a VM's 1 GiB, while one replaces the other, with twice all other tables of
/// common sizes.
pub const MAX_BAN_BASE: usize = 208 << 20;

/// Why bytes were not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// The first byte names another version of the format than this code knows.
    #[error("format version {found}, this side understands {known}")]
    Version {
        /// The version that the bytes name.
        found: u8,
        /// The version that this code reads and writes.
        known: u8,
    },
    /// More bytes than the format allows.
    #[error("{len} bytes, at most {max} are allowed")]
    TooLong {
        /// How many there were.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// The bytes do not follow the format.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// `value` with its format's version in front.
///
/// # Errors
/// When a value cannot be written in this format; with the types of this crate
/// that does not happen.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, FormatError> {
    postcard::to_extend(value, vec![version]).map_err(|_| FormatError::Malformed("value cannot be encoded"))
}

/// Reads what [`encode`] wrote; every byte must be used.
///
/// # Errors
/// When the bytes are too long, of another version, or malformed.
pub fn decode<T: DeserializeOwned>(version: u8, max: usize, bytes: &[u8]) -> Result<T, FormatError> {
    match postcard::take_from_bytes(versioned(version, max, bytes)?) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(FormatError::Malformed("bytes after the end")),
        Err(_) => Err(FormatError::Malformed("not what the format says")),
    }
}

/// Reads a value from the front of what [`encode`] wrote, and ignores the rest.
pub(crate) fn decode_front<T: DeserializeOwned>(
    version: u8,
    max: usize,
    bytes: &[u8],
) -> Result<T, FormatError> {
    match postcard::take_from_bytes(versioned(version, max, bytes)?) {
        Ok((value, _)) => Ok(value),
        Err(_) => Err(FormatError::Malformed("not what the format says")),
    }
}

/// The bytes after the version, if that is `version`.
pub(crate) fn versioned(version: u8, max: usize, bytes: &[u8]) -> Result<&[u8], FormatError> {
    if bytes.len() > max {
        return Err(FormatError::TooLong { len: bytes.len(), max });
    }
    let (&found, rest) = bytes.split_first().ok_or(FormatError::Malformed("empty"))?;
    if found == version { Ok(rest) } else { Err(FormatError::Version { found, known: version }) }
}

/// Reads a list of at most `N` items, and refuses a longer one before it is read.
/// For items that take one to three bytes encoded and far more in memory, as empty
/// strings do: without it 16 MiB of them would take half a gigabyte.
pub(crate) fn at_most<'de, const N: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_seq(AtMost::<N, T>(PhantomData))
}

struct AtMost<const N: usize, T>(PhantomData<T>);

impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<N, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list that is not too long")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let too_long = || A::Error::custom("a list is too long");
        let len = items.size_hint().unwrap_or_default();
        let mut list = if len > N { return Err(too_long()) } else { Vec::with_capacity(len) };
        while let Some(item) = items.next_element()? {
            if list.len() == N {
                return Err(too_long());
            }
            list.push(item);
        }
        Ok(list)
    }
}
