//! When sources are fetched: at their intervals, and again after errors, each a little earlier or later, so
//! that not all services ask a server in the same second.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_author::Source;
use tidegate_policy::table::AddressTable;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::{Sources, hash};
use crate::feed::ParsedDocument;
use crate::lock::locked;
use crate::store::{
    Author, Change, FetchedSource, NewSet, SOURCES, SetOrigin, SourceState, SourceStatus, StoreError,
    time_text,
};

/// How often is looked which are due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// It does not get longer than this, or than the interval if that is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// An interval may be shorter or longer by a part of this, as a pause after failures by a fifth.
const JITTER: u64 = 10;
/// A source is stale after this many intervals without a fetch that succeeded, and [`STALE_AFTER`] more.
const STALE_INTERVALS: u32 = 3;
/// See [`STALE_INTERVALS`].
const STALE_AFTER: Duration = Duration::from_secs(300);

/// When a source is fetched next.
#[derive(Clone)]
pub(super) struct Due {
    /// A hash of the document by which it was fetched.
    pub document: String,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

/// Milliseconds since 1970 at which a source is fetched again.
pub(super) fn next_try(every: Duration, failures: u64) -> i64 {
    let pause = pause(every, failures);
    let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let spread = ms / JITTER;
    let random = getrandom::u64().unwrap_or(0) % (2 * spread + 1);
    let ms = i64::try_from(ms - spread + random).unwrap_or(i64::MAX);
    time_text::now_ms().saturating_add(ms)
}

/// Milliseconds until the next fetch, at most.
fn longest_ms(every: Duration) -> i64 {
    let longest = every.max(LONGEST_PAUSE).saturating_mul(2);
    i64::try_from(longest.as_millis()).unwrap_or(i64::MAX)
}

fn pause(every: Duration, failures: u64) -> Duration {
    match u32::try_from(failures) {
        Ok(0) => every,
        Ok(failures) => {
            let doubled = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(20));
            doubled.min(every.max(LONGEST_PAUSE))
        }
        Err(_) => every.max(LONGEST_PAUSE),
    }
}

/// Whether the last fetch of `source` that succeeded is too long ago.
#[must_use]
pub fn is_stale(source: &Source, status: &SourceStatus, created_ms: Option<i64>) -> bool {
    let since = status.checked_at.as_deref().and_then(time_text::to_ms).or(created_ms);
    let longest = source.interval.saturating_mul(STALE_INTERVALS).saturating_add(STALE_AFTER);
    let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
    since.is_none_or(|since| time_text::now_ms().saturating_sub(since) > longest)
}

/// Fetches each source when it is due, until the service stops.
pub(super) async fn run(sources: Sources, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let running: Arc<Mutex<HashSet<String>>> = Arc::default();
    let mut fetches = JoinSet::new();
    let (mut known, mut documents) = (false, None);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = tick.tick() => {}
        }
        if !known {
            known = remember(&sources).await;
            continue;
        }
        if let Err(error) = forget_removed(&sources, &mut documents).await {
            tracing::warn!("what removed sources had could not be removed: {error}");
        }
        for name in take_due(&sources, &running) {
            let (sources, running) = (sources.clone(), Arc::clone(&running));
            let mut stop = stop.clone();
            fetches.spawn(async move {
                let by = Author::from(SOURCES);
                // What is wrong is logged and stored.
                tokio::select! {
                    _ = sources.refresh(&name, false, &by) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
                locked(&running).remove(&name);
            });
        }
        while fetches.try_join_next().is_some() {}
        if let Err(error) = drop_outlived(&sources).await {
            tracing::warn!("sources that were not fetched for too long could not be looked at: {error}");
        }
    }
    // None has the database open any more when the service has stopped.
    while fetches.join_next().await.is_some() {}
}

/// Takes over when the sources are due from what is stored. Returns whether that could be read.
async fn remember(sources: &Sources) -> bool {
    let Ok(states) = sources.0.store.source_states().await else { return false };
    let mut due = locked(&sources.0.due);
    for SourceState { name, set, status } in states {
        let at_ms = status.next_try_at.as_deref().and_then(time_text::to_ms);
        if let (Some(set), Some(at_ms)) = (set, at_ms) {
            due.insert(name, Due { document: set.document, at_ms });
        }
    }
    true
}

/// The sources that are due and are not being fetched, which they are from now on.
fn take_due(sources: &Sources, running: &Mutex<HashSet<String>>) -> Vec<String> {
    let snapshot = sources.0.feed.snapshot();
    let now = time_text::now_ms();
    let mut due = locked(&sources.0.due);
    due.retain(|name, _| snapshot.sources.in_force.contains_key(name.as_str()));
    locked(&sources.0.busy).retain(|name, lock| {
        Arc::strong_count(lock) > 1 || snapshot.sources.in_force.contains_key(name.as_str())
    });
    let is_due = |name: &str, document: &ParsedDocument<Source>| {
        let known = due.get(name).filter(|known| known.document == hash(&document.document));
        known.is_none_or(|known| is_due(known.at_ms, document.parsed.interval, now))
    };
    let mut running = locked(running);
    let found = snapshot.sources.in_force.iter().filter(|(name, document)| is_due(name, document));
    let found = found.map(|(name, _)| name.to_string()).filter(|name| running.insert(name.clone()));
    found.collect()
}

/// Whether a source that was to be fetched at `at_ms` is to be fetched `now`. Nothing waits as long as a time
/// that a clock wrote down which was ahead would have it wait.
fn is_due(at_ms: i64, every: Duration, now: i64) -> bool {
    at_ms <= now || at_ms.saturating_sub(now) > longest_ms(every)
}

/// Removes what those sources had whose documents other programs removed: one that is made anew by such a name is
/// not to begin with it. `documents`: the names that there were when this was last looked at; `None`: it never was.
async fn forget_removed(
    sources: &Sources,
    documents: &mut Option<HashSet<String>>,
) -> Result<(), StoreError> {
    let snapshot = sources.0.feed.snapshot();
    let names: HashSet<String> = snapshot.sources.in_force.keys().map(ToString::to_string).collect();
    let are_there = |before: &HashSet<String>| before.is_subset(&names);
    if !documents.as_ref().is_some_and(are_there) {
        let states = sources.0.store.source_states().await?;
        // The database says which have no document: one in quarantine has.
        if states.iter().any(|state| !names.contains(&state.name)) {
            sources.0.store.commit(Change::ForgetSources, &Author::from(SOURCES)).await?;
        }
    }
    *documents = Some(names);
    Ok(())
}

/// Empties the sets of sources that could not be fetched for longer than their `ttl`.
async fn drop_outlived(sources: &Sources) -> Result<(), StoreError> {
    let snapshot = sources.0.feed.snapshot();
    let has_ttl = |source: &Source| source.ttl.is_some();
    if !snapshot.sources.in_force.values().any(|document| has_ttl(&document.parsed)) {
        return Ok(());
    }
    for state in sources.0.store.source_states().await? {
        let Some(document) = snapshot.sources.in_force.get(state.name.as_str()) else { continue };
        let Some(ttl) = document.parsed.ttl else { continue };
        let has_entries = snapshot.source_set(&state.name).is_some_and(|set| !set.is_empty());
        let checked = state.status.checked_at.as_deref().and_then(time_text::to_ms);
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        // One that can be fetched has not outlived anything, whatever the clock says, or how rarely it is fetched.
        let cannot = state.status.failures > 0 || state.status.held_back.is_some();
        let is_over = cannot && checked.is_some_and(|at| time_text::now_ms().saturating_sub(at) > ttl_ms);
        if !has_entries || !is_over {
            continue;
        }
        let empty = AddressTable::empty().as_bytes().to_vec();
        let origin = SetOrigin {
            fetched_at: state.set.and_then(|set| set.fetched_at),
            counts: r#"{"outlived":true}"#.to_owned(),
            ..SetOrigin::default()
        };
        let change = FetchedSource {
            name: state.name.clone(),
            document: document.document.clone(),
            set: Some(NewSet { entries: Some(Arc::new(empty)), origin }),
            status: state.status,
        };
        sources.0.store.commit(Change::SourceFetched(Arc::new(change)), &Author::from(SOURCES)).await?;
        tracing::warn!(
            source = state.name,
            "the source could not be fetched within its ttl: its bans have ended"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_failures_up_to_the_interval() {
        for (every, failures, wanted) in [
            (3_600, 0, 3_600),
            (3_600, 1, 10),
            (3_600, 3, 40),
            (3_600, 12, 3_600),
            (3_600, u64::MAX, 3_600),
            (10, 0, 10),
            (10, 2, 20),
            (10, 30, 300),
        ] {
            let wanted = wanted * 1_000;
            for _ in 0..50 {
                let ms = next_try(Duration::from_secs(every), failures) - time_text::now_ms();
                assert!(
                    (wanted * 9 / 10 - 100..=wanted * 11 / 10 + 100).contains(&ms),
                    "{every} {failures}: {ms}"
                );
                let (every, now) = (Duration::from_secs(every), time_text::now_ms());
                assert!(!is_due(now + ms, every, now) && is_due(now + ms, every, now + ms));
                let year = 365 * 86_400_000;
                assert!(is_due(now + ms, every, now - year), "the clock was a year ahead");
            }
        }
    }
}
