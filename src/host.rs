//! The host: what Envoy can do for a VM. The trait and its types are a crate of their own
//! (`crates/host`), so that the emulator does not depend on the filter.
//!
//! Contexts call Envoy through [`Host`] only. A panic ends the VM, and with it every request on
//! that worker, and proxy-wasm's own helpers panic on statuses that they do not expect and on
//! headers that are not UTF-8 (`clippy.toml` lists those). `Host` never panics, and because the
//! contexts are generic over it, whole scenarios run natively over `crates/host-sim`.

pub use tidegate_host::*;

#[cfg(target_arch = "wasm32")]
mod envoy;
#[cfg(any(target_arch = "wasm32", test))]
#[expect(unsafe_code, reason = "exports, and the crate's own that they call")]
mod guards;
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "imports")]
mod imports;
pub mod live;

#[cfg(target_arch = "wasm32")]
pub use envoy::Envoy;
