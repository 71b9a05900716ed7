//! A client of the running service's API.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::header::{ETAG, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;

pub use super::access::AccessArgs;
use super::access::Server;
use super::tls_error;
use super::transfer_progress::TransferProgress;
use crate::api::streamed_body::StreamedBody;

/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long an answer may take: the service itself gives up after 60 s.
const ANSWER_TIME: Duration = Duration::from_secs(75);
/// How long a download or an upload may take.
const TRANSFER_TIME: Duration = Duration::from_secs(3_600);
/// How long one connection follows, at most: the caller comes back.
const FOLLOW_TIME: Duration = Duration::from_secs(86_400);
/// After this long without a word the connection is given up: the service says every 15 s that it is there.
const FOLLOW_SILENCE: Duration = Duration::from_secs(60);
/// Bytes of an answer, at most: over twice a page of documents of the largest size.
const MAX_ANSWER: usize = 256 << 20;
/// How a gzip stream begins (RFC 1952, 2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";
/// Characters of an unexpected answer that are printed.
const MAX_REPEATED: usize = 120;

/// The service's API.
pub struct ApiClient {
    client: Client,
    server: String,
    authorization: HeaderValue,
}

/// A client without redirects and proxies, which trusts only whom it must for `server`.
///
/// # Errors
/// When the file of authorities cannot be read, or has no certificate.
pub fn http_client(server: &Server, timeout: Duration) -> anyhow::Result<Client> {
    // An error means that there is one already.
    let _ = ring::default_provider().install_default();
    let client =
        Client::builder().connect_timeout(CONNECT_TIME).timeout(timeout).redirect(Policy::none()).no_proxy();
    let client = match &server.ca_file {
        Some(path) => client.tls_certs_only(authorities(path)?),
        // Reading the system's authorities takes longer than the rest of the command.
        None if server.url.starts_with("http:") => client.tls_certs_only([]),
        None => client,
    };
    client.build().context("set up the HTTP client")
}

fn authorities(path: &Path) -> anyhow::Result<Vec<Certificate>> {
    let pem = std::fs::read(path).with_context(|| format!("--ca: cannot read {}", path.display()))?;
    let found = Certificate::from_pem_bundle(&pem).ok().filter(|found| !found.is_empty());
    found.with_context(|| format!("--ca: {} has no certificate in PEM", path.display()))
}

/// A body that is read while it is sent.
pub struct Upload {
    source: Box<dyn Read + Send>,
    /// Bytes in all, if that is known: for the progress.
    length: Option<u64>,
    /// Whether it is a gzip stream, of which the service is to take the content.
    is_gzip: bool,
}

impl Upload {
    /// The file at `path`, as it is.
    ///
    /// # Errors
    /// When it cannot be opened. The message names it.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(cannot)?;
        let about = file.metadata().with_context(cannot)?;
        ensure!(!about.is_dir(), "{} is a directory", path.display());
        let length = about.is_file().then_some(about.len());
        Ok(Self { source: Box::new(file), length, is_gzip: false })
    }

    /// These bytes.
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        let length = Some(bytes.len() as u64);
        Self { source: Box::new(Cursor::new(bytes)), length, is_gzip: false }
    }

    /// Standard input.
    pub fn of_standard_input() -> Self {
        Self { source: Box::new(std::io::stdin()), length: None, is_gzip: false }
    }

    /// The same, as what a gzip stream has inside if it begins as one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn unpacked(self) -> anyhow::Result<Self> {
        let mut source = BufReader::new(self.source);
        let is_gzip = source.fill_buf().context("cannot read what is to be sent")?.starts_with(GZIP);
        Ok(Self { source: Box::new(source), is_gzip, ..self })
    }
}

/// Why a request had no usable answer.
#[derive(thiserror::Error, Debug)]
pub enum RequestError {
    /// No request can succeed: others would fail in the same way.
    #[error("{0}")]
    Unreachable(String),
    /// The service does not take the token, or not for this.
    #[error("{0}")]
    NotAllowed(String),
    /// This request was refused.
    #[error("{}", .0.explained())]
    Refused(ProblemReply),
}

/// A problem of the service (RFC 9457).
#[derive(Deserialize, Debug)]
pub struct ProblemReply {
    status: u16,
    code: String,
    detail: String,
    #[serde(default)]
    pub errors: Vec<FieldProblem>,
}

/// One thing that is wrong, and where.
#[derive(Deserialize, Debug)]
pub struct FieldProblem {
    /// JSON pointer into the document that was sent.
    #[serde(default)]
    pub pointer: Option<String>,
    /// Stable code of the error.
    pub code: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl ProblemReply {
    /// Whether it has this code.
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }
}

impl std::fmt::Display for ProblemReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} {})", self.detail, self.status, self.code)
    }
}

impl ProblemReply {
    /// All that is wrong: the detail, and in a line each the fields' where it does not say them.
    #[must_use]
    pub fn explained(&self) -> String {
        let others = self.errors.iter().filter(|error| error.detail != self.detail);
        let lines = others.map(|error| match error.pointer.as_deref().unwrap_or_default() {
            "" => format!("\n{}", error.detail),
            pointer => format!("\n{pointer}: {}", error.detail),
        });
        format!("{self}{}", lines.collect::<String>())
    }
}

/// Items per request of a list.
const PAGE: usize = 100;

/// A page of a list.
#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    #[serde(default)]
    next: Option<String>,
}

impl ApiClient {
    /// Reads the token; sends no request yet.
    ///
    /// # Errors
    /// When there is no token, or it is invalid.
    pub fn new(access: &AccessArgs) -> anyhow::Result<Self> {
        let (server, token) = access.resolve()?;
        Self::of(&server, &token)
    }

    /// The same if a service is named; `None`: none is.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn if_given(access: &AccessArgs) -> anyhow::Result<Option<Self>> {
        access.resolve_if_given()?.map(|(server, token)| Self::of(&server, &token)).transpose()
    }

    /// A client of `server` with this token.
    ///
    /// # Errors
    /// When it is no token, or the file of authorities cannot be read.
    pub fn of(server: &Server, token: &str) -> anyhow::Result<Self> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
            .ok()
            .filter(|_| !token.is_empty())
            .context("the token is empty, or has characters that no token has")?;
        authorization.set_sensitive(true);
        let client = http_client(server, ANSWER_TIME)?;
        Ok(Self { client, server: server.url.clone(), authorization })
    }

    /// The service's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Requests `target`, a path with its query, and returns the JSON of a 200. By its `field` the
    /// answer is known for the service's.
    ///
    /// # Errors
    /// When there is no answer, or any other one.
    pub async fn request(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
        field: &str,
    ) -> Result<Value, RequestError> {
        self.request_if(method, target, body, field, None).await.map(|(answer, _)| answer)
    }

    /// The same under a condition: a header and its value. Returns also the answer's `ETag`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn request_if(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
        field: &str,
        condition: Option<(HeaderName, HeaderValue)>,
    ) -> Result<(Value, Option<HeaderValue>), RequestError> {
        let mut request = self.client.request(method, format!("{}{target}", self.server));
        request = request.header("authorization", self.authorization.clone());
        request = condition.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request, field).await
    }

    /// Posts what `upload` has to `target`, and returns the JSON of a 200, which has this `field`.
    ///
    /// # Errors
    /// As [`request`](Self::request), and when the source cannot be read.
    pub async fn upload(&self, target: &str, upload: Upload, field: &str) -> Result<Value, RequestError> {
        let Upload { source, length, is_gzip } = upload;
        let mut progress = TransferProgress::new(length);
        let body = StreamedBody::of(source, move |bytes| progress.add(bytes));
        let request = self.client.post(format!("{}{target}", self.server)).body(reqwest::Body::wrap(body));
        let request = request.timeout(TRANSFER_TIME).header("authorization", self.authorization.clone());
        let request = if is_gzip { request.header("content-encoding", "gzip") } else { request };
        self.answer(request, field).await.map(|(answer, _)| answer)
    }

    /// The JSON of a 200, which has this `field`, and its `ETag`.
    async fn answer(
        &self,
        request: RequestBuilder,
        field: &str,
    ) -> Result<(Value, Option<HeaderValue>), RequestError> {
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let (status, etag) = (answer.status(), answer.headers().get(ETAG).cloned());
        let bytes = self.body(answer).await?;
        if status == StatusCode::OK {
            let answer: Option<Value> = serde_json::from_slice(&bytes).ok();
            let answer = answer.filter(|answer| answer.get(field).is_some());
            return Ok((answer.ok_or_else(|| self.not_the_service(status, &bytes))?, etag));
        }
        Err(self.refusal(status, &bytes))
    }

    /// Requests `target`: `each` gets the body of a 200, chunk by chunk. Returns its length.
    ///
    /// # Errors
    /// When there is no answer, any other one, it breaks off or stands still, or `each` fails.
    pub async fn download(
        &self,
        method: Method,
        target: &str,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let request = self.client.request(method, format!("{}{target}", self.server));
        let request = request.timeout(TRANSFER_TIME).header("authorization", self.authorization.clone());
        let mut answer = self.within_answer_time(request.send()).await?;
        let status = answer.status();
        if status != StatusCode::OK {
            let bytes = self.body(answer).await?;
            return Err(self.refusal(status, &bytes).into());
        }
        let mut progress = TransferProgress::new(answer.content_length());
        let mut length = 0u64;
        while let Some(chunk) = self.within_answer_time(answer.chunk()).await? {
            each(&chunk)?;
            progress.add(chunk.len());
            length += chunk.len() as u64;
        }
        Ok(length)
    }

    /// Follows `target`, which answers server-sent events, until the connection ends: `each` gets the lines.
    /// `last_id`: where an earlier connection ended.
    ///
    /// # Errors
    /// When it is not answered with 200, or `each` fails.
    pub async fn follow(
        &self,
        target: &str,
        last_id: Option<&str>,
        mut each: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut request = self.client.get(format!("{}{target}", self.server));
        request = request.timeout(FOLLOW_TIME).header("authorization", self.authorization.clone());
        request = request.header("accept", "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let mut answer = self.within_answer_time(request.send()).await?;
        let status = answer.status();
        if status != StatusCode::OK {
            let bytes = self.body(answer).await?;
            return Err(self.refusal(status, &bytes).into());
        }
        let mut buffer = Vec::new();
        // However it ends, the caller comes back.
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout(FOLLOW_SILENCE, answer.chunk()).await {
            buffer.extend_from_slice(&chunk);
            let Some(end) = buffer.iter().rposition(|&byte| byte == b'\n') else { continue };
            let rest = buffer.split_off(end + 1);
            String::from_utf8_lossy(&buffer).lines().try_for_each(&mut each)?;
            buffer = rest;
        }
        Ok(())
    }

    /// As [`request`](Self::request) for a document that may be absent, in which case the problem
    /// has the code `not_found`.
    pub async fn get_if_exists(
        &self,
        target: &str,
        field: &str,
        not_found: &str,
    ) -> Result<Option<Value>, RequestError> {
        Ok(self.get_tagged(target, field, not_found).await?.map(|(document, _)| document))
    }

    /// The same, with the document's `ETag`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn get_tagged(
        &self,
        target: &str,
        field: &str,
        not_found: &str,
    ) -> Result<Option<(Value, Option<HeaderValue>)>, RequestError> {
        match self.request_if(Method::GET, target, None, field, None).await {
            Err(RequestError::Refused(refusal)) if refusal.code == not_found => Ok(None),
            answered => answered.map(Some),
        }
    }

    /// All items of a list that is given in pages; `filter`: further parameters.
    ///
    /// # Errors
    /// When a page is not answered, or is none.
    pub async fn list(&self, path: &str, filter: &[(&str, &str)]) -> anyhow::Result<Vec<Value>> {
        self.list_by(path, filter, PAGE).await
    }

    /// The same with this many items per request.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn list_by(
        &self,
        path: &str,
        filter: &[(&str, &str)],
        page: usize,
    ) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let query = |cursor: Option<&str>| {
            let mut pairs = form_urlencoded::Serializer::new(String::new());
            pairs.append_pair("limit", &page.to_string()).extend_pairs(filter);
            pairs.extend_pairs(cursor.map(|cursor| ("cursor", cursor))).finish()
        };
        let mut target = query(None);
        loop {
            let answer = self.request(Method::GET, &format!("{path}?{target}"), None, "items").await?;
            let page = Page::deserialize(answer)?;
            items.extend(page.items);
            let Some(next) = page.next else { return Ok(items) };
            target = query(Some(&next));
        }
    }

    async fn body(&self, mut answer: Response) -> Result<Vec<u8>, RequestError> {
        let broken = |why: &dyn Display| {
            RequestError::Unreachable(format!("the answer of {} broke off: {why}", self.server))
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| broken(&innermost(&error)))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ANSWER {
                return Err(broken(&"it is too long"));
            }
        }
        Ok(bytes)
    }

    /// The outcome of a step, which may not take as long as a whole download.
    async fn within_answer_time<T>(
        &self,
        step: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, RequestError> {
        match tokio::time::timeout(ANSWER_TIME, step).await {
            Ok(done) => done.map_err(|error| self.unreachable(&error)),
            Err(_) => Err(RequestError::Unreachable(format!("{} did not answer in time", self.server))),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> RequestError {
        RequestError::Unreachable(unreachable(&self.server, error))
    }

    /// The problem in the answer, or that the answer is not the service's.
    fn refusal(&self, status: StatusCode, bytes: &[u8]) -> RequestError {
        let Ok(refusal) = serde_json::from_slice::<ProblemReply>(bytes) else {
            return self.not_the_service(status, bytes);
        };
        match refusal.code.as_str() {
            "unauthorized" | "token_expired" | "wrong_role" => {
                RequestError::NotAllowed(format!("{} does not take the token: {refusal}", self.server))
            }
            "stopping" => RequestError::Unreachable(format!("{}: {refusal}", self.server)),
            _ => RequestError::Refused(refusal),
        }
    }

    /// An answer that is not the service's, such as that of a proxy in front of it.
    fn not_the_service(&self, status: StatusCode, bytes: &[u8]) -> RequestError {
        let text = String::from_utf8_lossy(bytes);
        let line: String = text.lines().next().unwrap_or_default().chars().take(MAX_REPEATED).collect();
        let server = &self.server;
        RequestError::Unreachable(format!(
            "{server} answered {status}, `{line}`, which is not the admin service's word: does it run there?"
        ))
    }
}

/// Why there was no answer from `server`, and what to do about it.
pub fn unreachable(server: &str, error: &reqwest::Error) -> String {
    if let Some(why) = tls_error::explained(error) {
        return format!("{server}: {why}");
    }
    let why = innermost(error);
    if error.is_connect() {
        format!(
            "nobody answers at {server} ({why}): start the service with `tidegate serve`, the local stack with `cargo \
             xtask up --detach`, or say with --server where it is"
        )
    } else if error.is_timeout() {
        format!("{server} did not answer in time")
    } else {
        let hint = if server.starts_with("http:") { "; if it has TLS, write https://" } else { "" };
        format!("{server} broke the connection: {why}{hint}")
    }
}

/// The innermost cause of an error: the outer ones only repeat what was tried.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http_body_util::BodyExt;

    use super::*;
    use crate::problem::{Problem, ProblemCode};

    /// The error that the command line reads from an answer.
    async fn understood(answer: axum::response::Response) -> RequestError {
        let server = Server { url: "http://127.0.0.1:1".to_owned(), ca_file: None };
        let service = ApiClient::of(&server, "t").unwrap();
        let (head, body) = answer.into_parts();
        service.refusal(head.status, &body.collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn json_of_another_program_is_no_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(async || axum::Json(serde_json::json!({ "ok": true })));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let client = ApiClient::of(&Server { url, ca_file: None }, "t").unwrap();
        assert!(client.request(Method::GET, "/", None, "ok").await.is_ok());
        let error = client.request(Method::GET, "/", None, "version").await.unwrap_err();
        assert!(error.to_string().contains("not the admin service's word"), "{error}");
    }

    #[tokio::test]
    async fn problems_are_heard_as_the_service_says_them() {
        let field = Problem::field("/spec/rules", "too_many", "at most 16");
        let RequestError::Refused(refusal) = understood(field.into_response()).await else {
            panic!("must be a refusal")
        };
        assert_eq!(refusal.to_string(), "at most 16 (422 invalid_field)");
        assert_eq!(refusal.errors[0].pointer.as_deref(), Some("/spec/rules"));
        assert_eq!(refusal.errors[0].code, "too_many");
        let busy = Problem::new(ProblemCode::StoreBusy, "locked").into_response();
        assert!(matches!(understood(busy).await, RequestError::Refused(_)), "the next may go through");
        for code in [ProblemCode::Unauthorized, ProblemCode::WrongRole] {
            let answer = Problem::new(code, "no").into_response();
            assert!(matches!(understood(answer).await, RequestError::NotAllowed(_)), "{}", code.name());
        }
        let stopping = Problem::new(ProblemCode::Stopping, "no").into_response();
        assert!(matches!(understood(stopping).await, RequestError::Unreachable(_)), "others end so too");
        let proxy = (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream").into_response();
        let said = understood(proxy).await.to_string();
        assert!(said.contains("503") && said.contains("no healthy upstream"), "{said}");
    }
}
