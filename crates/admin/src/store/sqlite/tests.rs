//! Tests of the file: writes by other programs, a full disk, the clock, and the end of the
//! process.

mod crash;
mod damage;
mod event_search;
mod files;
mod foreign;
mod foreign_audit;
mod former_rows;
mod housekeeping;
mod ledger;
mod locks;
mod open_events;
mod rollout_figures;
mod rollouts;
mod rollups;
mod support;
