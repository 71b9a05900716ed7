//! Tables of columns: bytes that are checked once and then searched in place. A table
//! begins with the version of its format, three bytes that identify the kind of table, and
//! four counts; the rest of its header and the columns follow without gaps. All numbers
//! are little-endian.

use std::ops::Range;

use crate::codec::FormatError;

/// Bytes of the part of the header that all kinds of tables have.
pub(crate) const HEADER_START: usize = 20;

/// A format of a table.
pub(crate) struct TableFormat {
    /// Its version.
    pub version: u8,
    /// The kind of table.
    pub magic: [u8; 3],
    /// The error for bytes of another kind.
    pub other: &'static str,
}

impl TableFormat {
    /// The beginning of the header.
    pub fn header(&self, counts: [u32; 4]) -> [u8; HEADER_START] {
        let mut bytes = [0; HEADER_START];
        let counts = counts.into_iter().flat_map(u32::to_le_bytes);
        let fields = [self.version].into_iter().chain(self.magic).chain(counts);
        bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        bytes
    }

    /// The counts, and the bytes that follow them.
    ///
    /// # Errors
    /// When the bytes are another table's, of another version, or cut short.
    pub fn read_header<'t>(&self, bytes: &'t [u8]) -> Result<([u32; 4], &'t [u8]), FormatError> {
        let &found = bytes.first().ok_or(FormatError::Malformed("empty"))?;
        if found != self.version {
            return Err(FormatError::Version { found, known: self.version });
        }
        if bytes.get(1..4) != Some(&self.magic) {
            return Err(FormatError::Malformed(self.other));
        }
        let short = FormatError::Malformed("table header cut short");
        let (counts, rest) = bytes.get(4..).and_then(|rest| rest.split_at_checked(16)).ok_or(short)?;
        let count = |i| number_at(counts, i).unwrap_or(0);
        Ok(([count(0), count(1), count(2), count(3)], rest))
    }
}

/// The range of a column that begins at `start`. Saturates on overflow: such a table is
/// too long in any case.
pub(crate) fn column(start: usize, count: usize, width: usize) -> Range<usize> {
    start..start.saturating_add(count.saturating_mul(width))
}

/// The `i`-th number of a column of 32-bit numbers.
pub(crate) fn number_at(column: &[u8], i: usize) -> Option<u32> {
    column.as_chunks().0.get(i).map(|bytes| u32::from_le_bytes(*bytes))
}

/// Writes the `i`-th number of a column of 32-bit numbers.
pub(crate) fn put_number(column: &mut [u8], i: usize, number: u32) -> Option<()> {
    *column.as_chunks_mut().0.get_mut(i)? = number.to_le_bytes();
    Some(())
}
