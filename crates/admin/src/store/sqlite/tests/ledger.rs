//! Storage exactly once, whatever happened to the batches on the way: compared with a model that
//! keeps sets of numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_policy::wire::event::{DropReason, DroppedRange, SourceReport, SourceState, VmId};

use super::support::{foreign_connection, test_store};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::tests::support::{batch, block_on, gateway, post, post_of, until};
use crate::store::{Append, RecordingCounts, Store};

const MAX: u64 = 60;

/// What may happen to a store.
#[derive(Clone, Debug)]
enum Step {
    /// A post of these runs of (source, first, length), the last one closing.
    Deliver(Vec<(u128, u64, u64)>, bool),
    /// The same, but the service ends before it has answered; posted again later.
    DeliverAndEnd(u128, u64, u64),
    Drop(u128, u64, u64, DropReason),
    Report(u128, u64, SourceState),
    GatewayGone,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let run = (0u128..3, 1..MAX, 1u64..25);
    let reason = prop::sample::select(vec![DropReason::BufferFull, DropReason::RecorderFull]);
    let state = prop::sample::select(vec![SourceState::Alive, SourceState::Dead]);
    prop_oneof![
        8 => (prop::collection::vec(run.clone(), 1..4), prop::bool::weighted(0.1)).prop_map(|(r, c)| Step::Deliver(r, c)),
        1 => run.clone().prop_map(|(s, f, n)| Step::DeliverAndEnd(s, f, n)),
        2 => (run, reason).prop_map(|((s, f, n), reason)| Step::Drop(s, f, n, reason)),
        2 => (0u128..3, 0..MAX, state).prop_map(|(s, n, state)| Step::Report(s, n, state)),
        1 => Just(Step::GatewayGone),
        1 => Just(Step::Restart),
    ]
}

#[derive(Default)]
struct Model {
    sources: BTreeMap<u128, ModelSource>,
    duplicates: u64,
    /// A post was under way when the service ended: it may count as delivered twice.
    unsure: bool,
}

#[derive(Default)]
struct ModelSource {
    hi: u64,
    stored: BTreeSet<u64>,
    dropped: BTreeMap<u64, DropReason>,
    dead: bool,
    closed: bool,
}

impl Model {
    fn source(&mut self, source: u128) -> &mut ModelSource {
        self.sources.entry(source).or_default()
    }

    fn deliver(&mut self, source: u128, first: u64, len: u64) {
        let of = self.source(source);
        let mut duplicates = 0;
        for number in first..first + len {
            duplicates += u64::from(!of.stored.insert(number));
            of.dropped.remove(&number);
            of.hi = of.hi.max(number);
        }
        self.duplicates += duplicates;
    }

    fn drop_range(&mut self, source: u128, first: u64, len: u64, reason: DropReason) {
        let of = self.source(source);
        for number in first..first + len {
            of.hi = of.hi.max(number);
            if !of.stored.contains(&number) {
                of.dropped.entry(number).or_insert(reason);
            }
        }
    }

    fn counts(&self) -> RecordingCounts {
        let mut counts = RecordingCounts { duplicates: self.duplicates, ..RecordingCounts::default() };
        let mut dropped: BTreeMap<DropReason, u64> = BTreeMap::new();
        for of in self.sources.values() {
            counts.numbered += of.hi;
            counts.stored += of.stored.len() as u64;
            of.dropped.values().for_each(|&reason| *dropped.entry(reason).or_default() += 1);
            let missing = of.hi - of.stored.len() as u64 - of.dropped.len() as u64;
            let is_over = of.dead || of.closed;
            let is_missing = |number: &u64| !of.stored.contains(number) && !of.dropped.contains_key(number);
            let highest = of.stored.last().max(of.dropped.keys().next_back()).copied().unwrap_or_default();
            let overtaken = (1..highest).filter(is_missing).count() as u64;
            *(if is_over { &mut counts.lost } else { &mut counts.pending }) += missing;
            counts.missing += if is_over { missing } else { overtaken };
            counts.unclosed += u64::from(of.dead && !of.closed);
        }
        counts.dropped = dropped.into_iter().map(|(reason, n)| (reason.name(), n)).collect();
        counts
    }
}

fn stored_rows(path: &Path) -> Vec<(u128, u64)> {
    let conn = foreign_connection(path);
    let mut rows = conn.prepare("SELECT source, number FROM events ORDER BY source, number").unwrap();
    let rows = rows.query_map([], |row| {
        Ok((u128::from_be_bytes(row.get(0)?), u64::try_from(row.get::<_, i64>(1)?).unwrap()))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Options { ingest_every: Duration::ZERO, ..Options::default() }).unwrap()
}

async fn take(store: SqliteStore, path: &Path, model: &mut Model, step: Step) -> SqliteStore {
    match step {
        Step::Deliver(runs, closing) => {
            let mut batches: Vec<_> = runs.iter().map(|&(s, f, n)| batch(s, f, f + n - 1)).collect();
            let last = batches.last_mut().unwrap();
            last.closing = closing;
            if closing {
                model.source(last.source.0).closed = true;
            }
            let before = model.duplicates;
            runs.iter().for_each(|&(s, f, n)| model.deliver(s, f, n));
            let appended = store.append(post_of(batches)).await.unwrap();
            assert_eq!(appended.duplicates, model.duplicates - before);
        }
        Step::DeliverAndEnd(source, first, len) => {
            model.deliver(source, first, len);
            model.unsure = true;
            let events = || post_of(vec![batch(source, first, first + len - 1)]);
            tokio::select! {
                biased;
                _ = store.append(events()) => {}
                () = tokio::task::yield_now() => {}
            }
            drop(store);
            let store = open(path);
            store.append(events()).await.unwrap();
            return store;
        }
        Step::Drop(source, first, len, reason) => {
            model.drop_range(source, first, len, reason);
            let range = DroppedRange { source: VmId(source), first, last: first + len - 1, reason };
            store.append(Append { dropped: vec![range], ..post() }).await.unwrap();
        }
        Step::Report(source, numbered_hi, state) => {
            let of = model.source(source);
            of.hi = of.hi.max(numbered_hi);
            of.dead = state == SourceState::Dead;
            let report = SourceReport { source: VmId(source), numbered_hi, state };
            store.append(Append { sources: vec![report], ..post() }).await.unwrap();
        }
        Step::GatewayGone => {
            model.sources.values_mut().for_each(|of| of.dead = true);
            store.close_sources_of(gateway(1)).await.unwrap();
        }
        Step::Restart => {
            drop(store);
            return open(path);
        }
    }
    store
}

fn durable(counts: RecordingCounts, model: &Model) -> RecordingCounts {
    let duplicates = if model.unsure { model.duplicates } else { counts.duplicates };
    RecordingCounts { alive: 0, duplicates, gaps: Vec::new(), ..counts }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_the_union_of_what_was_delivered(steps in prop::collection::vec(step(), 1..30)) {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("tidegate.db");
            let mut store = open(&path);
            let mut model = Model::default();
            for step in steps {
                store = take(store, &path, &mut model, step).await;
                let counts = durable(store.recording().await.unwrap(), &model);
                assert_eq!(counts, model.counts());
            }
            let want: Vec<(u128, u64)> = model.sources.iter()
                .flat_map(|(&source, of)| of.stored.iter().map(move |&number| (source, number)))
                .collect();
            assert_eq!(stored_rows(&path), want);
            for (&source, of) in &model.sources {
                for number in 0..MAX + 30 {
                    let covered = store.covers(VmId(source), number).await.unwrap();
                    assert_eq!(covered, of.stored.contains(&number), "{source} {number}");
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_cannot_be_are_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("tidegate.db"));
    let mut torn = batch(1, 1, 3);
    torn.events[1].number = 9;
    let mut huge = batch(1, 1, 2);
    huge.first = u64::MAX - 1;
    let appended = store.append(post_of(vec![torn, huge, batch(1, 1, 2)])).await.unwrap();
    assert_eq!((appended.stored, appended.duplicates), (2, 0));
    let dropped = DroppedRange { source: VmId(1), first: 5, last: u64::MAX, reason: DropReason::Expired };
    let report = SourceReport { source: VmId(1), numbered_hi: u64::MAX, state: SourceState::Alive };
    store.append(Append { dropped: vec![dropped], sources: vec![report], ..post() }).await.unwrap();
    let counts = store.recording().await.unwrap();
    assert_eq!((counts.numbered, counts.stored, counts.malformed), (2, 2, 2));
    assert_eq!(counts.dropped, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_has_open_sources_until_they_closed_or_died() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    let store = open(&path);
    let from = |process, source, closing| {
        let mut batch = batch(source, 1, 3);
        batch.closing = closing;
        Append { gateway: gateway(process), ..post_of(vec![batch]) }
    };
    store.append(from(1, 1, false)).await.unwrap();
    store.append(from(1, 2, true)).await.unwrap();
    store.append(from(2, 3, true)).await.unwrap();
    drop(store);
    let store = open(&path);
    assert_eq!(store.gateways_with_open_sources().await.unwrap(), [gateway(1)]);
    store.close_sources_of(gateway(1)).await.unwrap();
    assert_eq!(store.gateways_with_open_sources().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sum_of_claims_overflows() {
    let home = test_store();
    let conn = foreign_connection(&home.path);
    for source in 1..=8u128 {
        let key = source.to_be_bytes();
        let sql = "INSERT INTO sources (source, gateway, numbered_hi, heard_at, dead_at) VALUES (?1, 'n;1', 1 << 61, 0, 0)";
        conn.execute(sql, [&key[..]]).unwrap();
        let sql = "INSERT INTO dropped (source, first, last, reason) VALUES (?1, 1, 1 << 61, 'expired')";
        conn.execute(sql, [&key[..]]).unwrap();
    }
    let most = i64::MAX as u64;
    let counts = home.store.recording().await.unwrap();
    assert_eq!((counts.numbered, counts.lost, counts.unclosed), (most, most, 8));
    assert_eq!(counts.dropped, [("expired", most)]);
    let path = home.path.clone();
    drop(home.store);
    let options = Options {
        housekeeping_every: Duration::from_millis(20),
        fold_unclosed_after: Duration::ZERO,
        ..Options::default()
    };
    let store = SqliteStore::open(&path, options).unwrap();
    until("they are added up", async || {
        let left: i64 = conn.query_row("SELECT count(*) FROM sources", [], |row| row.get(0)).unwrap();
        (left == 0).then_some(())
    })
    .await;
    let counts = store.recording().await.unwrap();
    assert_eq!((counts.numbered, counts.lost, counts.unclosed), (most, most, 8));
    assert_eq!(counts.dropped, [("expired", most)]);
}
