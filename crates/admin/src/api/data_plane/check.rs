//! `POST /api/data-plane/v1/check/{ip,geo,route}`: one check of one request, answered from the
//! database at that moment. A gateway in direct mode calls it up to three times per request.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;
use tidegate_policy::check::Check;
use tidegate_policy::decide::{CountrySource, GeoFinding, IpFinding, Tables};
use tidegate_policy::wire::check::{Answer, Found, GeoAnswer, MAX_QUESTION, Question, RouteAnswer, path};

use super::sync::binary;
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::{About, BINARY};
use crate::auth::Role;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    Check::ALL.into_iter().fold(Endpoints::default(), |endpoints, check| {
        let handler = async move |State(app): State<AppState>, request: Request<Body>| {
            answer(&app, request, check).await
        };
        let about = About::new(format!("Answers the check `{}` of one request", check.name()));
        let about = about.takes_binary().answers_with(200, "the answer", Some((BINARY, json!({}))));
        endpoints.post(Role::Gateway, path(check), handler).about(about)
    })
}

/// Answers one check. 400 when the body is not a question, 503 when the database cannot be read.
async fn answer(app: &AppState, request: Request<Body>, check: Check) -> ApiResult<Response> {
    let (_, bytes) = body::bytes(request, MAX_QUESTION).await?;
    let question = Question::from_bytes(&bytes)
        .map_err(|error| Problem::new(ProblemCode::InvalidBody, format!("not a question: {error}")))?;
    // Read after the question has arrived, so that the answer includes what was committed before
    // it was sent.
    let client = question.client.filter(|_| check == Check::Ip);
    let tables = app.feed.tables_about(client).await.map_err(|error| Problem::unreadable(&error))?;
    if check == Check::Geo && matches!(question.country_source, CountrySource::Header(_)) {
        app.country_headers.note();
    }
    let found = find(check, &question, &tables);
    let answer = Answer { id: question.id, version: tables.version, found };
    let bytes = answer.to_bytes().map_err(|error| {
        // Encoding these types cannot fail.
        tracing::error!(%error, "an answer cannot be encoded");
        Problem::new(ProblemCode::StoreUnreadable, "the answer cannot be encoded; the service's log says why")
    })?;
    Ok(binary(bytes))
}

fn find(check: Check, question: &Question<'_>, tables: &Arc<Tables>) -> Found {
    match check {
        Check::Ip => Found::Ip(IpFinding::look_up(&question.facts(), tables, time::now_seconds)),
        Check::Geo => {
            let country = GeoFinding::look_up(question.client, question.country_source, tables).country();
            Found::Geo(GeoAnswer { country, verdicts: tables.geo.verdicts(country) })
        }
        Check::Route => {
            let found = tables.routes.find(&question.facts());
            Found::Route(found.map(|found| found.as_ref().map(RouteAnswer::new)))
        }
    }
}
