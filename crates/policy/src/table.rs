//! Address tables. The bytes that the admin service sends are checked once, and then
//! searched in place.

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
