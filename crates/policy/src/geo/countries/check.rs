//! Checking a country table's bytes in steps. What this accepts is exactly what
//! [`CountryTable::encode`] lays out for some ranges.

use std::sync::Arc;

use super::layout::{CountryHeader, CountryLayout, CountryView};
use super::search::CountryTable;
use crate::codec::FormatError;
use crate::geo::country::Country;

impl CountryTable {
    /// Checks and takes `bytes` in one go; see [`CountryCheck`] for doing so in steps.
    ///
    /// # Errors
    /// When the bytes are not a table.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, FormatError> {
        let table = CountryCheck::new(bytes)?.step(usize::MAX)?;
        table.ok_or(FormatError::Malformed("table cut short"))
    }
}

/// A check of a table's bytes in steps, so that a worker's requests need not wait for 10 MB.
pub struct CountryCheck {
    bytes: Arc<Vec<u8>>,
    header: CountryHeader,
    layout: CountryLayout,
    v4: BoundaryCheck,
    v6: BoundaryCheck,
    fine: usize,
    /// Of each country, whether a boundary names it.
    named: Vec<bool>,
}

/// How far one family is checked.
#[derive(Default)]
struct BoundaryCheck {
    boundaries: usize,
    last: Option<u128>,
    place: u16,
    ranges: usize,
}

impl CountryCheck {
    /// Begins; reads the header and the codes only.
    ///
    /// # Errors
    /// When the header does not fit the bytes, or a code is none.
    pub fn new(bytes: impl Into<Arc<Vec<u8>>>) -> Result<Self, FormatError> {
        let bytes = bytes.into();
        let header = CountryHeader::read(&bytes)?;
        let layout = CountryLayout::new(&header)?;
        if layout.len != bytes.len() {
            return Err(FormatError::Malformed("table length does not fit its header"));
        }
        let codes = CountryView::new(&bytes, &layout).codes();
        let is_code = |code: &[u8; 2]| Country::new(code).map(Country::code) == Some(*code);
        if !codes.is_sorted_by(|a, b| a < b) || !codes.iter().all(is_code) {
            return Err(FormatError::Malformed("codes of countries"));
        }
        let named = vec![false; codes.len()];
        Ok(Self {
            bytes,
            header,
            layout,
            v4: BoundaryCheck::default(),
            v6: BoundaryCheck::default(),
            fine: 0,
            named,
        })
    }

    /// Checks up to `entries` more (at least one, so that every call makes progress);
    /// the table once all are checked.
    ///
    /// # Errors
    /// When an entry is not what the layout says.
    pub fn step(&mut self, entries: usize) -> Result<Option<CountryTable>, FormatError> {
        let view = CountryView::new(&self.bytes, &self.layout);
        for _ in 0..entries.max(1) {
            if let Some((first, place)) = view.v4(self.v4.boundaries) {
                self.v4.check_next(first, place, &mut self.named)?;
            } else if let Some((upper, place)) = view.v6(self.v6.boundaries) {
                let lower = match view.fine(self.fine) {
                    Some((index, lower)) if index as usize == self.v6.boundaries => {
                        self.fine = self.fine.saturating_add(1);
                        if lower == 0 {
                            return Err(FormatError::Malformed("a fine boundary that is not fine"));
                        }
                        lower
                    }
                    _ => 0,
                };
                self.v6.check_next(u128::from(upper) << 64 | u128::from(lower), place, &mut self.named)?;
            } else {
                return self.finish().map(Some);
            }
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<CountryTable, FormatError> {
        if self.fine != self.header.fine as usize {
            return Err(FormatError::Malformed("fine boundaries out of order"));
        }
        if self.named.iter().any(|named| !named) {
            return Err(FormatError::Malformed("a country without addresses"));
        }
        let ranges = (self.v4.ranges, self.v6.ranges);
        Ok(CountryTable { bytes: self.bytes.clone(), layout: self.layout.clone(), ranges })
    }
}

impl BoundaryCheck {
    fn check_next(&mut self, first: u128, place: u16, named: &mut [bool]) -> Result<(), FormatError> {
        if self.last.is_some_and(|last| last >= first) {
            return Err(FormatError::Malformed("boundaries out of order"));
        }
        if place == self.place {
            return Err(FormatError::Malformed("a boundary at which nothing changes"));
        }
        if let Some(country) = usize::from(place).checked_sub(1) {
            *named.get_mut(country).ok_or(FormatError::Malformed("no such country"))? = true;
            self.ranges = self.ranges.saturating_add(1);
        }
        (self.last, self.place) = (Some(first), place);
        self.boundaries = self.boundaries.saturating_add(1);
        Ok(())
    }
}
