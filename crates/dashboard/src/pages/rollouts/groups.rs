//! What both groups of a stage measured in all of it.

use maud::{Markup, html};
use tidegate_rollout::figures::{Completeness, Group, Observed, PerGroup};
use tidegate_rollout::run::{GroupSummary, StageRecord};

use crate::show::number::{count, grouped, optional_millis, percent};
use crate::show::text::in_table;

/// Both groups in the stage that a run is in or ended in.
pub fn show(stage: Option<&StageRecord>) -> Markup {
    html! {
        @if let Some(stage) = stage {
            section.card aria-labelledby="groups-heading" {
                h2 #groups-heading { "Both groups in the stage “" (in_table(&stage.name)) "”" }
                p.quiet {
                    "Treated: the clients for whom the shares of the stage's flags are on. Control: those for whom none is. A stage \
                     without a share has no control."
                }
                (table(&stage.groups))
                p { (observed(&stage.observed)) }
            }
        }
    }
}

/// Both groups side by side.
pub fn table(groups: &PerGroup<GroupSummary>) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="Both groups" {
            table {
                thead { tr {
                    th { "Group" } th.number { "Requests" } th.number { "Success" } th.number { "5xx" } th.number { "Denied" }
                    th.number { "Whole P50" } th.number { "P95" } th.number { "P99" } th.number { "Gate's own P95" }
                } }
                tbody { (row("treated", groups.get(Group::Treated))) (row("control", groups.get(Group::Control))) }
            }
        }
    }
}

fn row(name: &str, group: &GroupSummary) -> Markup {
    html! {
        tr {
            th scope="row" { (name) }
            td.number { (count(group.requests)) }
            td.number { (share(group.succeeded, group.requests)) }
            td.number { (share(group.server_errors, group.requests)) }
            td.number { (share(group.denied, group.requests)) }
            td.number { (time(group.total.p50)) }
            td.number { (time(group.total.p95)) }
            td.number { (time(group.total.p99)) }
            td.number { (time(group.gate.p95)) }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "some digits of it are shown")]
fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "–".to_owned() } else { percent(part as f64 / whole as f64) }
}

#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
fn time(us: Option<u64>) -> String {
    optional_millis(us.map(|us| us as f64 / 1_000.0))
}

/// What the service saw, in a sentence.
fn observed(observed: &Observed) -> String {
    let completeness = match observed.completeness {
        None => "not known yet".to_owned(),
        Some(Completeness { ratio, exact: true }) => percent(ratio),
        Some(Completeness { ratio, exact: false }) => format!("at most {}", percent(ratio)),
    };
    format!(
        "Completeness {completeness}; {} events wait at the gateways, {} were given up. Of {} gateways {} are lost and {} lag.",
        grouped(observed.queue_depth),
        grouped(observed.dropped),
        grouped(observed.gateways.saturating_add(observed.lost)),
        grouped(observed.lost),
        grouped(observed.lagging),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_without_requests_has_dashes() {
        let some = GroupSummary { requests: 1_000, succeeded: 999, ..GroupSummary::default() };
        let text = table(&PerGroup { treated: some, control: GroupSummary::default() }).into_string();
        assert!(text.contains("99.9 %") && text.contains("<td class=\"number\">–</td>"), "{text}");
    }

    #[test]
    fn an_upper_bound_of_completeness_is_said_to_be_one() {
        let exact = |exact| Observed {
            completeness: Some(Completeness { ratio: 1.0, exact }),
            ..Observed::default()
        };
        assert!(observed(&exact(true)).starts_with("Completeness 100 %;"));
        assert!(observed(&exact(false)).starts_with("Completeness at most 100 %;"));
    }
}
