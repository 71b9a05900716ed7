//! Traffic by country: a map, and a table with bars.

use jiff::Timestamp;
use maud::{Markup, html};

use super::country_traffic::CountryTraffic;
use super::map;
use crate::chart::{ShareBar, share_bar};
use crate::show::number::{count, grouped, percent};
use crate::show::text::{foreign, visible};
use crate::show::{country, time};

/// Both; `words`: how far back.
pub fn by_country(countries: &[CountryTraffic], words: &str) -> Markup {
    let total: u64 = countries.iter().map(|one| one.requests).sum();
    let most = countries.iter().map(|one| one.requests).max().unwrap_or_default();
    html! {
        section.card aria-labelledby="countries-heading" {
            h2 #countries-heading { "Traffic by country, " (words) " (UTC)" }
            @if countries.is_empty() {
                p.empty {
                    "No country was recorded. One is looked up where a decision needs it: import a country table below, make a geo rule, be it in \
                     shadow, and send a request through the gate."
                }
            }
            (map::show(countries, total))
            @if !countries.is_empty() {
                div.scroll tabindex="0" role="group" aria-label="Traffic by country" {
                    table #countries {
                        thead { tr {
                            th { "Country" } th.number { "Requests" } th.number { "Share" } th { "Allowed and denied" }
                            th.number { "Denied" } th.number { "By a geo rule" } th.number { "Last seen" }
                        } }
                        tbody { @for one in countries { (country_row(one, total, most)) } }
                    }
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a bar has a hundred pixels")]
fn country_row(one: &CountryTraffic, total: u64, most: u64) -> Markup {
    let denied = one.denied.min(one.requests);
    let parts = [
        ShareBar { name: "allowed", ink: "allow", amount: (one.requests - denied) as f64 },
        ShareBar { name: "denied", ink: "deny", amount: denied as f64 },
    ];
    let words = format!("{} allowed, {} denied", grouped(one.requests - denied), grouped(denied));
    html! {
        tr {
            td { (foreign(country::name(&one.country))) " " span.quiet { (visible(&one.country)) } }
            td.number { (count(one.requests)) }
            td.number { (percent(one.requests as f64 / total.max(1) as f64)) }
            td.bar { (share_bar(&parts, most as f64, &words)) }
            td.number { (count(one.denied)) }
            td.number { (count(one.geo_denied)) }
            td.number { (time::optional_relative(one.last_seen.as_deref(), Timestamp::now(), "–")) }
        }
    }
}
