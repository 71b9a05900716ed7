//! The file and everybody who writes it: other programs, the disk, the clock, and
//! the end of a process.

mod crash;
mod files;
mod foreign;
mod housekeeping;
mod ledger;
mod locks;
mod open_events;
mod support;
