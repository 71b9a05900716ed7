//! The phases as a picture: three bars each, and the targets as lines.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use crate::phases::result::{Measured, P50, P95, P99};

/// Pixels.
const SIZE: (u32, u32) = (1100, 520);
/// Of a phase's width, one of its three bars.
const BAR: f64 = 0.26;
/// What each bar is: name, target, colour.
const BARS: [(&str, f64, RGBColor); 3] = [
    ("P50", P50, RGBColor(0x2f, 0x6f, 0xa8)),
    ("P95", P95, RGBColor(0xd0, 0x8a, 0x1d)),
    ("P99", P99, RGBColor(0xb0, 0x3a, 0x2e)),
];

/// Draws P50, P95 and P99 of each phase into an SVG file.
pub fn draw(path: &Path, measured: &[Measured]) -> Result<()> {
    let highest = measured.iter().flat_map(|phase| phase.latency).fold(P99, f64::max) * 1.1;
    let phases = i32::try_from(measured.len()).context("too many phases")?;
    let canvas = SVGBackend::new(path, SIZE).into_drawing_area();
    canvas.fill(&WHITE)?;
    // The first axis has a name per phase, the second says where a bar stands.
    let mut chart = ChartBuilder::on(&canvas)
        .caption("Latency of a request, phase by phase", ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d((0..phases - 1).into_segmented(), 0.0..highest)?
        .set_secondary_coord(0.0..f64::from(phases), 0.0..highest);
    let name = |at: &SegmentValue<i32>| {
        let SegmentValue::CenterOf(index) = at else { return String::new() };
        let phase = usize::try_from(*index).ok().and_then(|index| measured.get(index));
        phase.map_or_else(String::new, |phase| phase.name.to_owned())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(1)
        .x_labels(measured.len())
        .x_label_formatter(&name)
        .y_desc("milliseconds")
        .label_style(("sans-serif", 14))
        .draw()?;
    for (bar, (label, target, colour)) in BARS.into_iter().enumerate() {
        let left = |phase: usize| phase as f64 + 0.11 + BAR * bar as f64;
        let bars = measured.iter().enumerate().map(|(phase, figures)| {
            let corners = [(left(phase), 0.0), (left(phase) + BAR, figures.latency[bar])];
            Rectangle::new(corners, colour.filled())
        });
        chart
            .draw_secondary_series(bars)?
            .label(format!("{label}, target {target} ms with all flags on"))
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
        let values = measured.iter().enumerate().map(|(phase, figures)| {
            let value = figures.latency[bar];
            let text = if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") };
            Text::new(text, (left(phase) + BAR * 0.25, value + highest * 0.03), ("sans-serif", 13))
        });
        chart.draw_secondary_series(values)?;
        let line = [(0.0, target), (f64::from(phases), target)];
        chart.draw_secondary_series(DashedLineSeries::new(line, 6, 4, colour.stroke_width(1)))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperMiddle)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    canvas.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::measure::Outcome;

    use super::*;

    #[test]
    fn every_phase_is_named_and_has_three_bars() {
        let phase = |name, millis: u32| {
            let outcome = Outcome { right: 1, micros: vec![millis * 1_000], ..Outcome::default() };
            Measured::new(name, Default::default(), &outcome, &Default::default(), &Default::default())
        };
        let path = std::env::temp_dir().join(format!("tidegate-chart-{}.svg", std::process::id()));
        draw(&path, &[phase("first", 212), phase("second", 53), phase("third", 1)]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        for text in ["first", "second", "third", "P50, target 90 ms"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        let bars = svg.matches("fill=\"#2F6FA8\"").count();
        assert_eq!(bars, 3 + 1, "three phases and the legend: {svg}");
    }
}
