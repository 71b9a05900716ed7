//! The whole of Tidegate on one machine: the admin service, Envoy with the filter,
//! and backends, started and waited for. `cargo xtask up`, the tests on a real
//! Envoy and the benchmarks all start it through [`Stack`], from the one
//! configuration in `envoy/envoy.yaml`.

pub mod chromium;
pub mod compose;
pub mod envoy;
pub mod faults;
pub mod flood;
pub mod http;
pub mod list_server;
pub mod load;
pub mod operator;
mod options;
pub mod page;
pub mod ports;
pub mod process;
pub mod programs;
pub mod prometheus;
pub mod render;
pub mod rolling;
pub mod sql;
mod stack;
pub mod stats;
mod switches;
mod tokens;
pub mod wait;

pub use options::{Control, FlagsAtStart, NamedBackend, Options};
pub use ports::{PortChoice, Ports, ReservedPorts};
pub use programs::Programs;
pub use render::{Trust, Upstream};
pub use stack::{Stack, Started, start_service};
