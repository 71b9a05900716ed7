//! Direct questions: answered from the database as it stands.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::header::AUTHORIZATION;
use axum::http::{Method, Request};
use serde_json::json;
use tidegate_policy::check::Check;
use tidegate_policy::decide::{Given, IpFinding};
use tidegate_policy::geo::{Country, GeoAction};
use tidegate_policy::request::Facts;
use tidegate_policy::wire::check::{Answer, Found, GeoAnswer, MAX_QUESTION, Question, path};

use crate::running::{Running, until};

fn about<'q>(id: u64, client: &str) -> Question<'q> {
    let client: IpAddr = client.parse().unwrap();
    Question { id, client: Some(client), ..Question::default() }
}

async fn ip(running: &Running, client: &str) -> IpFinding {
    match running.found(Check::Ip, &about(7, client)).await {
        Found::Ip(found) => found,
        other => panic!("{other:?}"),
    }
}

async fn geo(running: &Running, question: &Question<'_>) -> GeoAnswer {
    match running.found(Check::Geo, question).await {
        Found::Geo(found) => found,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_what_anybody_committed_before_the_question() {
    let running = Running::start().await;
    assert_eq!(ip(&running, "9.9.9.9").await, IpFinding::Clear);
    for (i, (sql, found)) in [
        ("INSERT INTO ip_monitor (ip, status) VALUES ('9.9.9.0/24', 'banned')", "banned 9.9.9.0/24"),
        ("INSERT INTO ip_monitor (ip, status) VALUES ('9.9.9.9', 'banned')", "banned 9.9.9.9"),
        ("INSERT INTO ip_monitor (ip, status) VALUES ('::ffff:9.9.9.9', 'allowed')", "allowed 9.9.9.9"),
        (
            "UPDATE ip_monitor SET expires_at = '2020-01-01 00:00:00' WHERE status = 'allowed'",
            "banned 9.9.9.9",
        ),
        ("DELETE FROM ip_monitor WHERE ip = '9.9.9.9'", "banned 9.9.9.0/24"),
        ("DELETE FROM ip_monitor", "clear"),
    ]
    .into_iter()
    .enumerate()
    {
        running.sql(sql);
        let said = match ip(&running, "9.9.9.9").await {
            IpFinding::Clear => "clear".to_owned(),
            IpFinding::Allowed(by) => format!("allowed {by}"),
            IpFinding::Banned(by) => format!("banned {by}"),
        };
        assert_eq!(said, found, "{i}: {sql}");
    }
    let banned = running.post("/api/admin/ip/ban", r#"{"ip": "2001:db8::/32"}"#).await.ok();
    let answer = running.check(Check::Ip, &about(8, "2001:db8::1")).await;
    let answer = Answer::from_bytes(&answer.bytes).unwrap();
    assert!(matches!(answer.found, Found::Ip(IpFinding::Banned(_))), "{answer:?}");
    assert_eq!(json!(answer.version.to_string()), banned["version"]);
    // A client without an address is nobody's.
    assert_eq!(running.found(Check::Ip, &Question::default()).await, Found::Ip(IpFinding::Clear));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_found_as_the_cache_would_find_it() {
    let running = Running::start().await;
    let document = json!({"spec": {"rules": [{
        "matches": [{"path": {"type": "PathPrefix", "value": "/hello"}, "headers": [{"name": "x-v", "value": "2"}]}],
        "filters": [{"type": "ExtensionRef", "extensionRef":
            {"group": "tidegate.dev", "kind": "GeoRule", "name": "eu"}}],
        "backendRefs": [{"name": "demo", "port": 80}]
    }]}});
    let headers: [(&[u8], &[u8]); 1] = [(b"x-v", b"2")];
    let facts = Facts {
        method: b"GET",
        host: b"a.example",
        path: b"/hello/x",
        headers: &headers,
        ..Facts::default()
    };
    let question = Question::new(Check::Route, 9, &facts, Given::Table);
    assert_eq!(running.found(Check::Route, &question).await, Found::Route(Ok(None)));
    let written = running.put("/api/admin/routes/hello", document.to_string()).await.ok();
    assert!(written["warnings"][0].as_str().unwrap().contains("no geo rule `eu`"), "{written}");
    let Found::Route(Ok(Some(found))) = running.found(Check::Route, &question).await else {
        panic!("no route")
    };
    assert_eq!((found.route.as_str(), found.rule, found.geo), ("hello", 0, vec!["eu".to_owned()]));
    assert_eq!(found.backend.unwrap().name, "demo");
    let other = Question { headers: vec![(b"x-v", b"3")], ..question };
    assert_eq!(running.found(Check::Route, &other).await, Found::Route(Ok(None)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_geo_answer_has_the_country_and_what_every_rule_says_of_it() {
    let running = Running::start().await;
    let list = running.dir.path().join("list.csv");
    std::fs::write(&list, "10.1.0.0,10.1.255.255,DE\n2001:db8::,2001:db8::ff,FR\n").unwrap();
    assert_eq!(geo(&running, &about(1, "10.1.2.3")).await, GeoAnswer::default());
    let (done, said) = running.tidegate(&["geo", "import", list.to_str().unwrap()]).await;
    assert!(done, "{said}");
    running
        .put("/api/admin/geo-rules/a", r#"{"mode": "deny", "countries": ["DE"], "status": 451}"#)
        .await
        .ok();
    running
        .put("/api/admin/geo-rules/b", r#"{"mode": "allow", "countries": ["DE"], "global": false}"#)
        .await
        .ok();
    let country = |code: &str| Country::new(code.as_bytes());
    let verdicts = |answer: &GeoAnswer| -> Vec<_> {
        answer.verdicts.iter().map(|rule| (rule.name.clone(), rule.global, rule.denies)).collect()
    };
    let cases = [
        ("10.1.2.3", country("DE"), Some(GeoAction::LegalReasons), None),
        ("2001:db8::1", country("FR"), None, Some(GeoAction::Forbidden)),
        ("8.8.8.8", None, None, Some(GeoAction::Forbidden)),
    ];
    for (client, country, a, b) in cases {
        let answer = geo(&running, &about(2, client)).await;
        let wanted = vec![("a".to_owned(), true, a), ("b".to_owned(), false, b)];
        assert_eq!((answer.country, verdicts(&answer)), (country, wanted), "{client}");
    }
    // What a trusted header says beats the table.
    let given = Question { given: Given::Header(country("FR")), ..about(3, "10.1.2.3") };
    assert_eq!(geo(&running, &given).await.country, country("FR"));
    let given = Question { given: Given::Header(None), ..about(3, "10.1.2.3") };
    assert_eq!(geo(&running, &given).await.country, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_and_who_may_not_ask_are_refused() {
    let running = Running::start().await;
    for check in Check::ALL {
        let post =
            |body: Vec<u8>| running.as_gateway(Method::POST, path(check)).body(Body::from(body)).unwrap();
        for body in [b"".to_vec(), b"rubbish".to_vec(), b"{\"client\": \"1.2.3.4\"}".to_vec(), vec![1; 1_000]]
        {
            running.send(post(body)).await.problem(400, "invalid_body");
        }
        running.send(post(vec![1; MAX_QUESTION + 1])).await.problem(413, "body_too_large");
        let mut longer = about(1, "1.2.3.4").to_bytes().unwrap();
        longer.push(0);
        running.send(post(longer)).await.problem(400, "invalid_body");
        let question = about(1, "1.2.3.4").to_bytes().unwrap();
        let by = |authorization: Option<&str>| {
            let mut request = Request::builder().method(Method::POST).uri(running.gateways(path(check)));
            if let Some(token) = authorization {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            request.body(Body::from(question.clone())).unwrap()
        };
        running.send(by(None)).await.problem(401, "unauthorized");
        running.send(by(Some(&running.admin))).await.problem(403, "wrong_scope");
        // A question needs no more than the token.
        assert_eq!(running.send(by(Some(&running.gateway))).await.status, 200);
        let get = running.as_gateway(Method::GET, path(check)).body(Body::empty()).unwrap();
        running.send(get).await.problem(405, "method_not_allowed");
        // Nothing of it is on the people's listener.
        running.post(path(check), question.clone()).await.problem(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_there_is_no_answer_rather_than_an_old_one() {
    let running = Running::start().await;
    running.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    assert!(matches!(ip(&running, "9.9.9.9").await, IpFinding::Banned(_)));
    // Somebody at the file took the table away.
    running.sql("ALTER TABLE ip_monitor RENAME TO elsewhere; CREATE TABLE ip_monitor (address)");
    let refused = until("the question is refused", async || {
        let answered = running.check(Check::Ip, &about(1, "9.9.9.9")).await;
        (answered.status != 200).then_some(answered)
    })
    .await;
    refused.problem(503, "store_unreadable");
    assert_eq!(refused.headers["retry-after"], "1");
    running.sql("DROP TABLE ip_monitor; ALTER TABLE elsewhere RENAME TO ip_monitor");
    until("the question is answered again", async || {
        let answered = running.check(Check::Ip, &about(1, "9.9.9.9")).await;
        (answered.status == 200).then_some(())
    })
    .await;
    assert!(matches!(ip(&running, "9.9.9.9").await, IpFinding::Banned(_)));
}
