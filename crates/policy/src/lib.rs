//! Tidegate's decisions, and the formats that its parts exchange.
//!
//! Pure: no clock, no I/O, no globals. The filter inside Envoy and the admin
//! service both decide with this code, so that an answer from the cache and an answer
//! from the database are the same.
//!
//! Imports go down, never up or in a circle: `address`, `codec`, `columns`, `digest`,
//! `duration`, `version`, `host`, `scope`, `request` and `check` at the bottom; the tables (`table`,
//! `bans`, `scoped_bans`, `flags`, `geo`, `route`, `limit`, `pages`) above them; `decide` above the tables;
//! `wire`, what gateway and admin service send each other, on top.
//!
//! Nothing here may panic on any input: most of it runs inside Envoy, where a
//! panic is an outage for every request on that worker.
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

pub mod address;
pub mod bans;
pub mod check;
pub mod codec;
mod columns;
pub mod decide;
pub mod digest;
pub mod duration;
pub mod flags;
pub mod geo;
pub mod host;
pub mod limit;
pub mod pages;
pub mod request;
pub mod route;
pub mod scope;
pub mod scoped_bans;
pub mod table;
pub mod tables;
pub mod version;
pub mod wire;

/// Seconds since the Unix epoch: the unit of an entry's expiry. An expiry with a
/// fraction is rounded **up**, so that no ban ends early.
pub type UnixSeconds = u32;
