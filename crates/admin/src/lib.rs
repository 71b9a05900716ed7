//! The admin service: API, store, sync feed, event ingest and command line.

pub mod api;
pub mod auth;
pub mod auto_bans;
mod ban_lists;
pub mod cli;
pub mod feed;
pub mod finding;
pub mod gateways;
pub mod geo;
mod lock;
pub mod manifest;
pub mod metrics;
pub mod problem;
pub mod protected_networks;
pub mod rollouts;
pub mod sample_difference;
pub mod serve;
pub mod sources;
pub mod store;
pub mod time;
