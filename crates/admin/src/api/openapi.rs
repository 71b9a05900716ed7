//! The OpenAPI document, made from the declarations of the endpoints: methods, paths and roles as the
//! listeners have them, schemas of answers and bodies from their types. utoipa makes the schemas; its
//! routers would need a handler per path, and named documents have one handler for all kinds.

pub mod about;
pub mod parameters;

use std::collections::BTreeMap;

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::endpoints::Endpoint;
use crate::auth::Role;
use crate::problem::{ProblemBody, ProblemCode};
use about::{About, named};

/// Schemas of what people write, which no type of this program has.
const DOCUMENTS: &str = include_str!("openapi/documents.yaml");
/// The media type of problems.
const PROBLEM: &str = "application/problem+json";

/// The document of `endpoints`.
#[must_use]
pub fn document(endpoints: &[Endpoint]) -> Value {
    let mut schemas = documents();
    let mut problems = About::default();
    problems.reference::<ProblemBody>();
    schemas.extend(problems.schemas);
    let mut responses = BTreeMap::new();
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints {
        schemas.extend(endpoint.about.schemas.clone());
        let operations = paths.entry(shown_path(&endpoint.path)).or_insert_with(|| json!({}));
        operations[endpoint.method.as_str().to_ascii_lowercase()] = operation(endpoint, &mut responses);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate's admin service",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "docs/API.md says what stands behind each.",
        },
        "servers": [
            {"url": "http://127.0.0.1:9070", "description": "the people's listener"},
            {"url": "http://127.0.0.1:9071", "description": "the gateways' listener: /api/data-plane"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

/// A pattern of axum's as OpenAPI has it, which has no mark for parameters that take slashes.
fn shown_path(pattern: &str) -> String {
    pattern.replace("{*", "{")
}

fn operation(endpoint: &Endpoint, responses: &mut BTreeMap<String, Value>) -> Value {
    let Endpoint { method, path, role, about } = endpoint;
    let in_path =
        path.split('{').skip(1).filter_map(|rest| Some(parameters::in_path(rest.split('}').next()?)));
    let in_query = about.query.iter().map(|parameter| parameter.in_query());
    let in_header = about.headers.iter().map(|parameter| parameter.in_header());
    let mut operation = json!({
        "operationId": operation_id(method, path),
        "tags": [tag(path)],
        "summary": about.summary,
        "parameters": in_path.chain(in_query).chain(in_header).collect::<Vec<_>>(),
        "responses": answers(endpoint, responses),
    });
    match role {
        Some(role) => {
            operation["description"] = format!("Needs a token of the role `{}`.", role.name()).into();
            operation["security"] = json!([{"token": []}]);
            operation["x-tidegate-role"] = role.name().into();
        }
        None => operation["security"] = json!([]),
    }
    if let Some(body) = &about.body {
        let mut content = json!({"schema": body.schema});
        if !body.example.is_null() {
            content["example"] = body.example.clone();
        }
        let content: Map<_, _> =
            body.media.iter().map(|media| ((*media).to_owned(), content.clone())).collect();
        operation["requestBody"] = json!({"required": !body.is_optional, "content": content});
    }
    operation
}

/// `get_admin_routes_namespace_name` for GET `/api/admin/routes/{namespace}/{name}`.
fn operation_id(method: &Method, path: &str) -> String {
    let path = path.trim_start_matches("/api").replace(['{', '}', '*'], "").replace(['/', '-', '.'], "_");
    format!("{}{path}", method.as_str().to_ascii_lowercase())
}

/// The family of a path.
fn tag(path: &str) -> &str {
    let path = path.trim_start_matches("/api/");
    match path.strip_prefix("admin/") {
        Some(path) => path.split('/').next().unwrap_or_default(),
        None => path.split('/').find(|part| !part.is_empty()).unwrap_or_default(),
    }
}

/// All answers of an endpoint; those that are problems become `shared` components.
fn answers(endpoint: &Endpoint, shared: &mut BTreeMap<String, Value>) -> Value {
    let mut answers = Map::new();
    for answer in &endpoint.about.answers {
        let new = || json!({"description": answer.says});
        let described = answers.entry(answer.status.to_string()).or_insert_with(new);
        if let Some((media, schema)) = &answer.body {
            described["content"][*media] = json!({"schema": schema});
        }
    }
    let mut by_status: BTreeMap<u16, Vec<ProblemCode>> = BTreeMap::new();
    for code in ProblemCode::ALL.iter().filter(|code| may_answer(endpoint, **code)) {
        by_status.entry(code.status().as_u16()).or_default().push(*code);
    }
    for (status, codes) in by_status {
        let names: Vec<_> = codes.iter().map(|code| code.name()).collect();
        let name = names.join(".");
        answers.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}));
        shared.entry(name).or_insert_with(|| problems(&codes));
    }
    answers.into()
}

/// An answer with a problem of one of `codes`, which have the same status.
fn problems(codes: &[ProblemCode]) -> Value {
    let says = codes.iter().map(|code| format!("`{}`: {}", code.name(), code.when()));
    let names: Vec<_> = codes.iter().map(|code| code.name()).collect();
    json!({
        "description": says.collect::<Vec<_>>().join(". "),
        "content": {PROBLEM: {"schema": {
            "allOf": [named("ProblemBody"), {"properties": {"code": {"enum": names}}}],
        }}},
    })
}

/// Whether an endpoint may answer with this problem: one of its own, or of all that are like it.
fn may_answer(endpoint: &Endpoint, code: ProblemCode) -> bool {
    use ProblemCode as P;
    let Endpoint { method, path, role, about } = endpoint;
    let is_gateways = *role == Some(Role::Gateway);
    let takes = |media: &str| about.body.as_ref().is_some_and(|body| body.media.contains(&media));
    about.problems.contains(&code)
        || match code {
            P::Unauthorized | P::TokenExpired | P::WrongRole | P::TooManyConnections => role.is_some(),
            P::StoreUnreadable | P::StoreFailed | P::StoreBusy | P::Stopping => role.is_some(),
            P::WrongNode => is_gateways,
            P::TooManyRequests | P::Timeout | P::InvalidParameter => true,
            P::NotFound => path.contains('{'),
            P::EmptyBody | P::InvalidJson | P::InvalidField => takes("application/json"),
            P::InvalidYaml => takes("application/yaml"),
            P::InvalidHeader | P::InvalidBody => is_gateways,
            P::BodyIncomplete | P::BodyTimeout | P::BodyTooLarge | P::UnsupportedMediaType => {
                about.body.is_some() && *method != Method::GET
            }
            _ => false,
        }
}

/// The schemas of [`DOCUMENTS`]. Whatever need not be there may be null, which is absent.
fn documents() -> BTreeMap<String, Value> {
    let mut schemas: BTreeMap<String, Value> = yaml_serde::from_str(DOCUMENTS).unwrap_or_default();
    schemas.values_mut().for_each(take_nulls);
    schemas
}

fn take_nulls(schema: &mut Value) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties {
            take_nulls(property);
            if !required.contains(&Value::from(name.as_str())) {
                *property = json!({"anyOf": [property.take(), {"type": "null"}]});
            }
        }
    }
    for inside in ["items", "additionalProperties"] {
        schema.get_mut(inside).into_iter().for_each(take_nulls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_described_and_no_name_means_two_schemas() {
        let mut schemas: BTreeMap<String, Value> = documents();
        assert!(schemas.len() > 5, "documents.yaml is read");
        for Endpoint { method, path, about, .. } in crate::api::declared() {
            let what = format!("{method} {path}");
            assert!(!about.summary.is_empty() && !about.answers.is_empty(), "{what}");
            assert!((method == Method::PUT) <= about.body.is_some(), "{what}");
            for (name, schema) in about.schemas {
                assert_eq!(schemas.entry(name).or_insert_with(|| schema.clone()), &schema, "{what}");
            }
        }
    }

    #[test]
    fn every_problem_code_is_one_of_some_endpoint() {
        let endpoints = crate::api::declared();
        let nowhere = |code: &&ProblemCode| !endpoints.iter().any(|one| may_answer(one, **code));
        let nowhere: Vec<_> = ProblemCode::ALL.iter().filter(nowhere).collect();
        // Of what there is no endpoint for.
        assert_eq!(nowhere, [&ProblemCode::MethodNotAllowed]);
    }
}
