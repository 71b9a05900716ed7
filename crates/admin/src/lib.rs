//! The admin service: API, store, sync feed, event ingest and command line.

pub mod store;
