//! From the admin service to a snapshot that can be published: the work of the holder
//! of the lease.

pub mod acks;
pub mod apply_answer;
pub mod calls;
mod fold_bans;
pub mod lease_holder;
