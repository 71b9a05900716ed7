//! Which gateways enforce a change, as it happens.

use maud::{Markup, html};

use serde::Deserialize;

use crate::api::{ApiClient, ApiError, encoded};
use crate::part::Part;
use crate::query::PageQuery;
use crate::show::text::foreign;
use crate::show::time;

/// The parameter of a page's address with the version of a change that was made before it.
pub const VERSION: &str = "version";
/// Gateways that are listed, at most.
const SHOWN: usize = 50;

/// The gateways, asked whether they enforce a version.
#[derive(Deserialize)]
struct Gateways {
    /// The newest version, `<epoch>.<seq>`; an epoch is one run of the service.
    version: String,
    items: Vec<Gateway>,
}

#[derive(Deserialize)]
struct Gateway {
    node: String,
    enforces_asked: bool,
    lost: bool,
    silent_for_ms: u64,
}

/// Whether a gateway enforces a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    Enforced,
    NotYet,
    /// The gateway is not heard of.
    Lost,
}

impl Reach {
    fn of(gateway: &Gateway) -> Self {
        match (gateway.enforces_asked, gateway.lost) {
            (true, _) => Self::Enforced,
            (false, true) => Self::Lost,
            (false, false) => Self::NotYet,
        }
    }

    fn tag(self) -> Markup {
        let (class, word) = match self {
            Self::Enforced => ("good", "yes"),
            Self::NotYet => ("warn", "not yet"),
            Self::Lost => ("bad", "not heard of"),
        };
        html! { span class={ "tag " (class) } { (word) } }
    }
}

/// The part of a page that says who enforces the change whose version is in its address; `None`: there is none.
///
/// # Errors
/// When the API does not answer.
pub async fn part(api: &ApiClient, query: &PageQuery) -> Result<Option<Part>, ApiError> {
    let change = query.get(VERSION);
    if change.is_empty() {
        return Ok(None);
    }
    let gateways = match api.get::<Gateways>(&format!("gateways?version={}", encoded(change))).await {
        // It is no version: somebody has changed the address.
        Err(ApiError::Problem(problem)) if problem.status == 400 => return Ok(None),
        gateways => gateways?,
    };
    Ok(Some(Part::new("enforced", show(change, &gateways))))
}

fn show(change: &str, gateways: &Gateways) -> Markup {
    let all: Vec<(&Gateway, Reach)> =
        gateways.items.iter().map(|gateway| (gateway, Reach::of(gateway))).collect();
    let (missing, there): (Vec<_>, Vec<_>) = all.iter().partition(|(_, reach)| *reach != Reach::Enforced);
    let epoch = |version: &str| version.split_once('.').map(|(epoch, _)| epoch.to_owned());
    let is_of_this_run = epoch(change) == epoch(&gateways.version);
    html! {
        section.card aria-labelledby="enforced-heading" {
            h2 #enforced-heading { "Enforced" }
            p #enforced-summary role="status" {
                @if is_of_this_run { (summary(there.len(), &missing)) } @else {
                    "The service was started again since: gateways load everything anew then."
                }
            }
            @if is_of_this_run && !all.is_empty() {
                div.scroll tabindex="0" role="group" aria-label="Gateways that enforce the change" {
                    table {
                        thead { tr { th { "Gateway" } th { "Enforced" } th.number { "Heard of" } } }
                        // Those that do not have it are what somebody looks for.
                        tbody {
                            @for (gateway, reach) in missing.iter().chain(&there).take(SHOWN) {
                                tr {
                                    td { (foreign(&gateway.node)) }
                                    td { (reach.tag()) }
                                    td.number { (time::span(gateway.silent_for_ms / 1_000)) " ago" }
                                }
                            }
                        }
                    }
                }
                @if all.len() > SHOWN { p.quiet { "And " (all.len() - SHOWN) " more." } }
            }
        }
    }
}

fn summary(there: usize, missing: &[&(&Gateway, Reach)]) -> String {
    let all = there + missing.len();
    let are_lost = missing.iter().all(|(_, reach)| *reach == Reach::Lost);
    match (all, missing.len()) {
        (0, _) => "No gateway is connected: what connects gets it at once.".to_owned(),
        (1, 0) => "The gateway enforces it.".to_owned(),
        (_, 0) => format!("All {all} gateways enforce it."),
        _ if are_lost => {
            format!(
                "{there} of {all} gateways enforce it; the others are not heard of, and get it when they are."
            )
        }
        _ => format!("{there} of {all} gateways enforce it so far."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(enforces_asked: bool, lost: bool) -> Gateway {
        Gateway { node: "<n>".to_owned(), enforces_asked, lost, silent_for_ms: 1 }
    }

    #[test]
    fn it_is_said_how_many_have_it() {
        let text = |items: Vec<Gateway>| show("a.42", &Gateways { version: "a.100".to_owned(), items });
        let text = |items: Vec<Gateway>| text(items).into_string();
        let (has, not) = (|| gateway(true, false), || gateway(false, false));
        assert!(text(vec![]).contains("No gateway is connected"));
        assert!(text(vec![has()]).contains("The gateway enforces it."));
        assert!(text(vec![has(), has()]).contains("All 2 gateways enforce it."));
        assert!(text(vec![has(), not()]).contains("1 of 2 gateways enforce it so far."));
        assert!(text(vec![has(), gateway(false, true)]).contains("the others are not heard of"));
        assert!(text(vec![has()]).contains("&lt;n&gt;"));
    }

    #[test]
    fn a_version_of_another_run_is_not_compared() {
        let gateways = Gateways { version: "b.7".to_owned(), items: vec![gateway(false, false)] };
        let text = show("a.42", &gateways).into_string();
        assert!(text.contains("started again") && !text.contains("not yet"), "{text}");
    }
}
