//! A bar whose parts are shares of a whole.

use maud::{Markup, html};

/// A part of a bar.
pub struct ShareBar<'a> {
    /// What it is of.
    pub name: &'a str,
    /// Its colour: a class `ink-…` of the style sheet, without `ink-`.
    pub ink: &'a str,
    /// How much it is, in the unit of the whole.
    pub amount: f64,
}

/// The parts of `whole`, side by side. `words` says the same as text; a bar of nothing is empty.
pub fn share_bar(parts: &[ShareBar<'_>], whole: f64, words: &str) -> Markup {
    let mut left = 0.0;
    let placed = parts.iter().map(|part| {
        let width = if whole > 0.0 { (part.amount / whole * 100.0).clamp(0.0, 100.0 - left) } else { 0.0 };
        let at = left;
        left += width;
        (part, at, width)
    });
    html! {
        svg.share viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label=(words) {
            @for (part, at, width) in placed.collect::<Vec<_>>() {
                rect class={ "fill ink-" (part.ink) } x=(format!("{at:.2}")) y="0" width=(format!("{width:.2}")) height="8" {
                    title { (part.name) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_side_by_side_within_the_whole() {
        let part = |amount| ShareBar { name: "n", ink: "allow", amount };
        let bar = share_bar(&[part(25.0), part(150.0)], 100.0, "words").into_string();
        assert!(
            bar.contains("x=\"0.00\" y=\"0\" width=\"25.00\"")
                && bar.contains("x=\"25.00\" y=\"0\" width=\"75.00\""),
            "{bar}"
        );
        assert!(share_bar(&[part(1.0)], 0.0, "").into_string().contains("width=\"0.00\""));
    }
}
