//! Whole scenarios over the emulated host: gateways, the service and the network between
//! them, as Envoy cannot be made to play them.

mod bodies;
mod chaos;
mod countries;
mod direct;
mod equality;
mod geo;
mod limits;
mod listeners;
mod publish;
mod record;
mod recorder;
mod shadow;
mod shadow_entries;
mod sync;
mod sync_recording;
