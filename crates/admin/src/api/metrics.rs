//! `GET /metrics`: the service's figures for Prometheus. `docs/METRICS.md` lists
//! them, and a test keeps the two alike.

use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tidegate_policy::check::Check;

use super::admin::optimization::recording::{self, RecordingStats};
use super::app_state::AppState;
use super::query::QueryParams;
use crate::feed::{RowStatus, Snapshot};
use crate::gateways::GatewayStatus;
use crate::metrics::{self, Page};
use crate::problem::ApiResult;
use crate::store::{RecordingCounts, StoreHealth};

/// The paths here.
pub fn routes() -> Router<AppState> {
    Router::new().route("/metrics", get(metrics))
}

/// Answers the page.
///
/// # Errors
/// When the address has a parameter.
pub async fn metrics(State(app): State<AppState>, uri: Uri) -> ApiResult<Response> {
    QueryParams::read(&uri, &[])?;
    let mut page = Page::default();
    service(&mut page, &app);
    let health = app.feed.health();
    feed(&mut page, &app.feed.snapshot(), health.trouble.is_some());
    gateways(&mut page, &app);
    store(&mut page, &app.store.health());
    let recorded = recorded(&app).await;
    page.whether(
        "tidegate_admin_store_readable",
        "Whether the figures of events and checks could be read from the database; if not, they are missing",
        recorded.is_some(),
    );
    if let Some((counts, silent)) = recorded {
        events(&mut page, &counts, silent);
        checks(&mut page, &counts);
    }
    let headers = [(CONTENT_TYPE, metrics::CONTENT_TYPE), (CACHE_CONTROL, "no-store")];
    Ok((headers, page.encode()).into_response())
}

/// What `recording/stats` knows; `None`: the database cannot be read.
async fn recorded(app: &AppState) -> Option<(RecordingCounts, usize)> {
    recording::read_counts(app).await.ok()
}

fn service(page: &mut Page, app: &AppState) {
    page.text(
        "tidegate_admin_build",
        "The version of the service",
        "version",
        env!("CARGO_PKG_VERSION").to_owned(),
    );
    let started = SystemTime::now().checked_sub(app.started.elapsed());
    let since_1970 = started.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    page.fraction(
        "tidegate_admin_start_time_seconds",
        "When the service began, in seconds since 1970",
        since_1970.unwrap_or_default().as_secs_f64(),
    );
    page.metric(
        "tidegate_admin_requests",
        "Requests of the API that were answered, by listener, method, pattern of the path and class of the status",
        app.metrics.requests(),
    );
}

fn feed(page: &mut Page, snapshot: &Snapshot, stopped: bool) {
    page.text(
        "tidegate_admin_feed_epoch",
        "The epoch of the tables: another one after each start, and after the database was restored",
        "epoch",
        format!("{:016x}", snapshot.version.epoch),
    );
    page.gauge(
        "tidegate_admin_feed_seq",
        "The sequence number of the tables that gateways get",
        snapshot.version.seq,
    );
    page.whether(
        "tidegate_admin_feed_stopped",
        "Whether gateways hear of no change, because the database cannot be followed",
        stopped,
    );
    let figures = &snapshot.tables;
    let bans = usize::try_from(figures.bans.count).unwrap_or(usize::MAX);
    page.gauges(
        "tidegate_admin_table_entries",
        "Entries of each table",
        "table",
        [
            ("allow", figures.allow_entries),
            ("bans", bans),
            ("bans_overlay", figures.overlay),
            ("countries", figures.countries_v4.saturating_add(figures.countries_v6)),
            ("geo", figures.geo_entries),
            ("limits", figures.limits_entries),
            ("routes", figures.routes_entries),
            ("watched", snapshot.count(RowStatus::Watched)),
        ],
    );
    page.gauges(
        "tidegate_admin_quarantined_rows",
        "Rows that cannot be read, or have no effect for another reason, by the table of the database",
        "table",
        crate::store::StoreTable::ALL.map(|table| (table.name(), snapshot.quarantined(table))),
    );
}

fn gateways(page: &mut Page, app: &AppState) {
    let all = app.gateways.list();
    let stale_vms = |status: &GatewayStatus| status.ack.map_or(0, |ack| ack.stale);
    let count = |wanted: &dyn Fn(&GatewayStatus) -> bool| all.iter().filter(|one| wanted(one)).count();
    page.gauges(
        "tidegate_admin_gateways",
        "Gateways: live; live, but with VMs not heard of for 2 s; lost, not heard of for 3 s",
        "state",
        [
            ("live", count(&|one| !one.lost && stale_vms(one) == 0)),
            ("stale", count(&|one| !one.lost && stale_vms(one) > 0)),
            ("lost", count(&|one| one.lost)),
        ],
    );
    let vms = |of: &dyn Fn(&GatewayStatus) -> u32| {
        let some = all.iter().filter(|one| !one.lost).map(of);
        some.fold(0_usize, |sum, vms| sum.saturating_add(usize::try_from(vms).unwrap_or(usize::MAX)))
    };
    page.gauges(
        "tidegate_admin_gateway_vms",
        "VMs that serve requests, of gateways that are not lost: live, and stale, not heard of for 2 s",
        "state",
        [("live", vms(&|one| one.ack.map_or(0, |ack| ack.live))), ("stale", vms(&stale_vms))],
    );
    page.metric(
        "tidegate_change_enforced_seconds",
        "Seconds from a change to the ack of a gateway that all its VMs enforce it; one for each version and gateway",
        app.gateways.enforced(),
    );
    page.fraction(
        "tidegate_change_unenforced_seconds",
        "Age of the oldest change that a gateway that is not lost does not enforce in all its VMs; 0: there is none",
        app.gateways.unenforced().unwrap_or_default().as_secs_f64(),
    );
}

fn store(page: &mut Page, health: &StoreHealth) {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    page.gauges(
        "tidegate_admin_store_bytes",
        "Bytes of the database's file, and of its write-ahead log",
        "file",
        [("database", bytes(health.db_bytes)), ("wal", bytes(health.wal_bytes))],
    );
    page.counter(
        "tidegate_admin_store_lock_waits",
        "Writes that had to wait because another program held the database's write lock",
        health.lock_waits,
    );
    page.fraction(
        "tidegate_admin_store_locked_seconds",
        "Since when another program holds the write lock, if over 1 s",
        health.locked_for.unwrap_or_default().as_secs_f64(),
    );
    page.whether(
        "tidegate_admin_store_usable",
        "Whether the database is there and can be written",
        health.unusable.is_none(),
    );
}

fn events(page: &mut Page, counts: &RecordingCounts, silent: usize) {
    let stats = RecordingStats::new(counts.clone(), silent);
    for (name, help, value) in [
        ("tidegate_admin_events_numbered", "Events that gates numbered, as far as is known", counts.numbered),
        ("tidegate_admin_events_stored", "Events of these that were stored", counts.stored),
        (
            "tidegate_admin_events_duplicates",
            "Events that came again and were not stored twice",
            counts.duplicates,
        ),
        ("tidegate_admin_events_malformed", "Batches of events that could not be read", counts.malformed),
    ] {
        page.counter(name, help, value);
    }
    page.counters(
        "tidegate_admin_events_dropped",
        "Events that gates gave up, by reason",
        ["reason"],
        counts.dropped.iter().map(|(reason, count)| ([*reason], *count)),
    );
    for (name, help, value) in [
        ("tidegate_admin_events_pending", "Events numbered, not here, that may still come", counts.pending),
        ("tidegate_admin_events_lost", "Events numbered, not here, that will not come", counts.lost),
        (
            "tidegate_admin_events_open",
            "Events stored before their response, whose end has not come yet",
            counts.open,
        ),
        (
            "tidegate_admin_events_incomplete",
            "Events stored before their response, whose end will not come",
            counts.incomplete,
        ),
        (
            "tidegate_admin_sources_alive",
            "VMs that number events and were heard of within 10 s",
            counts.alive,
        ),
        (
            "tidegate_admin_sources_unclosed",
            "VMs that died without closing their events: what they numbered last is not known",
            counts.unclosed,
        ),
        (
            "tidegate_admin_recorder_waiting_bytes",
            "Bytes of events that wait in gateways, as they said with their last posts",
            counts.recorder.waiting_bytes,
        ),
    ] {
        page.gauge(name, help, value);
    }
    page.fraction(
        "tidegate_admin_recorder_oldest_seconds",
        "Age of the oldest of these when they said so",
        Duration::from_millis(counts.recorder.oldest_ms).as_secs_f64(),
    );
    page.fraction(
        "tidegate_admin_completeness_ratio",
        "Stored by numbered events, 0 to 1",
        stats.completeness(),
    );
    page.whether(
        "tidegate_admin_completeness_exact",
        "Whether that is the figure itself: no VM is unclosed and no gateway silent; else it is an upper bound",
        stats.is_exact(),
    );
    page.gauge(
        "tidegate_admin_gateways_silent",
        "Gateways with VMs that number events, as far as is known, and that are not heard of",
        u64::try_from(silent).unwrap_or(u64::MAX),
    );
}

fn checks(page: &mut Page, counts: &RecordingCounts) {
    page.counters(
        "tidegate_admin_checks",
        "Checks of recorded requests, by who answered: hit, the cache; direct, the database; fallback, the cache instead of it; unavailable, nobody",
        ["check", "outcome"],
        Check::ALL.into_iter().flat_map(|check| {
            let of = counts.checks.get(check);
            [
                ([check.name(), "hit"], of.cache),
                ([check.name(), "direct"], of.direct),
                ([check.name(), "fallback"], of.fallback),
                ([check.name(), "unavailable"], of.unavailable),
            ]
        }),
    );
    let each = |of: fn(&crate::store::CheckCounts) -> u64| {
        Check::ALL.map(|check| ([check.name()], of(counts.checks.get(check))))
    };
    for (name, help, values) in [
        (
            "tidegate_admin_shadow_compared",
            "Checks in shadow of which cache and database were compared",
            each(|of| of.compared),
        ),
        ("tidegate_admin_shadow_mismatched", "Those of them that differed", each(|of| of.mismatched)),
        (
            "tidegate_admin_shadow_lagging",
            "Those of these where the cache was only behind for a moment",
            each(|of| of.lagging),
        ),
    ] {
        page.counters(name, help, ["check"], values);
    }
}
