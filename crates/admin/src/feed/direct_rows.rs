//! Direct questions while the newest tables are not there yet: while all tables are read again
//! after a restore or a change of the schema, or a large import is applied. That takes seconds,
//! and a gateway waits one. So a question is answered by the tables before, except that what the
//! rows say of the client's address at this moment counts: a ban that is committed holds for the
//! next question. Of sources it is what they had then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_policy::address::{Prefix, canonical};
use tidegate_policy::bans::BanTable;
use tidegate_policy::codec::FormatError;
use tidegate_policy::decide::Tables;
use tidegate_policy::table::{AddressTable, Entry, EntryState};
use tidegate_policy::tables::TableSet;
use tidegate_policy::version::Version;

use super::ban_sources::latest;
use super::blocking::{blocking, laid_out};
use super::direct_tables::{CompiledTables, CurrentTables};
use super::inner::FeedInner;
use super::ip_monitor::prefixes_around;
use super::ip_rows::{ParsedRow, PrefixStatus, ReasonInterner};
use super::row_index::UnreadableRow;
use super::scoped_bans::table_of;
use super::scoped_rows::ScopedRow;
use super::snapshot::Snapshot;
use crate::lock::locked;
use crate::store::{AddressRows, StoreError};

/// Whether questions do without the newest tables, because they are late.
#[derive(Default)]
pub(super) struct Lateness(AtomicBool);

impl Lateness {
    /// Whether the newest tables are late.
    pub fn is_late(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// They are late. True for the first who notes it: that one waits for them.
    pub fn note_late(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// They are there.
    pub fn note_there(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The tables before, with what the rows say of `client` now.
pub(super) async fn tables(shared: &FeedInner, client: Option<IpAddr>) -> Result<Arc<Tables>, StoreError> {
    let CurrentTables { tables, snapshot } = last_compiled(shared).await?;
    let Some(client) = client else { return Ok(tables) };
    let rows = shared.store.ip_rows(keys_around(client, &snapshot)).await?;
    with_rows(&tables, &snapshot, &rows, client).map(Arc::new).map_err(laid_out)
}

/// The tables that were compiled last, or those of the newest state.
async fn last_compiled(shared: &FeedInner) -> Result<CurrentTables, StoreError> {
    let compiled = || locked(&shared.compiled).as_ref().map(CompiledTables::current_tables);
    if let Some(compiled) = compiled() {
        return Ok(compiled);
    }
    let _alone = shared.compiling.lock().await;
    if let Some(compiled) = compiled() {
        return Ok(compiled);
    }
    let state = shared.applied.borrow().clone();
    let new = blocking(move || CompiledTables::new(&state, None)).await?.map_err(laid_out)?;
    Ok(locked(&shared.compiled).get_or_insert(new).current_tables())
}

/// The keys of all rows that may cover `client`: the canonical ones, other forms of the address
/// itself, and those that it had in `snapshot`. A row that nobody has seen yet, with a block in
/// another spelling, is not among them.
fn keys_around(client: IpAddr, snapshot: &Snapshot) -> Vec<String> {
    let mut keys: BTreeSet<String> = prefixes_around(client).map(|prefix| prefix.to_string()).collect();
    match canonical(client) {
        IpAddr::V4(v4) => keys.extend([format!("{v4}/32"), v4.to_ipv6_mapped().to_string()]),
        IpAddr::V6(v6) => keys.extend([format!("{v6}/128")]),
    }
    let known = snapshot.covering(client).flat_map(|listed| listed.keys);
    // Of a row with a scope the address.
    keys.extend(known.filter_map(|key| key.split(' ').next().map(str::to_owned)));
    keys.into_iter().collect()
}

/// `before`, in which only the addresses of `rows` are banned, in shadow or not, or allowed.
fn with_rows(
    before: &Tables,
    snapshot: &Snapshot,
    rows: &AddressRows,
    client: IpAddr,
) -> Result<Tables, FormatError> {
    let mut reasons = ReasonInterner::default();
    let mut parsed: BTreeMap<Prefix, Vec<ParsedRow>> = BTreeMap::new();
    for row in &rows.ips {
        let read = match snapshot.ips.read(&snapshot.index, row, &mut reasons) {
            Ok(read) => Some(read),
            Err(UnreadableRow { kept, .. }) => kept,
        };
        if let Some((prefix, row)) = read {
            parsed.entry(prefix).or_default().push(row);
        }
    }
    let mut scoped: BTreeMap<Prefix, Vec<ScopedRow>> = BTreeMap::new();
    for row in &rows.scoped {
        let read = snapshot.ips.read_scoped(&snapshot.index, row, &mut reasons);
        if let Some((prefix, row)) = read.map_or_else(|bad| bad.kept, Some) {
            scoped.entry(prefix).or_default().push(row);
        }
    }
    let mut statuses: BTreeMap<Prefix, PrefixStatus> =
        parsed.iter().map(|(prefix, rows)| (*prefix, PrefixStatus::of(rows))).collect();
    for prefix in prefixes_around(client) {
        scoped.entry(prefix).or_default();
        let [banned, watched] =
            [&snapshot.ips.sources, &snapshot.ips.shadow_sources].map(|sources| sources.end(&prefix));
        if banned.or(watched).is_some() {
            let status = statuses.entry(prefix).or_default();
            status.banned = latest(status.banned, banned);
            status.watched = latest(status.watched, watched);
        }
    }
    let table = |end: fn(&PrefixStatus) -> Option<Option<u32>>| {
        let entry = |(prefix, status): (&Prefix, &PrefixStatus)| {
            Some(Entry { prefix: *prefix, state: EntryState::Present(end(status)?) })
        };
        let entries: Vec<Entry> = statuses.iter().filter_map(entry).collect();
        AddressTable::from_bytes(AddressTable::encode(entries.into_iter())?)
    };
    let bans = BanTable::new(table(|status| status.banned)?, AddressTable::empty());
    let set = TableSet {
        ban_base: bans.base().clone(),
        ban_overlay: bans.overlay().clone(),
        ban_recent: bans.recent().clone(),
        allow: table(|status| status.allowed)?,
        shadow_bans: table(|status| status.watched)?,
        // With what sources have.
        scoped_sources: Arc::default(),
        scoped_bans: table_of(&snapshot.ips, scoped.iter().map(|(prefix, rows)| (*prefix, &rows[..])))?,
        ..before.set.clone()
    };
    let version = Version { seq: before.version.seq.max(rows.seq), ..before.version };
    Ok(Tables { version, bans, set })
}
