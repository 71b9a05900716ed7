//! `GET /metrics`: the service's metrics for Prometheus.

use std::time::{Duration, Instant, SystemTime};

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use tidegate_policy::check::Check;
use tidegate_policy::tables::Table;
use tidegate_rollout::gates::Verdict;

use super::admin::optimization::recording::{self, RecordingStats};
use super::admin::sources::{count_states, longest_age_s};
use super::app_state::AppState;
use super::endpoints::Endpoints;
use super::openapi::about::About;
use super::query::QueryParams;
use crate::auto_bans::RuleOutcome;
use crate::feed::{RowStatus, Snapshot};
use crate::gateways::GatewayStatus;
use crate::metrics::{self as declared, MetricsPage};
use crate::problem::ApiResult;
use crate::rollouts::webhooks::WebhookCounts;
use crate::serve::connections::CloseReason;
use crate::store::{RecordingCounts, StoreHealth, StoreOperation};

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Answers the metrics, as Prometheus reads them");
    let page = Some((declared::CONTENT_TYPE, json!({"type": "string"})));
    Endpoints::default().open("/metrics", metrics).about(about.answers_with(200, "the page", page))
}

/// A page is given out for this long: making it reads sums over whole tables, and anybody may ask
/// for it.
const PAGE_TIME: Duration = Duration::from_secs(1);

/// A page, and when it was made.
pub struct CachedPage {
    made: Instant,
    text: Bytes,
}

/// Answers the page, at most a second old. Whoever comes while it is made waits for it.
pub async fn metrics(State(app): State<AppState>, uri: Uri) -> ApiResult<Response> {
    QueryParams::read(&uri, &[])?;
    let mut cached = app.metrics_page.lock().await;
    let text = match &*cached {
        Some(page) if page.made.elapsed() < PAGE_TIME => page.text.clone(),
        _ => {
            let text = Bytes::from(make_page(&app).await);
            *cached = Some(CachedPage { made: Instant::now(), text: text.clone() });
            text
        }
    };
    drop(cached);
    let headers = [(CONTENT_TYPE, declared::CONTENT_TYPE), (CACHE_CONTROL, "no-store")];
    Ok((headers, text).into_response())
}

async fn make_page(app: &AppState) -> String {
    let mut page = MetricsPage::default();
    service(&mut page, app);
    let health = app.feed.health();
    feed(&mut page, &app.feed.snapshot(), health.trouble.is_some());
    sources(&mut page, app).await;
    gateways(&mut page, app);
    store(&mut page, &app.store.health());
    auto_bans(&mut page, app);
    rollouts(&mut page, app);
    // Metrics that the database does not give are missing on the page.
    let recorded = recording::read_counts(app).await.ok();
    page.whether(&declared::STORE_READABLE, recorded.is_some());
    if let Some((counts, silent)) = recorded {
        events(&mut page, &counts, silent);
        checks(&mut page, &counts);
    }
    page.encode()
}

fn service(page: &mut MetricsPage, app: &AppState) {
    page.text(&declared::BUILD, env!("CARGO_PKG_VERSION").to_owned());
    let started = SystemTime::now().checked_sub(app.started.elapsed());
    let since_1970 = started.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    page.fraction(&declared::START_TIME_SECONDS, since_1970.unwrap_or_default().as_secs_f64());
    page.metric(&declared::REQUESTS, app.metrics.requests());
    page.counters(&declared::LIMITED, app.limits.counts().map(|(how, count)| ([how], count)));
    page.metric(&declared::REFUSED, app.metrics.refusals());
    let listeners = app.connections.named();
    page.gauges(&declared::CONNECTIONS, listeners.map(|(name, of)| (name, of.open())));
    let closed = |why: CloseReason| listeners.map(|(name, of)| ([name, why.name()], of.closed(why)));
    page.counters(&declared::CONNECTIONS_CLOSED, CloseReason::ALL.into_iter().flat_map(closed));
    certificates(page, app);
}

fn certificates(page: &mut MetricsPage, app: &AppState) {
    let with_tls = app.tls.named().map(|(name, tls)| Some((name, tls.as_ref()?.state())));
    let states = || with_tls.iter().flatten();
    page.counters(
        &declared::TLS_HANDSHAKES_FAILED,
        states().map(|(name, state)| ([*name], state.failed_handshakes)),
    );
    page.fractions(&declared::CERTIFICATE_DAYS_LEFT, states().map(|(name, state)| (*name, state.days_left)));
    let refused = states().map(|(name, state)| (*name, usize::from(state.refused.is_some())));
    page.gauges(&declared::CERTIFICATE_REFUSED, refused);
}

fn feed(page: &mut MetricsPage, snapshot: &Snapshot, stopped: bool) {
    page.text(&declared::FEED_EPOCH, format!("{:016x}", snapshot.version.epoch));
    page.gauge(&declared::FEED_SEQ, snapshot.version.seq);
    page.whether(&declared::FEED_STOPPED, stopped);
    let digests = &snapshot.tables;
    let bans = usize::try_from(digests.bans.count).unwrap_or(usize::MAX);
    let whole = Table::whole().filter_map(|table| Some((table.name(), digests.whole[table].entries?)));
    let others =
        [("bans", bans), ("bans_overlay", digests.overlay), ("watched", snapshot.count(RowStatus::Watched))];
    page.gauges(&declared::TABLE_ENTRIES, whole.chain(others));
    page.gauges(
        &declared::QUARANTINED_ROWS,
        crate::store::StoreTable::ALL.map(|table| (table.name(), snapshot.quarantined(table))),
    );
    let left_out =
        [("bans", RowStatus::Banned), ("allow", RowStatus::Allowed), ("shadow_bans", RowStatus::Watched)];
    let left_out = left_out.map(|(table, status)| (table, snapshot.left_out_count(status)));
    let scoped = [("scoped_bans", snapshot.scoped_left_out())];
    page.gauges(&declared::TABLE_LEFT_OUT, left_out.into_iter().chain(scoped));
}

async fn sources(page: &mut MetricsPage, app: &AppState) {
    let fetches = app.sources.outcomes().map(|(outcome, count)| ([outcome.name()], count));
    page.counters(&declared::SOURCE_FETCHES, fetches);
    let snapshot = app.feed.snapshot();
    let names = || snapshot.sources.in_force.keys();
    let entries = names().filter_map(|name| snapshot.source_set(name)).map(|set| set.len() as u64).sum();
    page.gauge(&declared::SOURCE_ENTRIES, entries);
    // What the database does not give is missing on the page.
    if let Ok(states) = app.store.source_states().await {
        let counts = count_states(&snapshot, &states);
        page.gauges(&declared::SOURCES, counts);
        page.fraction(&declared::SOURCE_AGE_SECONDS, longest_age_s(&snapshot, &states));
    }
}

fn gateways(page: &mut MetricsPage, app: &AppState) {
    let all = app.gateways.list();
    let stale_vms = |status: &GatewayStatus| status.ack.map_or(0, |ack| ack.stale);
    let count = |wanted: &dyn Fn(&GatewayStatus) -> bool| all.iter().filter(|one| wanted(one)).count();
    page.gauges(
        &declared::GATEWAYS,
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
        &declared::GATEWAY_VMS,
        [("live", vms(&|one| one.ack.map_or(0, |ack| ack.live))), ("stale", vms(&stale_vms))],
    );
    page.metric(&declared::CHANGE_ENFORCED_SECONDS, app.gateways.enforced());
    page.fraction(
        &declared::CHANGE_UNENFORCED_SECONDS,
        app.gateways.unenforced().unwrap_or_default().as_secs_f64(),
    );
}

fn store(page: &mut MetricsPage, health: &StoreHealth) {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    page.gauges(
        &declared::STORE_BYTES,
        [("database", bytes(health.db_bytes)), ("wal", bytes(health.wal_bytes))],
    );
    page.counter(&declared::STORE_LOCK_WAITS, health.lock_waits);
    page.fraction(&declared::STORE_LOCKED_SECONDS, health.locked_for.unwrap_or_default().as_secs_f64());
    page.whether(&declared::STORE_USABLE, health.unusable.is_none());
    page.gauges(
        &declared::EVENT_BYTES,
        [("taken", bytes(health.event_bytes)), ("limit", bytes(health.event_limit))],
    );
    let failing = |operation| health.faults.iter().filter(|fault| fault.operation == operation).count();
    page.gauges(&declared::STORE_FAILING, StoreOperation::ALL.map(|it| (it.name(), failing(it))));
}

fn auto_bans(page: &mut MetricsPage, app: &AppState) {
    let totals = app.store.auto_bans().totals();
    let outcomes = RuleOutcome::ALL.map(|outcome| ([outcome.name()], totals.outcomes[outcome as usize]));
    page.counters(&declared::AUTO_BANS, outcomes);
    page.gauge(&declared::AUTO_BAN_COUNTERS, totals.counters as u64);
    page.counter(&declared::AUTO_BAN_COUNTERS_DROPPED, totals.dropped);
    page.counter(&declared::AUTO_BAN_EVENTS_LATE, totals.late);
}

fn rollouts(page: &mut MetricsPage, app: &AppState) {
    let run = app.rollouts.active();
    let phase = run.as_ref().map_or("", |run| run.phase.name());
    let phases = ["running", "waiting_for_approval", "paused"];
    page.gauges(&declared::ROLLOUT_PHASE, phases.map(|name| (name, usize::from(name == phase))));
    page.gauge(&declared::ROLLOUT_STAGE, run.as_ref().map_or(0, |run| run.stage as u64 + 1));
    let held = run.as_ref().map_or(0, |run| run.current.held_ms);
    page.fraction(&declared::ROLLOUT_HELD_SECONDS, Duration::from_millis(held).as_secs_f64());
    let results = || run.iter().flat_map(|run| &run.current.gates).filter_map(|gate| gate.result.as_ref());
    let count = |verdict: Verdict| results().filter(|result| result.verdict == verdict).count();
    let verdicts = [Verdict::Holds, Verdict::Fails, Verdict::Undecided];
    page.gauges(&declared::ROLLOUT_GATES, verdicts.map(|verdict| (verdict.name(), count(verdict))));
    let steps = app.rollouts.note_counts().map(|(kind, count)| ([kind.name()], count));
    page.counters(&declared::ROLLOUT_STEPS, steps);
    let WebhookCounts { sent, failed, given_up, .. } = app.rollouts.webhooks().counts();
    let notices = [(["sent"], sent), (["failed"], failed), (["given_up"], given_up)];
    page.counters(&declared::ROLLOUT_NOTICES, notices);
}

fn events(page: &mut MetricsPage, counts: &RecordingCounts, silent: usize) {
    let stats = RecordingStats::new(counts.clone(), silent);
    page.counter(&declared::EVENTS_NUMBERED, counts.numbered);
    page.counter(&declared::EVENTS_STORED, counts.stored);
    page.counter(&declared::EVENTS_DUPLICATES, counts.duplicates);
    page.counter(&declared::EVENTS_MALFORMED, counts.malformed);
    page.counter(&declared::EVENTS_REFUSED, counts.refused);
    page.counter(&declared::EVENTS_REMOVED, counts.removed);
    page.counters(
        &declared::EVENTS_DROPPED,
        counts.dropped.iter().map(|(reason, count)| ([*reason], *count)),
    );
    page.gauge(&declared::EVENTS_PENDING, counts.pending);
    page.gauge(&declared::EVENTS_LOST, counts.lost);
    page.gauge(&declared::EVENTS_OPEN, counts.open);
    page.gauge(&declared::EVENTS_INCOMPLETE, counts.incomplete);
    page.gauge(&declared::SOURCES_ALIVE, counts.alive);
    page.gauge(&declared::SOURCES_UNCLOSED, counts.unclosed);
    page.gauge(&declared::RECORDER_WAITING_BYTES, counts.recorder.waiting_bytes);
    page.fraction(
        &declared::RECORDER_OLDEST_SECONDS,
        Duration::from_millis(counts.recorder.oldest_ms).as_secs_f64(),
    );
    page.fraction(&declared::COMPLETENESS_RATIO, stats.completeness());
    page.whether(&declared::COMPLETENESS_EXACT, stats.is_exact());
    page.gauge(&declared::GATEWAYS_SILENT, u64::try_from(silent).unwrap_or(u64::MAX));
}

fn checks(page: &mut MetricsPage, counts: &RecordingCounts) {
    page.counters(
        &declared::CHECKS,
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
    page.counters(&declared::SHADOW_COMPARED, each(|of| of.compared));
    page.counters(&declared::SHADOW_MISMATCHED, each(|of| of.mismatched));
    page.counters(&declared::SHADOW_LAGGING, each(|of| of.lagging));
}
