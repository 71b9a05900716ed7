//! Writing a table, entry by entry, straight into its final bytes.

use super::addresses::AddressTable;
use super::entry::{Entry, EntryState, entry_bytes};
use super::layout::{
    BLOCK, Family, HEADER, Meta, NO_PARENT, Nesting, Shape, TableHeader, TableLayout, V4, V6,
};
use crate::codec::FormatError;
use crate::columns::put_number;
use crate::digest::SetDigest;

impl AddressTable {
    /// Writes a table of `entries`, which are in the order of
    /// [`Prefix`](crate::address::Prefix) without repeats. The same entries always give the
    /// same bytes: 5.25 bytes per IPv4 entry and 18.25 per IPv6 entry, and 4 more each if
    /// any of the family expires. An expiry at second 0 is kept as one at second 1.
    ///
    /// # Errors
    /// When they are out of order, repeated, or too many.
    pub fn encode(entries: impl Iterator<Item = Entry> + Clone) -> Result<Vec<u8>, FormatError> {
        let mut shape = Shape::default();
        entries.clone().for_each(|entry| shape.insert(&entry));
        let mut writer = Writer::new(shape)?;
        for entry in entries {
            writer.push(&entry)?;
        }
        writer.finish()
    }
}

/// A table of known shape that is being written.
pub(crate) struct Writer {
    bytes: Vec<u8>,
    shape: Shape,
    written: Shape,
    layout: TableLayout,
    v4: Nesting<V4>,
    v6: Nesting<V6>,
    digest: SetDigest,
}

const NO_ROOM: FormatError = FormatError::Malformed("more entries than were counted");

impl Writer {
    /// Begins a table of exactly this shape.
    ///
    /// # Errors
    /// When it would be too long.
    pub(crate) fn new(shape: Shape) -> Result<Self, FormatError> {
        let layout = TableLayout::new(&shape)?;
        Ok(Self {
            bytes: vec![0; layout.len],
            shape,
            written: Shape::default(),
            layout,
            v4: Nesting::default(),
            v6: Nesting::default(),
            digest: SetDigest::default(),
        })
    }

    /// Writes the next entry.
    ///
    /// # Errors
    /// When it does not come after the one before, or was not counted in.
    pub(crate) fn push(&mut self, entry: &Entry) -> Result<(), FormatError> {
        if let Some((address, len)) = entry.prefix.as_v4() {
            if self.v6.entered > 0 {
                return Err(FormatError::Malformed("entries out of order or repeated"));
            }
            put(&mut self.bytes, &self.layout, &mut self.v4, (address, len), entry.state)?;
        } else if let Some((address, len)) = entry.prefix.as_v6() {
            put(&mut self.bytes, &self.layout, &mut self.v6, (address, len), entry.state)?;
        }
        self.written.insert(entry);
        if let EntryState::Present(expires) = entry.state {
            self.digest.insert(&entry_bytes(&entry.prefix, expires));
        }
        Ok(())
    }

    /// The table's bytes.
    ///
    /// # Errors
    /// When the entries written are not those that were counted.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, FormatError> {
        if self.written != self.shape {
            return Err(FormatError::Malformed("other entries than were counted"));
        }
        let header = TableHeader { shape: self.shape, sum: self.digest.sum };
        self.bytes.get_mut(..HEADER).ok_or(NO_ROOM)?.copy_from_slice(&header.to_bytes());
        Ok(self.bytes)
    }
}

fn put<F: Family>(
    bytes: &mut [u8],
    layout: &TableLayout,
    nesting: &mut Nesting<F>,
    (address, len): (F::Address, u8),
    state: EntryState,
) -> Result<(), FormatError> {
    let columns = F::columns(layout);
    let i = nesting.entered as usize;
    let parent = nesting.enter(address, len)?;
    let meta = Meta { len, nested: parent.is_some(), absent: state == EntryState::Absent };
    let mut write = || {
        F::put_address(bytes.get_mut(columns.addresses.clone())?, i, address)?;
        F::put_meta(bytes.get_mut(columns.metas.clone())?, i, meta)?;
        if i.is_multiple_of(BLOCK) {
            let anchor = parent.unwrap_or(NO_PARENT);
            put_number(bytes.get_mut(columns.anchors.clone())?, i / BLOCK, anchor)?;
        }
        if state.expiry_column() != 0 {
            put_number(bytes.get_mut(columns.expiries.clone())?, i, state.expiry_column())?;
        }
        Some(())
    };
    write().ok_or(NO_ROOM)
}
