//! What a source of bans has, as one run of bytes: the bans that it lists, and those that it only simulates.

use tidegate_policy::codec::FormatError;
use tidegate_policy::table::AddressTable;

/// In front of a set with simulated bans; then come the length of the first table, 8 bytes little-endian, and
/// both tables. Without it the bytes are the first table alone, which begins otherwise.
const TAG: [u8; 4] = *b"\0sim";

/// The set of a source.
#[derive(Clone)]
pub struct SourceSet {
    /// Its bans: they deny, or are in shadow, as the source's mode says.
    pub listed: AddressTable,
    /// Bans that it only simulates, as CrowdSec does: always in shadow.
    pub simulated: AddressTable,
}

impl Default for SourceSet {
    fn default() -> Self {
        Self { listed: AddressTable::empty(), simulated: AddressTable::empty() }
    }
}

impl SourceSet {
    /// The bytes of a set of two tables.
    #[must_use]
    pub fn encode(listed: Vec<u8>, simulated: &[u8]) -> Vec<u8> {
        if simulated == AddressTable::empty().as_bytes() {
            return listed;
        }
        let length = (listed.len() as u64).to_le_bytes();
        [&TAG[..], &length, &listed, simulated].concat()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When one of the tables is none.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, FormatError> {
        let Some(rest) = bytes.strip_prefix(&TAG) else {
            return Ok(Self { listed: AddressTable::from_bytes(bytes)?, ..Self::default() });
        };
        let cut = || FormatError::Malformed("two tables that are cut off");
        let (length, tables) = rest.split_first_chunk().ok_or_else(cut)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
        let (listed, simulated) = tables.split_at_checked(length).ok_or_else(cut)?;
        Ok(Self {
            listed: AddressTable::from_bytes(listed.to_vec())?,
            simulated: AddressTable::from_bytes(simulated.to_vec())?,
        })
    }

    /// Entries of both.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listed.len().saturating_add(self.simulated.len())
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of both tables.
    pub(super) fn bytes(&self) -> usize {
        self.listed.as_bytes().len().saturating_add(self.simulated.as_bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policy::address::Prefix;
    use tidegate_policy::table::{Entry, EntryState};

    use super::*;

    fn table(last: &[u8]) -> Vec<u8> {
        let entry =
            |n: &u8| Entry { prefix: Prefix::host([192, 0, 2, *n].into()), state: EntryState::Present(None) };
        AddressTable::encode(last.iter().map(entry)).unwrap()
    }

    #[test]
    fn both_tables_are_read_as_they_were_written() {
        for (listed, simulated) in [(&[][..], &[][..]), (&[1, 2], &[]), (&[], &[3]), (&[1], &[2, 3])] {
            let bytes = SourceSet::encode(table(listed), &table(simulated));
            let read = SourceSet::from_bytes(bytes.clone()).unwrap();
            assert_eq!(
                (read.listed.as_bytes(), read.simulated.as_bytes()),
                (&table(listed)[..], &table(simulated)[..])
            );
            assert_eq!(read.len(), listed.len() + simulated.len());
            for len in 0..bytes.len() {
                assert!(SourceSet::from_bytes(bytes[..len].to_vec()).is_err(), "{len} of {}", bytes.len());
            }
        }
        let mut long = SourceSet::encode(table(&[1]), &table(&[2]));
        long[4..12].fill(0xff);
        assert!(SourceSet::from_bytes(long).is_err());
    }
}
