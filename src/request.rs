//! What one request goes through: facts, evaluation of the checks, the verdict and
//! what Envoy is told of it, and the event. `http_context.rs` has the order.

pub mod access_log;
pub mod actions;
pub mod cluster_names;
pub mod descriptors;
pub mod evaluation;
pub mod event;
pub mod facts;
pub mod limiter;
pub mod limits;
pub mod outcome;
pub mod performance;
pub mod recording;
pub mod reply;
pub mod shadow;
pub mod upstream;
