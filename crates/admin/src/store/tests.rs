//! Tests that every implementation of [`Store`](super::Store) must pass. Tests that need the
//! file, or another program at it, are in `sqlite/tests`.

mod audit;
mod contract;
mod recording;
pub(super) mod support;
