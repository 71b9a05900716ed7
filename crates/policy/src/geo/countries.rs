//! The country table. The bytes that the admin service sends are checked once, and then
//! searched in place.

mod check;
mod layout;
mod search;
#[cfg(test)]
mod tests;
mod write;

pub use check::CountryCheck;
pub(crate) use layout::COUNTRIES_FORMAT;
pub use search::{CountryRange, CountryTable};
