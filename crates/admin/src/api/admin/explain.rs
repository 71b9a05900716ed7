//! `GET /api/admin/explain`: how a described request would be handled, and why. No request is
//! sent. It is decided as in direct mode: by the policy's code, on the tables of the database at
//! this moment.

mod checks;
mod flags;
mod matches;
mod outcome;
mod request;

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use tidegate_author as author;
use tidegate_author::explain::came_by;
use tidegate_policy::check::PerCheck;
use tidegate_policy::decide::{
    Finding, Findings, GeoFinding, IpFinding, OnNoRoute, Routing, Settings, Step, Unavailable,
};
use tidegate_policy::host::RequestHost;
use tidegate_policy::request::Facts;
use tidegate_policy::route::RouteMatch;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{
    COUNTRY, GATEWAY, HEADER, HOST, IP, LISTENER, METHOD, PATH, PORT, SCHEME,
};
use crate::auth::Role;
use crate::feed::CurrentTables;
use crate::problem::{ApiResult, Problem};
use crate::time;
use checks::{CountingLimit, GeoCheck, IpCheck};
use flags::AppliedFlag;
use matches::Matches;
use outcome::Outcome;
use request::DescribedRequest;

/// A gateway's default settings: its own are not known here.
const SETTINGS: Settings = Settings {
    routing: Routing::Tidegate,
    on_no_route: OnNoRoute::Deny,
    on_unavailable: PerCheck { ip: Unavailable::Deny, geo: Unavailable::Deny, route: Unavailable::Deny },
};

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Says what would become of a request, and why");
    let about = about
        .query(&[&METHOD, &HOST, &PATH, &IP, &HEADER, &COUNTRY, &LISTENER, &SCHEME, &PORT, &GATEWAY])
        .answers::<Explanation>();
    Endpoints::default().get(Role::Read, "/api/admin/explain", explain).about(about)
}

/// How a request would be handled.
#[derive(Serialize, Debug, ToSchema)]
pub struct Explanation {
    version: String,
    decision: Outcome,
    checks: CheckResults,
    /// How each flag applies to the request.
    #[schema(value_type = BTreeMap<String, AppliedFlag>)]
    flags: BTreeMap<&'static str, AppliedFlag>,
}

/// The result of each check, also of those after the one that decides.
#[derive(Serialize, Debug, ToSchema)]
struct CheckResults {
    ip: IpCheck,
    geo: GeoCheck,
    route: RouteCheck,
    limits: Vec<CountingLimit>,
}

/// The rule that the request matches.
#[derive(Serialize, Debug, ToSchema)]
struct RouteCheck {
    /// The listeners by which the request comes.
    listeners: Vec<String>,
    #[serde(flatten)]
    matches: Matches,
    /// How the request is handled with each of the rule's backends, if the other checks allow it.
    backends: Vec<BackendShare>,
    /// Warnings about its route, and about that of the request that a preflight request is for.
    warnings: Vec<String>,
}

/// A backend and its share of a rule's requests.
#[derive(Serialize, Debug, ToSchema)]
struct BackendShare {
    weight: u32,
    outcome: Outcome,
}

/// Answers how a request would be handled.
pub async fn explain(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<Explanation>> {
    let request = DescribedRequest::read(&uri)?;
    let now = app.feed.current_tables().await.map_err(|error| Problem::unreadable(&error))?;
    // Every match of every route is tried, which takes milliseconds with many routes.
    let request = request.at_listener(&now.snapshot.listeners_by_name())?;
    let explained =
        tokio::task::spawn_blocking(move || Explanation::new(&request, &now, &app.clusters)).await;
    explained.map(Json).map_err(|_| Problem::stopping())
}

impl Explanation {
    fn new(request: &DescribedRequest, now: &CurrentTables, clusters: &BTreeSet<String>) -> Self {
        let lines = request.lines();
        let facts = request.facts(&lines);
        let ip = IpFinding::look_up(&facts, &now.tables, time::now_seconds);
        let geo = GeoFinding::look_up(facts.client, request.country_source(), &now.tables);
        let decide = |random_bits| outcome(request, &Facts { random_bits, ..facts }, ip, geo, now, clusters);
        // One whose host cannot be read is denied before any check, an empty host's too: it is for no
        // listener and no route.
        let has_host = RequestHost::read(facts.host).is_some();
        let find = |facts| now.tables.routes.find(facts).ok().flatten();
        let found = if has_host { find(&facts) } else { None };
        let listeners = now.snapshot.listeners_by_name();
        let matches = match has_host {
            true => Matches::new(&now.snapshot, &listeners, &facts, found.as_ref()),
            false => Matches::default(),
        };
        let listeners = came_by(&listeners, &facts).filter(|_| has_host).map(str::to_owned).collect();
        let warnings = if has_host { warnings(&facts, found, now) } else { Vec::new() };
        let share = |(weight, random_bits)| BackendShare { weight, outcome: decide(random_bits) };
        let backends: Vec<_> = matches.shares(&now.snapshot).map(share).collect();
        let decision = decide(0);
        let passes = decision.passes() || backends.iter().any(|share| share.outcome.passes());
        let limits =
            if passes { checks::limits(&now.tables, &facts, found.as_ref(), ip) } else { Vec::new() };
        Self {
            version: now.tables.version.to_string(),
            flags: flags::applied(&now.tables, &facts, request.gateway(), found.map(|found| found.route)),
            checks: CheckResults {
                ip: IpCheck::new(&now.snapshot, ip, &facts, found.map(|found| found.route)),
                // A preflight request passes those of its route.
                geo: GeoCheck::new(
                    &geo,
                    &now.tables,
                    found.filter(|found| found.preflight(&facts).is_none()),
                ),
                route: RouteCheck { listeners, matches, backends, warnings },
                limits,
            },
            decision,
        }
    }
}

fn warnings(facts: &Facts<'_>, found: Option<RouteMatch<'_>>, now: &CurrentTables) -> Vec<String> {
    let asks = facts.headers.iter().find(|line| line.0 == b"access-control-request-method");
    let later = asks.filter(|_| facts.method == b"OPTIONS").map(|(_, method)| Facts { method, ..*facts });
    let later = later.and_then(|facts| now.tables.routes.find(&facts).ok().flatten());
    let names: BTreeSet<_> = found.into_iter().chain(later).map(|found| found.route).collect();
    let routes = names.into_iter().filter_map(|name| now.snapshot.routes.in_force.get(name));
    let listeners = now.snapshot.listeners_by_name();
    routes
        .flat_map(|info| {
            author::warnings(&info.parsed, &listeners)
                .into_iter()
                .map(|says| format!("{}: {says}", info.name))
        })
        .collect()
}

/// The decision, given the results of all checks.
fn outcome(
    request: &DescribedRequest,
    facts: &Facts<'_>,
    ip: IpFinding,
    geo: GeoFinding<'_>,
    now: &CurrentTables,
    clusters: &BTreeSet<String>,
) -> Outcome {
    let findings = Findings {
        ip: Some(Finding::Found(ip)),
        geo: Some(Finding::Found(geo)),
        route: Some(Finding::Found(now.tables.routes.find(facts))),
    };
    match findings.step(facts, &SETTINGS) {
        Step::Decided(decision) => Outcome::new(&decision, facts, &request.arrival(), clusters),
        // Cannot happen: all findings are given.
        Step::Ask(_) => Outcome::default(),
    }
}
