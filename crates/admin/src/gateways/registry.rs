//! Registry of connected gateways: last ack, last seen, lost after 3 s.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tidegate_policy::digest::BlobHash;
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::Formats;
use tidegate_policy::wire::sync::{Ack, Gateway, Poller};
use tokio::time::Instant;

use super::enforced::VersionTimes;
use super::live_acks::LiveAcks;
use super::poller::PollerRecord;
use super::{FORGOTTEN_AFTER, GatewayStatus, Goal, LOST_AFTER};

/// A process without an open poll for longer than this, whose node has a newer process, has been
/// replaced. Between two polls of a live process much less time passes.
const REPLACED_AFTER: Duration = Duration::from_millis(500);
/// Resolution of the timers.
const TICK: Duration = Duration::from_millis(1);
/// Gateways in the registry, at most; far more than one service feeds. If it is full, lost ones
/// are removed first, so that made-up process ids cannot fill the memory.
const MAX_GATEWAYS: usize = 50_000;

#[derive(Default)]
pub(super) struct Registry {
    /// The epoch that acks count in; 0: none yet.
    pub(super) epoch: u64,
    /// When the versions of the epoch were created.
    versions: VersionTimes,
    /// By node; of each in the order in which the processes appeared.
    nodes: HashMap<String, Vec<Process>>,
    /// Processes in `nodes`.
    count: usize,
    /// How long messages of gateways wait until this service reads them.
    delay: Duration,
}

struct Process {
    id: u64,
    address: Option<IpAddr>,
    ack: Option<Ack>,
    polls: u32,
    known_since: Instant,
    /// When it last opened or closed a poll, or acked.
    last_poll: Instant,
    /// When it last posted events or asked for a page of a table.
    last_other: Instant,
    /// The goal that it was last asked to ack.
    asked: Goal,
    /// The newest version of the epoch that all its VMs enforce, or that existed before it was
    /// known.
    enforced: u64,
    /// Table formats that it does not read.
    unread: Vec<&'static str>,
    poller: Option<PollerRecord>,
}

impl Process {
    fn new(id: u64, enforced: u64, now: Instant) -> Self {
        Self {
            id,
            address: None,
            ack: None,
            polls: 0,
            known_since: now,
            last_poll: now,
            last_other: now,
            asked: Goal::default(),
            enforced,
            unread: Vec::new(),
            poller: None,
        }
    }

    /// Time without an open poll.
    fn closed_for(&self, now: Instant) -> Duration {
        if self.polls > 0 { Duration::ZERO } else { now.saturating_duration_since(self.last_poll) }
    }

    /// When it was last heard of, if no poll is open.
    fn last_heard(&self) -> Instant {
        self.last_poll.max(self.last_other)
    }

    /// Time since it was last heard of; zero while a poll is open.
    fn silent_for(&self, now: Instant) -> Duration {
        if self.polls > 0 { Duration::ZERO } else { now.saturating_duration_since(self.last_heard()) }
    }

    fn is_lost(&self, now: Instant, lost_after: Duration) -> bool {
        self.silent_for(now) > lost_after
    }
}

/// What an ack changed.
#[derive(Default)]
pub(super) struct AckOutcome {
    /// Whether the ack was newer than the last one.
    pub(super) changed: bool,
    /// For each version that the gateway now enforces for the first time: time since its
    /// creation.
    pub(super) enforced: Vec<Duration>,
}

impl Registry {
    /// Notes an opened poll. Returns whether the set of gateways changed.
    pub(super) fn poll_opened(&mut self, gateway: &Gateway) -> bool {
        let now = Instant::now();
        let new = self.find(gateway).is_none();
        if new {
            self.add(gateway, now);
        }
        if let Some(process) = self.find(gateway) {
            process.polls = process.polls.saturating_add(1);
            process.last_poll = now;
        }
        new
    }

    fn add(&mut self, gateway: &Gateway, now: Instant) {
        if self.count >= MAX_GATEWAYS {
            let after = self.lost_after();
            self.nodes.values_mut().for_each(|all| all.retain(|process| !process.is_lost(now, after)));
            self.tidy();
        }
        if self.count >= MAX_GATEWAYS {
            return;
        }
        let processes = self.nodes.entry(gateway.node.clone()).or_default();
        // A process with an open poll is live, whatever its node is called: two gateways with one
        // name both count, and so does an Envoy that drains while its successor starts.
        processes.retain(|process| process.polls > 0);
        processes.push(Process::new(gateway.process, self.versions.newest(), now));
        self.count = self.nodes.values().map(Vec::len).sum();
    }

    pub(super) fn poll_closed(&mut self, gateway: &Gateway) {
        if let Some(process) = self.find(gateway) {
            process.polls = process.polls.saturating_sub(1);
            process.last_poll = Instant::now();
        }
    }

    /// Notes the formats that a gateway reads. Returns whether they changed.
    pub(super) fn note_formats(&mut self, gateway: &Gateway, formats: &Formats) -> bool {
        let now = Instant::now();
        if self.find(gateway).is_none() {
            // Added as if its poll had opened: the poll may be refused.
            self.add(gateway, now);
        }
        let Some(process) = self.find(gateway) else { return false };
        process.last_poll = now;
        let changed = process.unread != formats.unread();
        if changed {
            process.unread = formats.unread().to_vec();
        }
        changed
    }

    /// Notes the address that a known gateway polls from.
    pub(super) fn note_address(&mut self, gateway: &Gateway, address: IpAddr) {
        if let Some(process) = self.find(gateway) {
            process.address = Some(address);
        }
    }

    /// Notes what a poll of a known gateway says of the VM that polls.
    pub(super) fn note_poller(
        &mut self,
        gateway: &Gateway,
        poller: Poller,
        flags: Option<BlobHash>,
        now_ms: i64,
    ) {
        let Some(process) = self.find(gateway) else { return };
        match &mut process.poller {
            Some(record) => record.note(poller, flags, now_ms),
            None => process.poller = Some(PollerRecord::new(poller, flags, now_ms)),
        }
    }

    /// The addresses of the gateways that are not lost, with their nodes.
    pub(super) fn addresses(&self) -> Vec<(IpAddr, String)> {
        let now = Instant::now();
        let all = self.nodes.iter().flat_map(|(node, all)| all.iter().map(move |process| (node, process)));
        let after = self.lost_after();
        let live = all.filter(|(_, process)| !process.is_lost(now, after));
        let mut addresses: Vec<_> =
            live.filter_map(|(node, process)| Some((process.address?, node.clone()))).collect();
        addresses.sort_unstable_by(|(_, one), (_, other)| one.cmp(other));
        addresses
    }

    /// Adds a gateway that posts or acks before its first poll here, if no process of its node is
    /// known: a late message of a replaced process does not add it again. Returns whether the
    /// node is new.
    fn add_if_missing(&mut self, gateway: &Gateway) -> bool {
        let new = !self.nodes.contains_key(&gateway.node);
        if new {
            self.add(gateway, Instant::now());
        }
        new
    }

    /// Notes a post of events or a download. Returns whether the set of live gateways changed.
    pub(super) fn note_heard(&mut self, gateway: &Gateway) -> bool {
        let now = Instant::now();
        let (new, after) = (self.add_if_missing(gateway), self.lost_after());
        let Some(process) = self.find(gateway) else { return new };
        let returned = process.is_lost(now, after);
        process.last_other = now;
        new || returned
    }

    pub(super) fn ack(&mut self, gateway: &Gateway, ack: Ack) -> AckOutcome {
        let (epoch, now) = (self.epoch, Instant::now());
        self.add_if_missing(gateway);
        let Some(process) = find(&mut self.nodes, gateway) else { return AckOutcome::default() };
        if process.polls == 0 {
            process.last_poll = now;
        }
        let newer = process.ack.is_none_or(|held| {
            if held.version.epoch == ack.version.epoch {
                ack.version.seq >= held.version.seq && ack.refresh >= held.refresh
            } else {
                held.version.epoch != epoch
            }
        });
        if !newer || process.ack == Some(ack) {
            return AckOutcome::default();
        }
        process.ack = Some(ack);
        let mut enforced = Vec::new();
        // Stale VMs have not acked it, and a table that cannot be read is not enforced, whatever
        // its version.
        let all = ack.stale == 0 && process.unread.is_empty();
        if all && ack.version.epoch == epoch && ack.version.seq > process.enforced {
            let made = self.versions.within(process.enforced, ack.version.seq);
            enforced.extend(made.map(|made| now.saturating_duration_since(made)));
            process.enforced = ack.version.seq;
        }
        AckOutcome { changed: true, enforced }
    }

    /// Begins a new epoch: versions of earlier ones no longer count.
    pub(super) fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.versions = VersionTimes::default();
        self.nodes.values_mut().flatten().for_each(|process| process.enforced = 0);
    }

    pub(super) fn note_version(&mut self, version: Version) {
        if version.epoch == self.epoch {
            self.versions.note(version.seq, Instant::now());
        }
    }

    /// Age of the oldest version that some live gateway does not enforce.
    pub(super) fn unenforced(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.prune_replaced(now);
        let after = self.lost_after();
        let live = self.nodes.values().flatten().filter(|process| !process.is_lost(now, after));
        let oldest = live.filter_map(|process| self.versions.first_after(process.enforced)).min()?;
        Some(now.saturating_duration_since(oldest))
    }

    /// Notes how long a message waits at this moment. What was noted before is forgotten little by little.
    pub(super) fn note_delay(&mut self, delay: Duration) {
        self.delay = delay.max(self.delay / 32 * 31);
    }

    /// A gateway without an open poll that was not heard of for longer than this is lost: what it has sent meanwhile
    /// may wait for as long as this service is late.
    fn lost_after(&self) -> Duration {
        LOST_AFTER.saturating_add(self.delay)
    }

    pub(super) fn forget(&mut self, gateway: &Gateway) -> bool {
        let known = self.find(gateway).is_some();
        if let Some(processes) = self.nodes.get_mut(&gateway.node) {
            processes.retain(|process| process.id != gateway.process);
        }
        self.tidy();
        known
    }

    pub(super) fn misses_ack(&mut self, gateway: &Gateway, goal: &Goal) -> bool {
        self.find(gateway).is_some_and(|process| {
            !process.ack.is_some_and(|ack| goal.is_known(&ack)) && process.asked != *goal
        })
    }

    pub(super) fn note_asked(&mut self, gateway: &Gateway, goal: Goal) {
        if let Some(process) = self.find(gateway) {
            process.asked = goal;
        }
    }

    /// What all live gateways have acked, after so many moves.
    pub(super) fn live_acks(&mut self, moves: u64) -> LiveAcks {
        let now = Instant::now();
        self.prune_replaced(now);
        let lost_after = self.lost_after();
        let mut live = LiveAcks::new(now, moves, self.epoch);
        for processes in self.nodes.values() {
            let newest = processes.last().map(|process| process.id);
            for process in processes {
                if process.is_lost(now, lost_after) {
                    live.lost += 1;
                    continue;
                }
                live.of += 1;
                live.acks.extend(process.ack.filter(|ack| ack.stale == 0 && process.unread.is_empty()));
                if process.polls == 0 {
                    // One tick later: at the limit itself it is not yet over.
                    let is_newest = newest == Some(process.id);
                    let replaced = (!is_newest).then(|| process.last_poll + REPLACED_AFTER + TICK);
                    let lost = process.last_heard() + lost_after + TICK;
                    let next = replaced.into_iter().chain([lost]).filter(|limit| *limit > now);
                    live.next_loss = live.next_loss.into_iter().chain(next).min();
                }
            }
        }
        live
    }

    pub(super) fn list(&mut self) -> Vec<GatewayStatus> {
        let now = Instant::now();
        self.prune_replaced(now);
        let after = self.lost_after();
        let status = |node: &String, process: &Process| GatewayStatus {
            gateway: Gateway { node: node.clone(), process: process.id },
            address: process.address,
            ack: process.ack,
            lost: process.is_lost(now, after),
            known_for: now.saturating_duration_since(process.known_since),
            silent_for: process.closed_for(now),
            unread: process.unread.clone(),
            poller: process.poller.as_ref().map(|record| record.status(now)),
        };
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_unstable_by_key(|(node, _)| *node);
        nodes.into_iter().flat_map(|(node, all)| all.iter().map(move |p| status(node, p))).collect()
    }

    /// Removes processes that a newer one of their node has replaced, and those that have been
    /// lost for too long.
    fn prune_replaced(&mut self, now: Instant) {
        let mut is_tidy = true;
        for processes in self.nodes.values_mut() {
            let Some(newest) = processes.last().map(|process| process.id) else { continue };
            processes.retain(|process| {
                let closed = process.closed_for(now);
                let replaced = process.id != newest && closed > REPLACED_AFTER;
                let stays = !replaced && process.silent_for(now) <= FORGOTTEN_AFTER;
                is_tidy &= stays;
                stays
            });
        }
        if !is_tidy {
            self.tidy();
        }
    }

    fn tidy(&mut self) {
        self.nodes.retain(|_, processes| !processes.is_empty());
        self.count = self.nodes.values().map(Vec::len).sum();
    }

    fn find(&mut self, gateway: &Gateway) -> Option<&mut Process> {
        find(&mut self.nodes, gateway)
    }
}

fn find<'n>(nodes: &'n mut HashMap<String, Vec<Process>>, gateway: &Gateway) -> Option<&'n mut Process> {
    nodes.get_mut(&gateway.node)?.iter_mut().find(|process| process.id == gateway.process)
}
