//! How values are written on pages.

pub mod country;
pub mod number;
pub mod sentence;
pub mod shell;
pub mod text;
pub mod time;
