//! What the requests of a stage measured.
//!
//! Each request that counts is counted twice: in the slice of time in which its event arrived, and in the block of clients
//! that its client is in. Slices are for windows, curves, and to see what changes with time; blocks of clients are to
//! see how much two groups differ because other clients are in them.
//!
//! A slice is a time of arrival by the service's own clock that no one sets. What gateways say of the time decides nothing:
//! one whose clock is wrong would move its requests out of every window.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_policy::address::Prefix;
use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::flags::{Flag, FlagState, Flags, Mode};
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};
use tidegate_statistics::histogram::Histogram;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// So many slices before the present one are kept by themselves: more than a stage's timeout has, so than any window has.
/// Older ones are joined, and the oldest once more: a stage may wait for somebody for weeks.
const SINGLE_SLICES: u32 = 2_048;
/// How many older slices are joined into one, and after how many of these that again is.
const JOINED_SLICES: u32 = 64;
/// How many blocks of clients there are: a power of two.
pub const CLIENT_BLOCKS: u8 = 64;
/// Shares of flags are chosen by the same hash with the seeds 0 to 4.
const SEED: u64 = 64;

/// The two groups of requests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Those for which the stage's flags are not on.
    Control,
    /// Those for which they are.
    Treated,
}

impl Group {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Control, Self::Treated];

    /// The name in reports and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Treated => "treated",
        }
    }
}

/// One value per group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PerGroup<T> {
    /// Of the control group.
    pub control: T,
    /// Of the treated.
    pub treated: T,
}

impl<T> PerGroup<T> {
    /// What `make` makes for each.
    pub fn from_fn(mut make: impl FnMut(Group) -> T) -> Self {
        Self { control: make(Group::Control), treated: make(Group::Treated) }
    }

    /// The one of `group`.
    pub fn get(&self, group: Group) -> &T {
        match group {
            Group::Control => &self.control,
            Group::Treated => &self.treated,
        }
    }

    /// The one of `group`, to change.
    pub fn get_mut(&mut self, group: Group) -> &mut T {
        match group {
            Group::Control => &mut self.control,
            Group::Treated => &mut self.treated,
        }
    }
}

/// Which figures a request is counted in: one of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Block {
    /// A slice of time, from 0; of several that were joined the first.
    Slice(u32),
    /// A block of clients.
    Clients(ClientBlock),
    /// The same two by the groups of the next stage, whose flags are on for nobody of these: how the groups differ
    /// before.
    SliceAhead(u32),
    /// Of clients, under [`CLIENT_BLOCKS`].
    ClientsAhead(u8),
}

/// Figures by block.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct BlockFigures {
    /// By slice; those without requests are not in it.
    pub slices: BTreeMap<u32, PerGroup<GroupFigures>>,
    /// By block of clients.
    pub clients: BTreeMap<u8, PerGroup<GroupFigures>>,
}

/// A block of clients in a span of time: windows compare the clients of their own time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ClientBlock {
    /// [`Spans::of`]. 0: the whole stage, or of a stage with spans what is older than its windows.
    pub span: u32,
    /// Under [`CLIENT_BLOCKS`].
    pub clients: u8,
}

impl From<u8> for ClientBlock {
    fn from(clients: u8) -> Self {
        Self { span: 0, clients }
    }
}

/// The spans of time in which blocks of clients are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Spans {
    /// Slices of a span; 0: the whole stage is one.
    pub slices: u32,
    /// Slices of the longest window that compares clients: older spans are joined.
    pub kept_slices: u32,
}

impl Spans {
    /// The span that a slice is in.
    #[must_use]
    pub fn of(self, slice: u32) -> u32 {
        slice.checked_div(self.slices).map_or(0, |span| span.saturating_add(1))
    }
}

/// How checks were answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CheckFigures {
    /// From the cache.
    pub cached: u64,
    /// By the service.
    pub direct: u64,
    /// From the cache, because the service did not answer.
    pub fallback: u64,
    /// Not at all.
    pub unavailable: u64,
    /// In shadow: compared,
    pub compared: u64,
    /// and answered differently by a cache that was not only behind.
    pub mismatched: u64,
}

impl CheckFigures {
    /// Adds all that is in `other`.
    pub fn add(&mut self, other: &Self) {
        self.cached = self.cached.saturating_add(other.cached);
        self.direct = self.direct.saturating_add(other.direct);
        self.fallback = self.fallback.saturating_add(other.fallback);
        self.unavailable = self.unavailable.saturating_add(other.unavailable);
        self.compared = self.compared.saturating_add(other.compared);
        self.mismatched = self.mismatched.saturating_add(other.mismatched);
    }

    /// How many answers were needed.
    #[must_use]
    pub fn answers(&self) -> u64 {
        [self.cached, self.direct, self.fallback, self.unavailable].into_iter().fold(0, u64::saturating_add)
    }
}

/// What requests of one group measured in one block.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupFigures {
    /// Requests that have ended.
    pub requests: u64,
    /// Answered with a status under 500. A client that leaves before there is one was not served.
    pub succeeded: u64,
    /// Answered with 5xx, by whomever.
    pub server_errors: u64,
    /// Denied by the gate.
    pub denied: u64,
    /// What they waited for the gate, microseconds.
    pub gate: Histogram,
    /// From arrival to end but for tunnels, microseconds.
    pub total: Histogram,
    /// How their checks were answered.
    pub checks: PerCheck<CheckFigures>,
}

impl GroupFigures {
    /// Adds all that is in `other`.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.succeeded = self.succeeded.saturating_add(other.succeeded);
        self.server_errors = self.server_errors.saturating_add(other.server_errors);
        self.denied = self.denied.saturating_add(other.denied);
        self.gate.merge(&other.gate);
        self.total.merge(&other.total);
        for check in Check::ALL {
            self.checks.get_mut(check).add(other.checks.get(check));
        }
    }
}

/// What one stage has measured since it was entered or resumed.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StageFigures {
    /// How long a slice is, milliseconds.
    pub slice_ms: u64,
    /// The spans of time of `clients`.
    pub spans: Spans,
    /// The slice of this moment.
    pub present: u32,
    /// For how long this process has measured it, milliseconds by its monotonic clock.
    pub measured_ms: u64,
    /// By slice; those without requests are not in it.
    pub slices: BTreeMap<u32, PerGroup<GroupFigures>>,
    /// By block of clients.
    pub clients: BTreeMap<ClientBlock, PerGroup<GroupFigures>>,
    /// By the groups of the next stage.
    pub ahead: BlockFigures,
    /// What the groups of this stage measured in the one before it; `None`: that is not known.
    pub before: Option<Arc<BlockFigures>>,
    /// What the service sees at this moment.
    pub observed: Observed,
}

impl StageFigures {
    /// Adds figures of a block, as [`NewFigures`] gave them; the present slice is none before it.
    pub fn add(&mut self, block: Block, group: Group, figures: &GroupFigures) {
        let groups = match block {
            Block::Slice(slice) => {
                self.present = self.present.max(slice);
                self.slices.entry(slice).or_default()
            }
            Block::Clients(clients) => self.clients.entry(clients).or_default(),
            Block::SliceAhead(slice) => self.ahead.slices.entry(slice).or_default(),
            Block::ClientsAhead(clients) => self.ahead.clients.entry(clients).or_default(),
        };
        groups.get_mut(group).add(figures);
    }

    /// Requests of both groups.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let both =
            |groups: &PerGroup<GroupFigures>| groups.control.requests.saturating_add(groups.treated.requests);
        self.slices.values().map(both).fold(0, u64::saturating_add)
    }

    /// Both groups' figures of the whole stage.
    #[must_use]
    pub fn whole(&self) -> PerGroup<GroupFigures> {
        let mut whole = PerGroup::<GroupFigures>::default();
        for slice in self.slices.values() {
            for group in Group::ALL {
                whole.get_mut(group).add(slice.get(group));
            }
        }
        whole
    }
}

/// What the service sees at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Observed {
    /// `None`: nothing was numbered yet.
    pub completeness: Option<Completeness>,
    /// Events that are missing of all that were numbered, in this stage or before it: lost, or late.
    #[serde(default)]
    pub missing: u64,
    /// Events that wait in the gateways.
    pub queue_depth: u64,
    /// Events that were given up since the stage was entered.
    pub dropped: u64,
    /// Gateways that poll.
    pub gateways: u64,
    /// Gateways that polled and no longer do.
    pub lost: u64,
    /// Gateways that do not enforce the newest version yet, for longer than is normal.
    pub lagging: u64,
    /// A gateway is without a recorder.
    pub recorder_absent: bool,
    /// Age of the oldest tables that a gateway enforces, milliseconds; `None`: not known.
    pub oldest_tables_ms: Option<u64>,
}

/// The share of all numbered events that are stored.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Completeness {
    /// 0 to 1.
    pub ratio: f64,
    /// Whether it is exact; else it is an upper bound.
    pub exact: bool,
}

/// Which requests count in a stage, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Measurement {
    /// The run's number.
    pub run: u64,
    /// Which of the run's measurements it is: entering a stage and going on with it begin new ones, so figures are
    /// stored by run and measurement.
    pub number: u32,
    /// Requests that began with older tables do not count.
    pub from_seq: u64,
    /// How long a slice is, milliseconds.
    pub slice_ms: u64,
    /// The spans of time of blocks of clients.
    pub spans: Spans,
    /// Flags by which there are two groups; without any all are treated.
    pub shared_flags: Vec<Flag>,
    /// Flags that are limited to gateways, hostnames or routes: other requests do not count.
    pub scoped_flags: Vec<Flag>,
    /// The shares of the next stage, by which requests are counted ahead; none: they are not.
    pub next_shares: Vec<(Flag, u8)>,
}

impl Measurement {
    /// The group that an event's request is in; `None`: it does not count, because it began with older tables, Envoy
    /// refused it before the filter, a flag is limited to others, or some of the flags are on for its client and others
    /// are not. Requests outside of a scope are no control: other hosts, routes and gateways have other times and errors.
    #[must_use]
    pub fn group(&self, event: &TrafficEvent) -> Option<Group> {
        let modes = event.modes.filter(|_| event.tables_seq >= self.from_seq)?;
        if self.scoped_flags.iter().any(|flag| modes.outside.has(*flag)) {
            return None;
        }
        let on = self.shared_flags.iter().filter(|flag| modes.is_on(**flag)).count();
        match on {
            on if on == self.shared_flags.len() => Some(Group::Treated),
            0 => Some(Group::Control),
            _ => None,
        }
    }

    /// The group that an event's request would be in by the shares of the next stage; `None`: it does not count now, or
    /// one of these flags is on for it already.
    fn group_ahead(&self, event: &TrafficEvent) -> Option<Group> {
        self.group(event)?;
        let modes = event.modes.filter(|_| !self.next_shares.is_empty())?;
        if self.next_shares.iter().any(|(flag, _)| modes.is_on(*flag)) {
            return None;
        }
        let next = |flags: Flags, (flag, percent): &(Flag, u8)| flags.with(*flag, FlagState::Share(*percent));
        let next = self.next_shares.iter().fold(Flags::default(), next).modes(event.client);
        let on = self.next_shares.iter().filter(|(flag, _)| next.is_on(*flag)).count();
        match on {
            on if on == self.next_shares.len() => Some(Group::Treated),
            0 => Some(Group::Control),
            _ => None,
        }
    }

    /// The block in which figures of `block` are kept when the slice `present` has begun.
    #[must_use]
    pub fn kept_in(&self, block: Block, present: u32) -> Block {
        let joined = |slice: u32| match present.saturating_sub(slice) / SINGLE_SLICES {
            0 => slice,
            1..JOINED_SLICES => slice - slice % JOINED_SLICES,
            _ => slice - slice % (JOINED_SLICES * JOINED_SLICES),
        };
        match block {
            Block::Slice(slice) => Block::Slice(joined(slice)),
            Block::SliceAhead(slice) => Block::SliceAhead(joined(slice)),
            Block::ClientsAhead(clients) => Block::ClientsAhead(clients),
            Block::Clients(block) => {
                let oldest = self.spans.of(present.saturating_sub(self.spans.kept_slices));
                Block::Clients(if block.span < oldest { block.clients.into() } else { block })
            }
        }
    }

    /// Whether blocks are to be joined when the slice `present` has begun, if they last were at the beginning of `before`.
    #[must_use]
    pub fn is_to_join(&self, before: u32, present: u32) -> bool {
        before / JOINED_SLICES != present / JOINED_SLICES || self.spans.of(before) != self.spans.of(present)
    }
}

/// The block of clients that a client is in: always the same, and independent of the shares of flags. All clients
/// without an address count as one.
#[must_use]
pub fn client_block(client: Option<IpAddr>) -> u8 {
    let bytes = client.map(|client| Prefix::host(client).to_bytes());
    let hash = xxh3_64_with_seed(bytes.as_ref().map_or(&[], |bytes| bytes.as_slice()), SEED);
    // The highest six bits: under 64.
    (hash >> (u64::BITS - CLIENT_BLOCKS.ilog2())) as u8
}

/// Figures of a few events, not yet stored.
#[derive(Debug, Default)]
pub struct NewFigures {
    by_block: BTreeMap<(Block, Group), NewGroupFigures>,
}

#[derive(Debug, Default)]
struct NewGroupFigures {
    counted: GroupFigures,
    gate_us: Vec<u64>,
    total_us: Vec<u64>,
}

impl NewFigures {
    /// Counts the event of a request that has ended, if it counts in `measurement`; `slice`: the one that it came in.
    pub fn add(&mut self, measurement: &Measurement, slice: u32, event: &TrafficEvent) {
        let clients = client_block(event.client);
        let block = ClientBlock { span: measurement.spans.of(slice), clients };
        let now = [Block::Slice(slice), Block::Clients(block)];
        let ahead = [Block::SliceAhead(slice), Block::ClientsAhead(clients)];
        for (group, blocks) in [(measurement.group(event), now), (measurement.group_ahead(event), ahead)] {
            let Some(group) = group else { continue };
            for block in blocks {
                self.by_block.entry((block, group)).or_default().add(event);
            }
        }
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_block.is_empty()
    }

    /// What is to be added to the stored figures, by block and group.
    pub fn into_figures(self) -> impl Iterator<Item = ((Block, Group), GroupFigures)> {
        let figures = |new: NewGroupFigures| GroupFigures {
            gate: Histogram::of(new.gate_us),
            total: Histogram::of(new.total_us),
            ..new.counted
        };
        self.by_block.into_iter().map(move |(key, new)| (key, figures(new)))
    }
}

impl NewGroupFigures {
    fn add(&mut self, event: &TrafficEvent) {
        let counted = &mut self.counted;
        counted.requests += 1;
        counted.succeeded += u64::from(event.status.is_some_and(|status| status < 500));
        counted.server_errors += u64::from(event.status.is_some_and(|status| status >= 500));
        counted.denied += u64::from(event.verdict == VerdictCode::Deny);
        for check in Check::ALL {
            add_check(counted.checks.get_mut(check), check, event);
        }
        self.gate_us.extend(event.gate_us);
        // A tunnel's duration is no measure of latency.
        self.total_us.extend(event.duration_us.filter(|_| !event.tunnel));
    }
}

fn add_check(figures: &mut CheckFigures, check: Check, event: &TrafficEvent) {
    let mode = event.modes.map(|modes| match check {
        Check::Ip => modes.ip,
        Check::Geo => modes.geo,
        Check::Route => modes.route,
    });
    match event.answered.get(check) {
        Answered::Unneeded => {}
        Answered::Cache => figures.cached += 1,
        Answered::Direct => {
            figures.direct += 1;
            figures.compared += u64::from(mode == Some(Mode::Shadow));
        }
        Answered::Fallback => figures.fallback += 1,
        Answered::Nobody => figures.unavailable += 1,
    }
    let differs = event.mismatches.iter().any(|mismatch| mismatch.check == check && !mismatch.is_lagging());
    figures.mismatched += u64::from(differs);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tidegate_policy::flags::{FlagSet, Modes};
    use tidegate_policy::wire::event::Mismatch;

    use super::*;

    fn client(bits: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from_bits(bits.wrapping_mul(2_654_435_761)).into())
    }

    fn event(modes: Modes) -> TrafficEvent {
        TrafficEvent {
            time_ms: 1_000,
            client: client(1),
            status: Some(200),
            verdict: VerdictCode::Allow,
            gate_us: Some(300),
            duration_us: Some(20_000),
            tables_seq: 5,
            modes: Some(modes),
            ..TrafficEvent::default()
        }
    }

    fn measurement(shared_flags: &[Flag]) -> Measurement {
        let shared_flags = shared_flags.to_vec();
        let scoped_flags = vec![Flag::AsyncRecording];
        let spans = Spans { slices: 10, kept_slices: 40 };
        Measurement {
            run: 1,
            number: 1,
            from_seq: 5,
            slice_ms: 200,
            spans,
            shared_flags,
            scoped_flags,
            next_shares: Vec::new(),
        }
    }

    #[test]
    fn a_request_is_in_a_group_by_the_flags_that_have_a_share() {
        let both = measurement(&[Flag::GeoRulesCache, Flag::ParallelExecution]);
        let modes = |geo, parallel| Modes { geo, parallel, route: Mode::Cached, ..Modes::default() };
        for (modes, group) in [
            (modes(Mode::Cached, true), Some(Group::Treated)),
            (modes(Mode::Direct, false), Some(Group::Control)),
            (modes(Mode::Shadow, false), Some(Group::Control)),
            (modes(Mode::Cached, false), None),
            (modes(Mode::Direct, true), None),
        ] {
            assert_eq!(both.group(&event(modes)), group, "{modes:?}");
            assert_eq!(measurement(&[]).group(&event(modes)), Some(Group::Treated));
        }
        // Others are outside of what a flag is limited to: of one of the measurement, they are in no group.
        let outside = |flag| Modes { outside: FlagSet::default().with(flag), ..modes(Mode::Direct, false) };
        assert_eq!(both.group(&event(outside(Flag::AsyncRecording))), None);
        assert_eq!(both.group(&event(outside(Flag::RouteCache))), Some(Group::Control));
        let older = TrafficEvent { tables_seq: 4, ..event(Modes::default()) };
        let refused = TrafficEvent { modes: None, ..event(Modes::default()) };
        assert_eq!([both.group(&older), both.group(&refused)], [None, None]);
    }

    #[test]
    fn events_are_counted_once_by_time_and_once_by_client() {
        let measurement = measurement(&[Flag::RouteCache]);
        let mut new = NewFigures::default();
        let shadow = Modes { ip: Mode::Shadow, ..Modes::default() };
        let mismatch = |cached_seq| Mismatch {
            check: Check::Ip,
            direct: "ban".into(),
            cached: "none".into(),
            direct_seq: 9,
            cached_seq,
        };
        let mut compared = event(shadow);
        compared.answered.ip = Answered::Direct;
        let differs = TrafficEvent { mismatches: vec![mismatch(9)], ..compared.clone() };
        let lags = TrafficEvent { mismatches: vec![mismatch(8)], ..compared.clone() };
        let left = TrafficEvent { status: None, tunnel: true, ..event(shadow) };
        let late = TrafficEvent { status: Some(503), time_ms: u64::MAX, ..event(shadow) };
        let early =
            TrafficEvent { verdict: VerdictCode::Deny, time_ms: 0, status: Some(403), ..event(shadow) };
        for (slice, event) in
            [(0, &compared), (2, &differs), (2, &lags), (3, &left), (19, &late), (20, &early)]
        {
            new.add(&measurement, slice, event);
        }
        assert!(!new.is_empty());
        let mut figures = StageFigures::default();
        for ((block, group), new) in new.into_figures() {
            assert_eq!(group, Group::Control);
            figures.add(block, group, &new);
        }
        // Whatever the gateways' clocks say.
        assert_eq!(figures.slices.keys().collect::<Vec<_>>(), [&0, &2, &3, &19, &20]);
        let spans: Vec<_> =
            figures.clients.iter().map(|(block, groups)| (block.span, groups.control.requests)).collect();
        assert_eq!((spans, figures.present), (vec![(1, 4), (2, 1), (3, 1)], 20));
        let whole = figures.whole().control;
        assert_eq!((whole.requests, whole.succeeded, whole.server_errors, whole.denied), (6, 4, 1, 1));
        assert_eq!((whole.gate.count(), whole.total.count()), (6, 5), "a tunnel has no latency");
        let ip = CheckFigures { direct: 3, compared: 3, mismatched: 1, ..CheckFigures::default() };
        assert_eq!((whole.checks.ip, ip.answers(), figures.requests()), (ip, 3, 6));
    }

    /// Who will be treated is known before, and is counted so while nothing is on.
    #[test]
    fn requests_are_counted_by_the_groups_of_the_next_stage_ahead_of_it() {
        let next = Flags::default().with(Flag::RouteCache, FlagState::Share(50));
        let measurement = Measurement { next_shares: vec![(Flag::RouteCache, 50)], ..measurement(&[]) };
        let mut new = NewFigures::default();
        let mut wanted = [0, 0];
        for bits in 0..400 {
            // For a few the flag is on already.
            let route = if bits % 8 == 0 { Mode::Cached } else { Mode::Shadow };
            let event = TrafficEvent { client: client(bits), ..event(Modes { route, ..Modes::default() }) };
            new.add(&measurement, 0, &event);
            if bits % 8 > 0 {
                wanted[usize::from(next.modes(client(bits)).is_on(Flag::RouteCache))] += 1;
            }
        }
        let mut figures = StageFigures::default();
        new.into_figures().for_each(|((block, group), new)| figures.add(block, group, &new));
        let sum = |of: &mut dyn Iterator<Item = &PerGroup<GroupFigures>>| {
            of.fold([0, 0], |[control, treated], groups| {
                [control + groups.control.requests, treated + groups.treated.requests]
            })
        };
        assert_eq!(sum(&mut figures.ahead.slices.values()), wanted);
        assert_eq!(sum(&mut figures.ahead.clients.values()), wanted);
        assert_eq!(sum(&mut figures.slices.values()), [0, 400], "and by those of this one");
    }

    #[test]
    fn what_is_old_is_joined_and_what_windows_look_at_is_not() {
        let measurement = measurement(&[]);
        let slice = |slice, present| measurement.kept_in(Block::Slice(slice), present);
        for (of, present, kept) in [
            (0, 0, 0),
            (77, 2_000, 77),
            (77, 2_124, 77),
            (77, 2_125, 64),
            (64, 3_000, 64),
            (4_170, 131_072 + 4_169, 4_160),
            (4_170, 131_072 + 4_170, 4_096),
            (u32::MAX, 5, u32::MAX),
        ] {
            assert_eq!(slice(of, present), Block::Slice(kept), "{of} at {present}");
        }
        // A year of the shortest slices, all with requests.
        let present = 157_680_000;
        let kept: std::collections::BTreeSet<_> =
            (0..present).step_by(64).chain(present - 2_048..present).map(|of| slice(of, present)).collect();
        assert!(kept.iter().len() < 45_000, "{}", kept.len());
        let clients =
            |span, present| measurement.kept_in(Block::Clients(ClientBlock { span, clients: 7 }), present);
        let at = |span| Block::Clients(ClientBlock { span, clients: 7 });
        assert_eq!([clients(1, 49), clients(1, 50), clients(0, 50)], [at(1), at(0), at(0)]);
        let whole = Measurement { spans: Spans::default(), ..measurement.clone() };
        assert_eq!((whole.spans.of(999), whole.kept_in(at(0), 9_999)), (0, at(0)));
        assert!(whole.is_to_join(63, 64) && !whole.is_to_join(64, 127));
        assert!(measurement.is_to_join(9, 10) && !measurement.is_to_join(10, 19));
    }

    #[test]
    fn blocks_of_clients_are_alike_and_have_nothing_to_do_with_shares() {
        let flags = Flags::default().with(Flag::RouteCache, FlagState::Share(50));
        let (mut all, mut treated) = ([0u32; 64], [0u32; 64]);
        for bits in 0..64_000 {
            let block = usize::from(client_block(client(bits)));
            all[block] += 1;
            treated[block] += u32::from(flags.modes(client(bits)).route == Mode::Cached);
        }
        // 1,000 and 500 in each, and six standard deviations around it.
        assert!(all.iter().all(|count| (810..=1_190).contains(count)), "{all:?}");
        assert!(treated.iter().all(|count| (366..=634).contains(count)), "{treated:?}");
        let mapped = client(1).map(|client| match client {
            IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
            address => address,
        });
        assert_eq!(client_block(mapped), client_block(client(1)));
        assert!(client_block(None) < CLIENT_BLOCKS);
    }
}
