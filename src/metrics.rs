//! What Envoy's statistics say of the gate. The names are an interface:
//! `docs/METRICS.md` lists them, and a test keeps the two alike.
//!
//! Counts of requests and events are added up in the VM and handed to Envoy at
//! the next flush (50 ms at most): a host call per count would be the dearest
//! part of counting.

use std::cell::Cell;

use tidegate_policy::decide::Reason;
use tidegate_policy::wire::event::DropReason;

use crate::host::{Host, MetricId, MetricKind};

/// Figures that only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Count {
    /// Requests that the gate let pass.
    Allowed,
    /// Requests denied: the client's address is banned.
    DeniedIpBanned,
    /// Requests denied: no route matches.
    DeniedNoRoute,
    /// Requests denied: the route's rule has no backend.
    DeniedNoBackend,
    /// Requests denied: no tables yet.
    DeniedNotReady,
    /// Requests that Envoy refused before the gate saw them.
    Unseen,
    /// Requests without a client address: no ban can cover them.
    NoClientAddress,
    /// Requests whose last `X-Forwarded-For` entry is no bare address, so that
    /// Envoy took the peer's address instead.
    UnreadableForwardedFor,
    /// Events numbered.
    EventsNumbered,
    /// Events handed to the queue.
    EventsEnqueued,
    /// Events given up: the worker's buffer was full.
    DroppedBufferFull,
    /// Events given up by the recorder.
    DroppedRecorderFull,
    /// Events given up: not writable into their format, or refused as malformed.
    DroppedUnencodable,
    /// Events given up: not taken for 24 hours.
    DroppedExpired,
    /// Posts of events that the admin service took.
    Posts,
    /// Posts of events that failed and were repeated.
    PostRetries,
    /// Messages in the events queue that are no batch.
    BatchesUnreadable,
    /// Tables and answers of the admin service that did not decode or whose
    /// digest was wrong.
    DecodeFailures,
    /// Polls of the admin service.
    Polls,
    /// Polls, pages and acks that failed.
    PollFailures,
    /// Polls for everything, because what is held is unknown or wrong.
    FullLoads,
    /// Folds that did not give the base that the admin service named.
    Misfolds,
    /// Versions published to the VMs of the process.
    Publishes,
    /// Sets of tables that a VM swapped in.
    Loads,
    /// Leases taken.
    Leases,
    /// Leases given up because another VM had taken over.
    Outranked,
    /// Slots lost to another VM: this one was not heard of for 10 s.
    SlotsLost,
    /// Host calls that failed where none should.
    HostErrors,
}

/// Figures that go up and down. Set by whichever VM of the process knows last,
/// unless stated otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Gauge {
    /// Bytes that the recorder holds until they are acknowledged.
    RecorderBytes,
    /// Sequence number of the tables that are enforced.
    TablesSeq,
    /// Seconds since the admin service last confirmed the tables.
    TablesAge,
    /// Entries of the allow list.
    AllowEntries,
    /// Entries of the ban table's base.
    BanBaseEntries,
    /// Entries of the ban table's overlay.
    BanOverlayEntries,
    /// HTTPRoutes.
    Routes,
    /// 1 while some VM of the process keeps its lease alive.
    LeaseAlive,
}

/// In the order of [`Count`].
pub const COUNTS: [(Count, &str); 28] = [
    (Count::Allowed, "tidegate.requests.allow"),
    (Count::DeniedIpBanned, "tidegate.requests.deny.ip_banned"),
    (Count::DeniedNoRoute, "tidegate.requests.deny.no_route"),
    (Count::DeniedNoBackend, "tidegate.requests.deny.no_backend"),
    (Count::DeniedNotReady, "tidegate.requests.deny.not_ready"),
    (Count::Unseen, "tidegate.requests.unseen"),
    (Count::NoClientAddress, "tidegate.requests.no_client_address"),
    (Count::UnreadableForwardedFor, "tidegate.requests.unreadable_forwarded_for"),
    (Count::EventsNumbered, "tidegate.events.numbered"),
    (Count::EventsEnqueued, "tidegate.events.enqueued"),
    (Count::DroppedBufferFull, "tidegate.events.dropped.buffer_full"),
    (Count::DroppedRecorderFull, "tidegate.events.dropped.recorder_full"),
    (Count::DroppedUnencodable, "tidegate.events.dropped.unencodable"),
    (Count::DroppedExpired, "tidegate.events.dropped.expired"),
    (Count::Posts, "tidegate.recorder.posts"),
    (Count::PostRetries, "tidegate.recorder.retries"),
    (Count::BatchesUnreadable, "tidegate.recorder.unreadable"),
    (Count::DecodeFailures, "tidegate.sync.decode_failures"),
    (Count::Polls, "tidegate.sync.polls"),
    (Count::PollFailures, "tidegate.sync.poll_failures"),
    (Count::FullLoads, "tidegate.sync.full_loads"),
    (Count::Misfolds, "tidegate.sync.misfolds"),
    (Count::Publishes, "tidegate.sync.publishes"),
    (Count::Loads, "tidegate.sync.loads"),
    (Count::Leases, "tidegate.lease.taken"),
    (Count::Outranked, "tidegate.lease.outranked"),
    (Count::SlotsLost, "tidegate.slots.lost"),
    (Count::HostErrors, "tidegate.host_errors"),
];

/// Bytes in an instance's events queue; its id follows. A gauge apart: see
/// [`EventQueue`](crate::queue::EventQueue).
pub const QUEUE_BYTES: &str = "tidegate.queue.bytes";

/// In the order of [`Gauge`].
pub const GAUGES: [(Gauge, &str); 8] = [
    (Gauge::RecorderBytes, "tidegate.recorder.bytes"),
    (Gauge::TablesSeq, "tidegate.tables.seq"),
    (Gauge::TablesAge, "tidegate.tables.age_seconds"),
    (Gauge::AllowEntries, "tidegate.tables.allow.entries"),
    (Gauge::BanBaseEntries, "tidegate.tables.bans_base.entries"),
    (Gauge::BanOverlayEntries, "tidegate.tables.bans_overlay.entries"),
    (Gauge::Routes, "tidegate.tables.routes.entries"),
    (Gauge::LeaseAlive, "tidegate.lease.alive"),
];

impl Count {
    /// What counts a denial.
    #[must_use]
    pub fn denied(reason: Reason) -> Self {
        match reason {
            Reason::IpBanned => Self::DeniedIpBanned,
            Reason::NoRoute => Self::DeniedNoRoute,
            Reason::NoBackend => Self::DeniedNoBackend,
            Reason::NotReady => Self::DeniedNotReady,
        }
    }

    /// What counts events that were given up.
    #[must_use]
    pub fn dropped(reason: DropReason) -> Self {
        match reason {
            DropReason::BufferFull => Self::DroppedBufferFull,
            DropReason::RecorderFull => Self::DroppedRecorderFull,
            DropReason::Unencodable => Self::DroppedUnencodable,
            DropReason::Expired => Self::DroppedExpired,
        }
    }
}

/// A VM's view of the process's metrics.
pub struct Metrics<H> {
    host: H,
    counts: [(Option<MetricId>, Cell<u64>); COUNTS.len()],
    gauges: [(Option<MetricId>, Cell<Option<u64>>); GAUGES.len()],
}

impl<H: Host> Metrics<H> {
    /// Defines all metrics, or finds them again. One that the host refuses is
    /// left out: counting is no reason not to serve.
    pub fn new(host: H) -> Self {
        let define = |kind, name| host.define_metric(kind, name).ok();
        let counts = COUNTS.map(|(_, name)| (define(MetricKind::Counter, name), Cell::new(0)));
        let gauges = GAUGES.map(|(_, name)| (define(MetricKind::Gauge, name), Cell::new(None)));
        Self { host, counts, gauges }
    }

    /// Counts one; Envoy sees it at the next [`flush`](Self::flush).
    pub fn count(&self, what: Count) {
        self.add(what, 1);
    }

    /// Counts several.
    pub fn add(&self, what: Count, by: u64) {
        if let Some((_, waiting)) = self.counts.get(what as usize) {
            waiting.set(waiting.get().saturating_add(by));
        }
    }

    /// Hands over what was counted since the last time.
    pub fn flush(&self) {
        for (metric, waiting) in &self.counts {
            let by = waiting.replace(0);
            if by > 0
                && let Some(metric) = metric
            {
                let _ = self.host.add_metric(*metric, i64::try_from(by).unwrap_or(i64::MAX));
            }
        }
    }

    /// Sets a gauge, if it is not what this VM set last.
    pub fn set(&self, what: Gauge, value: u64) {
        if let Some((Some(metric), last)) = self.gauges.get(what as usize)
            && last.replace(Some(value)) != Some(value)
        {
            let _ = self.host.set_metric(*metric, value);
        }
    }

    /// Sets a gauge, whatever this VM set last: another one may have since.
    pub fn reset(&self, what: Gauge, value: u64) {
        if let Some((Some(metric), last)) = self.gauges.get(what as usize) {
            last.set(Some(value));
            let _ = self.host.set_metric(*metric, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_the_order_of_the_enums() {
        for (at, (count, _)) in COUNTS.iter().enumerate() {
            assert_eq!(*count as usize, at);
        }
        for (at, (gauge, _)) in GAUGES.iter().enumerate() {
            assert_eq!(*gauge as usize, at);
        }
    }

    #[test]
    fn a_gauge_that_was_reset_is_set_again_to_what_it_was() {
        let host = crate::host::fake::Fake::default();
        let metrics = Metrics::new(host.clone());
        metrics.set(Gauge::RecorderBytes, 7);
        metrics.reset(Gauge::RecorderBytes, 0);
        metrics.set(Gauge::RecorderBytes, 7);
        assert_eq!(host.figure("tidegate.recorder.bytes"), 7);
    }

    #[test]
    fn the_names_say_the_reasons_codes() {
        for reason in Reason::ALL {
            let (_, name) = COUNTS[Count::denied(reason) as usize];
            assert_eq!(name.rsplit('.').next(), Some(reason.code()));
        }
    }

    #[test]
    fn the_documentation_lists_every_metric_and_no_other() {
        let page = include_str!("../docs/METRICS.md");
        let mut listed: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with("tidegate."))
            .collect();
        let names = COUNTS.iter().map(|(_, name)| *name).chain(GAUGES.iter().map(|(_, name)| *name));
        let queue = format!("{QUEUE_BYTES}.<instance>");
        let mut defined: Vec<&str> = names.chain([queue.as_str()]).collect();
        listed.sort_unstable();
        defined.sort_unstable();
        assert_eq!(listed, defined);
    }
}
