//! What the VMs of a process share, and where it lies in shared data: names,
//! lease, slots, manifest and pieces of tables, wake-up queues.

pub mod keys;
pub mod lease;
pub mod manifest;
pub mod slots;
pub mod wake;
