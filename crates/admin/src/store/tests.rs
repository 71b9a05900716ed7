//! What every [`Store`](super::Store) must do, whichever database is behind it.
//! Tests that need the file, or another program at it, are in `sqlite/tests`.

mod audit;
mod contract;
mod recording;
pub(super) mod support;
