//! Histograms of times, and what can be said of the difference between two groups of requests. Pure: no clock, no I/O,
//! and what is drawn at random is drawn from a seed.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]
#![deny(unsafe_code)]

pub mod comparison;
pub mod histogram;
pub mod interval;
mod quantile_blocks;
