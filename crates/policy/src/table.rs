//! Address tables: the bytes on the wire are the table in memory. Checked once,
//! then searched in place.

mod addresses;
mod check;
mod entry;
mod layout;
mod view;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub use addresses::AddressTable;
pub use check::TableCheck;
pub use entry::{Entry, EntryState, entry_bytes};
pub(crate) use layout::Shape;
pub(crate) use layout::TABLE_FORMAT;
pub(crate) use write::Writer;
