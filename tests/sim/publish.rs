//! Every interleaving of two publishers and a reader over shared data, run
//! through the step machines that ship: no reader sees a mix of two sets or goes
//! back to an older one, and what is published in the end is the newest.
//!
//! States are explored, not schedules: two schedules that lead to the same state
//! have the same future.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use tidegate::host::{Cas, Expect, HostError};
use tidegate::sync::Keys;
use tidegate::sync::load::read_published::{ReadEnd, ReadPublished};
use tidegate::sync::publish::{Publish, PublishEnd, PublishSet};
use tidegate::sync::shared::manifest::{Manifest, SharedData};
use tidegate::sync::shared::service_clock::ServiceClock;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::BlobRef;

const CHUNK: usize = 2;
const EPOCH: u64 = 0xe;

/// Shared data as the host keeps it. A token is the key's count of writes, so
/// that states which differ in nothing else are the same state.
#[derive(Clone, Debug, Default)]
struct Store {
    values: RefCell<BTreeMap<String, (Vec<u8>, Cas)>>,
    /// A host that does not compare: the test of the test.
    careless: bool,
}

impl SharedData for Store {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError> {
        Ok(self.values.borrow().get(key).cloned())
    }

    fn set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError> {
        let mut values = self.values.borrow_mut();
        let current = values.get(key).map_or(0, |(_, cas)| *cas);
        let fits = match expect {
            Expect::Absent => current == 0,
            Expect::Unchanged(cas) => current == 0 || current == cas,
        };
        if !fits && !self.careless {
            return Err(HostError::CasMismatch);
        }
        values.insert(key.to_owned(), (value.to_vec(), current + 1));
        Ok(())
    }
}

/// The bytes of a table: what they are says of which version they are.
fn content(table: Table, generation: u8) -> Vec<u8> {
    let len = if table == Table::BanOverlay { 3 } else { 1 };
    vec![generation * 16 + table as u8; len]
}

/// A set whose ban base, overlay, allow list and routes are of these generations;
/// the others, which are published in the same way, are always of the first.
fn set(seq: u64, [base, overlay, allow, routes]: [u8; 4]) -> Rc<PublishSet> {
    let of = |table: Table| {
        let generation = match table {
            Table::BanBase => base,
            Table::BanOverlay => overlay,
            Table::Allow => allow,
            Table::Routes => routes,
            _ => 1,
        };
        content(table, generation)
    };
    Rc::new(PublishSet {
        version: Version { epoch: EPOCH, seq },
        refresh: 0,
        clock: ServiceClock::default(),
        blobs: PerTable::from_fn(|table| BlobRef::of(&of(table))),
        bytes: PerTable::from_fn(|table| Some(Arc::new(of(table)))),
    })
}

#[derive(Clone, Debug)]
struct Publisher {
    fence: u64,
    /// What it will publish, in order.
    todo: Vec<Rc<PublishSet>>,
    now: Option<Publish>,
}

impl Publisher {
    fn new(fence: u64, todo: &[Rc<PublishSet>]) -> Self {
        Self { fence, todo: todo.to_vec(), now: None }
    }

    fn is_done(&self) -> bool {
        self.now.is_none() && self.todo.is_empty()
    }

    fn step(&mut self, store: &Store, keys: &Keys) {
        let publish = self.now.get_or_insert_with(|| Publish::new(self.fence, self.todo[0].clone(), CHUNK));
        match publish.step(store, keys) {
            None => {}
            Some(PublishEnd::Outranked(_)) => (self.now, self.todo) = (None, Vec::new()),
            Some(PublishEnd::Retry) => self.now = None,
            Some(PublishEnd::Done(_) | PublishEnd::NotNewer(_)) => {
                self.todo.remove(0);
                self.now = None;
            }
            Some(other) => panic!("{other:?}"),
        }
    }
}

/// Reads `left` times in a row, as a VM does that looks again after a load.
#[derive(Clone, Debug)]
struct Reader {
    left: u8,
    now: Option<ReadPublished>,
    held: Option<(Manifest, PerTable<Vec<u8>>)>,
}

impl Reader {
    fn step(&mut self, store: &Store, keys: &Keys, sets: &[Rc<PublishSet>]) -> Result<(), String> {
        let held = &self.held;
        let names = || PerTable::from_fn(|table| held.as_ref().map(|(held, _)| held.tables[table].blob));
        let collect = self.now.get_or_insert_with(|| ReadPublished::new(names(), CHUNK));
        let Some(end) = collect.step(store, keys) else { return Ok(()) };
        self.now = None;
        self.left -= 1;
        let ReadEnd::Read(published) = end else { return Ok(()) };
        let mut fresh = published.bytes.clone();
        let tables = PerTable::from_fn(|table| {
            let kept = || self.held.as_ref().map(|(_, tables)| tables[table].clone()).unwrap_or_default();
            fresh[table].take().unwrap_or_else(kept)
        });
        // The hash that a VM verifies after it has collected: what does not fit
        // is not used.
        let named =
            |table: &Table| BlobHash::of(&tables[*table]) == published.manifest.tables[*table].blob.hash;
        if !Table::ALL.iter().all(named) {
            return Ok(());
        }
        let version = published.manifest.version;
        if !sets.iter().any(|set| set.version == version && set.blobs == published.manifest.blobs()) {
            return Err(format!("a mix: {published:?}"));
        }
        if self.held.as_ref().is_some_and(|(held, _)| !version.covers(&held.version)) {
            return Err(format!("back from {:?} to {version}", self.held));
        }
        self.held = Some((published.manifest, tables));
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct World {
    store: Store,
    publishers: Vec<Publisher>,
    reader: Reader,
}

struct Explorer {
    keys: Keys,
    sets: Vec<Rc<PublishSet>>,
    /// What may be published in the end.
    ends: Vec<u64>,
    seen: HashSet<u64>,
    finished: usize,
}

impl Explorer {
    fn published(&self, world: &World) -> Option<Version> {
        let (bytes, _) = world.store.get(&self.keys.manifest()).unwrap()?;
        Some(Manifest::from_bytes(&bytes).unwrap().version)
    }

    fn explore(&mut self, start: World) -> Result<(), String> {
        let mut open = vec![start];
        while let Some(world) = open.pop() {
            let mut hasher = DefaultHasher::new();
            format!("{world:?}").hash(&mut hasher);
            if !self.seen.insert(hasher.finish()) {
                continue;
            }
            let before = self.published(&world);
            let mut done = true;
            for who in 0..world.publishers.len() {
                if world.publishers[who].is_done() {
                    continue;
                }
                done = false;
                let mut next = world.clone();
                next.publishers[who].step(&next.store, &self.keys);
                let after = self.published(&next);
                if let (Some(before), Some(after)) = (before, after)
                    && !after.covers(&before)
                {
                    return Err(format!("published {before}, then {after}"));
                }
                open.push(next);
            }
            if world.reader.left > 0 {
                done = false;
                let mut next = world.clone();
                next.reader.step(&next.store, &self.keys, &self.sets)?;
                open.push(next);
            }
            if done {
                self.finished += 1;
                let end = before.map(|version| version.seq);
                if !self.ends.iter().any(|seq| Some(*seq) == end) {
                    return Err(format!("ends at {end:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Shared data in which `set` was published under `fence`.
fn published(set: &Rc<PublishSet>, fence: u64, keys: &Keys) -> Store {
    let store = Store::default();
    let mut publish = Publish::new(fence, set.clone(), CHUNK);
    loop {
        match publish.step(&store, keys) {
            None => {}
            Some(PublishEnd::Done(_)) => return store,
            Some(other) => panic!("{other:?}"),
        }
    }
}

/// Explores two publishers, the second of which has the newer lease, beside a
/// reader that reads twice. `ends`: what may be published in the end.
fn explore(
    start: Option<Rc<PublishSet>>,
    first: &[Rc<PublishSet>],
    second: &[Rc<PublishSet>],
    ends: &[u64],
    careless: bool,
) -> Result<(usize, usize), String> {
    let keys = Keys::new(7);
    let mut store = start.as_ref().map_or_else(Store::default, |set| published(set, 1, &keys));
    store.careless = careless;
    let sets = start.iter().chain(first).chain(second).cloned().collect();
    let publishers = vec![Publisher::new(1, first), Publisher::new(2, second)];
    let world = World { store, publishers, reader: Reader { left: 2, now: None, held: None } };
    let mut explorer = Explorer { keys, sets, ends: ends.to_vec(), seen: HashSet::new(), finished: 0 };
    explorer.explore(world)?;
    Ok((explorer.seen.len(), explorer.finished))
}

#[test]
fn a_holder_that_slept_in_the_middle_of_a_publish_undoes_nothing() {
    let start = set(4, [1, 1, 1, 1]);
    let first = [set(5, [1, 2, 1, 1])];
    let second = [set(6, [1, 3, 2, 1])];
    let (states, ends) = explore(Some(start), &first, &second, &[6], false).unwrap();
    println!("{states} states, {ends} ends");
    assert!(ends > 1);
}

#[test]
fn a_side_written_twice_under_a_readers_eyes_is_never_used() {
    let start = set(4, [1, 1, 1, 1]);
    let first = [set(5, [1, 2, 1, 1]), set(6, [1, 3, 1, 1])];
    let second = [set(7, [1, 4, 1, 2])];
    let (states, ends) = explore(Some(start), &first, &second, &[7], false).unwrap();
    println!("{states} states, {ends} ends");
}

#[test]
fn a_newer_holder_with_older_tables_takes_nothing_back() {
    let start = set(4, [1, 1, 1, 1]);
    let first = [set(6, [1, 3, 1, 1])];
    let second = [set(5, [1, 2, 1, 1])];
    // The second may never hear of 6: its next poll brings it.
    explore(Some(start), &first, &second, &[5, 6], false).unwrap();
}

#[test]
fn the_first_publish_of_a_process_is_raced_for_as_well() {
    let first = [set(5, [1, 1, 1, 1])];
    let second = [set(6, [1, 2, 1, 1])];
    explore(None, &first, &second, &[6], false).unwrap();
}

#[test]
fn the_exploration_finds_what_goes_wrong_without_compare_and_set() {
    let start = set(4, [1, 1, 1, 1]);
    let first = [set(5, [1, 2, 1, 1])];
    let second = [set(6, [1, 3, 2, 1])];
    assert!(explore(Some(start), &first, &second, &[6], true).is_err());
}
