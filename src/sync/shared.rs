//! What the VMs of a process share, and its layout in shared data: keys, lease, slots,
//! manifest and chunks of tables, wake-up queues.

pub mod keys;
pub mod lease;
pub mod manifest;
pub mod service_clock;
pub mod slots;
pub mod wake;
