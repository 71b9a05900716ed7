//! From shared data to the tables in force: read, verify, decode, swap.

pub mod decode_table;
pub mod read_published;
pub mod snapshot_load;
pub mod table_loader;
