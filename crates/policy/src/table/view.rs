//! Reading and searching the columns of one family in place.

use std::marker::PhantomData;

use super::entry::{Entry, EntryState};
use super::layout::{BLOCK, Family, Meta, NO_PARENT, TableLayout};
use crate::UnixSeconds;
use crate::columns::number_at;

/// The columns of one family.
#[derive(Clone, Copy)]
pub(super) struct FamilyView<'t, F: Family> {
    addresses: &'t [u8],
    anchors: &'t [u8],
    metas: &'t [u8],
    expiries: &'t [u8],
    family: PhantomData<F>,
}

impl<'t, F: Family> FamilyView<'t, F> {
    /// The columns as `layout` places them in `bytes`.
    pub(super) fn new(bytes: &'t [u8], layout: &TableLayout) -> Self {
        let columns = F::columns(layout);
        let column = |range: &std::ops::Range<usize>| bytes.get(range.clone()).unwrap_or_default();
        Self {
            addresses: column(&columns.addresses),
            anchors: column(&columns.anchors),
            metas: column(&columns.metas),
            expiries: column(&columns.expiries),
            family: PhantomData,
        }
    }

    /// First address and meta column of entry `i`.
    pub(super) fn raw(&self, i: usize) -> Option<(F::Address, Meta)> {
        Some((F::address(self.addresses, i)?, F::meta(self.metas, i)?))
    }

    /// The number in the expiry column; 0 when there is no such column.
    pub(super) fn expiry(&self, i: usize) -> UnixSeconds {
        number_at(self.expiries, i).unwrap_or(0)
    }

    /// The anchor of block `block`.
    pub(super) fn anchor(&self, block: usize) -> Option<u32> {
        number_at(self.anchors, block)
    }

    /// Entry `i`.
    pub(super) fn entry(&self, i: usize) -> Option<Entry> {
        let (address, meta) = self.raw(i)?;
        Some(Entry { prefix: F::prefix(address, meta.len)?, state: self.state(i, meta) })
    }

    fn state(&self, i: usize, meta: Meta) -> EntryState {
        match (meta.absent, self.expiry(i)) {
            (true, _) => EntryState::Absent,
            (false, 0) => EntryState::Present(None),
            (false, expires) => EntryState::Present(Some(expires)),
        }
    }

    /// The state of exactly this prefix. Entries with the same first address are adjacent,
    /// at most one per length.
    pub(super) fn find(&self, address: F::Address, len: u8) -> Option<EntryState> {
        let end = F::count_upto(self.addresses, address);
        for i in (0..end).rev() {
            let (first, meta) = self.raw(i)?;
            if first != address || meta.len < len {
                return None;
            }
            if meta.len == len {
                return Some(self.state(i, meta));
            }
        }
        None
    }

    /// The entries that cover `address`, longest first.
    pub(super) fn covering(self, address: F::Address) -> Walk<'t, F> {
        let at = F::count_upto(self.addresses, address).checked_sub(1);
        Walk { view: self, address, at }
    }
}

/// The walk backwards from the last entry that begins at or before an address, to all
/// that cover the address.
pub(super) struct Walk<'t, F: Family> {
    view: FamilyView<'t, F>,
    address: F::Address,
    at: Option<usize>,
}

impl<F: Family> Iterator for Walk<'_, F> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let i = self.at?;
            let (first, meta) = self.view.raw(i)?;
            // Any other entry that covers the address also covers entry `i`, so it
            // comes before `i`. An anchor is before its block (checked), so the walk
            // ends.
            self.at = match meta.nested {
                false => None,
                true if i.is_multiple_of(BLOCK) => {
                    let anchor = self.view.anchor(i / BLOCK)?;
                    (anchor != NO_PARENT).then_some(anchor as usize)
                }
                true => i.checked_sub(1),
            };
            if F::network(self.address, meta.len) == first {
                return self.view.entry(i);
            }
        }
    }
}
