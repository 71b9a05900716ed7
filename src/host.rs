//! The host: what Envoy can do for a VM. The trait and its types are a crate of their own
//! (`crates/host`), so that the emulator does not depend on the filter.

pub use tidegate_host::*;

#[cfg(target_arch = "wasm32")]
pub mod envoy;
#[cfg(test)]
pub(crate) mod fake;
pub mod header_map;
