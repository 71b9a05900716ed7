//! Checking a table's bytes in steps. What this accepts is exactly what
//! [`Writer`](super::write::Writer) writes for some entries, so whatever a search
//! relies on holds.

use std::sync::Arc;

use super::addresses::AddressTable;
use super::entry::entry_bytes;
use super::layout::{BLOCK, Family, NO_PARENT, Nesting, TableHeader, TableLayout, V4, V6};
use super::view::FamilyView;
use crate::codec::FormatError;
use crate::digest::SetDigest;

impl AddressTable {
    /// Checks and takes `bytes` in one go; see [`TableCheck`] for doing so in steps.
    ///
    /// # Errors
    /// When the bytes are not a table.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, FormatError> {
        let table = TableCheck::new(bytes)?.step(usize::MAX)?;
        table.ok_or(FormatError::Malformed("table cut short"))
    }
}

/// A check of a table's bytes in steps, so that a worker's requests need not wait for 12 MB.
pub struct TableCheck {
    bytes: Arc<Vec<u8>>,
    header: TableHeader,
    layout: TableLayout,
    v4: FamilyCheck<V4>,
    v6: FamilyCheck<V6>,
    digest: SetDigest,
}

/// How far one family is checked.
struct FamilyCheck<F: Family> {
    nesting: Nesting<F>,
    expiring: u32,
}

impl TableCheck {
    /// Begins; reads the header only.
    ///
    /// # Errors
    /// When the header does not fit the bytes.
    pub fn new(bytes: impl Into<Arc<Vec<u8>>>) -> Result<Self, FormatError> {
        let bytes = bytes.into();
        let header = TableHeader::read(&bytes)?;
        let layout = TableLayout::new(&header.shape)?;
        if layout.len != bytes.len() {
            return Err(FormatError::Malformed("table length does not fit its header"));
        }
        Ok(Self {
            bytes,
            header,
            layout,
            v4: FamilyCheck { nesting: Nesting::default(), expiring: 0 },
            v6: FamilyCheck { nesting: Nesting::default(), expiring: 0 },
            digest: SetDigest::default(),
        })
    }

    /// Checks up to `entries` more (at least one, so that every call makes progress);
    /// the table once all are checked.
    ///
    /// # Errors
    /// When an entry is not what the layout says.
    pub fn step(&mut self, entries: usize) -> Result<Option<AddressTable>, FormatError> {
        let shape = self.header.shape;
        for _ in 0..entries.max(1) {
            if self.v4.nesting.entered < shape.v4.entries {
                self.v4.advance(&FamilyView::new(&self.bytes, &self.layout), &mut self.digest)?;
            } else if self.v6.nesting.entered < shape.v6.entries {
                self.v6.advance(&FamilyView::new(&self.bytes, &self.layout), &mut self.digest)?;
            } else {
                break;
            }
        }
        let entered = (self.v4.nesting.entered, self.v6.nesting.entered);
        if entered != (shape.v4.entries, shape.v6.entries) {
            return Ok(None);
        }
        self.finish().map(Some)
    }

    fn finish(&mut self) -> Result<AddressTable, FormatError> {
        let shape = self.header.shape;
        if (self.v4.expiring, self.v6.expiring) != (shape.v4.expiring, shape.v6.expiring) {
            return Err(FormatError::Malformed("number of entries that expire"));
        }
        if self.digest.sum != self.header.sum {
            return Err(FormatError::Malformed("table digest"));
        }
        Ok(AddressTable {
            bytes: self.bytes.clone(),
            shape,
            layout: self.layout.clone(),
            digest: self.digest,
        })
    }
}

impl<F: Family> FamilyCheck<F> {
    fn advance(&mut self, view: &FamilyView<'_, F>, digest: &mut SetDigest) -> Result<(), FormatError> {
        let i = self.nesting.entered as usize;
        let (address, meta) = view.raw(i).ok_or(FormatError::Malformed("flags of an entry"))?;
        let prefix = F::prefix(address, meta.len)
            .ok_or(FormatError::Malformed("a prefix that is not in its canonical form"))?;
        let parent = self.nesting.enter(address, meta.len)?;
        if meta.nested != parent.is_some() {
            return Err(FormatError::Malformed("whether an entry is covered by another"));
        }
        if i.is_multiple_of(BLOCK) && view.anchor(i / BLOCK) != Some(parent.unwrap_or(NO_PARENT)) {
            return Err(FormatError::Malformed("which entry covers another"));
        }
        let expires = view.expiry(i);
        if meta.absent && expires != 0 {
            return Err(FormatError::Malformed("an absent entry that expires"));
        }
        self.expiring = self.expiring.saturating_add(u32::from(expires != 0));
        if !meta.absent {
            digest.insert(&entry_bytes(&prefix, (expires != 0).then_some(expires)));
        }
        Ok(())
    }
}
