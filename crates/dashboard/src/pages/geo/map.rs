//! A map of the world, coloured by where requests come from.

use std::collections::HashMap;
use std::sync::LazyLock;

use maud::{Markup, html};

use super::country_traffic::CountryTraffic;
use crate::show::country;
use crate::show::number::{grouped, percent};

/// Outlines by country code; the file says where they are from.
static OUTLINES: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let lines = include_str!("../../../assets/world.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).collect()
});

/// The least share of all requests that each colour stands for, the lightest first.
const STEPS: [(f64, &str); 5] =
    [(0.0, "under 1 %"), (0.01, "1 % and more"), (0.05, "5 %"), (0.15, "15 %"), (0.4, "40 %")];

/// The map. `total`: requests of all countries.
pub fn show(countries: &[CountryTraffic], total: u64) -> Markup {
    let by_code: HashMap<&str, &CountryTraffic> =
        countries.iter().map(|one| (one.country.as_str(), one)).collect();
    let known = OUTLINES.iter().filter(|(code, _)| by_code.contains_key(code)).count();
    let words = format!(
        "World map: requests came from {} countries. The table below has all of them.",
        countries.len()
    );
    html! {
        figure.map {
            figcaption { "Where requests come from " small { "by share of requests" } }
            ul.legend {
                @for (index, (_, words)) in STEPS.iter().enumerate() {
                    li { (swatch(&format!("step-{}", index + 1))) (words) }
                }
                li { (swatch("step-2 partly")) "some denied by a geo rule" }
                li { (swatch("shut")) "more than half denied" }
            }
            svg viewBox="0 0 1000 432" role="img" aria-label=(words) {
                @for (code, outline) in OUTLINES.iter() {
                    @match by_code.get(code) {
                        Some(one) => path class=(class_of(one, total)) d=(outline) { title { (title_of(one, total)) } },
                        None => path d=(outline) { title { (country::name(code)) ": no requests" } },
                    }
                }
            }
            @if known < countries.len() { p.quiet { "Countries too small for the map, and codes that are no country, are in the table only." } }
        }
    }
}

fn swatch(class: &str) -> Markup {
    html! { svg viewBox="0 0 10 10" aria-hidden="true" { path class=(class) d="M0 0h10v10h-10z" {} } }
}

#[expect(clippy::cast_precision_loss, reason = "a colour has five steps")]
fn share(one: &CountryTraffic, total: u64) -> f64 {
    one.requests as f64 / total.max(1) as f64
}

/// The class of a country's colour.
fn class_of(one: &CountryTraffic, total: u64) -> String {
    if one.requests > 0 && one.denied.saturating_mul(2) > one.requests {
        return "shut".to_owned();
    }
    let share = share(one, total);
    let step = STEPS.iter().take_while(|(least, _)| share >= *least).count();
    let denied = if one.geo_denied > 0 { " partly" } else { "" };
    format!("step-{step}{denied}")
}

fn title_of(one: &CountryTraffic, total: u64) -> String {
    format!(
        "{} ({}): {} requests, {}; {} denied, {} of these by a geo rule",
        country::name(&one.country),
        one.country,
        grouped(one.requests),
        percent(share(one, total)),
        grouped(one.denied),
        grouped(one.geo_denied)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(country: &str, requests: u64, denied: u64) -> CountryTraffic {
        CountryTraffic { country: country.to_owned(), requests, denied, geo_denied: denied, last_seen: None }
    }

    #[test]
    fn countries_are_coloured_by_their_share() {
        let classes = [(0, 0), (5, 0), (10, 0), (400, 0), (600, 300), (600, 301)];
        let classes = classes.map(|(requests, denied)| class_of(&seen("DE", requests, denied), 1_000));
        assert_eq!(classes, ["step-1", "step-1", "step-2", "step-5", "step-5 partly", "shut"]);
    }

    #[test]
    fn each_outline_has_a_name_and_is_a_path() {
        assert!(OUTLINES.len() > 170);
        for (code, outline) in OUTLINES.iter() {
            assert_ne!(country::name(code), *code);
            assert!(outline.starts_with('M') && outline.ends_with('z'), "{code}");
            assert!(outline.bytes().all(|c| c.is_ascii_digit() || b"Mlhvz- ".contains(&c)), "{code}");
        }
        let map = show(&[seen("DE", 3, 1), seen("T1", 1, 0)], 4).into_string();
        assert!(
            map.contains(
                "<title>Germany (DE): 3 requests, 75.0 %; 1 denied, 1 of these by a geo rule</title>"
            )
        );
        assert!(map.contains("in the table only") && map.contains("France: no requests"));
    }
}
