//! Figures of a stage as they are stored and joined, and the clock by which they are cut into slices, against plain maps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::Connection;
use tidegate_policy::check::PerCheck;
use tidegate_rollout::figures::{
    Block, CLIENT_BLOCKS, CheckFigures, ClientBlock, Group, GroupFigures, Measurement, Spans, StageFigures,
};
use tidegate_statistics::histogram::Histogram;

use super::support::{TestStore, foreign_connection, test_store};
use crate::store::sqlite::rollout_figures::{add, figures, join_old};
use crate::store::sqlite::slice_clock::SliceClock;

/// Of rollout `r`, with windows of 12 slices in spans of 3.
fn measurement(run: u64, number: u32) -> Measurement {
    Measurement {
        run,
        number,
        from_seq: 0,
        slice_ms: 200,
        spans: Spans { slices: 3, kept_slices: 12 },
        shared_flags: Vec::new(),
        scoped_flags: Vec::new(),
        next_shares: Vec::new(),
    }
}

fn empty() -> (TestStore, Connection) {
    let home = test_store();
    let conn = foreign_connection(&home.path);
    // As in a transaction of events: one that only became a writer after a read would find that the store wrote meanwhile.
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    (home, conn)
}

/// Figures of which each field is another.
fn requests(count: u64) -> GroupFigures {
    let checks = |more| CheckFigures {
        cached: count,
        direct: more,
        fallback: 1,
        unavailable: 2,
        compared: count + more,
        mismatched: 3,
    };
    GroupFigures {
        requests: count,
        succeeded: count - count / 3,
        server_errors: count / 3,
        denied: count / 4,
        gate: Histogram::of((0..count).map(|at| at * 100)),
        total: Histogram::of((0..count).map(|at| at * 10_000)),
        checks: PerCheck { ip: checks(1), geo: checks(10), route: checks(100) },
    }
}

/// Figures that come when so many slices more have passed.
fn arrivals() -> impl Strategy<Value = Vec<(u32, u8, bool, u64)>> {
    let passed = prop_oneof![
        8 => 0u32..4,
        2 => 0u32..200,
        1 => 2_000u32..2_200,
        1 => 130_000u32..140_000,
    ];
    prop::collection::vec((passed, 0..CLIENT_BLOCKS, any::<bool>(), 1u64..20), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn joined_figures_are_those_of_a_map(arrivals in arrivals()) {
        let (_home, conn) = empty();
        let of = measurement(1, 1);
        // Others, which stay as they are.
        let others = [("s", measurement(1, 1)), ("r", measurement(2, 1)), ("r", measurement(1, 2))];
        for (name, other) in &others {
            for slice in 0..3 {
                add(&conn, (name, other), (Block::Slice(slice), Group::Control), requests(7)).unwrap();
            }
        }
        let mut map = BTreeMap::<(Block, Group), GroupFigures>::new();
        let mut present = 0;
        for (passed, clients, is_treated, count) in arrivals {
            present += passed;
            join_old(&conn, ("r", &of), present).unwrap();
            for ((block, group), figures) in std::mem::take(&mut map) {
                map.entry((of.kept_in(block, present), group)).or_default().add(&figures);
            }
            let group = if is_treated { Group::Treated } else { Group::Control };
            let block = ClientBlock { span: of.spans.of(present), clients };
            for block in [
                Block::Slice(present), Block::Clients(block), Block::SliceAhead(present), Block::ClientsAhead(clients),
            ] {
                add(&conn, ("r", &of), (block, group), requests(count)).unwrap();
                map.entry((block, group)).or_default().add(&requests(count));
            }
        }
        let mut wanted = StageFigures::default();
        map.iter().for_each(|((block, group), figures)| wanted.add(*block, *group, figures));
        prop_assert_eq!(figures(&conn, &SliceClock::default(), "r", (1, 1)).unwrap(), wanted);
        for (name, other) in &others {
            let found = figures(&conn, &SliceClock::default(), name, (other.run, other.number)).unwrap();
            prop_assert_eq!(found.slices.keys().collect::<Vec<_>>(), [&0, &1, &2]);
            prop_assert_eq!(found.whole().control.requests, 21);
        }
    }
}

/// What happens to a clock.
#[derive(Clone, Debug)]
enum Happens {
    /// So many milliseconds pass, and requests come or not.
    Time(u64, bool),
    /// The service is ended, and another one begins.
    Restart,
    /// The next measurement begins.
    Next,
}

fn happens() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        6 => (prop_oneof![0u64..700, 0u64..40_000], any::<bool>()).prop_map(|(ms, comes)| Happens::Time(ms, comes)),
        1 => Just(Happens::Restart),
        1 => Just(Happens::Next),
    ];
    prop::collection::vec(one, 1..40)
}

/// What a clock must say: by what it began with.
struct Model {
    began_ms: u64,
    first: u32,
    joined: u32,
}

impl Model {
    /// One that is asked at `ms` for the first time.
    fn new(ms: u64, last: Option<u32>) -> Self {
        let first = last.map_or(0, |last| last + 1);
        Self { began_ms: ms, first, joined: first }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn slices_go_by_with_time_and_after_what_another_process_has_counted(all in happens()) {
        let (_home, conn) = empty();
        let (begun, mut ms) = (Instant::now(), 0);
        let (mut clock, mut of) = (SliceClock::default(), measurement(1, 1));
        let mut model: Option<Model> = None;
        let mut last = None;
        for one in all {
            match one {
                Happens::Restart => (clock, model) = (SliceClock::default(), None),
                Happens::Next => (of.number, last, model) = (of.number + 1, None, None),
                Happens::Time(passed, comes) => {
                    ms += passed;
                    let now = begun + Duration::from_millis(ms);
                    let found = clock.at(now, &conn, ("r", &of)).unwrap();
                    let model = model.get_or_insert_with(|| Model::new(ms, last));
                    let measured = ms - model.began_ms;
                    let slice = model.first + u32::try_from(measured / of.slice_ms).unwrap();
                    prop_assert_eq!((found.slice, found.measured), (slice, Duration::from_millis(measured)));
                    if comes {
                        let joins = of.is_to_join(model.joined, slice);
                        prop_assert_eq!(clock.is_to_join(&of, slice), joins);
                        prop_assert!(!clock.is_to_join(&of, slice), "once for each slice");
                        model.joined = slice;
                        add(&conn, ("r", &of), (Block::Slice(slice), Group::Treated), requests(1)).unwrap();
                        last = Some(slice);
                    }
                }
            }
        }
    }
}
