//! From a request's event to the admin service: each VM's buffer, the process's shared
//! queue, and the recorder, which drains the queue and posts the events.

pub mod buffer;
pub mod queue;
pub mod recorder;
