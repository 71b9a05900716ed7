//! `POST cache/refresh` and `POST warmup`: wait until every gateway has the current tables, with
//! and without loading them anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::Uri;
use serde::Serialize;
use tidegate_policy::flags::Flag;
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use utoipa::ToSchema;

use crate::api::admin::gateways::GatewayInfo;
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::WAIT;
use crate::api::query::{MAX_WAIT_APPLIED, QueryParams};
use crate::api::wait_applied::{version_as_text, wait_for_goal};
use crate::auth::Role;
use crate::feed::{TableDigest, TableDigests};
use crate::gateways::{Applied, Goal};
use crate::problem::ApiResult;
use crate::store::Author;

/// The paths here.
pub fn routes() -> Endpoints {
    // Gateways reload all tables at once, so every form does that.
    let refreshes =
        ["", "/routes", "/ip", "/geo", "/limits"].iter().fold(Endpoints::default(), |all, table| {
            let path = format!("/api/admin/optimization/cache{table}/refresh");
            let about = About::new("Has every gateway load all tables anew")
                .query(&[&WAIT])
                .answers::<RefreshAnswer>()
                .once_per_key();
            all.post(Role::Operate, &path, refresh).about(about)
        });
    let about = About::new("Waits until every gateway has the current tables").query(&[&WAIT]);
    refreshes
        .post(Role::Operate, "/api/admin/optimization/warmup", warmup)
        .about(about.answers::<WarmupAnswer>())
}

/// How long to wait for the gateways by default.
const DEFAULT_WAIT: Duration = Duration::from_secs(2);

/// The answer of `cache/refresh`.
#[derive(Serialize, Debug, ToSchema)]
pub struct RefreshAnswer {
    /// The number of the refresh; each is higher than those before.
    refresh: u64,
    /// The tables that were loaded anew: always all of them.
    refreshed: Vec<&'static str>,
    #[serde(flatten)]
    progress: GatewayProgress,
}

/// The answer of `warmup`.
#[derive(Serialize, Debug, ToSchema)]
pub struct WarmupAnswer {
    #[serde(flatten)]
    progress: GatewayProgress,
    /// All gateways, and what each enforces.
    gateways: Vec<GatewayInfo>,
}

/// How many gateways have the version.
#[derive(Serialize, Debug, ToSchema)]
struct GatewayProgress {
    #[serde(serialize_with = "version_as_text")]
    #[schema(value_type = String)]
    version: Version,
    #[schema(value_type = BTreeMap<String, TableCount>)]
    tables: TableCounts,
    applied: Applied,
    /// Nodes of live gateways that do not have it yet.
    behind: Vec<String>,
    elapsed_ms: u64,
}

/// Names of all tables, in the order of the list; bans are one.
fn table_names() -> Vec<&'static str> {
    const FIRST: [&str; 7] = ["flags", "routes", "bans", "allow", "geo", "countries", "limits"];
    let others = Table::whole().map(Table::name).filter(|name| !FIRST.contains(name));
    FIRST.into_iter().chain(others).collect()
}

/// What an up-to-date gateway holds, by table.
type TableCounts = BTreeMap<&'static str, TableCount>;

#[derive(Serialize, Debug, ToSchema)]
struct TableCount {
    count: u64,
    digest: String,
}

fn table_counts(digests: &TableDigests) -> TableCounts {
    let whole = Table::whole().map(|table| {
        let TableDigest { hash, entries } = digests.whole[table];
        let count = entries.unwrap_or(Flag::ALL.len());
        (table.name(), TableCount { count: count as u64, digest: hash.to_string() })
    });
    let bans = TableCount { count: digests.bans.count, digest: digests.bans.to_string() };
    whole.chain([("bans", bans)]).collect()
}

/// Makes every gateway load all tables anew from the database. Answers once all have done so, or
/// the time is over.
///
/// # Errors
/// When a parameter is invalid or the database cannot be read; then nothing was ordered.
pub async fn refresh(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    uri: Uri,
) -> ApiResult<Json<RefreshAnswer>> {
    let started = Instant::now();
    let within = wait(&uri)?;
    // Before the order, so that the poll answer that carries it asks for the ack.
    let waiter = app.gateways.waiter();
    let (goal, snapshot) = app.feed.refresh().await?;
    tracing::info!(by = %author.name, refresh = goal.refresh, version = %goal.version, "refresh ordered");
    let applied = wait_for_goal(&app, waiter, goal, within).await;
    let progress = GatewayProgress::new(&app, &goal, &snapshot.tables, applied, started);
    Ok(Json(RefreshAnswer { refresh: goal.refresh, refreshed: table_names(), progress }))
}

/// Answers once every live gateway enforces what is in the database now, or the time is over.
///
/// # Errors
/// When a parameter is invalid, or it cannot be read in that time what is in the database now.
pub async fn warmup(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<WarmupAnswer>> {
    let started = Instant::now();
    let within = wait(&uri)?;
    let waiter = app.gateways.waiter();
    let snapshot = app.caught_up(within).await?;
    let goal = snapshot.version.into();
    let applied = wait_for_goal(&app, waiter, goal, within.saturating_sub(started.elapsed())).await;
    let progress = GatewayProgress::new(&app, &goal, &snapshot.tables, applied, started);
    let gateways = app.gateways.list().into_iter().map(GatewayInfo::from).collect();
    Ok(Json(WarmupAnswer { progress, gateways }))
}

fn wait(uri: &Uri) -> ApiResult<Duration> {
    let params = QueryParams::read(uri, &["wait"])?;
    Ok(params.duration("wait", MAX_WAIT_APPLIED)?.unwrap_or(DEFAULT_WAIT))
}

impl GatewayProgress {
    fn new(app: &AppState, goal: &Goal, figures: &TableDigests, applied: Applied, started: Instant) -> Self {
        let there = |ack: Option<_>| ack.is_some_and(|ack| goal.is_met(&ack));
        let mut behind = Vec::new();
        if !applied.all() {
            let live = app.gateways.list().into_iter().filter(|gateway| !gateway.lost);
            behind.extend(live.filter(|one| !there(one.ack)).map(|one| one.gateway.node));
        }
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self { version: goal.version, tables: table_counts(figures), applied, behind, elapsed_ms }
    }
}
