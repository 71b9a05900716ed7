//! The file and everybody who writes it: other programs, the disk, the clock, and
//! the end of a process.

mod crash;
mod files;
mod foreign;
mod keeping;
mod ledger;
mod locks;
mod opens;
mod speed;
mod support;
mod upgrade;
