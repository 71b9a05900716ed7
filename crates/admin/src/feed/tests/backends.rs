//! Backends, which gateways know by the route table only. Time is paused.

use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::request::Facts;
use tidegate_policy::route::Target;
use tidegate_policy::tables::Table;
use tokio::time::sleep;

use super::gateway::SimGateway;
use super::memory::{Memory, document};
use super::{start, tiny};
use crate::feed::Feed;
use crate::store::{DocumentKind, StoreTable};

/// Where a request goes by the tables of direct questions; `None`: no backend of the
/// API.
async fn target(feed: &Feed) -> Option<Target> {
    let tables = feed.tables().await.unwrap();
    let facts = Facts { path: b"/", method: b"GET", ..Facts::default() };
    tables.routes.find(&facts).unwrap()?.backend?.target.clone()
}

fn at(host: &str) -> Option<Target> {
    Some(Target { host: host.to_owned(), port: 80, tls: None })
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
async fn a_slip_in_a_backend_leaves_its_requests_where_they_went() {
    let store = Arc::new(Memory::default());
    store.put_document(DocumentKind::Route, "r", document("r", "orders"));
    store.put_document(DocumentKind::Backend, "orders", r#"{"address":"a.test:80"}"#);
    let feed = start(&store, tiny()).await;
    for slip in ["{", r#"{"address":"a.test"}"#, r#"{"address":"127.0.0.1:80"}"#] {
        store.put_document(DocumentKind::Backend, "orders", slip);
        assert_eq!(target(&feed).await, at("a.test"), "{slip}");
        let bad = feed.snapshot().quarantine().last().unwrap();
        assert_eq!((bad.table, &*bad.key), (StoreTable::Documents(DocumentKind::Backend), "orders"));
        assert!(bad.why.contains("stays in force"), "{}", bad.why);
    }
    // Nobody knows what it said once the service has begun anew.
    assert_eq!(target(&start(&store, tiny()).await).await, None);
    store.delete_document(DocumentKind::Backend, "orders");
    assert_eq!((target(&feed).await, feed.snapshot().quarantine().len()), (None, 0));
}
