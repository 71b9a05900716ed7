//! `GET /api/admin/optimization/health`: whether anything is wrong, and what.

mod certificates;
mod references;
mod rollout;
mod rollouts;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use jiff::Timestamp;
use serde::Serialize;
use tidegate_author::AutoBan;
use tidegate_policy::scoped_bans::{MAX_SCOPED_PREFIXES, MAX_SCOPES};
use tidegate_policy::tables::Table;
use utoipa::ToSchema;

use crate::api::admin::gateways::GatewayInfo;
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::query::{QueryParams, shortened};
use crate::auth::Role;
use crate::auto_bans::{MAX_RULES, RuleOutcome, RuleState};
use crate::feed::{self, FeedHealth, Quarantined, RowStatus, Snapshot, TableDigest};
use crate::finding::{Finding, FindingCode, Severity};
use crate::gateways::LOST_AFTER;
use crate::problem::ApiResult;
use crate::store::{StoreHealth, StoreOperation, StoreTable};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Says whether anything is wrong, and what").answers::<Health>();
    Endpoints::default().get(Role::Read, "/api/admin/optimization/health", detailed).about(about)
}

/// Size of the write-ahead log, bytes, from which on health reports it: a long read keeps it from
/// being written back into the database.
const LARGE_WAL: u64 = 256 << 20;
/// The tables of addresses, which have a limit of bytes.
const ADDRESS_TABLES: [(&str, RowStatus); 3] = [
    ("bans", RowStatus::Banned),
    ("allowed addresses", RowStatus::Allowed),
    ("bans in shadow", RowStatus::Watched),
];
/// Rows in quarantine that are shown; all are counted.
const SHOWN_QUARANTINE: usize = 100;

/// The answer.
#[derive(Serialize, Debug, ToSchema)]
pub struct Health {
    status: &'static str,
    reasons: Vec<Finding>,
    /// Notes: worth knowing, but not a fault.
    notes: Vec<Finding>,
    version: String,
    uptime_ms: u64,
    tables: TablesHealth,
    quarantine: Quarantine,
    /// References of routes to unknown backends.
    unknown_backends: Vec<references::UnknownReference>,
    gateways: Vec<GatewayInfo>,
    feed: FeedInfo,
    store: StoreInfo,
}

#[derive(Serialize, Debug, ToSchema)]
struct TablesHealth {
    bans: BansHealth,
    countries: CountriesHealth,
    /// The other tables that are sent whole.
    #[serde(flatten)]
    others: BTreeMap<&'static str, TableHealth>,
    watched: usize,
}

#[derive(Serialize, Debug, ToSchema)]
struct CountriesHealth {
    v4: usize,
    v6: usize,
    digest: String,
}

#[derive(Serialize, Debug, ToSchema)]
struct BansHealth {
    entries: u64,
    digest: String,
    base: String,
    base_bytes: u64,
    overlay: usize,
}

#[derive(Serialize, Debug, ToSchema)]
struct TableHealth {
    /// Absent for the flags, which are not a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<usize>,
    digest: String,
}

#[derive(Serialize, Debug, ToSchema)]
struct Quarantine {
    /// All of them, with those that are left out.
    count: usize,
    /// Entries that do not fit into their table.
    left_out: LeftOut,
    rows: Vec<QuarantinedRow>,
}

#[derive(Serialize, Debug, ToSchema)]
struct LeftOut {
    bans: usize,
    allow: usize,
    shadow_bans: usize,
    /// Bans with `applies_to`.
    scoped_bans: usize,
}

/// A row in quarantine.
#[derive(Serialize, Debug, ToSchema)]
struct QuarantinedRow {
    table: &'static str,
    key: String,
    detail: String,
}

#[derive(Serialize, Debug, ToSchema)]
struct FeedInfo {
    /// What it found and repaired lately.
    notices: Vec<FeedNotice>,
}

#[derive(Serialize, Debug, ToSchema)]
struct FeedNotice {
    at: Option<String>,
    detail: String,
}

impl From<feed::Notice> for FeedNotice {
    fn from(notice: feed::Notice) -> Self {
        let at = Timestamp::try_from(notice.at).ok().map(time::rfc3339);
        Self { at, detail: notice.text }
    }
}

#[derive(Serialize, Debug, ToSchema)]
struct StoreInfo {
    /// How long another program has held the write lock, if over 1 s.
    locked_for_ms: Option<u64>,
    wal_bytes: u64,
    /// What was found and repaired lately.
    notices: Vec<String>,
}

/// Answers the state of the service; status 200 also when degraded.
pub async fn detailed(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<Health>> {
    QueryParams::read(&uri, &[])?;
    let snapshot = app.feed.snapshot();
    let store = app.store.health();
    let gateways: Vec<GatewayInfo> = app.gateways.list().into_iter().map(GatewayInfo::from).collect();
    let feed = app.feed.health();
    let unknown_backends = snapshot.unknown_backends(&app.clusters);
    let found = findings(&app, &snapshot, &feed, &store, &gateways, unknown_backends.len()).await;
    let (notes, reasons): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|finding| finding.severity == Severity::Note);
    Ok(Json(Health {
        status: if reasons.is_empty() { "ok" } else { "degraded" },
        reasons,
        notes,
        version: snapshot.version.to_string(),
        uptime_ms: millis(app.started.elapsed()),
        tables: tables(&snapshot),
        quarantine: quarantine(&snapshot),
        unknown_backends: references::shown(unknown_backends),
        gateways,
        feed: FeedInfo { notices: feed.notices.into_iter().map(FeedNotice::from).collect() },
        store: StoreInfo {
            locked_for_ms: store.locked_for.map(millis),
            wal_bytes: store.wal_bytes,
            notices: store.notices,
        },
    }))
}

/// What health finds; `unknown_backends`: how many references of routes to unknown backends there are.
pub async fn findings(
    app: &AppState,
    snapshot: &Snapshot,
    feed: &FeedHealth,
    store: &StoreHealth,
    gateways: &[GatewayInfo],
    unknown_backends: usize,
) -> Vec<Finding> {
    let mut found = own_reasons(feed, store, app);
    found.extend(table_reasons(snapshot));
    found.extend(gateways.iter().filter_map(gateway_reason));
    found.extend(rollout::geo(snapshot, app.country_headers.seen()));
    found.extend(references::backends(unknown_backends));
    found.extend(references::listeners(snapshot));
    found.extend(references::routes(snapshot));
    found.extend(references::routes_of_bans(snapshot));
    found.extend(app.store.auto_bans().states().iter().flat_map(auto_ban_reasons));
    found.extend(too_many_rules(snapshot));
    found.extend(rollouts::reasons(app, snapshot));
    // If this cannot be read, the findings above say so.
    if !snapshot.sources.in_force.is_empty()
        && let Ok(states) = app.store.source_states().await
    {
        found.extend(sources::reasons(snapshot, &states));
    }
    if rollout::is_any_in_shadow(&snapshot.flags)
        && let Ok(checks) = app.store.checks().await
    {
        found.extend(rollout::shadow(&snapshot.flags, &checks));
    }
    found
}

/// The rules of automatic bans that do not count, as other programs may write any number.
fn too_many_rules(snapshot: &Snapshot) -> Option<Finding> {
    let rules = &snapshot.auto_bans.in_force;
    let first = rules.keys().nth(MAX_RULES)?;
    let (all, over) = (rules.len(), rules.len().saturating_sub(MAX_RULES));
    Some(FindingCode::AutoBansTooMany.says(format!(
        "there are {all} rules of automatic bans, of which {MAX_RULES} count: {over} do nothing, from `{first}` on"
    )))
}

/// What is wrong with a rule of automatic bans.
fn auto_ban_reasons((rule, state): &(Arc<AutoBan>, RuleState)) -> Vec<Finding> {
    let mut reasons = Vec::new();
    let AutoBan { name, max_bans, window_s, .. } = &**rule;
    if state.holds_back {
        let held = state.outcomes[RuleOutcome::HeldBack as usize];
        reasons.push(FindingCode::AutoBansHeldBack.says(format!(
            "the automatic ban `{name}` wanted more than {max_bans} bans within {window_s} s: {held} are held back so far"
        )));
    }
    if state.is_full {
        let dropped = state.dropped;
        reasons.push(FindingCode::AutoBansFull.says(format!(
            "the automatic ban `{name}` counts more addresses than it has room for: {dropped} were forgotten so far"
        )));
    }
    reasons
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What keeps the service from its work, by itself: apart from what rows, gateways and their
/// operators do.
pub fn own_reasons(feed: &FeedHealth, store: &StoreHealth, app: &AppState) -> Vec<Finding> {
    let mut reasons = certificates::reasons(app);
    if let Some(trouble) = &feed.trouble {
        let detail = format!("gateways hear of no change at the moment: {trouble}");
        reasons.push(FindingCode::FeedStopped.says(detail));
    }
    reasons.extend(store_reasons(store));
    let mut say = |code: FindingCode, detail: String| reasons.push(code.says(detail));
    for (listener, of) in app.connections.named() {
        if of.was_full() {
            let (open, limit) = (of.open(), of.limit());
            let detail = format!(
                "the listener for {listener} had no room within the last minute: {open} of {limit} connections, and \
                 idle ones were closed for new ones"
            );
            say(FindingCode::ConnectionsFull, detail);
        }
        if let Some(why) = of.failure() {
            let detail = format!(
                "the listener for {listener} could not accept connections within the last minute: {why}"
            );
            say(FindingCode::AcceptFailed, detail);
        }
    }
    reasons
}

fn store_reasons(store: &StoreHealth) -> Vec<Finding> {
    let mut reasons = Vec::new();
    let mut say = |code: FindingCode, detail: String| reasons.push(code.says(detail));
    if let Some(span) = store.locked_for {
        let seconds = span.as_secs();
        say(
            FindingCode::StoreLocked,
            format!("another program has held the database's write lock for {seconds} s"),
        );
    }
    if let Some(why) = &store.unusable {
        say(
            FindingCode::StoreUnusable,
            format!("nothing can be written, and nobody sees what others write: {why}"),
        );
    }
    if store.wal_bytes > LARGE_WAL {
        let size = store.wal_bytes >> 20;
        say(
            FindingCode::WalLarge,
            format!("the write-ahead log has {size} MiB: some reader has not ended for long"),
        );
    }
    for operation in StoreOperation::ALL {
        let of_it = store.faults.iter().filter(|fault| fault.operation == operation);
        let details: Vec<_> = of_it
            .map(|fault| format!("{}, for {} s: {}", fault.what, fault.since.as_secs(), fault.why))
            .collect();
        if !details.is_empty() {
            let (code, what) = match operation {
                StoreOperation::Write => (FindingCode::StoreWriteFailed, "writing to the database fails"),
                StoreOperation::Read => (FindingCode::StoreReadFailed, "reading the database fails"),
                StoreOperation::Checkpoint => (
                    FindingCode::StoreCheckpointFailed,
                    "the write-ahead log cannot be written back into the database",
                ),
            };
            say(code, format!("{what}: {}", details.join("; ")));
        }
    }
    if store.events_over_limit {
        let detail = format!(
            "events take {} MB, and may take {} MB: retention has not kept the limit for a minute",
            store.event_bytes / 1_000_000,
            store.event_limit / 1_000_000
        );
        say(FindingCode::EventsOverLimit, detail);
    }
    reasons
}

fn table_reasons(snapshot: &Snapshot) -> Vec<Finding> {
    let mut reasons = Vec::new();
    let mut say = |code: FindingCode, detail: String| reasons.push(code.says(detail));
    if let rows @ 1.. = snapshot.quarantine().len() {
        say(
            FindingCode::RowsQuarantined,
            format!("{rows} rows cannot be read; `quarantine` says why, and what holds instead"),
        );
    }
    for (table, status) in ADDRESS_TABLES {
        if let entries @ 1.. = snapshot.left_out_count(status) {
            say(
                FindingCode::TableFull,
                format!(
                    "{entries} entries of the table of {table} do not fit into it and have no effect; those that came first are in"
                ),
            );
        }
    }
    if let bans @ 1.. = snapshot.scoped_left_out() {
        let detail = format!(
            "{bans} bans with `applies_to` have no effect: there may be {MAX_SCOPES} different ones, of \
             {MAX_SCOPED_PREFIXES} addresses and blocks; those that came first are in"
        );
        say(FindingCode::ScopesFull, detail);
    }
    reasons
}

/// What is wrong with a gateway: the worst of it.
fn gateway_reason(gateway: &GatewayInfo) -> Option<Finding> {
    let node = &gateway.node;
    let (code, detail) = if gateway.lost {
        (
            FindingCode::GatewayLost,
            format!("{node} was not heard of for over 3 s: what it enforces is not known"),
        )
    } else if u128::from(gateway.silent_for_ms) > LOST_AFTER.as_millis() {
        (FindingCode::GatewayNotPolling, format!("{node} posts events but has not polled for over 3 s"))
    } else if gateway.stale_vms > 0 {
        let stale = gateway.stale_vms;
        (FindingCode::GatewayStale, format!("{stale} VMs of {node} were not heard of for over 2 s"))
    } else {
        return None;
    };
    Some(code.says(detail))
}

fn tables(snapshot: &Snapshot) -> TablesHealth {
    let digests = &snapshot.tables;
    let others = Table::whole().filter(|table| *table != Table::Countries).map(|table| {
        let TableDigest { hash, entries } = digests.whole[table];
        (table.name(), TableHealth { entries, digest: hash.to_string() })
    });
    let (v4, v6) = snapshot.countries.as_ref().map_or((0, 0), |info| (info.v4, info.v6));
    TablesHealth {
        bans: BansHealth {
            entries: digests.bans.count,
            digest: digests.bans.to_string(),
            base: digests.base.hash.to_string(),
            base_bytes: digests.base.len,
            overlay: digests.overlay,
        },
        countries: CountriesHealth { v4, v6, digest: digests.whole[Table::Countries].hash.to_string() },
        others: others.collect(),
        watched: snapshot.count(RowStatus::Watched),
    }
}

fn quarantine(snapshot: &Snapshot) -> Quarantine {
    let row = |row: Quarantined| QuarantinedRow {
        table: row.table.name(),
        key: shortened(&row.key),
        detail: row.why.to_string(),
    };
    let left_out = ADDRESS_TABLES.into_iter().flat_map(|(table, status)| {
        snapshot.left_out(status).map(move |prefix| QuarantinedRow {
            table: StoreTable::Ip.name(),
            key: prefix.to_string(),
            detail: format!("left out: the table of {table} is full; it has no effect until there is room"),
        })
    });
    let [bans, allow, shadow_bans] = ADDRESS_TABLES.map(|(_, status)| snapshot.left_out_count(status));
    let scoped_bans = snapshot.scoped_left_out();
    let rows = snapshot.quarantine();
    Quarantine {
        count: [bans, allow, shadow_bans, scoped_bans].into_iter().fold(rows.len(), usize::saturating_add),
        left_out: LeftOut { bans, allow, shadow_bans, scoped_bans },
        rows: rows.map(row).chain(left_out).take(SHOWN_QUARANTINE).collect(),
    }
}
