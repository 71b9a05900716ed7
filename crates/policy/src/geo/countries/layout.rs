//! The layout of a country table's bytes. All numbers are little-endian:
//!
//! ```text
//! header   format u8, magic [u8; 3],
//!          v4 boundaries u32, v6 boundaries u32, fine u32, countries u32
//! codes    [u8; 2]      one per country, ascending
//! v4       first u32    one per boundary, ascending
//!          place u8     one per boundary; u16 where there are over 255 countries
//! v6       first u64    upper half of each boundary, ascending
//!          place u8     as in v4
//! fine     index u32    which v6 boundaries have a lower half that is not 0
//!          lower u64    that half
//! ```
//!
//! A **boundary** is the first address of a run of one country, which ends at the next
//! boundary. Its **place** is the position of the country's code among the codes, counted
//! from 1, or 0 if the country is not known. A boundary is **fine** if it is not at the
//! beginning of a /64: of some 300,000 boundaries in a real IPv6 table one in forty.

use std::ops::Range;

use crate::codec::FormatError;
use crate::codec::MAX_TABLE;
use crate::columns::{HEADER_START, TableFormat, column};
use crate::geo::country::Country;

/// Version of the layout.
pub(crate) const COUNTRIES_FORMAT: u8 = 1;
const FORMAT: TableFormat =
    TableFormat { version: COUNTRIES_FORMAT, magic: *b"tgc", other: "not a country table" };
/// Bytes of the header.
pub(super) const HEADER: usize = HEADER_START;

/// The header's counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct CountryHeader {
    /// Boundaries of IPv4.
    pub(super) v4: u32,
    /// Boundaries of IPv6.
    pub(super) v6: u32,
    /// Boundaries of IPv6 within a /64.
    pub(super) fine: u32,
    /// Countries.
    pub(super) codes: u32,
}

impl CountryHeader {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        FORMAT.header([self.v4, self.v6, self.fine, self.codes])
    }

    /// Reads the header; does not check what follows it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        let ([v4, v6, fine, codes], _) = FORMAT.read_header(bytes)?;
        Ok(Self { v4, v6, fine, codes })
    }
}

/// The ranges of the columns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CountryLayout {
    codes: Range<usize>,
    v4: Columns,
    v6: Columns,
    fine_index: Range<usize>,
    fine_lower: Range<usize>,
    /// Bytes of a place.
    place: usize,
    /// Bytes of the whole table.
    pub(super) len: usize,
}

/// The ranges of the columns of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Columns {
    firsts: Range<usize>,
    places: Range<usize>,
}

impl CountryLayout {
    /// The layout of a table of this shape.
    ///
    /// # Errors
    /// When it would be longer than [`MAX_TABLE`].
    pub(super) fn new(header: &CountryHeader) -> Result<Self, FormatError> {
        let layout = Self::of(header);
        if layout.len > MAX_TABLE {
            return Err(FormatError::TooLong { len: layout.len, max: MAX_TABLE });
        }
        Ok(layout)
    }

    /// That of [`CountryHeader::default`].
    pub(super) fn empty() -> Self {
        Self::of(&CountryHeader::default())
    }

    /// Saturates on overflow, which [`new`](Self::new) refuses.
    fn of(header: &CountryHeader) -> Self {
        let column = |start: usize, count: u32, width: usize| column(start, count as usize, width);
        let place = if header.codes > u32::from(u8::MAX) { 2 } else { 1 };
        let family = |start: usize, count: u32, width: usize| {
            let firsts = column(start, count, width);
            Columns { places: column(firsts.end, count, place), firsts }
        };
        let codes = column(HEADER, header.codes, 2);
        let v4 = family(codes.end, header.v4, 4);
        let v6 = family(v4.places.end, header.v6, 8);
        let fine_index = column(v6.places.end, header.fine, 4);
        let fine_lower = column(fine_index.end, header.fine, 8);
        let len = fine_lower.end;
        Self { codes, v4, v6, fine_index, fine_lower, place, len }
    }
}

/// The columns, to be read and searched in place. Never reads outside of the bytes; what
/// it finds is right only if they were checked.
#[derive(Clone, Copy)]
pub(super) struct CountryView<'t> {
    codes: &'t [[u8; 2]],
    v4_firsts: &'t [[u8; 4]],
    v4_places: Places<'t>,
    v6_firsts: &'t [[u8; 8]],
    v6_places: Places<'t>,
    fine_index: &'t [[u8; 4]],
    fine_lower: &'t [[u8; 8]],
}

/// A column of places among the codes.
#[derive(Clone, Copy)]
enum Places<'t> {
    Narrow(&'t [u8]),
    Wide(&'t [[u8; 2]]),
}

impl<'t> CountryView<'t> {
    /// The columns as `layout` places them in `bytes`.
    pub(super) fn new(bytes: &'t [u8], layout: &CountryLayout) -> Self {
        let column = |range: &Range<usize>| bytes.get(range.clone()).unwrap_or_default();
        let places = |columns: &Columns| match layout.place {
            1 => Places::Narrow(column(&columns.places)),
            _ => Places::Wide(column(&columns.places).as_chunks().0),
        };
        Self {
            codes: column(&layout.codes).as_chunks().0,
            v4_firsts: column(&layout.v4.firsts).as_chunks().0,
            v4_places: places(&layout.v4),
            v6_firsts: column(&layout.v6.firsts).as_chunks().0,
            v6_places: places(&layout.v6),
            fine_index: column(&layout.fine_index).as_chunks().0,
            fine_lower: column(&layout.fine_lower).as_chunks().0,
        }
    }

    /// The country at a place among the codes.
    pub(super) fn country(&self, place: u16) -> Option<Country> {
        Country::new(self.codes.get(usize::from(place).checked_sub(1)?)?)
    }

    /// The country of an IPv4 address.
    pub(super) fn find_v4(&self, address: u32) -> Option<Country> {
        let begun = self.v4_firsts.partition_point(|first| u32::from_le_bytes(*first) <= address);
        self.country(self.v4_places.get(begun.checked_sub(1)?)?)
    }

    /// The country of an IPv6 address.
    pub(super) fn find_v6(&self, address: u128) -> Option<Country> {
        self.country(self.v6_places.get(self.boundaries_upto_v6(address).checked_sub(1)?)?)
    }

    /// How many IPv6 boundaries are at or before `address`.
    fn boundaries_upto_v6(&self, address: u128) -> usize {
        let (upper, lower) = halves(address);
        let end = self.v6_firsts.partition_point(|first| u64::from_le_bytes(*first) <= upper);
        let begun = self.v6_firsts.get(..end).unwrap_or_default();
        if begun.last().is_none_or(|last| u64::from_le_bytes(*last) < upper) {
            return end;
        }
        // The boundaries in the address's own /64: all but one at its first address are
        // fine, so they are adjacent in the fine columns too.
        let start = begun.partition_point(|first| u64::from_le_bytes(*first) < upper);
        let fine_before = |boundary| {
            self.fine_index.partition_point(|index| (u32::from_le_bytes(*index) as usize) < boundary)
        };
        let fine = self.fine_lower.get(fine_before(start)..fine_before(end)).unwrap_or_default();
        let after = fine.partition_point(|fine| u64::from_le_bytes(*fine) <= lower);
        end.saturating_sub(fine.len()).saturating_add(after)
    }

    /// The codes.
    pub(super) fn codes(&self) -> &'t [[u8; 2]] {
        self.codes
    }

    /// Boundary `i` of IPv4: its address and its place.
    pub(super) fn v4(&self, i: usize) -> Option<(u128, u16)> {
        Some((u32::from_le_bytes(*self.v4_firsts.get(i)?).into(), self.v4_places.get(i)?))
    }

    /// Upper half and place of boundary `i` of IPv6.
    pub(super) fn v6(&self, i: usize) -> Option<(u64, u16)> {
        Some((u64::from_le_bytes(*self.v6_firsts.get(i)?), self.v6_places.get(i)?))
    }

    /// The fine boundary `i`: its index among all IPv6 boundaries, and its lower half.
    pub(super) fn fine(&self, i: usize) -> Option<(u32, u64)> {
        let index = u32::from_le_bytes(*self.fine_index.get(i)?);
        Some((index, u64::from_le_bytes(*self.fine_lower.get(i)?)))
    }
}

impl Places<'_> {
    fn get(&self, i: usize) -> Option<u16> {
        match self {
            Self::Narrow(places) => places.get(i).map(|place| u16::from(*place)),
            Self::Wide(places) => places.get(i).map(|place| u16::from_le_bytes(*place)),
        }
    }
}

/// An address's upper and lower half.
pub(super) fn halves(address: u128) -> (u64, u64) {
    ((address >> 64) as u64, address as u64)
}
