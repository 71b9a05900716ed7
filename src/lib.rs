//! Tidegate's filter: what runs inside Envoy. `docs/ARCHITECTURE.md` has the map.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable,
        clippy::arithmetic_side_effects
    )
)]
#![deny(unsafe_code)]

#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "an export is a promise that no other has its name")]
mod adapter;
mod admin_client;
pub mod config;
pub mod contexts;
mod direct;
pub mod filter;
pub mod host;
pub mod http_context;
pub mod metrics;
pub mod record;
mod request;
pub mod root;
pub mod sync;
pub mod worker;
