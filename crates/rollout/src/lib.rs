//! Rollouts of flags: a plan of stages, gates over what the requests of a stage measured, the run that goes through
//! the stages and takes itself back, and its report.
//!
//! Pure: no clock, no database, no network. The admin service stores the run, measures the figures, looks at the run
//! with them several times a second, and does what the step says.
//!
//! Imports go down: `flag_map`, `time`, `plan`, `figures`, `gates`, `run`, `report`; `template` makes a plan.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]
#![deny(unsafe_code)]

pub mod figures;
mod flag_map;
pub mod gates;
pub mod plan;
pub mod report;
pub mod run;
pub mod template;
mod time;
