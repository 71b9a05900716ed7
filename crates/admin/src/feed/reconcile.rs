//! Periodic comparison of the snapshot with the store (small tables every 60 s, all every 10
//! min). A change that triggers, change log and hints missed is taken over and reported.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::address::Prefix;
use tidegate_policy::tables::Table;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use super::countries::COUNTRIES_KEY;
use super::events::FollowerEvent;
use super::inner::FeedInner;
use super::ip_load::ParsedIpMonitor;
use super::scoped_rows::ParsedScopedBans;
use super::snapshot::Snapshot;
use super::state::FeedState;
use crate::store::{ChangedRows, Changes, DocumentKind, StoreError, StoreTable};

/// `ip_monitor` counts as small up to this many prefixes.
const SMALL: usize = 10_000;
/// `geo_countries` and `ban_source_sets` count as small up to this many bytes.
const SMALL_BYTES: usize = 1 << 20;
/// The feed follows the store well within this; otherwise health reports the trouble anyway.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(10);

/// Compares at the options' intervals. Never returns.
pub(super) async fn run(shared: Arc<FeedInner>) {
    let (small, large) = (shared.options.reconcile_small, shared.options.reconcile_large);
    let mut next_large = Instant::now() + large;
    loop {
        let next_small = Instant::now() + small;
        sleep_until(next_small.min(next_large)).await;
        let due = Instant::now() >= next_large;
        if due {
            next_large = Instant::now() + large;
        }
        let tables: Vec<StoreTable> = {
            let state = shared.applied.borrow();
            StoreTable::ALL.into_iter().filter(|table| due || is_small(*table, &state)).collect()
        };
        match compare(&shared, &tables).await {
            Ok(None) => {}
            // The follower ends no earlier than this task.
            Ok(Some(found)) => drop(shared.events.send(FollowerEvent::Differs(found))),
            Err(error) => tracing::warn!("tables could not be compared with the store: {error}"),
        }
    }
}

fn is_small(table: StoreTable, state: &FeedState) -> bool {
    match table {
        StoreTable::Ip => state.snapshot.ips.entries.len() <= SMALL,
        StoreTable::ScopedBans => state.snapshot.ips.scoped.len() <= SMALL,
        StoreTable::Countries => state.whole[Table::Countries].bytes.len() <= SMALL_BYTES,
        StoreTable::SourceSets => state.snapshot.source_set_bytes() <= SMALL_BYTES,
        StoreTable::Flags | StoreTable::Documents(_) => true,
    }
}

/// Description of what differs, if anything does.
pub(super) async fn compare(shared: &FeedInner, tables: &[StoreTable]) -> Result<Option<String>, StoreError> {
    let epoch_index = shared.applied.borrow().position.epoch_index;
    let stored = shared.store.read_tables(tables).await?;
    let seq = stored.seq;
    let mut applied = shared.applied.subscribe();
    let reached = timeout(FOLLOWS_WITHIN, applied.wait_for(|state| state.position.seq >= seq)).await;
    let Ok(Ok(state)) = reached.map(|state| state.map(|state| FeedState::clone(&state))) else {
        return Ok(None);
    };
    // Read after the state was taken: all that the state has and the rows read above do not have
    // is among these keys.
    let Changes::Rows { rows, .. } = shared.store.changes_since(seq).await? else { return Ok(None) };
    if state.position.epoch_index != epoch_index {
        return Ok(None);
    }
    let tables = tables.to_vec();
    let work = move || {
        let moved = moved(&rows);
        let snapshot = &state.snapshot;
        let differs = |table: &StoreTable| match table {
            StoreTable::Ip | StoreTable::ScopedBans => None,
            StoreTable::Flags => snapshot.index.first_difference(*table, &stored.flags, &moved),
            StoreTable::Countries => {
                snapshot.index.first_difference(*table, stored.countries.as_slice(), &moved)
            }
            StoreTable::SourceSets => snapshot.index.first_difference(*table, &stored.source_sets, &moved),
            StoreTable::Documents(kind) => {
                snapshot.index.first_difference(*table, &stored.documents[*kind], &moved)
            }
        };
        let small = tables.iter().find_map(|table| {
            let key = differs(table)?;
            Some(format!("{} differ from what was followed, first `{key}`", table.name()))
        });
        let scoped: HashSet<String> = rows.scoped.into_iter().map(|(key, _)| key).collect();
        let small = small.or_else(|| {
            let is_asked = tables.contains(&StoreTable::ScopedBans);
            let loaded =
                is_asked.then(|| ParsedScopedBans::read(stored.scoped, &snapshot.ips, &snapshot.index))?;
            let first = loaded.first_difference(&snapshot.ips, &snapshot.index, &scoped)?;
            Some(format!("scoped_bans differs from what was followed, first `{first}`"))
        });
        let moved: HashSet<String> = rows.ips.into_iter().map(|(key, _)| key).collect();
        let with_ips = tables.contains(&StoreTable::Ip);
        small.or_else(|| {
            let loaded =
                with_ips.then(|| ParsedIpMonitor::read(stored.ips, &snapshot.ips, &snapshot.index))?;
            ips_differ(snapshot, &loaded, &moved)
        })
    };
    spawn_blocking(work).await.map_err(|error| StoreError::Failed(error.to_string()))
}

/// Keys of rows of the small tables.
fn moved(rows: &ChangedRows) -> HashSet<(StoreTable, String)> {
    let flags = rows.flags.iter().map(|(key, _)| (StoreTable::Flags, key.clone()));
    let countries = rows.countries.iter().map(|_| (StoreTable::Countries, COUNTRIES_KEY.to_owned()));
    let documents = DocumentKind::ALL.into_iter().flat_map(|kind| {
        rows.documents[kind].iter().map(move |(key, _)| (StoreTable::Documents(kind), key.clone()))
    });
    let sets = rows.source_sets.iter().map(|(key, _)| (StoreTable::SourceSets, key.clone()));
    flags.chain(countries).chain(sets).chain(documents).collect()
}

fn ips_differ(snapshot: &Snapshot, loaded: &ParsedIpMonitor, moved: &HashSet<String>) -> Option<String> {
    let prefixes: HashSet<Prefix> = moved.iter().filter_map(|key| key.parse().ok()).collect();
    let found = loaded.differences(&snapshot.ips, |prefix| prefixes.contains(prefix));
    if let Some((first, _)) = found.first() {
        return Some(format!(
            "ip_monitor differs from what was followed in {} entries, first {first}",
            found.len()
        ));
    }
    let key = loaded.quarantine_differs(&snapshot.index, moved)?;
    Some(format!("ip_monitor differs from what was followed in the malformed row `{key}`"))
}
