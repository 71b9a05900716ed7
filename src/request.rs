//! The parts of handling one request: facts, evaluation of the checks, limits, actions,
//! replies, and the event. `http_context.rs` calls them in order.

pub mod accept;
pub mod access_log;
pub mod actions;
pub mod bodies;
pub mod cluster_names;
pub mod descriptors;
pub mod evaluation;
pub mod event;
pub mod facts;
mod flag_modes;
mod forwarded_for;
pub mod limiter;
pub mod limits;
pub mod listener;
pub mod outcome;
pub mod passes;
pub mod path_parameters;
pub mod performance;
pub mod recording;
pub mod reply;
pub mod shadow;
pub mod upstream;
