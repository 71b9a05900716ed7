//! What is wrong with sources of bans.

use jiff::Timestamp;

use crate::feed::Snapshot;
use crate::finding::{Finding, FindingCode};
use crate::sources::is_stale;
use crate::store::SourceState;

/// Names that a finding has, at most.
const SHOWN: usize = 5;

/// What is wrong with the sources of `snapshot`, by what is stored of them.
pub fn reasons(snapshot: &Snapshot, states: &[SourceState]) -> Vec<Finding> {
    let (mut held_back, mut stale) = (Vec::new(), Vec::new());
    for (name, document) in &snapshot.sources.in_force {
        let found = states.iter().find(|state| state.name == **name);
        let status = found.map(|state| state.status.clone()).unwrap_or_default();
        if is_stale(&document.parsed, &status, document.created().map(Timestamp::as_millisecond)) {
            let why = status.error.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
            stale.push(format!("`{name}`{why}"));
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
    if !stale.is_empty() {
        found
            .push(FindingCode::SourceStale.says(format!("{} could not be fetched for long", listed(&stale))));
    }
    found
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
