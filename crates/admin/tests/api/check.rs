//! Direct questions: answered from the current state of the database.

use std::net::IpAddr;

use reqwest::Method;
use serde_json::json;
use tidegate_policy::check::Check;
use tidegate_policy::decide::{CountrySource, IpFinding};
use tidegate_policy::geo::{Country, GeoAction};
use tidegate_policy::request::Facts;
use tidegate_policy::wire::check::{Answer, Found, GeoAnswer, MAX_QUESTION, Question, path};

use crate::test_service::{Answered, TestService, until};

fn about<'q>(id: u64, client: &str) -> Question<'q> {
    let client: IpAddr = client.parse().unwrap();
    Question { id, client: Some(client), ..Question::default() }
}

async fn ask(service: &TestService, check: Check, question: &Question<'_>) -> Answered {
    service.post_as_gateway(path(check), question.to_bytes().unwrap()).await
}

/// The finding of a check; its answer must be to `question`.
async fn checked(service: &TestService, check: Check, question: &Question<'_>) -> Found {
    let answer = Answer::from_bytes(ask(service, check, question).await.binary()).unwrap();
    assert_eq!((answer.id, answer.found.check()), (question.id, check));
    answer.found
}

async fn ip(service: &TestService, client: &str) -> IpFinding {
    match checked(service, Check::Ip, &about(7, client)).await {
        Found::Ip(found) => found,
        other => panic!("{other:?}"),
    }
}

async fn geo(service: &TestService, question: &Question<'_>) -> GeoAnswer {
    match checked(service, Check::Geo, question).await {
        Found::Geo(found) => found,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_what_anybody_committed_before_the_question() {
    let service = TestService::start().await;
    assert_eq!(ip(&service, "9.9.9.9").await, IpFinding::Clear);
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
        service.sql(sql);
        let said = match ip(&service, "9.9.9.9").await {
            IpFinding::Clear => "clear".to_owned(),
            IpFinding::Allowed(by) => format!("allowed {by}"),
            IpFinding::Banned(by) => format!("banned {by}"),
            IpFinding::ShadowBanned(by) => format!("banned in shadow {by}"),
        };
        assert_eq!(said, found, "{i}: {sql}");
    }
    let banned = service.post("/api/admin/ip/ban", r#"{"ip": "2001:db8::/32"}"#).await.ok();
    let answer = ask(&service, Check::Ip, &about(8, "2001:db8::1")).await;
    let answer = Answer::from_bytes(answer.binary()).unwrap();
    assert!(matches!(answer.found, Found::Ip(IpFinding::Banned(_))), "{answer:?}");
    assert_eq!(json!(answer.version.to_string()), banned["version"]);
    // A client without an address has no ban.
    assert_eq!(checked(&service, Check::Ip, &Question::default()).await, Found::Ip(IpFinding::Clear));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_found_as_the_cache_would_find_it() {
    let service = TestService::start().await;
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
    let question = Question::new(Check::Route, 9, &facts, CountrySource::Table);
    assert_eq!(checked(&service, Check::Route, &question).await, Found::Route(Ok(None)));
    let written = service.put("/api/admin/routes/hello", document.to_string()).await.ok();
    assert!(written["warnings"][0].as_str().unwrap().contains("no geo rule `eu`"), "{written}");
    let Found::Route(Ok(Some(found))) = checked(&service, Check::Route, &question).await else {
        panic!("no route")
    };
    assert_eq!((found.route.as_str(), found.rule, found.geo), ("hello", 0, vec!["eu".to_owned()]));
    assert_eq!(found.backend.unwrap().name, "demo");
    let other = Question { headers: vec![(b"x-v", b"3")], ..question };
    assert_eq!(checked(&service, Check::Route, &other).await, Found::Route(Ok(None)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_geo_answer_has_the_country_and_what_every_rule_says_of_it() {
    let service = TestService::start().await;
    let list = "10.1.0.0,10.1.255.255,DE\n2001:db8::,2001:db8::ff,FR\n";
    assert_eq!(geo(&service, &about(1, "10.1.2.3")).await, GeoAnswer::default());
    let (done, said) = service.import_countries("list.csv", list).await;
    assert!(done, "{said}");
    service
        .put("/api/admin/geo-rules/a", r#"{"mode": "deny", "countries": ["DE"], "status": 451}"#)
        .await
        .ok();
    service
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
        let answer = geo(&service, &about(2, client)).await;
        let wanted = vec![("a".to_owned(), true, a), ("b".to_owned(), false, b)];
        assert_eq!((answer.country, verdicts(&answer)), (country, wanted), "{client}");
    }
    // The country of a trusted header wins over the table.
    let given = Question { country_source: CountrySource::Header(country("FR")), ..about(3, "10.1.2.3") };
    assert_eq!(geo(&service, &given).await.country, country("FR"));
    let given = Question { country_source: CountrySource::Header(None), ..about(3, "10.1.2.3") };
    assert_eq!(geo(&service, &given).await.country, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_and_who_may_not_ask_are_refused() {
    let service = TestService::start().await;
    let question = about(1, "1.2.3.4").to_bytes().unwrap();
    let longer = [&question[..], &[0]].concat();
    for check in Check::ALL {
        for body in [b"", &b"rubbish"[..], br#"{"client": "1.2.3.4"}"#, &[1; 1_000], &longer] {
            service.post_as_gateway(path(check), body.to_vec()).await.problem(400, "invalid_body");
        }
        let large = vec![1; MAX_QUESTION + 1];
        service.post_as_gateway(path(check), large).await.problem(413, "body_too_large");
        // A question needs only the token.
        let anybody =
            || service.as_nobody(Method::POST, service.gateways(path(check))).body(question.clone());
        Answered::to(anybody()).await.problem(401, "unauthorized");
        Answered::to(anybody().bearer_auth(&service.admin)).await.problem(403, "wrong_role");
        Answered::to(anybody().bearer_auth(&service.gateway)).await.binary();
        let get = service.as_gateway(Method::GET, path(check));
        Answered::to(get).await.problem(405, "method_not_allowed");
        // The people's listener does not have this path.
        service.post(path(check), question.clone()).await.problem(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_there_is_no_answer_rather_than_an_old_one() {
    let service = TestService::start().await;
    service.post("/api/admin/ip/ban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    assert!(matches!(ip(&service, "9.9.9.9").await, IpFinding::Banned(_)));
    // Another program dropped the table.
    service.sql("ALTER TABLE ip_monitor RENAME TO elsewhere; CREATE TABLE ip_monitor (address)");
    let refused = until("the question is refused", async || {
        let answered = ask(&service, Check::Ip, &about(1, "9.9.9.9")).await;
        (answered.status != 200).then_some(answered)
    })
    .await;
    refused.problem(503, "store_unreadable");
    assert_eq!(refused.headers["retry-after"], "1");
    service.sql("DROP TABLE ip_monitor; ALTER TABLE elsewhere RENAME TO ip_monitor");
    until("the question is answered again", async || {
        let answered = ask(&service, Check::Ip, &about(1, "9.9.9.9")).await;
        (answered.status == 200).then_some(())
    })
    .await;
    assert!(matches!(ip(&service, "9.9.9.9").await, IpFinding::Banned(_)));
}
