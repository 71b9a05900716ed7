//! What the filter and the admin service send each other. On top of everything else in
//! this crate: nothing here imports it but it.

pub mod check;
pub mod event;
pub mod formats;
pub mod sync;
