//! `/api/admin/geo-rules`: which countries may enter.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::Uri;
use serde_json::Value;
use tidegate_policy::author;
use tidegate_policy::geo::{GeoRule, GeoRules, MAX_GEO_RULES, MAX_GEO_RULES_BYTES};

use super::applied::{WAIT_APPLIED, Write};
use super::named::{Changed, List, why_absent};
use super::params::{Params, PathText};
use super::{Context, body};
use crate::auth::Caller;
use crate::feed::{GeoRuleInfo, World};
use crate::problem::{Answer, Code, Problem};
use crate::store::{Change, Kind};

/// Answers a page of rules, in the order of names.
///
/// # Errors
/// When a parameter is not right.
pub async fn list(State(context): State<Context>, uri: Uri) -> Answer<Json<List>> {
    let params = Params::read(&uri, &["limit", "cursor"])?;
    List::page(&context.current().await.geo_rules.in_force, &params, show).map(Json)
}

/// Answers one rule, as it was written.
///
/// # Errors
/// When there is none.
pub async fn one(State(context): State<Context>, PathText(name): PathText, uri: Uri) -> Answer<Json<Value>> {
    Params::read(&uri, &[])?;
    let world = context.current().await;
    let info = world.geo_rules.in_force.get(name.as_str()).ok_or_else(|| not_found(&world, &name))?;
    Ok(Json(show(info)))
}

/// The document with its name in it, which it may have and need not.
fn show(info: &GeoRuleInfo) -> Value {
    let mut document = serde_json::from_str(&info.document).unwrap_or_default();
    if let Value::Object(fields) = &mut document {
        fields.insert("name".to_owned(), Value::from(&*info.name));
    }
    document
}

fn not_found(world: &World, name: &str) -> Problem {
    let otherwise = "there is no geo rule of this name; GET /api/admin/geo-rules lists them";
    Problem::new(Code::GeoRuleNotFound, why_absent(world, Kind::GeoRule, name, otherwise))
}

/// Makes or replaces a rule.
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
    let document = body::document(request).await?;
    let rule = author::read_geo_rule(&name, &document)
        .map_err(|problems| Problem::document(Code::InvalidField, problems))?;
    fits(&*context.current().await, rule)?;
    let change =
        Change::PutDocument { kind: Kind::GeoRule, name: name.clone(), document: document.to_string() };
    let (_, written) = write.commit(change, &caller).await?;
    tracing::info!(by = %caller.name, rule = name, version = %written.version, "geo rule written");
    Ok(Json(Changed { name, warnings: Vec::new(), written }))
}

/// Whether there is room for `rule` beside all the others.
fn fits(world: &World, rule: GeoRule) -> Answer<()> {
    // Of two with one name the later counts.
    let all = GeoRules::new(world.geo_rules.in_force.values().map(|info| info.says.clone()).chain([rule]));
    let bytes = all.to_bytes().map_or(usize::MAX, |bytes| bytes.len());
    if all.rules().len() <= MAX_GEO_RULES && bytes <= MAX_GEO_RULES_BYTES {
        return Ok(());
    }
    let detail = format!(
        "with this rule there are too many: up to {MAX_GEO_RULES}, of {MAX_GEO_RULES_BYTES} bytes together; remove others first"
    );
    Err(Problem::field("", "too_many", detail))
}

/// Removes a rule. Routes that name it are left as they are: their requests get
/// 500 from then on, and the answer says so.
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
        write.commit(Change::DeleteDocument { kind: Kind::GeoRule, name: name.clone() }, &caller).await?;
    if committed.rows == 0 {
        return Err(not_found(&*context.current().await, &name));
    }
    tracing::info!(by = %caller.name, rule = name, version = %written.version, "geo rule removed");
    let missing = context.current().await.missing_geo_rules();
    let warnings: Vec<_> = missing.iter().filter(|missing| missing.rule == name).map(|missing| {
        let route = &missing.route;
        format!("the route `{route}` names this rule: its requests get 500 no_geo_rule until one of them changes")
    }).collect();
    Ok(Json(Changed { name, warnings, written }))
}
