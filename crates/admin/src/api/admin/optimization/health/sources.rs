//! What is wrong with sources of bans.

use jiff::Timestamp;

use crate::feed::Snapshot;
use crate::finding::{Finding, FindingCode};
use crate::sources::is_stale;
use crate::store::{SourceState, SourceStatus};

/// Names that a finding has, at most.
const SHOWN: usize = 5;

/// What is wrong with the sources of `snapshot`, by what is stored of them.
pub fn reasons(snapshot: &Snapshot, states: &[SourceState]) -> Vec<Finding> {
    let (mut held_back, mut failing, mut stale) = (Vec::new(), Vec::new(), Vec::new());
    for (name, document) in &snapshot.sources.in_force {
        let found = states.iter().find(|state| state.name == **name);
        let status = found.map(|state| state.status.clone()).unwrap_or_default();
        if is_stale(&document.parsed, &status, document.created().map(Timestamp::as_millisecond)) {
            stale.push(format!("`{name}`{}", why(&status)));
        } else if status.failures > 0 {
            // At once: until it is stale nobody would know that its bans do not change any more.
            failing.push(format!("`{name}`{}", why(&status)));
        }
        if status.held_back.is_some() {
            held_back.push(format!("`{name}`"));
        }
    }
    let mut found = Vec::new();
    if !held_back.is_empty() {
        let detail = format!(
            "the list of {} is held back: what was fetched before stays in force",
            listed(&held_back)
        );
        found.push(FindingCode::SourceHeldBack.says(detail));
    }
    if !failing.is_empty() {
        let detail =
            format!("the last fetch of {} failed: what was fetched before stays in force", listed(&failing));
        found.push(FindingCode::SourceFailing.says(detail));
    }
    if !stale.is_empty() {
        found
            .push(FindingCode::SourceStale.says(format!("{} could not be fetched for long", listed(&stale))));
    }
    found
}

/// Why the last fetch failed, to be put behind the name.
fn why(status: &SourceStatus) -> String {
    status.error.as_deref().map(|why| format!(" ({why})")).unwrap_or_default()
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
