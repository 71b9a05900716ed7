//! A running service on free ports, a client of it, and checks of its answers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Body, Certificate, Client, ClientBuilder, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tidegate_admin::api::app_state::PerListener;
use tidegate_admin::auth::{self, Role};
use tidegate_admin::serve::tls::TlsFiles;
use tidegate_admin::serve::{Config, Service};
use tidegate_admin::store::sqlite::{Options, SqliteStore};
use tidegate_admin::store::{Change, StoreTable, StoredRows, TokenRow};
use tidegate_backend::{Authority, CertificateFiles};
use tidegate_policy::codec::MAX_BAN_BASE;
use tokio_rustls::rustls::crypto::ring;

use crate::openapi::Sent;

/// The program under test, where cargo has it at this moment.
pub fn binary() -> std::ffi::OsString {
    std::env::var_os("CARGO_BIN_EXE_tidegate").expect("cargo sets it for tests")
}

/// Longest time of any request here; beyond it something hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A service on free ports.
pub struct TestService {
    pub dir: tempfile::TempDir,
    pub running: Service,
    pub admin: String,
    pub gateway: String,
    client: Client,
    /// Of both listeners.
    scheme: &'static str,
}

/// A complete answer.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answered {
    /// The answer to `request`, which is held against the OpenAPI document.
    pub async fn to(request: RequestBuilder) -> Self {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let sent = Sent::of(&request);
        let answer = client.execute(request).await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let answered = Self { status, headers, bytes: answer.bytes().await.unwrap().to_vec() };
        sent.check(&answered);
        answered
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The body of a 200.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// The body of a 200 in the gateways' own format.
    #[track_caller]
    pub fn binary(&self) -> &[u8] {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.bytes));
        assert_eq!(self.headers["content-type"], "application/octet-stream");
        &self.bytes
    }

    /// The body of an error: problem+json with consistent fields.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!((self.status.as_u16(), problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:tidegate:problem:{code}"));
        assert!(problem["title"].is_string() && problem["detail"].as_str().is_some_and(|d| !d.is_empty()));
        assert_eq!(self.headers.contains_key("retry-after"), matches!(status, 429 | 503));
        problem
    }

    /// A problem whose first error has this code, at this place of the body.
    #[track_caller]
    pub fn wrong_field(&self, status: u16, problem: &str, pointer: &str, code: &str) -> Value {
        let problem = self.problem(status, problem);
        let error = &problem["errors"][0];
        assert_eq!(
            (error["pointer"].as_str(), error["code"].as_str()),
            (Some(pointer), Some(code)),
            "{problem}"
        );
        problem
    }
}

/// Asserts that `found` has the fields of `wanted` with these values, whatever else it has.
#[track_caller]
pub fn has(found: &Value, wanted: Value) {
    fn differs(found: &Value, wanted: &Value, at: &str) -> Option<String> {
        match (found, wanted) {
            (Value::Object(found), Value::Object(wanted)) => wanted.iter().find_map(|(name, value)| {
                differs(found.get(name).unwrap_or(&Value::Null), value, &format!("{at}/{name}"))
            }),
            _ => (found != wanted).then(|| format!("{at}: {found}, not {wanted}")),
        }
    }
    if let Some(difference) = differs(found, &wanted, "") {
        panic!("{difference}\n{found:#}");
    }
}

/// Elements of an array, each as `look` sees it.
pub fn each<'v, T>(list: &'v Value, look: impl Fn(&'v Value) -> T) -> Vec<T> {
    list.as_array().unwrap_or_else(|| panic!("no list: {list}")).iter().map(look).collect()
}

/// Adds a new token to the database in `dir`, with all but the hash as in `row`; returns its text.
pub fn token_beside(dir: &tempfile::TempDir, row: TokenRow) -> String {
    let text = auth::new_token().unwrap();
    let token = TokenRow { hash: auth::hash_token(&text), ..row };
    let change = Change::AddToken { token, only_new_name: true };
    assert_eq!(SqliteStore::commit_beside(db(dir), &change, &"test".into()).unwrap().rows, 1);
    text
}

impl TestService {
    pub async fn start() -> Self {
        Self::start_with(Options::default(), &[]).await
    }

    /// Starts a service with this store, and with the clusters that Envoy has.
    pub async fn start_with(store: Options, clusters: &[&str]) -> Self {
        Self::start_bounded(store, clusters, MAX_BAN_BASE).await
    }

    /// Starts a service whose tables of addresses have `table_limit` bytes at most.
    pub async fn start_bounded(store: Options, clusters: &[&str], table_limit: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clusters: BTreeSet<String> = clusters.iter().map(|name| (*name).to_owned()).collect();
        let config = Config { store, clusters, table_limit, ..config(&dir) };
        Self::start_as(dir, config, client()).await
    }

    /// Starts a service that has this directory for files of sources.
    pub async fn start_with_files(files: &std::path::Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { source_files: Some(files.to_owned()), ..config(&dir) };
        Self::start_as(dir, config, client()).await
    }

    /// Starts a service that shows certificates of `127.0.0.1` on both listeners, signed by the authority that is
    /// returned; `adjust` may ask for more.
    pub async fn start_with_tls(
        adjust: impl FnOnce(&mut PerListener<TlsFiles>, &Authority),
    ) -> (Self, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(&dir.path().join("ca.pem")).unwrap();
        let files = tls_files(authority.files("127.0.0.1").unwrap());
        let mut tls = PerListener { people: files.clone(), gateways: files };
        adjust(&mut tls, &authority);
        let tls = PerListener { people: Some(tls.people), gateways: Some(tls.gateways) };
        let client = trusting(&authority).build().unwrap();
        let config = Config { tls, ..config(&dir) };
        (Self::start_as(dir, config, client).await, authority)
    }

    async fn start_as(dir: tempfile::TempDir, config: Config, client: Client) -> Self {
        let [admin, gateway] = [Role::Admin, Role::Gateway].map(|role| {
            token_beside(
                &dir,
                TokenRow { name: role.name().into(), role: role.name().into(), ..TokenRow::default() },
            )
        });
        let scheme = if config.tls.people.is_some() { "https" } else { "http" };
        let running = Service::start(config).await.unwrap();
        Self { dir, running, admin, gateway, client, scheme }
    }

    /// A path of the people's listener.
    pub fn people(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.running.people())
    }

    /// A path of the gateways' listener.
    pub fn gateways(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.running.gateways())
    }

    /// A request without a token.
    pub fn as_nobody(&self, method: Method, url: String) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// A request to the people's listener, as the operator.
    pub fn as_operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.people(path)).bearer_auth(&self.admin)
    }

    /// A request to the gateways' listener, as a gateway.
    pub fn as_gateway(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, self.gateways(path)).bearer_auth(&self.gateway);
        request.header("x-tidegate-gateway", "node-1;00000000000000aa")
    }

    /// Sends a request to the people's listener, as the operator.
    pub async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> Answered {
        Answered::to(self.as_operator(method, path).body(body)).await
    }

    pub async fn get(&self, path: &str) -> Answered {
        self.ask(Method::GET, path, "").await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answered {
        self.ask(Method::POST, path, body).await
    }

    pub async fn put(&self, path: &str, body: impl Into<Body>) -> Answered {
        self.ask(Method::PUT, path, body).await
    }

    pub async fn put_json(&self, path: &str, document: &Value) -> Answered {
        self.put(path, document.to_string()).await
    }

    /// Sends a body with this `content_type`.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Body>,
    ) -> Answered {
        Answered::to(self.as_operator(method, path).header("content-type", content_type).body(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answered {
        self.ask(Method::DELETE, path, "").await
    }

    /// Posts to the gateways' listener, as a gateway.
    pub async fn post_as_gateway(&self, path: &str, body: impl Into<Body>) -> Answered {
        Answered::to(self.as_gateway(Method::POST, path).body(body)).await
    }

    /// The answer of health.
    pub async fn health(&self) -> Value {
        self.get("/api/admin/optimization/health").await.ok()
    }

    /// The codes that health lists as `reasons` or `notes`, once the feed is up to date.
    pub async fn health_codes(&self, list: &str) -> Vec<String> {
        self.followed().await;
        each(&self.health().await[list], |reason| reason["code"].as_str().unwrap().to_owned())
    }

    /// Waits until the service has read all that is committed. Where that takes it over a second, on a busy
    /// machine, its answers are of the state before.
    async fn followed(&self) {
        let newest = "SELECT coalesce(max(seq), 0) FROM change_log";
        let newest = self.connect().query_row(newest, [], |row| row.get::<_, i64>(0)).unwrap_or_default();
        until("the service has followed", async || {
            let version = self.health().await["version"].clone();
            let seq = version.as_str()?.rsplit('.').next()?.parse::<i64>().ok()?;
            (seq >= newest).then_some(())
        })
        .await;
    }

    /// The answer of `recording/stats`.
    pub async fn recording_stats(&self) -> Value {
        self.get("/api/admin/optimization/recording/stats").await.ok()
    }

    /// All items of a list, page by page.
    pub async fn pages(&self, path: &str, limit: usize) -> Vec<Value> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit={limit}{cursor}")).await.ok();
            let found = page["items"].as_array().unwrap();
            assert!(found.len() <= limit, "{page}");
            items.extend(found.iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return items,
            }
        }
    }

    /// Runs the command line on this service's database; returns whether it succeeded, and its
    /// output.
    pub async fn tidegate(&self, args: &[&str]) -> (bool, String) {
        let mut command = tokio::process::Command::new(binary());
        let output = command.args(args).arg("--db").arg(db(&self.dir)).output().await.unwrap();
        let printed = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(printed).unwrap())
    }

    /// Imports a country table from a file of this name and content.
    pub async fn import_countries(&self, name: &str, content: impl AsRef<[u8]>) -> (bool, String) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        self.tidegate(&["geo", "import", path.to_str().unwrap()]).await
    }

    /// The tables that people write, and the newest `seq`.
    pub async fn tables(&self) -> String {
        let store = &self.running.app_state().store;
        let mut tables: StoredRows = store.read_tables(&StoreTable::ALL).await.unwrap();
        tables.ips.sort_by(|one, other| one.ip.cmp(&other.ip));
        format!("{tables:?}")
    }

    /// A connection to the database, as of another program.
    pub fn connect(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(db(&self.dir)).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
    }

    /// Runs SQL with a connection of its own.
    pub fn sql(&self, text: &str) {
        self.connect().execute_batch(text).unwrap();
    }

    /// The first column of a query.
    pub fn column<T: rusqlite::types::FromSql>(&self, query: &str) -> Vec<T> {
        let connection = self.connect();
        let mut rows = connection.prepare(query).unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

/// A client with the deadline as its timeout.
pub fn client() -> Client {
    client_builder().tls_certs_only([]).build().unwrap()
}

/// A client that trusts this authority only, not built yet.
pub fn trusting(authority: &Authority) -> ClientBuilder {
    let pem = std::fs::read(authority.file()).unwrap();
    client_builder().tls_certs_only([Certificate::from_pem(&pem).unwrap()])
}

/// A client, not built yet, that trusts whom the system trusts unless told otherwise.
pub fn client_builder() -> ClientBuilder {
    // An error means that there is one already.
    let _ = ring::default_provider().install_default();
    Client::builder().timeout(DEADLINE).no_proxy()
}

/// Files of a listener that asks for no client's certificate.
pub fn tls_files(files: CertificateFiles) -> TlsFiles {
    TlsFiles { certificate: files.certificate, key: files.key, client_ca: None }
}

/// A configuration on free ports, with the database in `dir`.
fn config(dir: &tempfile::TempDir) -> Config {
    let any = "127.0.0.1:0".parse().unwrap();
    Config {
        db: db(dir),
        people: any,
        gateways: any,
        store: Options::default(),
        clusters: BTreeSet::new(),
        protect: vec!["198.51.100.0/28".parse().unwrap()],
        tokens: None,
        source_files: None,
        table_limit: MAX_BAN_BASE,
        tls: PerListener::default(),
    }
}

pub fn db(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("tidegate.db")
}

/// Repeats `look` until it returns something.
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
