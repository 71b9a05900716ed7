//! Limits on their way. Time is paused.

use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::limit::MAX_LIMITS;
use tidegate_policy::tables::Table;
use tokio::time::sleep;

use super::gateway::SimGateway;
use super::memory::{Memory, document, named};
use super::{start, tiny};
use crate::feed::{Feed, MissingRoute};
use crate::store::{DocumentKind, StoreTable};

fn limit(rate: u32) -> String {
    format!(r#"{{"key":"ip","rate":{rate},"per":"minute","match":{{"route":"login"}}}}"#)
}

/// Name and rate of each by the tables of direct questions.
async fn rates(feed: &Feed) -> Vec<(String, u32)> {
    let tables = feed.tables().await.unwrap();
    tables.limits.limits().iter().map(|limit| (limit.name.clone(), limit.rate)).collect()
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
    let figures = feed.snapshot().tables;
    assert_eq!((figures.limits, figures.limits_entries), (gateway.whole[&Table::Limits].0, 2));
    let first = feed.tables().await.unwrap();
    store.ban("192.0.2.1");
    assert!(Arc::ptr_eq(&feed.tables().await.unwrap().limits, &first.limits), "not made again");
    store.delete_document(DocumentKind::Limit, "a");
    assert_eq!(rates(&feed).await, [("b".to_owned(), 6)]);
}

#[tokio::test(start_paused = true)]
async fn a_slip_in_a_limit_lets_nobody_past_it() {
    let store = Arc::new(Memory::default());
    store.put_document(DocumentKind::Limit, "a", limit(5));
    let feed = start(&store, tiny()).await;
    let twice = r#"{"key":"ip","rate":9,"rate":8,"per":"minute"}"#;
    let framing = r#"{"key":"header:te","rate":9,"per":"minute"}"#;
    for slip in ["{", r#"{"key":"ip","rate":0,"per":"minute"}"#, framing, twice] {
        store.put_document(DocumentKind::Limit, "a", slip);
        assert_eq!(rates(&feed).await, [("a".to_owned(), 5)], "{slip}");
        let bad = feed.snapshot().quarantine().last().unwrap();
        assert_eq!((bad.table, &*bad.key), (StoreTable::Documents(DocumentKind::Limit), "a"));
        assert!(bad.why.contains("stays in force"), "{}", bad.why);
    }
    store.put_document(DocumentKind::Limit, "a", limit(7));
    assert_eq!((rates(&feed).await, feed.snapshot().quarantine().len()), (vec![("a".to_owned(), 7)], 0));
}

#[tokio::test(start_paused = true)]
async fn of_too_many_limits_the_oldest_stay() {
    let store = Arc::new(Memory::default());
    for n in 0..MAX_LIMITS + 2 {
        let mut row = named(&format!("l{n:03}"), limit(5));
        row.created_at = Some(format!("2026-11-23 18:{:02}:{:02}", n / 60, n % 60));
        store.put_row(DocumentKind::Limit, row);
    }
    let feed = start(&store, tiny()).await;
    let left_out: Vec<String> = feed.snapshot().quarantine().map(|bad| bad.key.to_string()).collect();
    assert_eq!(
        (left_out, rates(&feed).await.len()),
        (vec!["l256".to_owned(), "l257".to_owned()], MAX_LIMITS)
    );
    // Room is made, and one of them is there.
    store.delete_document(DocumentKind::Limit, "l000");
    let snapshot = feed.current().await;
    assert!(snapshot.limits.in_force.contains_key("l256") && snapshot.quarantine().len() == 1);
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
