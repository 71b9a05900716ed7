//! The dashboard's sessions and forms. What its pages show is tested in a browser (`tests/browser`).

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::json;

use crate::test_process::Process;
use crate::test_service::{DEADLINE, TestService, client_builder, each};

/// Pages that every role sees.
const PAGES: [&str; 8] = [
    "/ui/",
    "/ui/rollout",
    "/ui/gateways",
    "/ui/health",
    "/ui/events",
    "/ui/paths",
    "/ui/audit",
    "/ui/rollout/all-off",
];

/// Somebody with a browser.
struct Visitor<'s> {
    service: &'s TestService,
    /// The session's cookie; empty: not signed in.
    cookie: String,
}

impl<'s> Visitor<'s> {
    /// Signs in with `token`.
    async fn sign_in(service: &'s TestService, token: &str) -> Self {
        let mut visitor = Self { service, cookie: String::new() };
        let answer = visitor.post("/ui/sign-in", &[("token", token)]).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()[LOCATION]), (303, &"/ui/".parse().unwrap()));
        visitor.cookie = cookie(&answer);
        visitor
    }

    /// A request of the browser, which follows no redirect.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let client = client_builder().tls_certs_only([]).redirect(Policy::none()).build().unwrap();
        client.request(method, self.service.people(path)).header(COOKIE, &self.cookie)
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.unwrap()
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.request(Method::POST, path).body(body).send().await.unwrap()
    }

    /// What the forms of a page carry.
    async fn form_token(&self, path: &str) -> String {
        field(&self.text(path).await, "form_token")
    }
}

fn cookie(answer: &Response) -> String {
    let set = answer.headers()[SET_COOKIE].to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

/// The value of a hidden field of a page.
fn field(page: &str, name: &str) -> String {
    let marker = format!("name=\"{name}\" value=\"");
    let start = page.find(&marker).unwrap_or_else(|| panic!("no {name}: {page}")) + marker.len();
    page[start..].split('"').next().unwrap().to_owned()
}

async fn token(service: &TestService, name: &str, role: &str) -> String {
    let answer =
        service.post("/api/admin/tokens", json!({"name": name, "role": role}).to_string()).await.ok();
    answer["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_session_is_of_a_token_and_for_pages_only() {
    let service = TestService::start().await;
    let nobody = Visitor { service: &service, cookie: String::new() };
    for (wrong, status, says) in
        [("tg_unknown", 401, "not known"), (service.gateway.as_str(), 403, "gateways")]
    {
        let answer = nobody.post("/ui/sign-in", &[("token", wrong)]).await;
        assert_eq!(answer.status().as_u16(), status);
        assert!(!answer.headers().contains_key(SET_COOKIE));
        assert!(answer.text().await.unwrap().contains(says), "{wrong}");
    }
    for page in PAGES {
        assert_eq!(nobody.get(page).await.status(), 303, "{page}");
    }
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    for page in PAGES.into_iter().chain(["/ui/tokens"]) {
        let answer = visitor.get(page).await;
        assert_eq!(answer.status(), 200, "{page}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
    // The API takes tokens only.
    assert_eq!(visitor.get("/api/admin/audit").await.status(), 401);
    let form_token = visitor.form_token("/ui/").await;
    visitor.post("/ui/sign-out", &[("form_token", &form_token)]).await;
    assert_eq!(visitor.get("/ui/").await.status(), 303);
}

#[tokio::test]
async fn a_link_signs_in_once_and_everywhere_means_all_sessions() {
    let service = TestService::start().await;
    let link = service.post("/api/admin/sign-in-links", "").await.ok();
    let code = link["path"].as_str().unwrap().strip_prefix("/ui/sign-in?code=").unwrap().to_owned();
    let nobody = Visitor { service: &service, cookie: String::new() };
    // Whoever only looks at it, as a chat's preview does, uses nothing up.
    assert_eq!(nobody.get(link["path"].as_str().unwrap()).await.status(), 200);
    let first = nobody.post("/ui/sign-in", &[("code", &code)]).await;
    assert_eq!(first.status(), 303);
    let by_link = Visitor { service: &service, cookie: cookie(&first) };
    assert!(by_link.text("/ui/").await.contains("Sign out"));
    assert_eq!(nobody.post("/ui/sign-in", &[("code", &code)]).await.status(), 403);
    let other = Visitor::sign_in(&service, &service.admin).await;
    let form_token = other.form_token("/ui/").await;
    other.post("/ui/sign-out", &[("form_token", &form_token), ("everywhere", "1")]).await;
    assert_eq!(by_link.get("/ui/").await.status(), 303);
}

#[tokio::test]
async fn a_form_that_is_not_the_sessions_own_changes_nothing() {
    let service = TestService::start().await;
    let [one, other] =
        [Visitor::sign_in(&service, &service.admin).await, Visitor::sign_in(&service, &service.admin).await];
    let of_other = other.form_token("/ui/rollout/all-off").await;
    service.put("/api/admin/optimization/flags", r#"{"enableRouteCache": true}"#).await.ok();
    for wrong in ["", "00", &of_other] {
        let answer = one.post("/ui/rollout/all-off", &[("form_token", wrong)]).await;
        assert_eq!(answer.status(), 403, "{wrong}");
    }
    let right = one.form_token("/ui/rollout/all-off").await;
    let request = one.request(Method::POST, "/ui/rollout/all-off").header("sec-fetch-site", "cross-site");
    let answer = request.body(format!("form_token={right}")).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let flags = service.get("/api/admin/optimization/flags").await.ok();
    assert_eq!(flags["enableRouteCache"], true);
    // By the right one it is, and the audit has who it was.
    assert_eq!(one.post("/ui/rollout/all-off", &[("form_token", &right)]).await.status(), 303);
    let audit = service.get("/api/admin/audit?kind=flag&limit=1").await.ok();
    let entry = &audit["items"][0];
    assert_eq!((&entry["actor"], &entry["address"]), (&json!("admin"), &json!("127.0.0.1")), "{entry}");
}

#[tokio::test]
async fn a_session_has_the_rights_of_its_token_as_they_are_now() {
    let service = TestService::start().await;
    let reader = Visitor::sign_in(&service, &token(&service, "reader", "read").await).await;
    let page = reader.text("/ui/rollout").await;
    assert!(!page.contains("All flags off</a>") && !page.contains("name=\"state\""), "{page}");
    let form_token = field(&page, "form_token");
    let refused = reader.post("/ui/rollout/all-off", &[("form_token", &form_token)]).await;
    assert_eq!(refused.status(), 403);
    assert!(refused.text().await.unwrap().contains("wrong_role"));
    assert_eq!(reader.get("/ui/tokens").await.status(), 403);
    // Another program gives it another role.
    service.sql("UPDATE tokens SET role = 'operate' WHERE name = 'reader'");
    let began = std::time::Instant::now();
    while !reader.text("/ui/rollout").await.contains("name=\"state\"") {
        assert!(began.elapsed() < DEADLINE);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    service.delete("/api/admin/tokens/reader").await.ok();
    assert_eq!(reader.get("/ui/").await.status(), 303);
    assert_eq!(reader.post("/ui/rollout/all-off", &[("form_token", &form_token)]).await.status(), 401);
}

#[tokio::test]
async fn a_form_that_is_sent_twice_is_carried_out_once() {
    let service = TestService::start().await;
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    let page = visitor.text("/ui/tokens").await;
    let at = page.find("action=\"/ui/tokens\"").unwrap();
    let (form_token, once) = (field(&page[at..], "form_token"), field(&page[at..], "once"));
    let form = [("form_token", form_token.as_str()), ("once", &once), ("name", "twice"), ("role", "read")];
    let first = visitor.post("/ui/tokens", &form).await.text().await.unwrap();
    assert!(first.contains("tg_"), "{first}");
    let second = visitor.post("/ui/tokens", &form).await;
    assert_eq!(second.status(), 409);
    assert!(second.text().await.unwrap().contains("idempotency_answer_gone"));
    let tokens = service.get("/api/admin/tokens").await.ok();
    assert_eq!(each(&tokens["items"], |token| &token["name"] == "twice").iter().filter(|is| **is).count(), 1);
}

#[tokio::test]
async fn live_parts_come_for_a_session_and_only_so_many() {
    let service = TestService::start().await;
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    assert_eq!(visitor.get("/ui/live/none").await.status(), 404);
    let mut streams = Vec::new();
    let refused = loop {
        let page = if streams.is_empty() { "/ui/events/follow" } else { "/ui/live/health" };
        let answer = visitor.get(page).await;
        if answer.status() != 200 {
            break answer.status();
        }
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        streams.push(answer);
    };
    assert_eq!((refused.as_u16(), streams.len()), (503, 8));
    // None of them is read; pages go on, and another's live parts.
    assert_eq!(visitor.get("/ui/health").await.status(), 200);
    let other = Visitor::sign_in(&service, &token(&service, "other", "read").await).await;
    assert_eq!(other.get("/ui/live/health").await.status(), 200);
    let mut followed = streams.pop().unwrap();
    let part = tokio::time::timeout(DEADLINE, followed.chunk()).await.unwrap().unwrap().unwrap();
    assert!(String::from_utf8_lossy(&part).contains("event: part"), "{part:?}");
    // Their session ends, and so do they.
    let form_token = visitor.form_token("/ui/").await;
    visitor.post("/ui/sign-out", &[("form_token", &form_token)]).await;
    for mut stream in streams.into_iter().chain([followed]) {
        let end = async { while stream.chunk().await.unwrap().is_some() {} };
        tokio::time::timeout(DEADLINE, end).await.unwrap();
    }
    // A browser that tries again is refused, and not led to a page that is no stream.
    for path in ["/ui/live/health", "/ui/events/follow"] {
        assert_eq!(visitor.get(path).await.status(), 401, "{path}");
    }
}

/// A form of the import page with a list.
fn import_form(form_token: &str, list: &str) -> (String, String) {
    let fields = [("form_token", form_token), ("source", "sent-here"), ("list", list)];
    let part = |(name, value): (&str, &str)| {
        format!("--edge\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let body: String = fields.into_iter().map(part).collect();
    ("multipart/form-data; boundary=edge".to_owned(), format!("{body}--edge--\r\n"))
}

impl Visitor<'_> {
    /// Sends a list to be checked.
    async fn send_list(&self, list: &str) -> Response {
        let (content_type, body) = import_form(&self.form_token("/ui/").await, list);
        let request = self.request(Method::POST, "/ui/bans/import").header("content-type", content_type);
        request.body(body).send().await.unwrap()
    }
}

#[tokio::test]
async fn an_import_takes_the_list_that_its_page_shows() {
    const CHECKED: &str = "/ui/bans/import/check";
    let service = TestService::start().await;
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    let mut pages = Vec::new();
    for list in ["11.1.1.1\n", "11.2.2.2\n"] {
        assert_eq!(visitor.send_list(list).await.status(), 303);
        pages.push(visitor.text(CHECKED).await);
    }
    let import = async |page: &str| {
        let [form_token, upload] = ["form_token", "upload"].map(|name| field(page, name));
        let form = [("form_token", form_token.as_str()), ("upload", &upload), ("action", "import")];
        visitor.post(CHECKED, &form).await
    };
    let form = &pages[0][pages[0].find("import/check").unwrap()..];
    let refused = import(form).await;
    assert_eq!(refused.status(), 409);
    assert!(refused.text().await.unwrap().contains("Nothing was imported"));
    assert_eq!(import(&pages[1]).await.status(), 303);
    assert!(visitor.text("/ui/bans/address?ip=11.2.2.2").await.contains("sent-here"));
    assert!(!visitor.text("/ui/bans/address?ip=11.1.1.1").await.contains("sent-here"));
}

#[tokio::test]
async fn a_ban_of_some_sites_says_where_it_applies() {
    let service = TestService::start().await;
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    let ban = async |hosts: &str, routes: &str| {
        let form_token = visitor.form_token("/ui/bans/ban").await;
        let form = [("form_token", &*form_token), ("ip", "11.3.3.3"), ("hosts", hosts), ("routes", routes)];
        visitor.post("/ui/bans/ban", &form).await
    };
    let refused = ban("a.example, b.example:80", "").await;
    assert_eq!(refused.status(), 422);
    let page = refused.text().await.unwrap();
    assert!(page.contains("id=\"ban-hosts-problem\"") && page.contains("value=\"a.example, b.example:80\""));
    assert_eq!(ban("a.example *.b.example", "team/r").await.status(), 303);
    let shown = |page: String| page.replace("<bdi class=\"foreign\">", "").replace("</bdi>", "");
    let only = "only for hostnames *.b.example, a.example and routes team/r";
    let page = shown(visitor.text("/ui/bans/address?ip=11.3.3.3").await);
    assert!(page.contains(&format!("11.3.3.3 is banned, {only}.")), "{page}");
    assert!(page.contains("there is no route <code>team/r</code>"), "{page}");
    assert!(page.contains(&format!("Its requests are denied, {only}.")), "{page}");
    assert!(shown(visitor.text("/ui/bans").await).contains(only));
    let explained = visitor.text("/ui/explain?ip=11.3.3.3&host=c.example&path=/").await;
    assert!(shown(explained).contains(only));
}

#[tokio::test]
async fn who_may_only_look_sends_no_list_and_ends_nobodys_session() {
    let service = TestService::start().await;
    let admin = Visitor::sign_in(&service, &service.admin).await;
    let of_reader = token(&service, "reader", "read").await;
    let first = Visitor::sign_in(&service, &of_reader).await;
    // More than its connection holds: it is answered although not all of it is read.
    let refused = first.send_list(&"11.1.1.1\n".repeat(1 << 20)).await;
    assert_eq!(refused.status(), 403);
    assert!(refused.text().await.unwrap().contains("role operate"));
    for _ in 0..20 {
        Visitor::sign_in(&service, &of_reader).await;
    }
    assert_eq!(first.get("/ui/").await.status(), 303);
    assert_eq!(admin.get("/ui/").await.status(), 200);
}

#[tokio::test]
async fn what_was_typed_is_there_when_the_session_has_ended() {
    let service = TestService::start().await;
    let nobody = Visitor { service: &service, cookie: String::new() };
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    let form = [("form_token", "00"), ("document", "a: <b>\nc: 1")];
    for (who, status) in [(&nobody, 401), (&visitor, 403)] {
        let answer = who.post("/ui/routes", &form).await;
        assert_eq!(answer.status().as_u16(), status);
        let page = answer.text().await.unwrap();
        assert!(
            page.contains("a: &lt;b&gt;\nc: 1</textarea>") && page.contains("Nothing was changed"),
            "{page}"
        );
        let (content_type, body) = import_form("00", "11.1.1.1\n11.2.2.2");
        let sent =
            who.request(Method::POST, "/ui/bans/import").header("content-type", content_type).body(body);
        let answer = sent.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        assert!(answer.text().await.unwrap().contains("11.1.1.1\n11.2.2.2</textarea>"));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_with_a_page() {
    let service = TestService::start().await;
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    for (path, status) in [("/ui/routes/%ff", 400), ("/ui/sign-out", 405), ("/ui/none", 404)] {
        let answer = visitor.get(path).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert!(answer.text().await.unwrap().contains("href=\"/ui/\""), "{path}");
    }
    let form_token = visitor.form_token("/ui/").await;
    let form = [("form_token", &*form_token), ("once", "a\nb"), ("name", "x"), ("role", "read")];
    assert_eq!(visitor.post("/ui/tokens", &form).await.status(), 400);
    let long = format!("/ui/explain?path={}", "/+".repeat(16_000));
    assert!(visitor.get(&long).await.status().is_client_error());
}

#[tokio::test]
async fn a_filter_that_is_wrong_is_named_and_kept() {
    let service = TestService::start().await;
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    for (path, field, kept) in [
        ("/ui/events?status=9xx", "filter-status", "value=\"9xx\""),
        ("/ui/events?verdict=none", "filter-verdict", "<option value=\"none\" selected>"),
        ("/ui/events?follow=1&ip=a", "filter-ip", "value=\"a\""),
        ("/ui/audit?since=never", "filter-since", "value=\"never\""),
        ("/ui/audit?kind=nothing", "filter-kind", "value=\"nothing\""),
    ] {
        let answer = visitor.get(path).await;
        assert_eq!(answer.status(), 400, "{path}");
        let page = answer.text().await.unwrap();
        assert!(page.contains(&format!("id=\"{field}-problem\"")) && page.contains(kept), "{path}: {page}");
        assert!(!page.contains("data-live"), "{path}");
    }
}

#[tokio::test]
async fn what_was_typed_otherwise_and_what_has_ended_is_said() {
    let service = TestService::start().await;
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    let form_token = visitor.form_token("/ui/bans/ban").await;
    let form = [("form_token", form_token.as_str()), ("ip", "11.1.1.1/8"), ("ttl", "1h")];
    let answer = visitor.post("/ui/bans/ban", &form).await;
    assert_eq!(answer.status(), 303);
    let page = visitor.text(answer.headers()[LOCATION].to_str().unwrap()).await;
    let page = page.replace("<bdi class=\"foreign\">", "").replace("</bdi>", "");
    assert!(page.contains("11.1.1.1/8 was taken as 11.0.0.0/8."), "{page}");
    // With the moment in the reader's zone.
    assert!(page.contains("11.0.0.0/8 is banned until <time datetime="), "{page}");
    service.sql(
        "INSERT INTO ip_monitor (ip, status, expires_at) VALUES ('11.1.2.3', 'banned', datetime('now', '-60 seconds'))",
    );
    let began = std::time::Instant::now();
    while !visitor.text("/ui/bans").await.contains("was banned") {
        assert!(began.elapsed() < DEADLINE);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Two are listed, and one is counted.
    assert!(visitor.text("/ui/bans").await.contains("Banned 1<"));
}

/// A form that sends a country file.
fn countries_form(form_token: &str, file: &str) -> String {
    format!(
        "--edge\r\ncontent-disposition: form-data; name=\"form_token\"\r\n\r\n{form_token}\r\n\
         --edge\r\ncontent-disposition: form-data; name=\"file\"; filename=\"of mine.csv\"\r\n\r\n{file}\r\n--edge--\r\n"
    )
}

#[tokio::test]
async fn a_country_file_takes_the_place_of_the_table() {
    let service = TestService::start().await;
    let admin = Visitor::sign_in(&service, &service.admin).await;
    let operator = Visitor::sign_in(&service, &token(&service, "operator", "operate").await).await;
    let send = async |visitor: &Visitor<'_>, file: &str| {
        let body = countries_form(&visitor.form_token("/ui/").await, file);
        let request = visitor.request(Method::POST, "/ui/geo-countries");
        request.header("content-type", "multipart/form-data; boundary=edge").body(body).send().await.unwrap()
    };
    let refused = send(&operator, "11.0.0.0,11.255.255.255,DE\n").await;
    assert_eq!(refused.status(), 403);
    assert!(!operator.text("/ui/geo").await.contains("countries-form"));
    for (wrong, says) in [("", "Choose a file"), ("nonsense", "Nothing was changed")] {
        let answer = send(&admin, wrong).await;
        assert_eq!(answer.status(), 422, "{wrong}");
        assert!(answer.text().await.unwrap().contains(says), "{wrong}");
    }
    assert_eq!(service.get("/api/admin/geo-countries").await.ok()["source"], json!(null));
    let taken = send(&admin, "11.0.0.0,11.255.255.255,DE\n").await;
    assert_eq!(taken.status(), 303);
    let page = admin.text("/ui/geo").await;
    assert!(page.contains("The country table is of mine.csv: 1 ranges of IPv4"), "{page}");
    assert_eq!(service.get("/api/admin/geo-countries/11.1.1.1").await.ok()["country"], "DE");
}

#[tokio::test]
async fn sign_ins_are_in_the_log_and_tokens_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = std::fs::File::create(&path).unwrap();
    let process = Process::start_with(dir.path(), &["--log", "info"], log.into()).await;
    let client = client_builder().tls_certs_only([]).redirect(Policy::none()).build().unwrap();
    for (token, status) in [(process.token.as_str(), 303), ("tg_of_nobody", 401)] {
        let request = client.post(format!("{}/ui/sign-in", process.people)).body(format!("token={token}"));
        assert_eq!(request.send().await.unwrap().status().as_u16(), status);
    }
    let log = std::fs::read_to_string(&path).unwrap();
    let line = |says: &str| log.lines().find(|line| line.contains(says)).unwrap_or_else(|| panic!("{log}"));
    let (begun, refused) =
        (line("signed in to the dashboard"), line("a sign-in to the dashboard was refused"));
    assert!(begun.contains("INFO") && begun.contains("test") && begun.contains("127.0.0.1"), "{begun}");
    assert!(refused.contains("WARN") && refused.contains("unauthorized"), "{refused}");
    assert!(!log.contains(&process.token) && !log.contains("tg_of_nobody"), "{log}");
}

#[tokio::test]
async fn a_source_that_was_saved_is_not_said_to_be_in_force() {
    let service = TestService::start().await;
    let visitor = Visitor::sign_in(&service, &service.admin).await;
    let form_token = visitor.form_token("/ui/sources?new=1").await;
    let document = "url: https://lists.invalid/drop.txt\n";
    let form = [
        ("form_token", form_token.as_str()),
        ("name", "drop"),
        ("document", document),
        ("etag", ""),
        ("action", "save"),
    ];
    let answer = visitor.post("/ui/sources", &form).await;
    assert_eq!(answer.status(), 303);
    let page = visitor.text(answer.headers()[LOCATION].to_str().unwrap()).await;
    assert!(page.contains("Saved: source drop. It is fetched within seconds"), "{page}");
    assert!(!page.contains("gateways have it"), "{page}");
}
