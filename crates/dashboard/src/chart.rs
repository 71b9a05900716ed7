//! Charts as SVG, made on the server.
//!
//! Scales, axes and lines are drawn by the crate plotters. Its colours are placeholders, which become classes of
//! the style sheet, so that a chart is dark where the page is; what it cannot do is put over its drawing: a title
//! for each point on hover, and marks for changes.

mod axis;
mod bars;
mod time_chart;

pub use bars::{ShareBar, share_bar};
pub use time_chart::{Kind, Mark, Series, TimeChart, mark_list};
