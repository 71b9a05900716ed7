//! What the filter and the admin service send each other. On top of everything else in
//! this crate: no module outside of `wire` imports it.

pub mod check;
pub mod event;
pub mod formats;
pub mod sync;
