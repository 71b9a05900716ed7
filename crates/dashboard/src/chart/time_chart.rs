//! Values over time, as lines or as areas on top of each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::prelude::*;

use super::axis::{TimeAxis, TimeForm, ValueAxis};
use crate::show::time;

/// Pixels of a chart as it is drawn, in half a page and in a whole one; on the page it is as wide as its place.
const HALF: (u32, u32) = (600, 250);
const WHOLE: (u32, u32) = (1_180, 250);
/// Pixels between two titles on hover, at least.
const HOVER_WIDTH: i64 = 5;
/// Placeholders that plotters draws with, and what takes their place.
const AXIS: RGBColor = RGBColor(1, 0, 0);
const GRID: RGBColor = RGBColor(2, 0, 0);

/// How values are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A line for each series, by the logarithm of its values.
    LogLines,
    /// A line for each series, from 0.
    Lines,
    /// Areas on top of each other, from 0.
    Stacked,
}

/// Values of one name.
#[derive(Clone, Debug)]
pub struct Series<'a> {
    /// The name.
    pub name: &'a str,
    /// The colour: a class `ink-…` of the style sheet, without `ink-`.
    pub ink: &'a str,
    /// Whether its line is dashed.
    pub is_dashed: bool,
    /// One for each time; `None`: there is none.
    pub values: Vec<Option<f64>>,
}

/// Something that happened, on the time axis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Unix seconds.
    pub at: i64,
    /// What happened.
    pub text: String,
}

/// A chart over time.
pub struct TimeChart<'a> {
    /// Whether it is as wide as the page.
    pub is_wide: bool,
    /// What it shows.
    pub title: &'a str,
    /// The unit of its values.
    pub unit: &'a str,
    /// How values are shown.
    pub kind: Kind,
    /// Beginnings of the spans that values are of, Unix seconds, each `step` after the one before.
    pub times: &'a [i64],
    /// Length of each span, seconds.
    pub step: i64,
    /// The values.
    pub series: Vec<Series<'a>>,
    /// Values that are aimed at, one for each series or none.
    pub targets: &'a [f64],
    /// Changes.
    pub marks: &'a [Mark],
    /// What is said below it; empty: nothing.
    pub note: &'a str,
    /// A value as text, with its unit.
    pub format: fn(f64) -> String,
}

type Area<'d> = DrawingArea<SVGBackend<'d>, Shift>;
type Plot<'d> = ChartContext<'d, SVGBackend<'d>, Cartesian2d<TimeAxis, ValueAxis>>;

impl TimeChart<'_> {
    /// The chart with its legend, and the same as a table.
    pub fn show(&self) -> Markup {
        let mut values = self.series.iter().flat_map(|series| &series.values);
        if values.all(Option::is_none) {
            return html! {
                figure {
                    figcaption { (self.title) }
                    p.empty { "Nothing was recorded in this time. Look further back, or send a request through the gate." }
                }
            };
        }
        let words = self.words();
        let drawing = self.draw().unwrap_or_default();
        html! {
            figure {
                figcaption { (self.title) " " small { "in " (self.unit) } }
                ul.legend {
                    @for series in &self.series {
                        li { (swatch(series.ink, series.is_dashed)) (series.name) }
                    }
                    @if !self.marks.is_empty() { li { (swatch("mark", false)) "a change" } }
                    @if !self.targets.is_empty() { li.quiet { "dashed: targets " (self.targets_in_words()) } }
                }
                div.plot tabindex="0" role="group" aria-label={ (self.title) ", chart" } {
                    @let (width, height) = self.size();
                    svg class=[self.is_wide.then_some("wide")] viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(words) {
                        (PreEscaped(drawing))
                    }
                }
                @if !self.note.is_empty() { p.quiet { (self.note) } }
                (self.table())
            }
        }
    }

    fn size(&self) -> (u32, u32) {
        if self.is_wide { WHOLE } else { HALF }
    }

    fn targets_in_words(&self) -> String {
        let targets: Vec<String> = self.targets.iter().map(|value| (self.format)(*value)).collect();
        targets.join(", ")
    }

    /// The same as a table, the newest first.
    fn table(&self) -> Markup {
        html! {
            details.data {
                summary { "As a table" }
                div.scroll tabindex="0" role="group" aria-label={ (self.title) ", table" } {
                    @let TimeForm { pattern, name } = TimeAxis(self.span()).form();
                    table.numbers data-form=(name) {
                        thead { tr { th { "Time" } @for series in &self.series { th { (series.name) } } } }
                        tbody {
                            @for (index, at) in self.times.iter().enumerate().rev() {
                                tr {
                                    td { time datetime=(short_rfc3339(*at)) { (time::at(*at, pattern)) } }
                                    @for series in &self.series { td { (self.value(series, index)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn value(&self, series: &Series<'_>, index: usize) -> String {
        series.values.get(index).copied().flatten().map_or_else(|| "–".to_owned(), self.format)
    }

    /// The chart in words: the newest value of each series, and its highest.
    fn words(&self) -> String {
        let mut words = format!("{}.", self.title);
        for series in &self.series {
            let known =
                series.values.iter().enumerate().filter_map(|(index, value)| Some((index, (*value)?)));
            let Some((highest_at, highest)) = known.clone().max_by(|a, b| a.1.total_cmp(&b.1)) else {
                continue;
            };
            let newest = known.clone().next_back().map_or(0.0, |(_, value)| value);
            let at = self.times.get(highest_at).map_or_else(String::new, |at| time::at(*at, "%H:%M UTC"));
            // Writing to a string cannot fail.
            let _ = write!(
                words,
                " {}: last {}, highest {} at {at}.",
                series.name,
                (self.format)(newest),
                (self.format)(highest)
            );
        }
        words.push_str(" The table below has all values.");
        words
    }

    fn span(&self) -> std::ops::Range<i64> {
        let begin = self.times.first().copied().unwrap_or_default();
        begin..self.times.last().copied().unwrap_or(begin) + self.step
    }

    fn axis(&self) -> ValueAxis {
        let targets = self.targets.iter().copied();
        match self.kind {
            Kind::Stacked => ValueAxis::linear(self.stacked().last().map_or(0.0, |top| highest(top))),
            Kind::Lines => {
                let values = self.series.iter().flat_map(|series| series.values.iter().flatten().copied());
                ValueAxis::linear(values.fold(0.0, f64::max))
            }
            Kind::LogLines => {
                let values = || self.series.iter().flat_map(|series| series.values.iter().flatten().copied());
                let lowest = values().filter(|value| *value > 0.0).fold(1.0, f64::min);
                ValueAxis::log(lowest, values().chain(targets).fold(1.0, f64::max))
            }
        }
    }

    /// For each series the sum of it and those below.
    fn stacked(&self) -> Vec<Vec<f64>> {
        let mut below = vec![0.0; self.times.len()];
        let add = |series: &Series<'_>| {
            for (sum, value) in below.iter_mut().zip(&series.values) {
                *sum += value.unwrap_or_default();
            }
            below.clone()
        };
        self.series.iter().map(add).collect()
    }

    fn draw(&self) -> Result<String, Box<dyn std::error::Error>> {
        let mut svg = String::new();
        let over = {
            let area: Area<'_> = SVGBackend::with_string(&mut svg, self.size()).into_drawing_area();
            let (times, values) = (TimeAxis(self.span()), self.axis());
            let mut plot: Plot<'_> = ChartBuilder::on(&area)
                .margin_top(if self.marks.is_empty() { 10 } else { 18 })
                .margin_left(28)
                .x_label_area_size(24)
                // Beside the newest values, which are seen first where the chart is wider than its place.
                .right_y_label_area_size(58)
                .build_cartesian_2d(times.clone(), values.clone())?;
            plot.configure_mesh()
                .disable_x_mesh()
                .max_light_lines(0)
                .bold_line_style(GRID)
                .axis_style(AXIS)
                .x_labels(if self.is_wide { 12 } else { 6 })
                .y_labels(5)
                .x_label_formatter(&|at| format!("@{at}"))
                .y_label_formatter(&|value| (self.format)(*value))
                .label_style(("sans-serif", 12))
                .draw()?;
            self.draw_targets(&mut plot)?;
            match self.kind {
                Kind::LogLines | Kind::Lines => self.draw_lines(&mut plot)?,
                Kind::Stacked => self.draw_areas(&mut plot)?,
            }
            area.present()?;
            self.over(&plot, &values)
        };
        Ok(self.finished(&svg, &over))
    }

    fn draw_targets(&self, plot: &mut Plot<'_>) -> Result<(), Box<dyn std::error::Error>> {
        let span = self.span();
        for (index, value) in self.targets.iter().enumerate() {
            let ends = [(span.start, *value), (span.end, *value)];
            plot.draw_series(LineSeries::new(ends, target_placeholder(index)))?;
        }
        Ok(())
    }

    fn draw_lines(&self, plot: &mut Plot<'_>) -> Result<(), Box<dyn std::error::Error>> {
        for (index, series) in self.series.iter().enumerate() {
            let style = placeholder(index).stroke_width(2);
            for run in
                series.values.iter().enumerate().collect::<Vec<_>>().split(|(_, value)| value.is_none())
            {
                let point = |(index, value): &(usize, &Option<f64>)| {
                    Some((self.times.get(*index)? + self.step / 2, (**value)?))
                };
                let points: Vec<(i64, f64)> = run.iter().filter_map(point).collect();
                match points.as_slice() {
                    [] => {}
                    [only] => {
                        plot.draw_series([Circle::new(*only, 2, placeholder(index).filled())])?;
                    }
                    _ => {
                        plot.draw_series(LineSeries::new(points, style))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn draw_areas(&self, plot: &mut Plot<'_>) -> Result<(), Box<dyn std::error::Error>> {
        let tops = self.stacked();
        for (index, top) in tops.iter().enumerate() {
            let below = index.checked_sub(1).and_then(|index| tops.get(index));
            if below.map_or(highest(top) == 0.0, |below| below == top) {
                continue;
            }
            // Each span is a step as wide as it is long.
            let step = |at: usize, values: &[f64]| {
                let (begin, value) = (self.times[at], values[at]);
                [(begin, value), (begin + self.step, value)]
            };
            let zero = vec![0.0; top.len()];
            let below = below.unwrap_or(&zero);
            let mut outline: Vec<(i64, f64)> = (0..top.len()).flat_map(|at| step(at, top)).collect();
            outline.extend((0..top.len()).rev().flat_map(|at| {
                let [left, right] = step(at, below);
                [right, left]
            }));
            plot.draw_series([Polygon::new(outline, placeholder(index).filled())])?;
        }
        Ok(())
    }

    /// What lies over the drawing: marks, and a title for each time.
    fn over(&self, plot: &Plot<'_>, values: &ValueAxis) -> String {
        let over = html! {
            @let (_, top) = plot.backend_coord(&(self.span().start, values.high()));
            @let (_, bottom) = plot.backend_coord(&(self.span().start, values.low()));
            g.hover {
                @for index in self.hover_points() {
                    @let at = self.times[index];
                    @let (left, _) = plot.backend_coord(&(at, values.low()));
                    @let (right, _) = plot.backend_coord(&(at + self.step, values.low()));
                    path d={ "M" (left) " " (top) "h" ((right - left).max(1)) "V" (bottom) "H" (left) "z" } {
                        title { (self.point(index)) }
                    }
                }
            }
            @for (at, texts) in self.marks_by_moment() {
                @let (x, _) = plot.backend_coord(&(at, values.low()));
                g {
                    title { (self.moment(at, true)) ": " (texts.join("; ")) }
                    path.mark d={ "M" (x) " " (bottom) "V" (top - 6) "l-6-8h12l-6 8" } {}
                }
            }
        };
        over.into_string()
    }

    /// The times that have a title: not more than can be told apart by the pointer.
    fn hover_points(&self) -> impl Iterator<Item = usize> + use<> {
        let most = usize::try_from(i64::from(self.size().0) / HOVER_WIDTH).unwrap_or(1);
        (0..self.times.len()).step_by(self.times.len().div_ceil(most).max(1))
    }

    /// What was changed at each moment of the chart: changes of one moment have one mark.
    fn marks_by_moment(&self) -> BTreeMap<i64, Vec<&str>> {
        let mut by_moment = BTreeMap::<i64, Vec<&str>>::new();
        for mark in self.marks.iter().filter(|mark| self.span().contains(&mark.at)) {
            by_moment.entry(mark.at).or_default().push(&mark.text);
        }
        by_moment
    }

    /// A moment of the chart, with its day where that is not the same for all.
    fn moment(&self, at: i64, with_seconds: bool) -> String {
        let span = self.span();
        let is_one_day = time::at(span.start, "%F") == time::at(span.end, "%F");
        time::at(
            at,
            match (is_one_day, self.step >= 86_400, with_seconds || self.step < 60) {
                (_, true, false) => "%F",
                (true, _, true) => "%T UTC",
                (true, _, false) => "%H:%M UTC",
                (false, _, true) => "%F %T UTC",
                (false, _, false) => "%F %H:%M UTC",
            },
        )
    }

    /// The values of a moment; on areas, those that can be seen.
    fn point(&self, index: usize) -> String {
        let mut text = self.times.get(index).map(|at| self.moment(*at, false)).unwrap_or_default();
        for series in &self.series {
            let value = series.values.get(index).copied().flatten();
            if value.is_some() && (self.kind != Kind::Stacked || value != Some(0.0)) {
                let _ = write!(text, "\n{}: {}", series.name, self.value(series, index));
            }
        }
        if !text.contains('\n') {
            text.push_str("\nnothing");
        }
        text
    }

    /// The drawing with classes in the place of colours, and times that the page's script can read.
    fn finished(&self, svg: &str, over: &str) -> String {
        let inner = svg.split_once('>').map_or("", |(_, rest)| rest).trim_end().trim_end_matches("</svg>");
        let mut inner = inner.to_owned();
        let fixed = [(AXIS, "axis"), (GRID, "grid")];
        let fixed = fixed.map(|(colour, class)| (colour, class.to_owned(), class.to_owned()));
        let inks = self.series.iter().enumerate().map(|(index, series)| {
            let dashed = if series.is_dashed { " dashed" } else { "" };
            let stroke = format!("stroke ink-{}{dashed}", series.ink);
            (placeholder(index), stroke, format!("fill ink-{}", series.ink))
        });
        let targets = self.series.iter().enumerate().map(|(index, series)| {
            (target_placeholder(index), format!("stroke ink-{} dashed", series.ink), String::new())
        });
        for (RGBColor(r, g, b), stroke, fill) in fixed.into_iter().chain(inks).chain(targets) {
            let colour = format!("#{r:02X}{g:02X}{b:02X}");
            inner = inner.replace(&format!("stroke=\"{colour}\""), &format!("class=\"{stroke}\""));
            inner = inner.replace(&format!("fill=\"{colour}\""), &format!("class=\"{fill}\""));
        }
        // What the style sheet says of all charts.
        for said in [
            " opacity=\"1\"",
            " stroke-width=\"1\"",
            " font-family=\"sans-serif\"",
            " font-size=\"9.67741935483871\"",
            " fill=\"#000000\"",
            " fill=\"none\"",
            "\n",
        ] {
            inner = inner.replace(said, "");
        }
        with_times(&inner, TimeAxis(self.span()).form()) + over
    }
}

/// A moment without its seconds where they are 0, as HTML has it: `2026-11-30T12:00Z`.
fn short_rfc3339(seconds: i64) -> String {
    time::at(seconds, if seconds % 60 == 0 { "%FT%H:%MZ" } else { "%FT%TZ" })
}

/// The colour that plotters draws a series with.
fn placeholder(series: usize) -> RGBColor {
    RGBColor(9, 0, u8::try_from(series).unwrap_or(u8::MAX))
}

/// The colour that plotters draws the target of a series with.
fn target_placeholder(series: usize) -> RGBColor {
    RGBColor(8, 0, u8::try_from(series).unwrap_or(u8::MAX))
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Changes, as a list; nothing where there is none.
pub fn mark_list(marks: &[Mark]) -> Markup {
    html! {
        @if !marks.is_empty() {
            details.data {
                summary { "Changes in this time: " (marks.len()) }
                ul { @for mark in marks { li { (time::moment(&time::rfc3339(mark.at))) " " (mark.text) } } }
            }
        }
    }
}

fn swatch(ink: &str, is_dashed: bool) -> Markup {
    html! {
        svg viewBox="0 0 10 10" aria-hidden="true" {
            @if is_dashed {
                @for x in ["0", "6"] { rect class={ "fill ink-" (ink) } x=(x) y="4" width="4" height="3" {} }
            } @else {
                rect class={ "fill ink-" (ink) } width="10" height="10" rx="2" {}
            }
        }
    }
}

/// `@SECONDS`, which the time axis has for labels, as times that the page's script rewrites.
fn with_times(svg: &str, TimeForm { pattern, name }: TimeForm) -> String {
    let mut rest = svg;
    let mut shown = String::with_capacity(svg.len() + 1_024);
    while let Some((before, label)) = rest.split_once('@') {
        shown.push_str(before);
        let end = label.find(|c: char| !c.is_ascii_digit()).unwrap_or(label.len());
        let seconds = label[..end].parse().unwrap_or_default();
        let (iso, text) = (short_rfc3339(seconds), time::at(seconds, pattern));
        let _ = write!(shown, "<tspan datetime=\"{iso}\" data-form=\"{name}\">{text}</tspan>");
        rest = &label[end..];
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::number::{millis, rate};

    fn chart<'a>(kind: Kind, times: &'a [i64], values: &[Option<f64>], marks: &'a [Mark]) -> TimeChart<'a> {
        let series = Series { name: "P50", ink: "p50", is_dashed: false, values: values.to_vec() };
        TimeChart {
            is_wide: false,
            title: "Times",
            unit: "milliseconds",
            kind,
            times,
            step: 60,
            series: vec![series],
            targets: if kind == Kind::LogLines { &[90.0] } else { &[] },
            marks,
            note: "what it is",
            format: if kind == Kind::LogLines { millis } else { rate },
        }
    }

    #[test]
    fn a_chart_has_axes_in_units_titles_marks_and_a_table() {
        let marks = [Mark { at: 1_700_000_100, text: "<enableRouteCache> on".to_owned() }];
        let times = [1_700_000_040, 1_700_000_100, 1_700_000_160];
        let shown =
            chart(Kind::LogLines, &times, &[Some(0.5), None, Some(212.0)], &marks).show().into_string();
        for part in [
            "class=\"axis\"",
            "class=\"grid\"",
            "fill ink-p50",
            "targets 90 ms",
            "stroke ink-p50",
            "100 ms",
            "22:14 UTC\nP50: 0.50 ms",
            "&lt;enableRouteCache&gt; on",
            "22:15:00 UTC: &lt;enableRouteCache&gt; on",
            "last 212 ms, highest 212 ms at 22:16 UTC",
            "<td>–</td>",
            "data-form=\"seconds\"",
            "what it is",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        // A colour or a style would need a policy that lets inline styles pass.
        assert!(!shown.contains("style=") && !shown.contains("\"#09"), "{shown}");
    }

    #[test]
    fn areas_begin_at_zero_and_an_empty_chart_says_so() {
        let times = [0, 60, 120];
        let shown =
            chart(Kind::Stacked, &times, &[Some(1.0), Some(0.0), Some(4.0)], &[]).show().into_string();
        assert!(shown.contains("class=\"fill ink-p50\"") && shown.contains("points="), "{shown}");
        assert!(chart(Kind::Stacked, &[], &[], &[]).show().into_string().contains("Nothing was recorded"));
        let empty = chart(Kind::Stacked, &times, &[None, None, None], &[]).show().into_string();
        assert!(empty.contains("Nothing was recorded") && !empty.contains("<svg"), "{empty}");
    }
}
