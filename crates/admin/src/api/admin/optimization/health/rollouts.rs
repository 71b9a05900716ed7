//! What is to be known of rollouts that run.

use tidegate_rollout::plan::Plan;
use tidegate_rollout::run::{Cause, Phase, Run};

use crate::api::app_state::AppState;
use crate::feed::Snapshot;
use crate::finding::{Finding, FindingCode};

/// What is to be known of the run, and of notices to webhooks.
pub(super) fn reasons(app: &AppState, snapshot: &Snapshot) -> Vec<Finding> {
    let run = app.rollouts.active();
    let mut found: Vec<Finding> = run.iter().filter_map(|run| of_run(run)).collect();
    found.extend(run.iter().filter_map(|run| removed(run, snapshot)));
    let has_url = |plan: &Plan, url: &str| plan.webhooks.iter().any(|webhook| webhook.url == url);
    let is_in_plan = |rollout: &str, url: &str| {
        let document = snapshot.rollouts.in_force.get(rollout);
        let of_run = run.as_ref().filter(|run| run.plan.name == rollout);
        document.is_some_and(|document| has_url(&document.parsed, url))
            || of_run.is_some_and(|run| has_url(&run.plan, url))
    };
    let failing = app.rollouts.webhooks().failing(is_in_plan);
    let counts = app.rollouts.webhooks().counts();
    if let Some((url, why)) = failing.first() {
        let others = failing.len().saturating_sub(1);
        let more = if others > 0 { format!("; and {others} more") } else { String::new() };
        found.push(
            FindingCode::WebhooksFailing.says(format!("the webhook {url} took no notice: {why}{more}")),
        );
    } else if counts.gave_up_lately {
        let given_up = counts.given_up;
        let detail = format!("notices of rollouts were given up, {given_up} since the service began");
        found.push(FindingCode::WebhooksFailing.says(detail));
    }
    found
}

/// A run without a document.
fn removed(run: &Run, snapshot: &Snapshot) -> Option<Finding> {
    let name = &run.plan.name;
    let is_there = snapshot.rollouts.in_force.contains_key(name.as_str());
    let phase = run.phase.name().replace('_', " ");
    (!is_there).then(|| {
        FindingCode::RolloutRemoved.says(format!(
            "the rollout `{name}` is {phase}, and there is no document of this name any more: `tidegate rollout abort {name}` \
             ends it"
        ))
    })
}

fn of_run(run: &Run) -> Option<Finding> {
    let name = &run.plan.name;
    let stage = run.stage().map_or("", |stage| stage.name.as_str());
    match &run.phase {
        Phase::Paused { reason, .. } if reason.cause == Cause::Unreadable => {
            Some(FindingCode::RolloutUnreadable.says(format!("the rollout `{name}`: {}", reason.says)))
        }
        Phase::Paused { by, reason } => {
            let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
            let says = &reason.says;
            Some(
                FindingCode::RolloutPaused
                    .says(format!("the rollout `{name}` is paused{by} in its stage `{stage}`: {says}")),
            )
        }
        Phase::WaitingForApproval => Some(FindingCode::RolloutWaits.says(format!(
            "the rollout `{name}` waits for approval in its stage `{stage}`, whose gates hold"
        ))),
        Phase::Running | Phase::RolledBack { .. } | Phase::Aborted { .. } | Phase::Completed => None,
    }
}
