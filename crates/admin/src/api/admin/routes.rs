//! `/api/admin/routes`: HTTPRoutes, read and written as whole documents.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tidegate_author::{self as author, ObjectRef};
use tidegate_policy::route::Backend;

use crate::api::app_state::AppState;
use crate::api::named_documents::{NamedDocument, path};
use crate::feed::{Documents, MissingGeoRule, ParsedDocument, Snapshot};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{DocumentKind, StoreTable};

/// Routes with documents of up to this many bytes together fit into the table, whatever they
/// contain except regular expressions. Only beyond it is the table built to check.
const SURELY_FITS: usize = 4 << 20;

/// What the table of routes is made from.
pub const ROUTE_TABLE_READS: &[StoreTable] = &[
    StoreTable::Documents(DocumentKind::Route),
    StoreTable::Documents(DocumentKind::Backend),
    StoreTable::Documents(DocumentKind::Listener),
];

/// The routes.
pub enum Routes {}

impl NamedDocument for Routes {
    type Content = author::Route;
    const KIND: DocumentKind = DocumentKind::Route;
    const NOUN: &str = "route";
    const EXAMPLE: &str = r#"{"spec": {"rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/hello"}}], "backendRefs": [{"name": "demo"}]}]}}"#;
    const HAS_NAMESPACES: bool = true;
    const NOT_FOUND: ProblemCode = ProblemCode::RouteNotFound;
    const CHECK_READS: &'static [StoreTable] = ROUTE_TABLE_READS;

    /// A route's id.
    fn key(address: String) -> String {
        author::read_route_id(&address).unwrap_or(address)
    }

    fn of(snapshot: &Snapshot) -> &Documents<author::Route> {
        &snapshot.routes
    }

    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<author::Route> {
        &mut snapshot.routes
    }

    fn read(id: &str, document: Value) -> ApiResult<(String, author::Route)> {
        let document = named(document, id)?;
        let route = author::read(&document)
            .map_err(|problems| Problem::document(ProblemCode::InvalidField, problems))?;
        Ok((of_this_version(document).to_string(), route))
    }

    fn problems_in(route: &author::Route, snapshot: &Snapshot) -> Vec<author::DocumentError> {
        route.listener_problems(&snapshot.listeners_by_name())
    }

    fn check(id: &str, document: Value, snapshot: &Snapshot) -> ApiResult<(String, author::Route)> {
        let (text, route) = Self::read(id, document)?;
        let problems = Self::problems_in(&route, snapshot);
        if !problems.is_empty() {
            return Err(Problem::document(ProblemCode::InvalidField, problems));
        }
        let (backends, listeners) = (snapshot.backends_by_name(), snapshot.listeners_by_name());
        fit_together(snapshot, Some(&route), &backends, &listeners, text.len())?;
        Ok((text, route))
    }

    /// An HTTPRoute has its name in its metadata already.
    fn show(info: &ParsedDocument<author::Route>) -> Value {
        of_this_version(serde_json::from_str(&info.document).unwrap_or_default())
    }

    fn written(app: &AppState, snapshot: &Snapshot, name: &str, route: &author::Route) -> Vec<String> {
        let mut warnings = author::warnings(route, &snapshot.listeners_by_name());
        warnings.extend(snapshot.route_of_other_gateway(route).map(|other| {
            format!(
                "/spec/parentRefs: the route `{other}` is for another Gateway and has hostnames of this one: \
                 this gate does not tell Gateways apart, and both hold on all of its listeners unless \
                 sectionName or port says which"
            )
        }));
        let missing = snapshot.missing_geo_rules().into_iter().filter(|missing| *missing.route == *name);
        warnings.extend(missing.map(|MissingGeoRule { rule, .. }| {
            format!("there is no geo rule `{rule}`: requests that need it get 500 no_geo_rule until there is")
        }));
        let unknown: BTreeSet<&str> = snapshot
            .unknown_backends_of(route, &app.clusters)
            .filter_map(|to| match to {
                ObjectRef::Service(Backend { name, .. }) | ObjectRef::Api(name) => Some(name.as_str()),
                // Reported above.
                ObjectRef::Foreign(_) => None,
            })
            .collect();
        warnings.extend(unknown.into_iter().map(|name| {
            format!("there is no backend `{name}`: requests that go there get 500, and copies go nowhere")
        }));
        warnings
    }

    /// Limits and bans that name the route are not changed; that name has no effect.
    fn removed(snapshot: &Snapshot, name: &str) -> Vec<String> {
        let missing = snapshot.missing_routes().into_iter().filter(|missing| missing.route == name);
        let say = |limit| {
            format!("the limit `{limit}` names this route: for it that one holds for no request any more")
        };
        let are_banned = snapshot.scopes().any(|scope| scope.routes.iter().any(|route| route == name));
        let bans = are_banned.then(|| {
            "bans apply to this route: for it they deny nobody until there is one of its name again"
                .to_owned()
        });
        missing.map(|missing| say(missing.limit)).chain(bans).collect()
    }
}

/// A route that has an `apiVersion`, with the one that this service writes.
fn of_this_version(mut route: Value) -> Value {
    if let Some(version @ Value::String(_)) = route.get_mut("apiVersion") {
        *version = author::API_VERSION.into();
    }
    route
}

/// `document` with name and namespace of the URL, where it does not have its own.
fn named(mut document: Value, id: &str) -> ApiResult<Value> {
    let Value::Object(fields) = &mut document else {
        return Err(Problem::field("", "wrong_type", "the body must be an HTTPRoute, which is an object"));
    };
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    // Any other type is reported by the validation.
    let Value::Object(metadata) = metadata else { return Ok(document) };
    let (namespace, name) = id.split_once('/').unwrap_or((author::DEFAULT_NAMESPACE, id));
    for (field, wanted) in [("name", name), ("namespace", namespace)] {
        match metadata.get(field) {
            // What the document leaves out is this namespace already.
            None | Some(Value::Null) if wanted == author::DEFAULT_NAMESPACE && field == "namespace" => {}
            None | Some(Value::Null) => drop(metadata.insert(field.to_owned(), wanted.into())),
            Some(Value::String(own)) if own != wanted => {
                let detail = format!(
                    "the address names the route `{name}` of namespace `{namespace}`: write `{wanted}`, \
                     leave the {field} out, or send the route to {}/NAMESPACE/NAME",
                    path::<Routes>()
                );
                return Err(Problem::field(format!("/metadata/{field}"), "name_mismatch", detail));
            }
            Some(_) => {}
        }
    }
    Ok(document)
}

/// Whether all routes, with `changed` applied, and `backends` and `listeners` fit into a table.
/// `more`: bytes of the new document.
pub fn fit_together(
    snapshot: &Snapshot,
    changed: Option<&author::Route>,
    backends: &author::Backends,
    listeners: &author::Listeners,
    more: usize,
) -> ApiResult<()> {
    let changed_id = changed.map(author::Route::id);
    let others =
        || snapshot.routes.in_force.values().filter(|info| changed_id.as_deref() != Some(&*info.name));
    let documents = others().map(|info| &info.document);
    let documents = documents.chain(snapshot.backends.in_force.values().map(|info| &info.document));
    let size = documents.fold(more, |sum, document| sum.saturating_add(document.len()));
    // The table has the hostnames once for http and https of each port.
    let ports = listeners.values().filter(|listener| listener.port.is_some()).count();
    let size = size.saturating_mul(ports.saturating_add(1));
    if size <= SURELY_FITS && !changed.is_some_and(has_regex) {
        return Ok(());
    }
    let mut all: Vec<author::Route> = others().map(|info| info.parsed.clone()).collect();
    all.extend(changed.cloned());
    author::compile(&all, backends, listeners).map(drop).map_err(|error| {
        Problem::field("", "too_many", format!("with this one, {error}; remove others first"))
    })
}

fn has_regex(route: &author::Route) -> bool {
    use author::{PathMatch, ValueMatch};
    let of_value = |condition: &author::Condition| matches!(condition.value, ValueMatch::Regex(_));
    route.rules.iter().flat_map(|rule| &rule.matches).any(|found| {
        matches!(found.path, PathMatch::Regex(_)) || found.headers.iter().chain(&found.query).any(of_value)
    })
}
