//! The layout of an address table's bytes. All numbers are little-endian:
//!
//! ```text
//! header   format u8, magic [u8; 3],
//!          v4 entries u32, v4 expiring u32, v6 entries u32, v6 expiring u32,
//!          digest sum u128
//! family   first addresses   u32 | u128       one per entry, ascending by (address, length)
//!          anchors           u32              one per block of 16 entries
//!          metas             u8  | u16        one per entry: length and flags
//!          expiries          u32              one per entry, only when some entry expires
//! ```
//!
//! v4, then v6. In this order an entry comes right before the entries that it covers. So
//! all entries that cover another one come before it, and a walk backwards, up to one that
//! no entry covers, finds them longest first. The anchor of a block is the index of the
//! entry that covers the block's first one most closely, which keeps that walk to a few
//! blocks. A v4 entry takes 5.25 bytes, 9.25 with an expiry.

use std::ops::Range;

use super::entry::Entry;
use crate::address::Prefix;
use crate::codec::{FormatError, MAX_BAN_BASE};
use crate::columns::{TableFormat, column, number_at, put_number};

/// Version of the layout.
pub(crate) const TABLE_FORMAT: u8 = 1;
const FORMAT: TableFormat =
    TableFormat { version: TABLE_FORMAT, magic: *b"tga", other: "not an address table" };
/// Bytes of the header.
pub(super) const HEADER: usize = 36;
/// Entries per anchor.
pub(super) const BLOCK: usize = 16;
/// The anchor of a block whose first entry no other covers.
pub(super) const NO_PARENT: u32 = u32::MAX;

/// How many entries there are, which gives the columns' sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shape {
    pub(super) v4: Count,
    pub(super) v6: Count,
}

/// Entries of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Count {
    pub(super) entries: u32,
    pub(super) expiring: u32,
}

impl Shape {
    /// Counts `entry` in.
    pub(crate) fn insert(&mut self, entry: &Entry) {
        let count = self.family(&entry.prefix);
        count.entries = count.entries.saturating_add(1);
        count.expiring = count.expiring.saturating_add(u32::from(entry.state.expiry_column() != 0));
    }

    /// Counts `entry` out.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        let count = self.family(&entry.prefix);
        count.entries = count.entries.saturating_sub(1);
        count.expiring = count.expiring.saturating_sub(u32::from(entry.state.expiry_column() != 0));
    }

    /// That many entries of each family, of which some expire.
    pub(super) fn expiring(v4: usize, v6: usize) -> Self {
        let count = |entries| Count { entries: u32::try_from(entries).unwrap_or(u32::MAX), expiring: 1 };
        Self { v4: count(v4), v6: count(v6) }
    }

    /// Entries of both families.
    pub(super) fn entries(&self) -> usize {
        (self.v4.entries as usize).saturating_add(self.v6.entries as usize)
    }

    fn family(&mut self, prefix: &Prefix) -> &mut Count {
        if prefix.as_v4().is_some() { &mut self.v4 } else { &mut self.v6 }
    }
}

/// The header's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TableHeader {
    pub(super) shape: Shape,
    /// Sum of the set digest over the entries that are present.
    pub(super) sum: u128,
}

impl TableHeader {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let Shape { v4, v6 } = self.shape;
        let start = FORMAT.header([v4.entries, v4.expiring, v6.entries, v6.expiring]);
        bytes
            .iter_mut()
            .zip(start.into_iter().chain(self.sum.to_le_bytes()))
            .for_each(|(to, byte)| *to = byte);
        bytes
    }

    /// Reads the header; does not check what follows it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        let ([v4_entries, v4_expiring, v6_entries, v6_expiring], rest) = FORMAT.read_header(bytes)?;
        let sum = rest.first_chunk().ok_or(FormatError::Malformed("table header cut short"))?;
        let v4 = Count { entries: v4_entries, expiring: v4_expiring };
        let v6 = Count { entries: v6_entries, expiring: v6_expiring };
        Ok(Self { shape: Shape { v4, v6 }, sum: u128::from_le_bytes(*sum) })
    }
}

/// The ranges of the columns of both families.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TableLayout {
    pub(super) v4: FamilyColumns,
    pub(super) v6: FamilyColumns,
    /// Bytes of the whole table.
    pub(super) len: usize,
}

/// The ranges of the columns of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FamilyColumns {
    pub(super) addresses: Range<usize>,
    pub(super) anchors: Range<usize>,
    pub(super) metas: Range<usize>,
    pub(super) expiries: Range<usize>,
}

impl TableLayout {
    /// The layout of a table of this shape.
    ///
    /// # Errors
    /// When it would be longer than [`MAX_BAN_BASE`], the longest table of addresses.
    pub(super) fn new(shape: &Shape) -> Result<Self, FormatError> {
        let layout = Self::unbounded(shape);
        match layout.len {
            len if len > MAX_BAN_BASE => Err(FormatError::TooLong { len, max: MAX_BAN_BASE }),
            _ => Ok(layout),
        }
    }

    /// The layout of a table of this shape, however long.
    pub(super) fn unbounded(shape: &Shape) -> Self {
        let v4 = FamilyColumns::after::<V4>(HEADER, &shape.v4);
        let v6 = FamilyColumns::after::<V6>(v4.expiries.end, &shape.v6);
        let len = v6.expiries.end;
        Self { v4, v6, len }
    }
}

impl FamilyColumns {
    /// Those of no entries.
    pub(super) fn empty(at: usize) -> Self {
        Self { addresses: at..at, anchors: at..at, metas: at..at, expiries: at..at }
    }

    /// Saturates on overflow, which [`TableLayout::new`] refuses.
    fn after<F: Family>(start: usize, count: &Count) -> Self {
        let entries = count.entries as usize;
        let addresses = column(start, entries, F::ADDRESS_BYTES);
        let anchors = column(addresses.end, entries.div_ceil(BLOCK), 4);
        let metas = column(anchors.end, entries, F::META_BYTES);
        let expiries = column(metas.end, if count.expiring == 0 { 0 } else { entries }, 4);
        Self { addresses, anchors, metas, expiries }
    }
}

/// The meta column of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meta {
    pub(super) len: u8,
    /// Another entry covers this one.
    pub(super) nested: bool,
    pub(super) absent: bool,
}

/// What differs between IPv4 and IPv6.
pub(super) trait Family: Copy {
    type Address: Copy + Ord;
    const ADDRESS_BYTES: usize;
    const META_BYTES: usize;
    /// The ranges of the family's columns.
    fn columns(layout: &TableLayout) -> &FamilyColumns;
    /// The first address of entry `i`.
    fn address(column: &[u8], i: usize) -> Option<Self::Address>;
    /// Writes the first address of entry `i`; `None` if the column is too short.
    fn put_address(column: &mut [u8], i: usize, address: Self::Address) -> Option<()>;
    /// Length and flags of entry `i`; `None` also when unknown bits are set.
    fn meta(column: &[u8], i: usize) -> Option<Meta>;
    /// Writes length and flags of entry `i`.
    fn put_meta(column: &mut [u8], i: usize, meta: Meta) -> Option<()>;
    /// How many entries begin at or before `address`.
    fn count_upto(column: &[u8], address: Self::Address) -> usize;
    /// `address` without what follows its first `len` bits.
    fn network(address: Self::Address, len: u8) -> Self::Address;
    /// The prefix, when `address` and `len` are its canonical form.
    fn prefix(address: Self::Address, len: u8) -> Option<Prefix>;
}

/// IPv4. Meta: bits 0 to 5 length, 6 nested, 7 absent.
#[derive(Clone, Copy)]
pub(super) struct V4;

/// IPv6. Meta: bits 0 to 7 length, 8 nested, 9 absent.
#[derive(Clone, Copy)]
pub(super) struct V6;

impl Family for V4 {
    type Address = u32;
    const ADDRESS_BYTES: usize = 4;
    const META_BYTES: usize = 1;

    fn columns(layout: &TableLayout) -> &FamilyColumns {
        &layout.v4
    }

    fn address(column: &[u8], i: usize) -> Option<u32> {
        number_at(column, i)
    }

    fn put_address(column: &mut [u8], i: usize, address: u32) -> Option<()> {
        put_number(column, i, address)
    }

    fn meta(column: &[u8], i: usize) -> Option<Meta> {
        let &raw = column.get(i)?;
        Some(Meta { len: raw & 0x3f, nested: raw & 0x40 != 0, absent: raw & 0x80 != 0 })
    }

    fn put_meta(column: &mut [u8], i: usize, meta: Meta) -> Option<()> {
        let flags = u8::from(meta.nested) << 6 | u8::from(meta.absent) << 7;
        *column.get_mut(i)? = meta.len & 0x3f | flags;
        Some(())
    }

    fn count_upto(column: &[u8], address: u32) -> usize {
        column.as_chunks().0.partition_point(|first| u32::from_le_bytes(*first) <= address)
    }

    fn network(address: u32, len: u8) -> u32 {
        let host_bits = 32u32.saturating_sub(u32::from(len));
        address & u32::MAX.checked_shl(host_bits).unwrap_or(0)
    }

    fn prefix(address: u32, len: u8) -> Option<Prefix> {
        Prefix::v4(address, len).filter(|prefix| prefix.as_v4() == Some((address, len)))
    }
}

impl Family for V6 {
    type Address = u128;
    const ADDRESS_BYTES: usize = 16;
    const META_BYTES: usize = 2;

    fn columns(layout: &TableLayout) -> &FamilyColumns {
        &layout.v6
    }

    fn address(column: &[u8], i: usize) -> Option<u128> {
        column.as_chunks().0.get(i).map(|bytes| u128::from_le_bytes(*bytes))
    }

    fn put_address(column: &mut [u8], i: usize, address: u128) -> Option<()> {
        *column.as_chunks_mut().0.get_mut(i)? = address.to_le_bytes();
        Some(())
    }

    fn meta(column: &[u8], i: usize) -> Option<Meta> {
        let &[len, flags] = column.as_chunks().0.get(i)?;
        (flags <= 3).then_some(Meta { len, nested: flags & 1 != 0, absent: flags & 2 != 0 })
    }

    fn put_meta(column: &mut [u8], i: usize, meta: Meta) -> Option<()> {
        let flags = u8::from(meta.nested) | u8::from(meta.absent) << 1;
        *column.as_chunks_mut().0.get_mut(i)? = [meta.len, flags];
        Some(())
    }

    fn count_upto(column: &[u8], address: u128) -> usize {
        column.as_chunks().0.partition_point(|first| u128::from_le_bytes(*first) <= address)
    }

    fn network(address: u128, len: u8) -> u128 {
        let host_bits = 128u32.saturating_sub(u32::from(len));
        address & u128::MAX.checked_shl(host_bits).unwrap_or(0)
    }

    fn prefix(address: u128, len: u8) -> Option<Prefix> {
        Prefix::v6(address, len).filter(|prefix| prefix.as_v6() == Some((address, len)))
    }
}

/// The entries that cover the current one, while a family's entries are read in order.
pub(super) struct Nesting<F: Family> {
    /// First address, length and index of each: each covers the next. At most one per
    /// prefix length. The last is the entry before.
    open: Vec<(F::Address, u8, u32)>,
    /// Entries so far.
    pub(super) entered: u32,
}

impl<F: Family> Default for Nesting<F> {
    fn default() -> Self {
        Self { open: Vec::new(), entered: 0 }
    }
}

impl<F: Family> Nesting<F> {
    /// Goes on to the next entry; the index of the entry that covers it most
    /// closely.
    ///
    /// # Errors
    /// When it does not come after the entry before.
    pub(super) fn enter(&mut self, address: F::Address, len: u8) -> Result<Option<u32>, FormatError> {
        if self.open.last().is_some_and(|&(last, last_len, _)| (last, last_len) >= (address, len)) {
            return Err(FormatError::Malformed("entries out of order or repeated"));
        }
        while self.open.pop_if(|(outer, outer_len, _)| F::network(address, *outer_len) != *outer).is_some() {}
        let parent = self.open.last().map(|&(_, _, index)| index);
        self.open.push((address, len, self.entered));
        self.entered = self.entered.saturating_add(1);
        Ok(parent)
    }
}
