//! An emulation of the admin service: real formats, tables in memory, and faults on
//! demand.

mod checks;
mod record;
mod serve;
mod sync;
mod tables;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tidegate_author as author;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::check::PerCheck;
use tidegate_policy::decide::Tables;
use tidegate_policy::flags::Flags;
use tidegate_policy::table::{AddressTable, Entry, EntryState};
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tidegate_policy::wire::event::{EventPost, OpenEvent, TrafficEvent, VmId};
use tidegate_policy::wire::sync::Ack;

use crate::world::CallId;

/// What goes wrong with the next answer of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The answer's bytes are cut off.
    Truncated,
    /// A whole table's bytes do not have their hash.
    WholeTable,
    /// A whole table's bytes have their hash and do not decode.
    NoTable,
    /// The bans' digest is of another set.
    Digest,
    /// A page of a base has wrong bytes.
    Page,
    /// The base was replaced: 410.
    Gone,
    /// The answer's fold does not give the base that it names.
    Fold,
}

/// What is wrong with every answer of one kind, for as long as it is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastingFault {
    /// 200, and bytes that do not decode.
    Garbage,
    /// 200, and no bytes.
    Empty,
    /// The right bytes, and a few more.
    Trailing,
    /// The right bytes, and more than any answer may have.
    Long,
    /// The right bytes in an unknown version of the format.
    Version,
    /// The right bytes under this status.
    Status(u16),
    /// An answer of this status that Envoy, or something in between, gives in the service's place.
    InPlace(u16),
    /// The right answer to another question of the same check.
    OtherQuestion,
    /// An answer with the question's id, of another check.
    OtherCheck,
    /// The right answer, so much later.
    Slow(Duration),
    /// No answer: the call times out.
    Never,
    /// The connection breaks.
    Reset,
}

/// In which order callouts that wait at the same time are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// As they were made.
    Asked,
    /// The last first.
    Reversed,
    /// Random, from this seed, which changes with each choice.
    Random(u64),
}

/// How a callout is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reply {
    /// The service's.
    Answer(u16, Vec<u8>),
    /// Envoy's, or of something in between.
    InPlace(u16),
    Reset,
}

/// The admin service.
pub struct Feed {
    epoch: u64,
    seq: u64,
    refresh: u64,
    bans: BTreeMap<Prefix, Option<UnixSeconds>>,
    base: Vec<u8>,
    base_entries: AddressTable,
    /// The sequence number at which the base was made.
    cut: u64,
    log: Vec<(u64, Prefix)>,
    whole: BTreeMap<Table, Vec<u8>>,
    /// Faults to come, each once.
    pub faults: VecDeque<Fault>,
    /// Whether answers ask for an ack.
    pub ack_wanted: bool,
    /// Acks that came by POST.
    pub acks: Vec<Ack>,
    /// Acks that came with polls.
    pub polled_acks: Vec<Ack>,
    /// Events, each once, in the order in which they were stored.
    pub events: Vec<(VmId, TrafficEvent)>,
    /// Events that came again.
    pub duplicates: u64,
    stored: BTreeSet<(VmId, u64)>,
    /// Posts of events, as they came.
    pub posts: Vec<EventPost>,
    /// Whether it answers at all.
    pub up: bool,
    /// Whether it stores events.
    pub takes_events: bool,
    /// By how much its clock is ahead of true time, milliseconds.
    pub clock_ahead_ms: i64,
    /// Requests by what they were for.
    pub served: BTreeMap<&'static str, u64>,
    /// Whether polls stay unanswered, so that gateways keep the tables that they have.
    pub frozen: bool,
    /// What is wrong with answers to questions.
    pub check_faults: PerCheck<Option<LastingFault>>,
    /// What is wrong with answers to open events.
    pub open_fault: Option<LastingFault>,
    /// In which order questions are answered.
    pub order: Order,
    /// Callouts that it never answers.
    pub deaf_to: BTreeSet<CallId>,
    /// Questions that came, each once.
    pub asked: PerCheck<u64>,
    /// Open events, as they came, each once.
    pub opened: Vec<OpenEvent>,
    /// The open events that have not been completed.
    pub open: BTreeMap<(VmId, u64), TrafficEvent>,
    /// When slow answers are due, monotonic nanoseconds.
    later: BTreeMap<CallId, u64>,
    seen: BTreeSet<CallId>,
    /// The tables of a version.
    compiled: Option<(Version, Tables)>,
}

impl Feed {
    /// A service that has just started, without a ban, with one route of every
    /// path to the backend `demo`, and with all flags on.
    ///
    /// # Panics
    /// Never: what it compiles is constant.
    #[must_use]
    pub fn new() -> Self {
        let document = serde_json::json!({
            "metadata": {"name": "all"},
            "spec": {"rules": [{"backendRefs": [{"name": "demo", "port": 80}]}]},
        });
        let empty = AddressTable::empty();
        let mut feed = Self {
            epoch: 0xe1,
            seq: 1,
            refresh: 0,
            bans: BTreeMap::new(),
            base: empty.as_bytes().to_vec(),
            base_entries: empty.clone(),
            cut: 1,
            log: Vec::new(),
            whole: Table::whole().map(|table| (table, table.empty_bytes().expect("a table"))).collect(),
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
            frozen: false,
            check_faults: PerCheck::default(),
            open_fault: None,
            order: Order::Asked,
            deaf_to: BTreeSet::new(),
            asked: PerCheck::default(),
            opened: Vec::new(),
            open: BTreeMap::new(),
            later: BTreeMap::new(),
            seen: BTreeSet::new(),
            compiled: None,
        };
        feed.set_flags(Flags::all_on());
        feed.set_routes(&[document]);
        feed.seq = 1;
        feed
    }

    /// The current version.
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

    /// Bans a prefix until a time of this service's clock, in seconds.
    ///
    /// # Panics
    /// When the text is no prefix.
    pub fn ban_until(&mut self, prefix: &str, expires: Option<UnixSeconds>) {
        let prefix = prefix.parse().expect("a prefix");
        self.bans.insert(prefix, expires);
        self.changed(prefix);
    }

    /// Removes a ban.
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

    /// Makes a new base of the current bans.
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
    pub fn set_whole(&mut self, table: Table, bytes: Vec<u8>) {
        self.whole.insert(table, bytes);
        self.seq += 1;
    }

    /// Orders a refresh: all gateways load all tables anew.
    pub fn order_refresh(&mut self) {
        self.refresh += 1;
    }

    /// Restarts the service: another epoch, and an empty change log.
    pub fn restart(&mut self) {
        self.epoch += 0x100;
        self.seq = 1;
        self.refresh = 0;
        self.log.clear();
        self.cut_base();
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
    author::compile(&[], &author::Backends::new(), &author::Listeners::new()).expect("no routes compile")
}
