//! Requests of the admin API, carried out within the process as the token that a visitor signed in with.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{Extensions, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Bytes of an answer, at most: a page of the API's longest list has less.
const MAX_ANSWER: usize = 16 << 20;

/// The SHA-256 of a token, which is how the admin service knows tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its beginning is how the API names a token.
        write!(f, "TokenHash({})", hex::encode(&self.0[..4]))
    }
}

/// For whom a request is carried out.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token.
    pub token: TokenHash,
    /// What the listener knows of the connection that the visitor's request came by.
    pub extensions: Arc<Extensions>,
}

/// An answer to come.
pub type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// The admin API.
pub trait ApiService: Send + Sync + 'static {
    /// The hash of a token's text.
    fn hash(&self, token: &str) -> TokenHash;

    /// Carries out a request for a caller, as if it had come from there with that token.
    fn call(&self, request: Request, caller: &Caller) -> Answer;

    /// Writes to the service's log that somebody signed in, or was refused.
    fn log_sign_in(&self, extensions: &Extensions, outcome: SignIn<'_>);
}

/// What became of a sign-in. No part of a token is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignIn<'a> {
    /// A session began.
    Begun {
        /// Name of the token.
        name: &'a str,
        /// Whether a link was used, and not the token.
        by_link: bool,
    },
    /// It was refused.
    Refused {
        /// The stable code of the API's problem, or `link_gone`.
        code: &'a str,
    },
}

/// Why there is no answer to use.
#[derive(Debug)]
pub enum ApiError {
    /// The API refused, or failed.
    Problem(Box<Problem>),
    /// The answer has not the form that this dashboard expects.
    Form(String),
}

/// A problem of the API (RFC 9457).
#[derive(Clone, Debug, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// Stable code.
    pub code: String,
    /// The same for every problem of the code.
    pub title: String,
    /// What is wrong, and what would be right.
    #[serde(default)]
    pub detail: String,
    /// What is wrong by field.
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, Deserialize)]
pub struct FieldError {
    /// JSON pointer into the body.
    pub pointer: Option<String>,
    /// Name of a parameter of path or query.
    pub parameter: Option<String>,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl Problem {
    /// What is wrong with the field of this name in the object of the field `object`, or in what it has.
    pub fn of_nested_field(&self, object: &str, name: &str) -> Option<&str> {
        let is_it = |error: &&FieldError| {
            let parts = error.pointer.as_deref().unwrap_or_default().split('/').skip(1);
            parts.take(2).eq([object, name])
        };
        self.errors.iter().find(is_it).map(|error| error.detail.as_str())
    }

    /// What is wrong with the field of this name: the first part of its pointer, or a parameter.
    pub fn of_field(&self, name: &str) -> Option<&str> {
        let is_it = |error: &&FieldError| {
            let first = error.pointer.as_deref().and_then(|pointer| pointer.split('/').nth(1));
            first == Some(name) || error.parameter.as_deref() == Some(name)
        };
        self.errors.iter().find(is_it).map(|error| error.detail.as_str())
    }
}

/// The API, asked for one visitor.
#[derive(Clone)]
pub struct ApiClient {
    service: Arc<dyn ApiService>,
    caller: Caller,
}

/// A document with the tag that a later write of it is bound to.
#[derive(Clone, Debug)]
pub struct Tagged {
    /// The document.
    pub document: Value,
    /// Its `ETag`; empty: it has none.
    pub etag: String,
}

/// A request of the API that changes something.
#[derive(Debug)]
pub struct Write {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, String)>,
    body: Bytes,
}

impl Write {
    /// A request with a JSON body; [`Value::Null`]: without a body.
    pub fn json(method: Method, path: impl Into<String>, body: &Value) -> Self {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        Self::bytes(method, path, "application/json", body)
    }

    /// A request with a body of any kind.
    pub fn bytes(method: Method, path: impl Into<String>, content_type: &str, body: Bytes) -> Self {
        Self { method, path: path.into(), headers: vec![(CONTENT_TYPE, content_type.to_owned())], body }
    }

    /// With a body that is packed with gzip.
    pub fn packed(mut self) -> Self {
        self.headers.push((CONTENT_ENCODING, "gzip".to_owned()));
        self
    }

    /// Only if the document still has this tag; empty: only if there is none of its name.
    pub fn if_unchanged(mut self, etag: &str) -> Self {
        self.headers.push(match etag {
            "" => (IF_NONE_MATCH, "*".to_owned()),
            tag => (IF_MATCH, tag.to_owned()),
        });
        self
    }

    /// With a key by which a second sending of the same form is told from a second wish.
    pub fn once(mut self, key: &str) -> Self {
        if !key.is_empty() {
            self.headers.push((HeaderName::from_static("idempotency-key"), key.to_owned()));
        }
        self
    }
}

impl ApiClient {
    /// Asks `service` for `caller`.
    pub fn new(service: Arc<dyn ApiService>, caller: Caller) -> Self {
        Self { service, caller }
    }

    /// The answer to a GET of `path`, which begins behind `/api/admin/` and may have a query.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let answer = self.carry_out(Write::json(Method::GET, path, &Value::Null)).await?;
        parse(&answer.bytes)
    }

    /// The document at `path`, with its tag.
    pub async fn get_tagged(&self, path: &str) -> Result<Tagged, ApiError> {
        let answer = self.carry_out(Write::json(Method::GET, path, &Value::Null)).await?;
        Ok(Tagged { document: parse(&answer.bytes)?, etag: answer.etag })
    }

    /// Carries out a change, and gives the API's answer.
    pub async fn send(&self, write: Write) -> Result<Value, ApiError> {
        let answer = self.carry_out(write).await?;
        if answer.bytes.is_empty() { Ok(Value::Null) } else { parse(&answer.bytes) }
    }

    /// The response to a GET of `path` as it is: a download, or a stream.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Response, ApiError> {
        let mut request = Write::json(Method::GET, path, &Value::Null);
        request.headers.push((axum::http::header::ACCEPT, accept.to_owned()));
        let response = self.service.call(request.into_request()?, &self.caller).await;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(read(response).await.err().unwrap_or_else(|| ApiError::Form("no problem was told".to_owned())))
    }

    async fn carry_out(&self, write: Write) -> Result<Whole, ApiError> {
        read(self.service.call(write.into_request()?, &self.caller).await).await
    }
}

impl Write {
    fn into_request(self) -> Result<Request, ApiError> {
        let mut request = Request::new(Body::from(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = Uri::try_from(format!("/api/admin/{}", self.path)).map_err(|_| {
            let detail = "What was asked for is too long to be looked up: 64 KiB are, percent-encoded.";
            not_asked(StatusCode::URI_TOO_LONG, detail)
        })?;
        for (name, value) in self.headers {
            let value = HeaderValue::try_from(value).map_err(|_| {
                let detail =
                    format!("The form does not carry what its page gave it, for {name}: load the page anew.");
                not_asked(StatusCode::BAD_REQUEST, detail)
            })?;
            request.headers_mut().insert(name, value);
        }
        Ok(request)
    }
}

/// What the API cannot even be asked, as a problem.
fn not_asked(status: StatusCode, detail: impl Into<String>) -> ApiError {
    ApiError::Problem(Box::new(Problem {
        status: status.as_u16(),
        code: "invalid_field".to_owned(),
        title: "This cannot be asked for".to_owned(),
        detail: detail.into(),
        errors: Vec::new(),
    }))
}

/// A whole answer.
struct Whole {
    etag: String,
    bytes: Bytes,
}

async fn read(response: Response) -> Result<Whole, ApiError> {
    let status = response.status();
    let etag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let bytes = body.map_err(|error| ApiError::Form(error.to_string()))?.to_bytes();
    if status.is_success() {
        return Ok(Whole { etag, bytes });
    }
    Err(ApiError::Problem(serde_json::from_slice(&bytes).unwrap_or_else(|_| Box::new(untold(status)))))
}

/// The problem of an answer that has none.
fn untold(status: StatusCode) -> Problem {
    Problem {
        status: status.as_u16(),
        code: String::new(),
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        detail: String::new(),
        errors: Vec::new(),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::Form(error.to_string()))
}

/// `text` as one part of a path or query.
pub fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_asked_is_a_problem_of_who_asks() {
        let write = |path: String| Write::json(Method::POST, path, &Value::Null);
        let long = write(format!("explain?path={}", encoded(&"/+".repeat(16_000))));
        let bent = [write("a".to_owned()).once("a\nb"), write("a".to_owned()).if_unchanged("\"a\nb\"")];
        for (write, status) in [(long, 414)].into_iter().chain(bent.map(|write| (write, 400))) {
            let Err(ApiError::Problem(problem)) = write.into_request() else { panic!() };
            assert_eq!(problem.status, status);
        }
        assert!(write("a?b=c".to_owned()).once("k").into_request().is_ok());
    }
}
