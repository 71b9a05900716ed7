//! Documents of every kind: in force, invalid, too many, and referred to by others. Time is
//! paused.

use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::geo::MAX_GEO_RULES;
use tidegate_policy::limit::MAX_LIMITS;
use tidegate_policy::pages::Pages;
use tidegate_policy::request::Facts;
use tidegate_policy::route::Target;
use tidegate_policy::tables::Table;
use tokio::time::sleep;

use super::gateway::SimGateway;
use super::memory::{Memory, document, named};
use super::{start, tiny};
use crate::feed::{Feed, MissingRoute, Snapshot};
use crate::store::{DocumentKind, StoreTable};

const DENY_DE: &str = r#"{"mode":"deny","countries":["DE"],"status":451}"#;

fn limit(rate: u32) -> String {
    format!(r#"{{"key":"ip","rate":{rate},"per":"minute","match":{{"route":"login"}}}}"#)
}

/// Name and rate of each by the tables of direct questions.
async fn rates(feed: &Feed) -> Vec<(String, u32)> {
    let tables = feed.tables().await.unwrap();
    tables.limits.limits().iter().map(|limit| (limit.name.clone(), limit.rate)).collect()
}

/// Where a request goes by the tables of direct questions; `None`: no backend of the
/// API.
async fn target(feed: &Feed) -> Option<Target> {
    let tables = feed.tables().await.unwrap();
    let facts = Facts { path: b"/", method: b"GET", ..Facts::default() };
    tables.routes.find(&facts).unwrap()?.backend?.target.clone()
}

fn at(host: &str) -> Option<Target> {
    Some(Target { host: host.to_owned(), port: 80, h2c: false, tls: None })
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_backend_is_one_of_the_routes() {
    let store = Arc::new(Memory::default());
    store.put_document(DocumentKind::Route, "r", document("r", "orders"));
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    let mut table = async |feed: &Feed| {
        feed.current().await;
        sleep(Duration::from_millis(50)).await;
        gateway.poll(feed).await;
        gateway.whole[&Table::Routes].0
    };
    let cluster = table(&feed).await;
    assert_eq!(target(&feed).await, None);
    store.put_document(DocumentKind::Backend, "orders", r#"{"address":"a.test:80"}"#);
    assert_eq!(target(&feed).await, at("a.test"));
    let first = table(&feed).await;
    store.put_document(DocumentKind::Backend, "orders", r#"{"address":"b.test:80"}"#);
    assert_eq!(target(&feed).await, at("b.test"));
    let second = table(&feed).await;
    assert!(cluster != first && first != second);
    store.delete_document(DocumentKind::Backend, "orders");
    assert_eq!((target(&feed).await, table(&feed).await), (None, cluster));
}

#[tokio::test(start_paused = true)]
async fn gateways_hold_the_limits_of_the_rows() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    store.put_document(DocumentKind::Limit, "a", limit(5));
    store.put_document(DocumentKind::Limit, "b", limit(6));
    feed.current().await;
    sleep(Duration::from_millis(50)).await;
    let answer = gateway.poll(&feed).await.unwrap();
    let told: Vec<Table> = answer.whole.iter().map(|update| update.table).collect();
    assert_eq!((told, answer.bans.is_none()), (vec![Table::Limits], true));
    assert_eq!(gateway.limits().len(), 2);
    let digest = feed.snapshot().tables.whole[Table::Limits];
    assert_eq!((digest.hash, digest.entries), (gateway.whole[&Table::Limits].0, Some(2)));
    let first = feed.tables().await.unwrap();
    store.ban("192.0.2.1");
    assert!(Arc::ptr_eq(&feed.tables().await.unwrap().limits, &first.limits), "not made again");
    store.delete_document(DocumentKind::Limit, "a");
    assert_eq!(rates(&feed).await, [("b".to_owned(), 6)]);
}

#[tokio::test(start_paused = true)]
async fn gateways_hold_the_pages_of_the_rows() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    store.put_document(DocumentKind::Page, "ip_banned", r#"{"html":"<p>{{request_id}}"}"#);
    store.put_document(DocumentKind::Page, "ip_baned", r#"{"html":"<p>"}"#);
    feed.current().await;
    sleep(Duration::from_millis(50)).await;
    gateway.poll(&feed).await;
    let pages = Pages::from_bytes(&gateway.whole[&Table::Pages].1).unwrap();
    assert_eq!((pages.get("ip_banned"), pages.len()), (Some("<p>{{request_id}}"), 1));
    assert_eq!(feed.tables().await.unwrap().pages.get("ip_banned"), Some("<p>{{request_id}}"));
    let why = feed.snapshot().quarantine().last().unwrap().why.to_string();
    assert!(why.contains("ip_banned, geo_denied"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_names_no_route_is_found() {
    let store = Arc::new(Memory::default());
    store.put_document(DocumentKind::Limit, "a", limit(5));
    let feed = start(&store, tiny()).await;
    let missing = MissingRoute { limit: "a".into(), route: "login".to_owned() };
    assert_eq!(feed.snapshot().missing_routes(), [missing]);
    store.put_document(DocumentKind::Route, "login", document("login", "demo"));
    assert_eq!(feed.current().await.missing_routes(), []);
}

/// The names of two documents of a kind.
fn two_names(kind: DocumentKind) -> [&'static str; 2] {
    if kind == DocumentKind::Page { ["ip_banned", "no_route"] } else { ["name", "gone"] }
}

/// Of each kind: a valid document called as the first of [`two_names`], and invalid ones.
fn good_and_slips() -> [(DocumentKind, String, Vec<String>); 6] {
    let owned = |slips: &[&str]| slips.iter().map(|slip| (*slip).to_owned()).collect();
    let no_rules = r#"{"metadata":{"name":"name"},"spec":{"rulez":[]}}"#.to_owned();
    [
        (DocumentKind::Route, document("name", "one"), vec![no_rules, document("other", "one")]),
        (DocumentKind::GeoRule, DENY_DE.to_owned(), owned(&[r#"{"mode":"deny","countries":["Germany"]}"#])),
        (
            DocumentKind::Backend,
            r#"{"address":"a.test:80"}"#.to_owned(),
            owned(&[r#"{"address":"a.test"}"#, r#"{"address":"127.0.0.1:80"}"#]),
        ),
        (
            DocumentKind::Limit,
            limit(5),
            owned(&[
                r#"{"key":"ip","rate":0,"per":"minute"}"#,
                r#"{"key":"header:te","rate":9,"per":"minute"}"#,
                r#"{"key":"ip","rate":9,"rate":8,"per":"minute"}"#,
            ]),
        ),
        (
            DocumentKind::Source,
            r#"{"url":"https://lists.example.com/x"}"#.to_owned(),
            owned(&[
                r#"{"url":"https://10.0.0.1/x"}"#,
                r#"{"url":"https://lists.example.com/x","interval":"1s"}"#,
            ]),
        ),
        (
            DocumentKind::Page,
            r#"{"html":"<p>{{request_id}}"}"#.to_owned(),
            owned(&[r#"{"html":"<p>{{id}}"}"#, r#"{"html":"<p>","name":"no_route"}"#]),
        ),
    ]
}

/// Name and text of each document in force.
fn in_force(snapshot: &Arc<Snapshot>, kind: DocumentKind) -> Vec<(String, String)> {
    Snapshot::clone(snapshot).documents(kind).0.texts_in_force()
}

/// A mistake in a document that denies requests, or sends some of them elsewhere, must not let
/// them through: the document before it stays in force, also when all tables are read again.
#[tokio::test(start_paused = true)]
async fn a_slip_leaves_the_document_before_it_in_force() {
    for (kind, good, mut slips) in good_and_slips() {
        slips.push("{".to_owned());
        let [name, gone] = two_names(kind);
        let store = Arc::new(Memory::default());
        store.put_document(kind, name, good.as_str());
        let feed = start(&store, tiny()).await;
        let held = feed.tables().await.unwrap();
        let want = [(name.to_owned(), good.clone())];
        for slip in slips {
            store.put_document(kind, name, slip.as_str());
            let tables = feed.tables().await.unwrap();
            assert_eq!(in_force(&feed.snapshot(), kind), want, "{slip}");
            assert!(tables.routes.len() == held.routes.len() && tables.limits == held.limits);
            assert_eq!(tables.geo, held.geo, "{slip}");
            let bad = feed.snapshot().quarantine().last().unwrap();
            assert_eq!((bad.table, &*bad.key), (StoreTable::Documents(kind), name));
            assert!(bad.why.contains("stays in force"), "{}", bad.why);
        }
        store.put_document(kind, gone, good.replace("\"name\"", "\"gone\""));
        feed.current().await;
        store.change_unseen(|rows| drop(rows.documents[kind].remove(gone)));
        store.ban("192.0.2.1");
        store.cut_log();
        assert_eq!(in_force(&feed.current().await, kind), want);
        // After a restart it is known, unless the mistake was made while no service ran.
        sleep(Duration::from_millis(50)).await;
        assert_eq!(in_force(&start(&store, tiny()).await.snapshot(), kind), want);
        store.change_unseen(|rows| rows.former.clear());
        let restarted = start(&store, tiny()).await.snapshot();
        let why = restarted.quarantine().last().unwrap().why.to_string();
        assert!(in_force(&restarted, kind).is_empty() && why.contains("not in force"), "{why}");
        store.put_document(kind, name, good.as_str());
        assert_eq!(feed.current().await.quarantine().len(), 0);
        store.put_document(kind, name, "{");
        store.delete_document(kind, name);
        let snapshot = feed.current().await;
        assert_eq!((in_force(&snapshot, kind).len(), snapshot.quarantine().len()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn of_too_many_documents_the_oldest_stay() {
    for (kind, max, good) in [
        (DocumentKind::GeoRule, MAX_GEO_RULES, DENY_DE.to_owned()),
        (DocumentKind::Limit, MAX_LIMITS, limit(5)),
    ] {
        let store = Arc::new(Memory::default());
        for n in 0..max + 2 {
            let mut row = named(&format!("n{n:04}"), good.as_str());
            row.created_at = Some(format!("2026-11-23 18:{:02}:{:02}", n / 60, n % 60));
            store.put_row(kind, row);
        }
        let feed = start(&store, tiny()).await;
        let left_out: Vec<String> = feed.snapshot().quarantine().map(|bad| bad.key.to_string()).collect();
        assert_eq!(left_out, [format!("n{max:04}"), format!("n{:04}", max + 1)]);
        assert_eq!(in_force(&feed.snapshot(), kind).len(), max);
        // One is removed, and one of those left out is in force.
        store.delete_document(kind, "n0000");
        let snapshot = feed.current().await;
        let names: Vec<String> = in_force(&snapshot, kind).into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&left_out[0]) && snapshot.quarantine().len() == 1);
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_routes_do_not_fit_the_oldest_stay() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    // Each needs an automaton of its own, and together they are over the limit.
    let with_regex = |n: usize| {
        let name = format!("r{n:03}");
        let document = format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"rules":[{{"matches":[{{"path":
                {{"type":"RegularExpression","value":"/(a|b)*a(a|b){{10}}r{n}"}}}}]}}]}}}}"#
        );
        let mut row = named(&name, document);
        row.created_at = Some(format!("2026-11-23 18:00:00.{n:03}"));
        row
    };
    let mut count = 0;
    while feed.current().await.quarantine().len() == 0 {
        for n in count..count + 20 {
            store.put_row(DocumentKind::Route, with_regex(n));
        }
        count += 20;
        assert!(count < 200, "the limit is not reached with these: make them larger");
    }
    let snapshot = feed.snapshot();
    let left_out: Vec<String> = snapshot.quarantine().map(|bad| bad.key.to_string()).collect();
    let in_force: Vec<String> = snapshot.routes.in_force.keys().map(ToString::to_string).collect();
    assert_eq!(in_force.len() + left_out.len(), count);
    assert!(in_force.last() < left_out.first(), "{in_force:?} {left_out:?}");

    // Some are removed, and they are in force.
    for name in &in_force {
        store.delete_document(DocumentKind::Route, name);
    }
    let snapshot = feed.current().await;
    assert_eq!((snapshot.routes.in_force.len(), snapshot.quarantine().len()), (left_out.len(), 0));
}
