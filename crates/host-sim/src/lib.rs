//! A stateful emulator of the proxy-wasm host: several VMs of one Envoy process
//! that share data, queues and metrics, driven by a test that moves the clock.
//!
//! It does what Envoy will not do on demand: it stalls a worker, lets a callout fail or
//! get lost, drops a root context during its poll, traps a VM at a given host call. It
//! emulates behaviour seen on Envoy 1.40, noted where it matters; the important scenarios
//! run on a real Envoy as well.
//!
//! * [`Sim`] is the process: workers, roots, time, requests, callouts. It drives the
//!   contexts of a [`Module`], as proxy-wasm's dispatcher does.
//! * [`SimHost`] is the host of one VM in it; [`SimHost::alone`] a single VM for unit tests.
//! * [`Feed`] emulates the admin service and answers callouts.
//! * [`Testbed`] is a process with gates and such a service.
//!
//! Nothing happens by itself: [`Sim::settle`] delivers what is due now,
//! [`Sim::advance`] moves the clock. Time stands still inside a callback.

mod alone;
mod feed;
mod host;
mod imports;
mod observe;
mod phase;
mod process;
pub mod random;
mod requests;
mod rng;
mod stream;
mod testbed;
mod world;

pub use feed::{Fault, Feed, LastingFault, Order, empty_routes};
pub use host::SimHost;
pub use process::{Module, NewRoot, Root, Sim, Worker};
pub use rng::TestRng;
pub use stream::{Done, Request, Response, StreamId, Waits};
pub use testbed::{CONFIG, Testbed};
pub use world::{CallId, CallView};
