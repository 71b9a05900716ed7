//! Open events, in every order of what may happen to them: compared with a model that keeps a
//! state per number.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_policy::flags::Modes;
use tidegate_policy::wire::event::{DropReason, DroppedRange, SourceState, VmId};
use tokio::sync::oneshot;

use super::support::foreign_connection;
use crate::store::sqlite::queue::HousekeepingStep;
use crate::store::sqlite::{Options, SqliteStore, open_events};
use crate::store::tests::support::{batch_of, block_on, checked_event, gateway, open, post, post_of, report};
use crate::store::{Append, Store};

const CLIENT: &str = "192.0.2.1";

#[derive(Clone, Debug)]
enum Step {
    Open(u64),
    Complete(u64, u64),
    Drop(u64),
    Report(SourceState),
    /// The housekeeper looks after open events.
    Tend,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop::sample::select(vec![SourceState::Alive, SourceState::Dead]);
    prop_oneof![
        6 => (1u64..15).prop_map(Step::Open),
        4 => (1u64..15, 1u64..4).prop_map(|(first, len)| Step::Complete(first, len)),
        1 => (1u64..15).prop_map(Step::Drop),
        2 => state.prop_map(Step::Report),
        3 => Just(Step::Tend),
        1 => Just(Step::Restart),
    ]
}

/// The numbers of one source.
#[derive(Default)]
struct Model {
    hi: u64,
    open: BTreeSet<u64>,
    given_up: BTreeSet<u64>,
    completed: BTreeSet<u64>,
    dropped: BTreeSet<u64>,
    duplicates: u64,
    dead: bool,
}

impl Model {
    fn stored(&self) -> BTreeSet<u64> {
        &self.given_up | &self.completed
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Open(number) => {
                self.hi = self.hi.max(number);
                if !self.stored().contains(&number) {
                    self.open.insert(number);
                }
            }
            Step::Complete(first, len) => {
                for number in first..first + len {
                    self.hi = self.hi.max(number);
                    self.open.remove(&number);
                    self.dropped.remove(&number);
                    self.given_up.remove(&number);
                    self.duplicates += u64::from(!self.completed.insert(number));
                }
            }
            Step::Drop(number) => {
                self.hi = self.hi.max(number);
                if !self.stored().contains(&number) {
                    self.dropped.insert(number);
                }
            }
            Step::Report(state) => self.dead = state == SourceState::Dead,
            Step::Tend => {
                let abandoned: Vec<u64> =
                    self.open.iter().copied().filter(|n| self.dead || self.dropped.contains(n)).collect();
                for number in abandoned {
                    self.open.remove(&number);
                    self.dropped.remove(&number);
                    self.given_up.insert(number);
                }
            }
            Step::Restart => {}
        }
    }
}

fn reopen(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Options { ingest_every: Duration::ZERO, ..Options::default() }).unwrap()
}

async fn take(store: SqliteStore, path: &Path, step: &Step) -> SqliteStore {
    match *step {
        Step::Open(number) => assert!(store.open_event(gateway(1), open(7, number)).await.unwrap()),
        Step::Complete(first, len) => {
            let events = (first..first + len).map(|n| checked_event(n, CLIENT, Modes::default()));
            store.append(post_of(vec![batch_of(7, events.collect())])).await.unwrap();
        }
        Step::Drop(number) => {
            let reason = DropReason::BufferFull;
            let range = DroppedRange { source: VmId(7), first: number, last: number, reason };
            store.append(Append { dropped: vec![range], ..post() }).await.unwrap();
        }
        Step::Report(state) => drop(store.append(report(7, 0, state)).await.unwrap()),
        Step::Tend => {
            let (reply, answer) = oneshot::channel();
            let abandoned = open_events::abandoned(&foreign_connection(path)).unwrap();
            store.database.queue.put_housekeeping(HousekeepingStep::GiveUp(abandoned), reply).unwrap();
            answer.await.unwrap().unwrap();
        }
        Step::Restart => {
            drop(store);
            return reopen(path);
        }
    }
    store
}

/// Number, whether it is complete, whether it was given up: in order.
fn rows(path: &Path) -> Vec<(u64, bool, bool)> {
    let conn = foreign_connection(path);
    let mut rows = conn
        .prepare("SELECT number, complete, given_up_at IS NOT NULL FROM events ORDER BY number, id")
        .unwrap();
    let rows = rows
        .query_map([], |row| Ok((u64::try_from(row.get::<_, i64>(0)?).unwrap(), row.get(1)?, row.get(2)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

async fn check(store: &SqliteStore, path: &Path, model: &Model) {
    let stored = model.stored();
    let want = (1..=model.hi).filter(|n| stored.contains(n) || model.open.contains(n));
    let want: Vec<_> = want.map(|n| (n, model.completed.contains(&n), model.given_up.contains(&n))).collect();
    assert_eq!(rows(path), want);

    let counts = store.recording().await.unwrap();
    let all = stored.len() as u64;
    let missing = model.hi - all - model.dropped.len() as u64;
    let pending = if model.dead { model.open.difference(&model.dropped).count() as u64 } else { missing };
    assert_eq!((counts.numbered, counts.stored, counts.pending), (model.hi, all, pending));
    assert_eq!((counts.lost, counts.duplicates), (missing - pending, model.duplicates));
    assert_eq!((counts.open, counts.incomplete), (model.open.len() as u64, model.given_up.len() as u64));
    assert_eq!(counts.checks.route.direct, all);
    let seen = store.address_count(CLIENT).await.unwrap();
    assert_eq!(seen.map_or(0, |row| row.count), all);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_number_has_one_row_and_counts_once(steps in prop::collection::vec(step(), 1..40)) {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("tidegate.db");
            let (mut store, mut model) = (reopen(&path), Model::default());
            for step in steps {
                model.take(&step);
                store = take(store, &path, &step).await;
                check(&store, &path, &model).await;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_event_stays_pending_however_old_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = reopen(&path);
    store.open_event(gateway(1), open(7, 3)).await.unwrap();
    foreign_connection(&path).execute_batch("UPDATE source_marks SET at = at - 16 * 60 * 1000").unwrap();
    let counts = store.recording().await.unwrap();
    assert_eq!((counts.pending, counts.lost), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_responses_may_wait_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = std::sync::Arc::new(reopen(&path));
    let lanes: Vec<_> = (0..40u64)
        .map(|lane| {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move {
                for number in lane * 25 + 1..=lane * 25 + 25 {
                    store.open_event(gateway(1), open(7, number)).await.unwrap();
                    let event = checked_event(number, CLIENT, Modes::default());
                    store.append(post_of(vec![batch_of(7, vec![event])])).await.unwrap();
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
    let counts = store.recording().await.unwrap();
    assert_eq!((counts.numbered, counts.stored, counts.open), (1_000, 1_000, 0));
    assert!(rows(&path).iter().all(|row| row.1));
}
