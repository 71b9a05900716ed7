//! `/api/admin/routes`: HTTPRoutes, read and written whole.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::Uri;
use serde_json::{Map, Value};
use tidegate_policy::author;

use super::applied::{WAIT_APPLIED, Write};
use super::named::{Changed, List, why_absent};
use super::params::{Params, PathText};
use super::{Context, body};
use crate::auth::Caller;
use crate::feed::{RouteInfo, World};
use crate::problem::{Answer, Code, Problem};
use crate::store::{Change, Kind};

/// Documents of all routes up to this size make a table that fits, whatever they
/// say without regular expressions: only past it is that looked into.
const SURELY_FITS: usize = 4 << 20;

/// Answers a page of routes, in the order of names.
///
/// # Errors
/// When a parameter is not right, or the service is stopping.
pub async fn list(State(context): State<Context>, uri: Uri) -> Answer<Json<List>> {
    let params = Params::read(&uri, &["limit", "cursor"])?;
    List::page(&context.current().await.routes.in_force, &params, show).map(Json)
}

fn show(info: &RouteInfo) -> Value {
    serde_json::from_str(&info.document).unwrap_or_default()
}

/// Answers one route, as it was written.
///
/// # Errors
/// When there is none.
pub async fn one(State(context): State<Context>, PathText(name): PathText, uri: Uri) -> Answer<Json<Value>> {
    Params::read(&uri, &[])?;
    let world = context.current().await;
    let info = world.routes.in_force.get(name.as_str()).ok_or_else(|| not_found(&world, &name))?;
    Ok(Json(show(info)))
}

fn not_found(world: &World, name: &str) -> Problem {
    let otherwise = "there is no route of this name; GET /api/admin/routes lists them";
    Problem::new(Code::RouteNotFound, why_absent(world, Kind::Route, name, otherwise))
}

/// Makes or replaces a route.
///
/// # Errors
/// When the document is not right; then nothing was changed.
pub async fn put(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    PathText(name): PathText,
    request: Request<Body>,
) -> Answer<Json<Changed>> {
    let params = Params::read(request.uri(), &[WAIT_APPLIED])?;
    let write = Write::announce(&context, &params)?;
    let document = named(body::document(request).await?, &name)?;
    let world = context.feed.world();
    let checked = tokio::task::spawn_blocking(move || check(document, &world));
    let (document, named) =
        checked.await.map_err(|_| Problem::new(Code::Stopping, "the service is stopping"))??;
    let (_, written) = write
        .commit(Change::PutDocument { kind: Kind::Route, name: name.clone(), document }, &caller)
        .await?;
    tracing::info!(by = %caller.name, route = name, version = %written.version, "route written");
    let warnings = if named.is_empty() { Vec::new() } else { missing(&*context.current().await, &named) };
    Ok(Json(Changed { name, warnings, written }))
}

/// What there is to say of the geo rules that are not there.
fn missing(world: &World, named: &BTreeSet<String>) -> Vec<String> {
    let missing = named.iter().filter(|rule| !world.geo_rules.in_force.contains_key(rule.as_str()));
    let say = |rule| {
        format!("there is no geo rule `{rule}`: requests that need it get 500 no_geo_rule until there is")
    };
    missing.map(say).collect()
}

/// `document` with the name of the address, if it has none of its own.
fn named(mut document: Value, name: &str) -> Answer<Value> {
    let Value::Object(fields) = &mut document else {
        return Err(Problem::field("", "wrong_type", "the body must be an HTTPRoute, which is an object"));
    };
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    // What else it may be is for the validation to say.
    if let Value::Object(metadata) = metadata {
        match metadata.get("name") {
            None | Some(Value::Null) => drop(metadata.insert("name".to_owned(), name.into())),
            Some(Value::String(own)) if own != name => {
                let detail =
                    format!("the address names the route `{name}`: write that, or leave the name out");
                return Err(Problem::field("/metadata/name", "name_mismatch", detail));
            }
            Some(_) => {}
        }
    }
    Ok(document)
}

/// The document's text, if it is a route that Tidegate can carry out, also
/// together with all the others; and the geo rules that it names.
fn check(document: Value, world: &World) -> Answer<(String, BTreeSet<String>)> {
    let route =
        author::read(&document).map_err(|problems| Problem::document(Code::InvalidField, problems))?;
    let text = document.to_string();
    let geo = route.rules.iter().flat_map(|rule| rule.geo.iter().cloned()).collect();
    let others = || world.routes.in_force.values().filter(|info| *info.name != *route.name);
    let size = others().fold(text.len(), |sum, info| sum.saturating_add(info.document.len()));
    if size > SURELY_FITS || has_regex(&route) {
        let mut all: Vec<author::Route> = others().map(|info| info.says.clone()).collect();
        all.push(route);
        author::compile(&all, &author::Backends::new()).map_err(|error| {
            Problem::field("", "too_many", format!("with this route, {error}; remove others first"))
        })?;
    }
    Ok((text, geo))
}

fn has_regex(route: &author::Route) -> bool {
    use author::{PathMatch, ValueMatch};
    let of_value = |condition: &author::Condition| matches!(condition.value, ValueMatch::Regex(_));
    route.rules.iter().flat_map(|rule| &rule.matches).any(|found| {
        matches!(found.path, PathMatch::Regex(_)) || found.headers.iter().chain(&found.query).any(of_value)
    })
}

/// Removes a route.
///
/// # Errors
/// When there is none.
pub async fn delete(
    State(context): State<Context>,
    Extension(caller): Extension<Caller>,
    PathText(name): PathText,
    uri: Uri,
) -> Answer<Json<Changed>> {
    let params = Params::read(&uri, &[WAIT_APPLIED])?;
    let write = Write::announce(&context, &params)?;
    let (committed, written) =
        write.commit(Change::DeleteDocument { kind: Kind::Route, name: name.clone() }, &caller).await?;
    if committed.rows == 0 {
        return Err(Problem::new(
            Code::RouteNotFound,
            "there is no route of this name; GET /api/admin/routes lists them",
        ));
    }
    tracing::info!(by = %caller.name, route = name, version = %written.version, "route removed");
    Ok(Json(Changed { name, warnings: Vec::new(), written }))
}
