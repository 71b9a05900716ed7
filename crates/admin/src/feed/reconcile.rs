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
use super::state::State;
use super::world::World;
use crate::store::{Changes, RouteRow, StoreError, Table};

/// `ip_monitor` counts as small up to this many prefixes.
const SMALL: usize = 10_000;
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
        let few = shared.applied.borrow().world.entries.len() <= SMALL;
        if due {
            next_large = Instant::now() + large;
        }
        let tables: &[Table] = if due || few { &[Table::Ip, Table::Routes] } else { &[Table::Routes] };
        match compare(&shared, tables).await {
            Ok(None) => {}
            // The follower ends no earlier than this task.
            Ok(Some(found)) => drop(shared.events.send(Event::Differs(found))),
            Err(error) => tracing::warn!("tables could not be compared with the store: {error}"),
        }
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
    let Changes::Rows { ips, routes, .. } = shared.store.changes_since(seq).await? else { return Ok(None) };
    if state.moment.era != era {
        return Ok(None);
    }
    let with_ips = tables.contains(&Table::Ip);
    let work = move || {
        let moved: HashSet<String> = routes.into_iter().map(|(name, _)| name).collect();
        let found = routes_differ(&state.world, &snapshot.routes, &moved);
        let moved: HashSet<String> = ips.into_iter().map(|(key, _)| key).collect();
        found.or_else(|| with_ips.then(|| ips_differ(&state.world, Loaded::read(snapshot.ips), &moved))?)
    };
    spawn_blocking(work).await.map_err(|error| StoreError::Failed(error.to_string()))
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

fn routes_differ(world: &World, rows: &[RouteRow], moved: &HashSet<String>) -> Option<String> {
    let stored: HashSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let gone = world.route_rows.keys().find(|name| !stored.contains(&***name) && !moved.contains(&***name));
    let changed = rows.iter().find(|row| {
        let held = world.route_rows.get(row.name.as_str());
        held != Some(&super::routes::fingerprint(row)) && !moved.contains(&row.name)
    });
    let name = changed.map(|row| row.name.clone()).or_else(|| gone.map(ToString::to_string))?;
    Some(format!("routes differ from what was followed, first `{name}`"))
}
