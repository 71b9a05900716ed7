//! Stores to test, and short forms for tests.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tidegate_policy::check::{Answered, PerCheck};
use tidegate_policy::flags::Modes;
use tidegate_policy::wire::event::{Batch, OpenEvent, SourceReport, SourceState, TrafficEvent, VmId};
use tidegate_policy::wire::sync::Gateway;

use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{
    Append, BanMode, Change, Changes, DocumentKind, IpRow, RecorderFigures, Store, StoreTable, StoredRows,
};

/// Runs `test` on an empty store of every implementation.
pub(crate) fn on_each_store(test: impl AsyncFn(&dyn Store)) {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(directory.path().join("tidegate.db"), Options::default()).unwrap();
    block_on(test(&sqlite));
}

/// Runs a test to its end.
pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

/// Polls `look` until it returns something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn ban(ip: &str) -> Change {
    Change::Ban {
        ip: ip.to_owned(),
        reason: None,
        expires_at: None,
        mode: BanMode::Enforce,
        applies_to: None,
        unless_allowed: false,
    }
}

pub(crate) fn unban(key: &str) -> Change {
    Change::Unban { keys: vec![key.to_owned()] }
}

pub(crate) fn put(kind: DocumentKind, name: &str, document: &str) -> Change {
    Change::PutDocument { kind, name: name.to_owned(), document: document.to_owned(), only_if: None }
}

pub(crate) fn remove(kind: DocumentKind, name: &str) -> Change {
    Change::DeleteDocument { kind, name: name.to_owned(), only_if: None }
}

pub(crate) async fn everything(store: &dyn Store) -> StoredRows {
    let mut all = store.read_tables(&StoreTable::ALL).await.unwrap();
    all.ips.sort_by(|a, b| a.ip.cmp(&b.ip));
    for kind in DocumentKind::ALL {
        all.documents[kind].sort_by(|a, b| a.name.cmp(&b.name));
    }
    all
}

pub(crate) async fn row(store: &dyn Store, ip: &str) -> Option<IpRow> {
    everything(store).await.ips.into_iter().find(|row| row.ip == ip)
}

/// Raw keys of `ip_monitor`, in order.
pub(crate) async fn keys(store: &dyn Store) -> Vec<String> {
    everything(store).await.ips.into_iter().map(|row| row.ip).collect()
}

/// The changes since `seq`, which must not be a reload.
pub(crate) async fn rows_since(store: &dyn Store, since: u64) -> (u64, Vec<(String, Option<IpRow>)>) {
    match store.changes_since(since).await.unwrap() {
        Changes::Rows { seq, mut rows } => {
            rows.ips.sort_by(|a, b| a.0.cmp(&b.0));
            (seq, rows.ips)
        }
        reload => panic!("{reload:?}"),
    }
}

pub(crate) fn gateway(process: u64) -> Gateway {
    Gateway::new(b"node-1", process)
}

/// A post without anything in it.
pub(crate) fn post() -> Append {
    Append {
        gateway: gateway(1),
        sources: Vec::new(),
        dropped: Vec::new(),
        batches: Vec::new(),
        recorder: RecorderFigures::default(),
        untold: false,
        ban_sources: HashMap::new(),
    }
}

/// A batch of events `first` to `last` of `source`; `last` is the highest number so far.
pub(crate) fn batch(source: u128, first: u64, last: u64) -> Batch {
    let events = (first..=last)
        .map(|number| TrafficEvent { number, time_ms: 1_795_456_801_000 + number, ..TrafficEvent::default() })
        .collect();
    Batch { source: VmId(source), first, numbered_hi: last, events, ..Batch::default() }
}

/// A post of these batches.
pub(crate) fn post_of(batches: Vec<Batch>) -> Append {
    Append { batches, ..post() }
}

/// An event of `number` whose checks were answered as the flags' start says.
pub(crate) fn checked_event(number: u64, client: &str, modes: Modes) -> TrafficEvent {
    TrafficEvent {
        number,
        time_ms: 1_795_456_801_000 + number,
        client: Some(client.parse().unwrap()),
        modes: Some(modes),
        answered: PerCheck::from_fn(|_| Answered::Direct),
        ..TrafficEvent::default()
    }
}

/// A batch of these events; the last has the highest number so far.
pub(crate) fn batch_of(source: u128, events: Vec<TrafficEvent>) -> Batch {
    let (first, last) = (events[0].number, events[events.len() - 1].number);
    Batch { source: VmId(source), first, numbered_hi: last, events, ..Batch::default() }
}

/// The open event of `number` of `source`, from a client of its own.
pub(crate) fn open(source: u128, number: u64) -> OpenEvent {
    OpenEvent { source: VmId(source), event: checked_event(number, "192.0.2.1", Modes::default()) }
}

pub(crate) fn report(source: u128, numbered_hi: u64, state: SourceState) -> Append {
    Append { sources: vec![SourceReport { source: VmId(source), numbered_hi, state }], ..post() }
}
