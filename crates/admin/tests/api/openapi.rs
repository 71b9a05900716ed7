//! The OpenAPI document, and whether requests and answers are as it says: every answer that a test
//! gets is held against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use reqwest::{Method, Request};
use serde_json::{Value, json};
use tidegate_admin::api::{self, endpoints::Endpoint};

use crate::test_service::{Answered, TestService, each};

static DOCUMENT: LazyLock<Value> = LazyLock::new(api::openapi_document);
/// Declared once: it is asked for every answer.
static ENDPOINTS: LazyLock<Vec<Endpoint>> = LazyLock::new(api::declared);
/// Validators by the pointers of their schemas: making one takes milliseconds.
static VALIDATORS: LazyLock<Mutex<BTreeMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);

/// What a test has sent.
pub struct Sent {
    method: Method,
    path: String,
    json: Option<Value>,
}

impl Sent {
    pub fn of(request: &Request) -> Self {
        let body = request.body().and_then(reqwest::Body::as_bytes);
        Self {
            method: request.method().clone(),
            path: request.url().path().to_owned(),
            json: body.and_then(|body| serde_json::from_slice(body).ok()),
        }
    }

    /// Whether the document says that there can be this answer, and of a request that was accepted
    /// that it may be.
    #[track_caller]
    pub fn check(&self, answered: &Answered) {
        let Some(operation) = operation(&self.method, &self.path) else {
            assert!(!answered.status.is_success(), "not in the document: {} {}", self.method, self.path);
            return;
        };
        if answered.status == 404 && answered.json()["code"] == "not_found" {
            // An endpoint of the other listener.
            return;
        }
        let what = format!("{} {} {}", self.method, self.path, answered.status);
        let status = answered.status.as_u16().to_string();
        let at = format!("{operation}/responses/{status}");
        let response = DOCUMENT.pointer(&at).unwrap_or_else(|| panic!("not in the document: {what}"));
        let at = match response["$ref"].as_str() {
            Some(reference) => reference.trim_start_matches('#').to_owned(),
            None => at,
        };
        let Some(contents) = DOCUMENT.pointer(&at).unwrap()["content"].as_object() else {
            assert!(answered.bytes.is_empty(), "{what} has a body");
            return;
        };
        if self.method != Method::HEAD {
            let found = answered.headers["content-type"].to_str().unwrap();
            let media = contents.keys().find(|media| *media == found);
            let media = media.unwrap_or_else(|| panic!("{what}: {found} is not in the document"));
            if media == "application/json" || media.ends_with("+json") {
                validate(&format!("{at}/content/{}/schema", escaped(media)), &answered.json(), &what);
            }
        }
        let body = format!("{operation}/requestBody/content/application~1json/schema");
        if let Some(json) = self.json.as_ref().filter(|_| DOCUMENT.pointer(&body).is_some())
            && answered.status.is_success()
        {
            validate(&body, json, &format!("{what}: what was sent"));
        }
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The pointer of the operation that has this method and path.
fn operation(method: &Method, path: &str) -> Option<String> {
    let asked: Vec<&str> = path.split('/').collect();
    let fits = |pattern: &str| {
        let pattern: Vec<&str> = pattern.split('/').collect();
        let takes_slashes = pattern.last().is_some_and(|last| last.starts_with("{*"));
        let is_same = |(wanted, found): (&&str, &&str)| wanted.starts_with('{') || wanted == found;
        (pattern.len() == asked.len() || takes_slashes && pattern.len() < asked.len())
            && pattern.iter().zip(&asked).all(is_same)
    };
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let endpoint = ENDPOINTS.iter().find(|one| one.method == *method && fits(&one.path))?;
    let path = escaped(&endpoint.path.replace("{*", "{"));
    Some(format!("/paths/{path}/{}", method.as_str().to_ascii_lowercase()))
}

#[track_caller]
fn validate(schema: &str, found: &Value, what: &str) {
    let validator = VALIDATORS.lock().unwrap().get(schema).cloned();
    let validator = validator.unwrap_or_else(|| {
        let reference = format!("#{}", schema.replace('{', "%7B").replace('}', "%7D"));
        let whole =
            json!({"$ref": reference, "paths": DOCUMENT["paths"], "components": DOCUMENT["components"]});
        let made =
            Arc::new(jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{schema}: {error}")));
        VALIDATORS.lock().unwrap().insert(schema.to_owned(), Arc::clone(&made));
        made
    });
    let wrong: Vec<_> =
        validator.iter_errors(found).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{what} is not as {schema} says: {wrong:?}\n{found}");
}

/// Paths and methods that the document has.
fn documented() -> BTreeSet<(String, String)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&String, &Value)| {
        let path = path.clone();
        let methods: Vec<_> = methods.as_object().unwrap().keys().cloned().collect();
        methods.into_iter().map(move |method| (method, path.clone()))
    };
    paths.iter().flat_map(of_path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_open_and_has_every_route_and_no_other() {
    let service = TestService::start().await;
    let answer = Answered::to(service.as_nobody(Method::GET, service.people("/api/openapi.json"))).await;
    assert_eq!(answer.ok(), *DOCUMENT);
    let declared: BTreeSet<_> = api::declared()
        .into_iter()
        .map(|one| (one.method.as_str().to_ascii_lowercase(), one.path.replace("{*", "{")))
        .collect();
    assert_eq!(documented(), declared);
    // A path that there is takes no other methods.
    for path in DOCUMENT["paths"].as_object().unwrap().keys() {
        let asked =
            path.replace("{prefix}", "192.0.2.1").replace("{ip}", "192.0.2.1").replace(['{', '}'], "");
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let known = declared.contains(&(method.as_str().to_ascii_lowercase(), path.clone()));
            let request = match path.starts_with("/api/data-plane") {
                true => service.as_gateway(method.clone(), &asked),
                false => service.as_operator(method.clone(), &asked),
            };
            let status = Answered::to(request).await.status;
            assert_eq!(status == 405, !known, "{method} {asked}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_as_its_schema_says_and_is_taken() {
    let service = TestService::start().await;
    for (method, path) in documented() {
        let body = format!("/paths/{}/{method}/requestBody/content/application~1json", escaped(&path));
        let Some(content) = DOCUMENT.pointer(&body) else { continue };
        validate(&format!("{body}/schema"), &content["example"], &path);
        let asked = path.replace("/pages/{name}", "/pages/ip_banned").replace("{prefix}", "192.0.2.1");
        let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
        let answer =
            service.ask(method, &asked.replace(['{', '}'], ""), content["example"].to_string()).await;
        assert!(matches!(answer.status.as_u16(), 200 | 404), "{path}: {}", answer.json());
    }
}

/// An endpoint refuses a parameter that it does not know, and names those that it knows.
#[tokio::test(flavor = "multi_thread")]
async fn every_query_parameter_is_in_the_document_and_no_other() {
    let service = TestService::start().await;
    let people = documented().into_iter().filter(|(_, path)| path.starts_with("/api/admin"));
    for (method, path) in people {
        let parameters = &DOCUMENT["paths"][&path][&method]["parameters"];
        let in_query = parameters.as_array().unwrap().iter().filter(|one| one["in"] == "query");
        let wanted: Vec<_> = in_query.map(|one| one["name"].as_str().unwrap()).collect();
        let asked =
            path.replace("{prefix}", "192.0.2.1").replace("{ip}", "192.0.2.1").replace(['{', '}'], "");
        let asked = format!("{asked}?no_such=1");
        let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
        let problem = service.ask(method.clone(), &asked, "").await.problem(400, "invalid_parameter");
        let known = match wanted.as_slice() {
            [] => "no parameters".to_owned(),
            wanted => wanted.join(", "),
        };
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.ends_with(&format!("this path takes {known}")), "{method} {asked}: {detail}");
        assert_eq!(each(&problem["errors"], |error| &error["parameter"]), ["no_such"]);
    }
}
