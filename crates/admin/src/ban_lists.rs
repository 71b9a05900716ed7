//! Lists of bans as imports and sources read them: unpacked, cut into entries, and checked.

pub mod check;
pub mod unpack;
