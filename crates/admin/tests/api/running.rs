//! A running service, and a client.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, HeaderMap};
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tidegate_admin::auth;
use tidegate_admin::serve::{Config, Service};
use tidegate_admin::store::sqlite::{Options, SqliteStore};
use tidegate_admin::store::{StoreTable, StoredRows, TokenRow};
use tidegate_policy::check::Check;
use tidegate_policy::wire;
use tidegate_policy::wire::check::{Answer, Found, Question};

/// Nothing here takes longer, unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A service on free ports.
pub struct Running {
    pub dir: tempfile::TempDir,
    pub service: Service,
    pub admin: String,
    pub gateway: String,
    client: Client<HttpConnector, Body>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answered {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The body of a 200.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// The body of an error: problem+json whose parts agree with each other.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!((self.status.as_u16(), problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:tidegate:problem:{code}"));
        assert!(problem["title"].is_string() && problem["detail"].as_str().is_some_and(|d| !d.is_empty()));
        problem
    }
}

impl Running {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, Options::default()).await
    }

    /// Started with the clusters that Envoy has.
    pub async fn start_with_clusters(clusters: &[&str]) -> Self {
        let clusters = clusters.iter().map(|name| (*name).to_owned()).collect();
        Self::start_as(tempfile::tempdir().unwrap(), Options::default(), clusters).await
    }

    pub async fn start_in(dir: tempfile::TempDir, store: Options) -> Self {
        Self::start_as(dir, store, BTreeSet::new()).await
    }

    async fn start_as(dir: tempfile::TempDir, store: Options, clusters: BTreeSet<String>) -> Self {
        let db = db(&dir);
        let token = |scope: &str| {
            let token = auth::new_token().unwrap();
            let row = TokenRow { hash: auth::hash_token(&token), name: scope.into(), scope: scope.into() };
            SqliteStore::add_token_beside(&db, &row).unwrap();
            token
        };
        let (admin, gateway) = (token("admin"), token("gateway"));
        let any = "127.0.0.1:0".parse().unwrap();
        let config = Config { db: db.clone(), people: any, gateways: any, store, clusters, tokens: None };
        let service = Service::start(config).await.unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { dir, service, admin, gateway, client }
    }

    pub fn people(&self, path: &str) -> String {
        format!("http://{}{path}", self.service.people())
    }

    pub fn gateways(&self, path: &str) -> String {
        format!("http://{}{path}", self.service.gateways())
    }

    pub async fn send(&self, request: Request<Body>) -> Answered {
        send(&self.client, request).await
    }

    /// Asks the people's listener, as the operator.
    pub async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> Answered {
        let request = Request::builder().method(method).uri(self.people(path));
        let request = request.header(AUTHORIZATION, format!("Bearer {}", self.admin));
        self.send(request.body(body.into()).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answered {
        self.ask(Method::GET, path, Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answered {
        self.ask(Method::POST, path, body).await
    }

    pub async fn put(&self, path: &str, body: impl Into<Body>) -> Answered {
        self.ask(Method::PUT, path, body).await
    }

    pub async fn delete(&self, path: &str) -> Answered {
        self.ask(Method::DELETE, path, Body::empty()).await
    }

    /// Asks a check, as a gateway.
    pub async fn check(&self, check: Check, question: &Question<'_>) -> Answered {
        let request = self.as_gateway(Method::POST, wire::check::path(check));
        self.send(request.body(Body::from(question.to_bytes().unwrap())).unwrap()).await
    }

    /// What a check found, which must be an answer to `question`.
    pub async fn found(&self, check: Check, question: &Question<'_>) -> Found {
        let answered = self.check(check, question).await;
        assert_eq!(answered.status, 200, "{}", String::from_utf8_lossy(&answered.bytes));
        assert_eq!(answered.headers["content-type"], "application/octet-stream");
        let answer = Answer::from_bytes(&answered.bytes).unwrap();
        assert_eq!((answer.id, answer.found.check()), (question.id, check));
        answer.found
    }

    /// Runs the command line on this service's database: whether it succeeded, and
    /// what it said.
    pub async fn tidegate(&self, args: &[&str]) -> (bool, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.args(args).arg("--db").arg(db(&self.dir)).output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// Asks the gateways' listener, as a gateway.
    pub fn as_gateway(&self, method: Method, path: &str) -> axum::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(self.gateways(path))
            .header(AUTHORIZATION, format!("Bearer {}", self.gateway))
            .header("x-tidegate-gateway", "node-1;00000000000000aa")
    }

    /// The tables of people, and where the sequence is.
    pub async fn tables(&self) -> String {
        let mut tables: StoredRows =
            self.service.app_state().store.read_tables(&StoreTable::ALL).await.unwrap();
        tables.ips.sort_by(|one, other| one.ip.cmp(&other.ip));
        format!("{tables:?}")
    }

    /// Runs SQL as a person would, with a connection of its own.
    pub fn sql(&self, text: &str) {
        let connection = rusqlite::Connection::open(db(&self.dir)).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection.execute_batch(text).unwrap();
    }
}

pub fn db(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("tidegate.db")
}

pub async fn send(client: &Client<HttpConnector, Body>, request: Request<Body>) -> Answered {
    let answered = async {
        let (head, body) = client.request(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answered { status: head.status, headers: head.headers, bytes }
    };
    tokio::time::timeout(DEADLINE, answered).await.expect("no answer within the deadline")
}

/// Asks `look` again and again until it says something.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within the deadline: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
