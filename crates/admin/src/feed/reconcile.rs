//! Comparing the world with the store now and then: what slips past triggers,
//! log and hints is found and said.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::address::Prefix;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;
use super::follow::Event;
use super::load::Loaded;
use super::small::COUNTRIES_KEY;
use super::state::State;
use super::world::World;
use crate::store::{ChangedRows, Changes, Kind, StoreError, Table};

/// `ip_monitor` counts as small up to this many prefixes.
const SMALL: usize = 10_000;
/// `geo_countries` does up to this many bytes.
const SMALL_BYTES: usize = 1 << 20;
/// The feed follows the store well within this, or there is trouble anyway.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(10);

/// Compares at the options' intervals. Never returns.
pub(super) async fn run(shared: Arc<Shared>) {
    let (small, large) = (shared.options.reconcile_small, shared.options.reconcile_large);
    let mut next_large = Instant::now() + large;
    loop {
        let next_small = Instant::now() + small;
        sleep_until(next_small.min(next_large)).await;
        let due = Instant::now() >= next_large;
        if due {
            next_large = Instant::now() + large;
        }
        let tables: Vec<Table> = {
            let state = shared.applied.borrow();
            Table::ALL.into_iter().filter(|table| due || is_small(*table, &state)).collect()
        };
        match compare(&shared, &tables).await {
            Ok(None) => {}
            // The follower ends no earlier than this task.
            Ok(Some(found)) => drop(shared.events.send(Event::Differs(found))),
            Err(error) => tracing::warn!("tables could not be compared with the store: {error}"),
        }
    }
}

fn is_small(table: Table, state: &State) -> bool {
    match table {
        Table::Ip => state.world.entries.len() <= SMALL,
        Table::Countries => state.countries.bytes.len() <= SMALL_BYTES,
        Table::Flags | Table::Documents(_) => true,
    }
}

/// What differs, if anything does.
pub(super) async fn compare(shared: &Shared, tables: &[Table]) -> Result<Option<String>, StoreError> {
    let era = shared.applied.borrow().moment.era;
    let snapshot = shared.store.snapshot(tables).await?;
    let seq = snapshot.seq;
    let mut applied = shared.applied.subscribe();
    let reached = timeout(FOLLOWS_WITHIN, applied.wait_for(|state| state.moment.seq >= seq)).await;
    let Ok(Ok(state)) = reached.map(|state| state.map(|state| State::clone(&state))) else { return Ok(None) };
    // Asked after the state was taken: whatever the state has that the snapshot
    // has not is among these keys.
    let Changes::Rows { rows, .. } = shared.store.changes_since(seq).await? else { return Ok(None) };
    if state.moment.era != era {
        return Ok(None);
    }
    let tables = tables.to_vec();
    let work = move || {
        let moved = moved(&rows);
        let world = &state.world;
        let differs = |table: &Table| match table {
            Table::Ip => None,
            Table::Flags => world.row_that_differs(*table, &snapshot.flags, &moved),
            Table::Countries => world.row_that_differs(*table, snapshot.countries.as_slice(), &moved),
            Table::Documents(kind) => world.row_that_differs(*table, snapshot.documents.get(*kind), &moved),
        };
        let small = tables.iter().find_map(|table| {
            let key = differs(table)?;
            Some(format!("{} differ from what was followed, first `{key}`", table.name()))
        });
        let moved: HashSet<String> = rows.ips.into_iter().map(|(key, _)| key).collect();
        let with_ips = tables.contains(&Table::Ip);
        small.or_else(|| with_ips.then(|| ips_differ(world, Loaded::read(snapshot.ips), &moved))?)
    };
    spawn_blocking(work).await.map_err(|error| StoreError::Failed(error.to_string()))
}

/// Keys of rows of the small tables.
fn moved(rows: &ChangedRows) -> HashSet<(Table, String)> {
    let flags = rows.flags.iter().map(|(key, _)| (Table::Flags, key.clone()));
    let countries = rows.countries.iter().map(|_| (Table::Countries, COUNTRIES_KEY.to_owned()));
    let documents = Kind::ALL.into_iter().flat_map(|kind| {
        rows.documents.get(kind).iter().map(move |(key, _)| (Table::Documents(kind), key.clone()))
    });
    flags.chain(countries).chain(documents).collect()
}

fn ips_differ(world: &World, loaded: Loaded, moved: &HashSet<String>) -> Option<String> {
    let prefixes: HashSet<Prefix> = moved.iter().filter_map(|key| key.parse().ok()).collect();
    let found = loaded.differences(world, |prefix| prefixes.contains(prefix));
    if let Some((first, _)) = found.first() {
        return Some(format!(
            "ip_monitor differs from what was followed in {} entries, first {first}",
            found.len()
        ));
    }
    let key = loaded.quarantine_differs(world, moved)?;
    Some(format!("ip_monitor differs from what was followed in the malformed row `{key}`"))
}
