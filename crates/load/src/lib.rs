//! Thousands of gateways in one process: each holds its own long poll, downloads what it lacks and acks what it
//! enforces, over the feed that Envoy's filter speaks. There is no Envoy and there are no requests. What it measures is
//! the admin service: how soon the last gateway enforces a ban, and the service's memory and processor time.

pub mod gateways;
mod report;
mod service;
mod steps;

pub use steps::{Figures, GatewaysArgs, run};
