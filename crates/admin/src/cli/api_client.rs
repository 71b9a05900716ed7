//! A client of the running service's API.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

/// Environment variable with the token. It is not an option, because other users of the machine
/// can see command lines.
const TOKEN: &str = "TIDEGATE_TOKEN";
/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long an answer may take: the service itself gives up after 60 s.
const ANSWER_TIME: Duration = Duration::from_secs(75);
/// How long a download may take.
const DOWNLOAD_TIME: Duration = Duration::from_secs(3_600);
/// Bytes of an answer, at most: over twice a page of documents of the largest size.
const MAX_ANSWER: usize = 256 << 20;
/// Characters of an unexpected answer that are printed.
const MAX_REPEATED: usize = 120;

/// Address of the service, and the token.
#[derive(clap::Args, Debug)]
pub struct AccessArgs {
    /// Where the service listens for people (`tidegate serve --listen`).
    #[arg(
        long,
        env = "TIDEGATE_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:9070",
        value_parser = server
    )]
    pub server: String,
    #[command(flatten)]
    pub token: TokenArg,
}

/// The token.
#[derive(clap::Args, Clone, Debug)]
pub struct TokenArg {
    /// A file with a token; without it the token is taken from
    /// the environment variable TIDEGATE_TOKEN.
    #[arg(long, env = "TIDEGATE_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<PathBuf>,
}

/// A URL without a trailing slash.
pub fn server(text: &str) -> Result<String, String> {
    let wanted = "write http://HOST:PORT, like http://127.0.0.1:9070";
    let url: Url = text.parse().map_err(|_| wanted.to_owned())?;
    if url.scheme() == "https" {
        return Err("the service has no TLS: reach it through a tunnel, like \
             `ssh -L 9070:127.0.0.1:9070 HOST`, and write http://127.0.0.1:9070"
            .to_owned());
    }
    if url.scheme() != "http" || !url.username().is_empty() || url.query().is_some() {
        return Err(wanted.to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The service's API.
pub struct ApiClient {
    client: Client,
    server: String,
    authorization: HeaderValue,
}

/// A client without redirects and proxies.
pub fn http_client(timeout: Duration) -> reqwest::Result<Client> {
    Client::builder()
        .connect_timeout(CONNECT_TIME)
        .timeout(timeout)
        .redirect(Policy::none())
        .no_proxy()
        .build()
}

/// Why a request had no usable answer.
#[derive(thiserror::Error, Debug)]
pub enum RequestError {
    /// No request can succeed: others would fail in the same way.
    #[error("{0}")]
    Unreachable(String),
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
        let token = token(&access.token)?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
            .ok()
            .filter(|_| !token.is_empty())
            .context("the token is empty, or has characters that no token has")?;
        authorization.set_sensitive(true);
        let client = http_client(ANSWER_TIME).context("set up the HTTP client")?;
        Ok(Self { client, server: access.server.clone(), authorization })
    }

    /// Requests `target`, a path with its query, and returns the JSON of a 200.
    ///
    /// # Errors
    /// When there is no answer, or any other one.
    pub async fn request(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Value, RequestError> {
        let mut request = self.client.request(method, format!("{}{target}", self.server));
        request = request.header("authorization", self.authorization.clone());
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let bytes = self.body(answer).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&bytes).map_err(|_| self.not_the_service(status, &bytes));
        }
        Err(self.refusal(status, &bytes))
    }

    /// Requests `target`, and writes the body of a 200 to `file`. Returns its length.
    ///
    /// # Errors
    /// When there is no answer, any other one, it breaks off, or the file cannot be written.
    pub async fn download(&self, method: Method, target: &str, file: &mut impl Write) -> anyhow::Result<u64> {
        let request = self.client.request(method, format!("{}{target}", self.server));
        let request = request.timeout(DOWNLOAD_TIME).header("authorization", self.authorization.clone());
        let mut answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status != StatusCode::OK {
            let bytes = self.body(answer).await?;
            return Err(self.refusal(status, &bytes).into());
        }
        let mut length = 0u64;
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(&error))? {
            file.write_all(&chunk).context("cannot write the file")?;
            length += chunk.len() as u64;
        }
        Ok(length)
    }

    /// As [`request`](Self::request) for a document that may be absent, in which case the problem
    /// has the code `not_found`.
    pub async fn get_if_exists(&self, target: &str, not_found: &str) -> Result<Option<Value>, RequestError> {
        match self.request(Method::GET, target, None).await {
            Err(RequestError::Refused(refusal)) if refusal.code == not_found => Ok(None),
            answered => answered.map(Some),
        }
    }

    /// All items of a list that is given in pages; `filter`: further parameters.
    ///
    /// # Errors
    /// When a page is not answered, or is none.
    pub async fn list(&self, path: &str, filter: &[(&str, &str)]) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let query = |cursor: Option<&str>| {
            let mut pairs = form_urlencoded::Serializer::new(String::new());
            pairs.append_pair("limit", &PAGE.to_string()).extend_pairs(filter);
            pairs.extend_pairs(cursor.map(|cursor| ("cursor", cursor))).finish()
        };
        let mut target = query(None);
        loop {
            let answer = self.request(Method::GET, &format!("{path}?{target}"), None).await?;
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

    fn unreachable(&self, error: &reqwest::Error) -> RequestError {
        let (server, why) = (&self.server, innermost(error));
        RequestError::Unreachable(if error.is_connect() {
            format!(
                "nobody answers at {server} ({why}): start the service with `tidegate serve`, the local stack \
                 with `cargo xtask up --detach`, or say with --server where it is"
            )
        } else if error.is_timeout() {
            format!("{server} did not answer in {} s", ANSWER_TIME.as_secs())
        } else {
            format!("{server} broke the connection: {why}")
        })
    }

    /// The problem in the answer, or that the answer is not the service's.
    fn refusal(&self, status: StatusCode, bytes: &[u8]) -> RequestError {
        let Ok(refusal) = serde_json::from_slice::<ProblemReply>(bytes) else {
            return self.not_the_service(status, bytes);
        };
        match refusal.code.as_str() {
            "unauthorized" | "token_expired" | "wrong_role" => {
                RequestError::Unreachable(format!("{} does not take the token: {refusal}", self.server))
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

fn token(access: &TokenArg) -> anyhow::Result<String> {
    let text = match &access.token_file {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the token in {}", path.display()))?,
        None => std::env::var(TOKEN).ok().context(
            "no token: name a file with --token-file (of the local stack: target/up/token), or set \
             TIDEGATE_TOKEN; `tidegate token create --role admin` makes one",
        )?,
    };
    Ok(text.trim().to_owned())
}

/// The innermost cause of an error: the outer ones only repeat what was tried.
fn innermost(error: &dyn std::error::Error) -> String {
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

    #[test]
    fn an_address_is_http_and_nothing_else() {
        for (text, taken) in [
            ("http://127.0.0.1:9070", "http://127.0.0.1:9070"),
            ("http://[::1]:9070/", "http://[::1]:9070"),
            ("http://proxy/tidegate/", "http://proxy/tidegate"),
        ] {
            assert_eq!(server(text).as_deref(), Ok(taken));
        }
        for wrong in ["", "127.0.0.1:9070", "http://", "ftp://h:1", "http://me:secret@h:1", "http://h:1/?a=b"]
        {
            assert!(server(wrong).unwrap_err().contains("http://HOST:PORT"), "{wrong}");
        }
        assert!(server("https://h:1").unwrap_err().contains("tunnel"));
    }

    /// The error that the command line reads from an answer.
    async fn understood(answer: axum::response::Response) -> RequestError {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "t").unwrap();
        let server = "http://127.0.0.1:1".to_owned();
        let access = AccessArgs { server, token: TokenArg { token_file: Some(token.path().to_owned()) } };
        let service = ApiClient::new(&access).unwrap();
        let (head, body) = answer.into_parts();
        service.refusal(head.status, &body.collect().await.unwrap().to_bytes())
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
        for code in [ProblemCode::Unauthorized, ProblemCode::WrongRole, ProblemCode::Stopping] {
            let answer = Problem::new(code, "no").into_response();
            assert!(matches!(understood(answer).await, RequestError::Unreachable(_)), "{}", code.name());
        }
        let proxy = (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream").into_response();
        let said = understood(proxy).await.to_string();
        assert!(said.contains("503") && said.contains("no healthy upstream"), "{said}");
    }
}
