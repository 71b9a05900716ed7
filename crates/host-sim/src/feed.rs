//! The admin service as a gateway sees it, out of a script: real wire formats,
//! a world of bans in memory, and faults on demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::author;
use tidegate_policy::bans;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::table::{AddressTable, Entry};
use tidegate_policy::wire::event::{Batch, EventPost, Source, TrafficEvent};
use tidegate_policy::wire::sync::{
    ACK_HEADER, Ack, BansUpdate, BlobRef, EntryState, HELD_HEADER, Held, MAX_INLINE, MAX_PAGE, OverlayChange,
    OverlayUpdate, SyncAnswer, Version, WholeTable, WholeUpdate,
};

use crate::process::Sim;
use crate::world::CallView;

/// What goes wrong with the next answer of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The answer's bytes are cut off.
    Truncated,
    /// A whole table's bytes are not what their name says.
    WholeTable,
    /// A whole table is what its name says, and no table.
    NoTable,
    /// The bans' digest is of another set.
    Digest,
    /// A page of a base is spoilt.
    Page,
    /// Nobody needs the base any more: 410.
    Gone,
    /// The fold that the answer tells does not give the base that it names.
    Fold,
}

/// The admin service.
pub struct Feed {
    epoch: u64,
    seq: u64,
    refresh: u64,
    bans: BTreeMap<Prefix, Option<UnixSeconds>>,
    base: Vec<u8>,
    base_entries: AddressTable,
    /// The sequence number that the base was cut at.
    cut: u64,
    log: Vec<(u64, Prefix)>,
    whole: BTreeMap<WholeTable, Vec<u8>>,
    /// Faults to come, each once.
    pub faults: VecDeque<Fault>,
    /// Whether answers say that somebody waits.
    pub ack_wanted: bool,
    /// Acks that came by POST.
    pub acks: Vec<Ack>,
    /// Acks that came with polls.
    pub polled_acks: Vec<Ack>,
    /// Events, each once, in the order in which they were stored.
    pub events: Vec<(Source, TrafficEvent)>,
    /// Events that came again.
    pub duplicates: u64,
    stored: BTreeSet<(Source, u64)>,
    /// Posts of events, as they came.
    pub posts: Vec<EventPost>,
    /// Whether it answers at all.
    pub up: bool,
    /// Whether it stores events.
    pub takes_events: bool,
    /// By how much its clock is ahead of the gateway's, milliseconds.
    pub clock_ahead_ms: u64,
    /// Requests by what they were for.
    pub served: BTreeMap<&'static str, u64>,
}

impl Feed {
    /// A service that has just started, without a ban, with one route of every
    /// path to the backend `demo`.
    ///
    /// # Panics
    /// Never: what it compiles is constant.
    #[must_use]
    pub fn new() -> Self {
        let document = serde_json::json!({
            "metadata": {"name": "all"},
            "spec": {"rules": [{"backendRefs": [{"name": "demo", "port": 80}]}]},
        });
        let route = author::read(&document).expect("a valid route");
        let routes = author::compile(&[route]).expect("one route compiles");
        let empty = AddressTable::empty();
        Self {
            epoch: 0xe1,
            seq: 1,
            refresh: 0,
            bans: BTreeMap::new(),
            base: empty.as_bytes().to_vec(),
            base_entries: empty.clone(),
            cut: 1,
            log: Vec::new(),
            whole: BTreeMap::from([
                (WholeTable::Allow, empty.as_bytes().to_vec()),
                (WholeTable::Routes, routes),
            ]),
            faults: VecDeque::new(),
            ack_wanted: false,
            acks: Vec::new(),
            polled_acks: Vec::new(),
            events: Vec::new(),
            duplicates: 0,
            stored: BTreeSet::new(),
            posts: Vec::new(),
            up: true,
            takes_events: true,
            clock_ahead_ms: 0,
            served: BTreeMap::new(),
        }
    }

    /// What it is at.
    #[must_use]
    pub fn version(&self) -> Version {
        Version { epoch: self.epoch, seq: self.seq }
    }

    /// Bans a prefix.
    ///
    /// # Panics
    /// When the text is no prefix.
    pub fn ban(&mut self, prefix: &str) {
        self.ban_until(prefix, None);
    }

    /// Bans a prefix until a second of this service's clock.
    ///
    /// # Panics
    /// When the text is no prefix.
    pub fn ban_until(&mut self, prefix: &str, expires: Option<UnixSeconds>) {
        let prefix = prefix.parse().expect("a prefix");
        self.bans.insert(prefix, expires);
        self.changed(prefix);
    }

    /// Takes a ban back.
    ///
    /// # Panics
    /// When the text is no prefix.
    pub fn unban(&mut self, prefix: &str) {
        let prefix = prefix.parse().expect("a prefix");
        self.bans.remove(&prefix);
        self.changed(prefix);
    }

    fn changed(&mut self, prefix: Prefix) {
        self.seq += 1;
        self.log.push((self.seq, prefix));
    }

    /// Bans `count` single addresses from 10.0.0.0 on, as a base.
    ///
    /// # Panics
    /// When there are more than fit.
    pub fn ban_many(&mut self, count: u32) {
        let first = 10 << 24;
        self.bans.extend((0..count).map(|i| (Prefix::v4(first + i * 2, 32).expect("a prefix"), None)));
        self.seq += 1;
        self.cut_base();
    }

    /// Cuts a new base out of what is banned now.
    ///
    /// # Panics
    /// When it would be too large.
    pub fn cut_base(&mut self) {
        let entries = self.bans.iter();
        let entries =
            entries.map(|(prefix, expires)| Entry { prefix: *prefix, state: EntryState::Present(*expires) });
        self.base = AddressTable::encode(entries).expect("a table");
        self.base_entries = AddressTable::from_bytes(self.base.clone()).expect("a table");
        self.cut = self.seq;
    }

    /// Replaces a whole table by these bytes.
    pub fn set_whole(&mut self, table: WholeTable, bytes: Vec<u8>) {
        self.whole.insert(table, bytes);
        self.seq += 1;
    }

    /// Orders everybody to load anew.
    pub fn order_refresh(&mut self) {
        self.refresh += 1;
    }

    /// The service was started again: another epoch, no memory of changes.
    pub fn restart(&mut self) {
        self.epoch += 0x100;
        self.seq = 1;
        self.refresh = 0;
        self.log.clear();
        self.cut_base();
    }

    /// Answers all callouts that have an answer now; a poll without news stays
    /// open.
    pub fn serve(&mut self, sim: &mut Sim) {
        loop {
            sim.settle();
            if !self.answer_all(sim) {
                return;
            }
        }
    }

    /// Answers the callouts that have an answer now, and delivers nothing; false
    /// when there was none.
    pub fn answer_all(&mut self, sim: &mut Sim) -> bool {
        let calls = sim.calls();
        let answers: Vec<_> =
            calls.iter().filter_map(|call| Some((call.id, self.answer(call, sim)?))).collect();
        for (id, (status, body)) in &answers {
            sim.answer(*id, *status, body);
        }
        !answers.is_empty()
    }

    /// Lets time pass, serving whatever is asked.
    pub fn run(&mut self, sim: &mut Sim, time: Duration) {
        let until = sim.now_ns() + time.as_nanos() as u64;
        self.serve(sim);
        while sim.now_ns() < until {
            let left = until - sim.now_ns();
            sim.advance(Duration::from_nanos(left.min(1_000_000)));
            self.serve(sim);
        }
    }

    /// The answer to one callout; `None`: it waits.
    fn answer(&mut self, call: &CallView, sim: &Sim) -> Option<(u16, Vec<u8>)> {
        if !self.up {
            return Some((503, Vec::new()));
        }
        let (path, query) = call.path.split_once('?').unwrap_or((&call.path, ""));
        let (kind, answer) = match path {
            "/api/data-plane/v1/sync" => ("poll", self.poll(call, query, sim)?),
            "/api/data-plane/v1/sync/ack" => {
                self.acks.extend(call.header(ACK_HEADER).and_then(|ack| ack.parse::<Ack>().ok()));
                ("ack", (204, Vec::new()))
            }
            "/api/data-plane/v1/events" if !self.takes_events => ("event", (503, Vec::new())),
            "/api/data-plane/v1/events" => ("event", self.take_events(&call.body)),
            path => ("page", self.page(path, query)),
        };
        *self.served.entry(kind).or_default() += 1;
        Some(answer)
    }

    fn poll(&mut self, call: &CallView, query: &str, sim: &Sim) -> Option<(u16, Vec<u8>)> {
        let since = query.split('&').find_map(|pair| pair.strip_prefix("since=")?.parse::<Version>().ok());
        let held: Held = call.header(HELD_HEADER).unwrap_or_default().parse().unwrap_or_default();
        let refreshed = held.refresh.is_some_and(|refresh| refresh < self.refresh);
        if since == Some(self.version()) && !refreshed {
            return None;
        }
        self.polled_acks.extend(call.header(ACK_HEADER).and_then(|ack| ack.parse::<Ack>().ok()));
        let mut answer = SyncAnswer {
            version: self.version(),
            refresh: self.refresh,
            server_time_ms: sim.wall_ms() + self.clock_ahead_ms,
            ack_wanted: self.ack_wanted,
            whole: self.whole_updates(&held),
            bans: Some(self.bans_update(since, &held)),
        };
        let fault = self.faults.front().copied();
        if fault.is_some_and(|fault| spoil(&mut answer, fault)) {
            self.faults.pop_front();
        }
        let mut bytes = answer.to_bytes().ok()?;
        if fault == Some(Fault::Truncated) {
            self.faults.pop_front();
            bytes.truncate(bytes.len() / 2);
        }
        Some((200, bytes))
    }

    fn whole_updates(&self, held: &Held) -> Vec<WholeUpdate> {
        let update = |(table, bytes): (&WholeTable, &Vec<u8>)| {
            let blob = name(bytes);
            let is_held = held.whole.contains(&(*table, blob.hash));
            let inline = (bytes.len() <= MAX_INLINE).then(|| bytes.clone());
            (!is_held).then_some(WholeUpdate { table: *table, blob, bytes: inline })
        };
        self.whole.iter().filter_map(update).collect()
    }

    fn bans_update(&self, since: Option<Version>, held: &Held) -> BansUpdate {
        let base = name(&self.base);
        let state = |prefix: Prefix| {
            let state =
                self.bans.get(&prefix).map_or(EntryState::Absent, |expires| EntryState::Present(*expires));
            OverlayChange { prefix, state }
        };
        let after = |seq: u64| self.log.iter().filter(move |(at, _)| *at > seq).map(|(_, prefix)| *prefix);
        let since = since.filter(|since| since.epoch == self.epoch).map(|since| since.seq);
        let (fold, overlay) = match since {
            Some(since) if held.base == Some(base.hash) && since >= self.cut => {
                (None, OverlayUpdate::Delta(after(since).map(state).collect()))
            }
            Some(since) if held.base != Some(base.hash) && held.base.is_some() => {
                let at_cut = |prefix: Prefix| {
                    let state = self.base_entries.get(&prefix).unwrap_or(EntryState::Absent);
                    OverlayChange { prefix, state }
                };
                let keys = self.log.iter().filter(|(at, _)| *at > since && *at <= self.cut);
                let fold = keys.map(|(_, prefix)| at_cut(*prefix)).collect();
                (Some(fold), OverlayUpdate::Whole(after(self.cut).map(state).collect()))
            }
            _ => (None, OverlayUpdate::Whole(after(self.cut).map(state).collect())),
        };
        let overlay_table = |changes: Vec<OverlayChange>| {
            let bytes = bans::apply(&AddressTable::empty(), &changes).expect("an overlay");
            AddressTable::from_bytes(bytes).expect("an overlay")
        };
        let all = bans::BanTable::new(
            self.base_entries.clone(),
            overlay_table(after(self.cut).map(state).collect()),
        );
        BansUpdate { base, fold, overlay, digest: all.digest() }
    }

    fn page(&mut self, path: &str, query: &str) -> (u16, Vec<u8>) {
        let hash = path.rsplit('/').next().and_then(|hash| hash.parse::<BlobHash>().ok());
        let blobs = std::iter::once(&self.base).chain(self.whole.values());
        let found = blobs.into_iter().find(|bytes| Some(BlobHash::of(bytes)) == hash);
        let offset =
            query.strip_prefix("offset=").and_then(|offset| offset.parse::<usize>().ok()).unwrap_or(0);
        let page =
            found.and_then(|bytes| bytes.get(offset..)).map(|rest| rest[..rest.len().min(MAX_PAGE)].to_vec());
        match (self.faults.front(), page) {
            (Some(Fault::Page), Some(mut page)) => {
                self.faults.pop_front();
                page[0] ^= 1;
                (200, page)
            }
            (Some(Fault::Gone), _) => {
                self.faults.pop_front();
                (410, Vec::new())
            }
            (_, Some(page)) => (200, page),
            (_, None) => (410, Vec::new()),
        }
    }

    /// Stores what is new: a number is stored once, however often it comes.
    fn take_events(&mut self, body: &[u8]) -> (u16, Vec<u8>) {
        let Ok(post) = EventPost::from_bytes(body) else { return (400, Vec::new()) };
        for sealed in &post.batches {
            let Ok(batch) = Batch::from_bytes(&sealed.0) else { return (400, Vec::new()) };
            for event in batch.events {
                if self.stored.insert((batch.source, event.number)) {
                    self.events.push((batch.source, event));
                } else {
                    self.duplicates += 1;
                }
            }
        }
        self.posts.push(post);
        (200, Vec::new())
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

/// A table without routes, as the service would compile it.
///
/// # Panics
/// Never: nothing is left to refuse.
#[must_use]
pub fn empty_routes() -> Vec<u8> {
    author::compile(&[]).expect("no routes compile")
}

fn name(bytes: &[u8]) -> BlobRef {
    BlobRef { hash: BlobHash::of(bytes), len: bytes.len() as u64 }
}

/// Spoils an answer, if this fault is one that this answer can have.
fn spoil(answer: &mut SyncAnswer, fault: Fault) -> bool {
    match fault {
        Fault::WholeTable => {
            let bytes = answer.whole.iter_mut().find_map(|update| update.bytes.as_mut());
            bytes.map(|bytes| bytes.push(0)).is_some()
        }
        Fault::NoTable => {
            let update = answer.whole.first_mut();
            update
                .map(|update| (update.blob, update.bytes) = (name(b"no table"), Some(b"no table".to_vec())))
                .is_some()
        }
        Fault::Digest => answer.bans.as_mut().map(|bans| bans.digest.count += 1).is_some(),
        Fault::Fold => {
            let fold = answer.bans.as_mut().and_then(|bans| bans.fold.as_mut());
            fold.map(|fold| {
                let prefix = "192.0.2.77".parse().expect("a prefix");
                fold.push(OverlayChange { prefix, state: EntryState::Present(None) });
            })
            .is_some()
        }
        Fault::Truncated | Fault::Page | Fault::Gone => false,
    }
}
