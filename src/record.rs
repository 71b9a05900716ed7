//! Events of requests, on their way to the admin service: each VM's buffer, the
//! process's queue, and the recorder that drains the queue and posts.

pub mod buffer;
pub mod queue;
pub mod recorder;
