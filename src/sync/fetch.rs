//! From the admin service to a snapshot that can be published: what the holder of
//! the lease does beside what every VM does.

pub mod acks;
pub mod apply_answer;
pub mod calls;
mod fold_bans;
pub mod lease_holder;
