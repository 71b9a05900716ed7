//! The whole of Tidegate on one machine: the admin service, Envoy with the filter,
//! and backends, started and waited for. `cargo xtask up`, the tests on a real
//! Envoy and the benchmarks all start it through [`Stack`], from the one
//! configuration in `envoy/envoy.yaml`.

pub mod backend;
pub mod chance;
pub mod compose;
pub mod doctor;
pub mod envoy;
pub mod envoy_gateway;
pub mod faults;
pub mod flood;
pub mod global_limit;
pub mod hasty;
pub mod http;
pub mod http2;
pub mod istio;
pub mod load;
pub mod measure;
pub mod module;
pub mod operator;
mod options;
pub mod page;
pub mod ports;
pub mod process;
pub mod programs;
pub mod prometheus;
pub mod render;
pub mod rolling;
mod served;
pub mod sql;
mod stack;
pub mod stats;
mod tokens;
pub mod verbatim;
pub mod wait;
pub mod xds;

pub use options::{Control, Demo, FlagsAtStart, NamedBackend, Options};
pub use ports::{PortChoice, Ports};
pub use programs::Programs;
pub use render::{Trust, Upstream};
pub use stack::{Stack, Started};
