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

mod admin_client;
pub mod config;
mod direct;
pub mod filter;
pub mod host;
pub mod http_context;
pub mod metrics;
pub mod record;
mod request;
pub mod root_context;
pub mod sync;
pub mod worker;

#[cfg(target_arch = "wasm32")]
mod entry {
    use crate::{host::Envoy, root_context::PluginRoot, worker::Worker};

    // Shared by all contexts of a VM.
    thread_local!(static WORKER: std::rc::Rc<Worker<Envoy>> = Worker::new(Envoy));

    proxy_wasm::main! {{
        proxy_wasm::set_root_context(|id| Box::new(PluginRoot::new(WORKER.with(Clone::clone), id)));
    }}
}
