//! The country table: the bytes on the wire are the table in memory. Checked
//! once, then searched in place.

mod check;
mod layout;
mod search;
#[cfg(test)]
mod tests;
mod write;

pub use check::CountryCheck;
pub(crate) use layout::COUNTRIES_FORMAT;
pub use search::{CountryRange, CountryTable};
