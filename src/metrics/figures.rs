//! What is counted, and by which name. The names are an interface.

use tidegate_policy::check::{Answered, Check};
use tidegate_policy::decide::Reason;
use tidegate_policy::flags::Flag;
use tidegate_policy::wire::event::DropReason;

/// Figures that only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Count {
    /// Requests that the gate let pass.
    Allowed,
    /// Requests that a route redirected.
    Redirected,
    /// Browsers' preflight requests that a route's CORS filter answered.
    Preflights,
    /// Requests that Envoy had no cluster for: a route names a backend that there
    /// is not. They are among those that passed.
    UnknownBackend,
    /// Requests denied: the client's address is banned.
    DeniedIpBanned,
    /// Requests denied: the client's country may not enter.
    DeniedGeo,
    /// Requests denied: no route matches.
    DeniedNoRoute,
    /// Requests denied: the route's rule has no backend.
    DeniedNoBackend,
    /// Requests denied: the route's rule names a geo rule that there is not.
    DeniedNoGeoRule,
    /// Requests denied: more than a limit lets pass.
    DeniedRateLimited,
    /// Requests denied: too long to find out which rule matches.
    DeniedTooLong,
    /// Requests denied: a check could not be made.
    DeniedCheckUnavailable,
    /// Requests denied: the gate could not decide.
    DeniedNotReady,
    /// Requests that Envoy refused before the gate saw them.
    Unseen,
    /// Requests that ended while they were not decided: their questions were open
    /// when the client left, or when Envoy gave them up.
    Undecided,
    /// Requests without a client address: no ban can cover them.
    NoClientAddress,
    /// Requests whose last `X-Forwarded-For` entry is no bare address, so that
    /// Envoy took the peer's address instead.
    UnreadableForwardedFor,
    /// Checks of ban and allow list answered from the cache.
    IpHit,
    /// Checks of ban and allow list answered by the admin service.
    IpDirect,
    /// Checks of ban and allow list answered from the cache because the admin service did not.
    IpFallback,
    /// Checks of ban and allow list that nobody answered.
    IpUnavailable,
    /// Checks of country and geo rules answered from the cache.
    GeoHit,
    /// Checks of country and geo rules answered by the admin service.
    GeoDirect,
    /// Checks of country and geo rules answered from the cache because the admin service did not.
    GeoFallback,
    /// Checks of country and geo rules that nobody answered.
    GeoUnavailable,
    /// Checks of routes answered from the cache.
    RouteHit,
    /// Checks of routes answered by the admin service.
    RouteDirect,
    /// Checks of routes answered from the cache because the admin service did not.
    RouteFallback,
    /// Checks of routes that nobody answered.
    RouteUnavailable,
    /// Questions about ban and allow list that failed: not sent, no answer in time, or none that fits.
    IpFailed,
    /// Questions about country and geo rules that failed: not sent, no answer in time, or none that fits.
    GeoFailed,
    /// Questions about routes that failed: not sent, no answer in time, or none that fits.
    RouteFailed,
    /// Answers that came when their request no longer waited for them.
    LateAnswers,
    /// Checks of ban and allow list in shadow of which cache and database were compared.
    IpCompared,
    /// Those that differed.
    IpMismatched,
    /// Checks of country and geo rules in shadow of which cache and database were compared.
    GeoCompared,
    /// Those that differed.
    GeoMismatched,
    /// Checks of routes in shadow of which cache and database were compared.
    RouteCompared,
    /// Those that differed.
    RouteMismatched,
    /// Looks at a limit that let a request pass, in shadow or not.
    LimitsPassed,
    /// Looks at a limit in shadow that would have denied a request.
    LimitsShadowDenied,
    /// Looks at a limit that were made again because another worker was quicker.
    LimitsRetries,
    /// Looks at a limit given up after too many of these; the request passed.
    LimitsGivenUp,
    /// Keys of limits forgotten before they were replenished: their bucket was full.
    LimitsForgotten,
    /// Events that were stored while their response waited.
    SyncStored,
    /// Events that were not, so that the response went on without.
    SyncFailed,
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
    /// Geo rules.
    GeoRules,
    /// Limits.
    Limits,
    /// Ranges of the country table.
    CountryEntries,
    /// Share of the clients for which each flag is on, in percent.
    FlagRouteCache,
    /// As above.
    FlagIpBlacklistCache,
    /// As above.
    FlagGeoRulesCache,
    /// As above.
    FlagParallelExecution,
    /// As above.
    FlagAsyncRecording,
    /// 1 while some VM of the process keeps its lease alive.
    LeaseAlive,
}

/// In the order of [`Count`].
pub const COUNTS: [(Count, &str); 66] = [
    (Count::Allowed, "tidegate.requests.allow"),
    (Count::Redirected, "tidegate.requests.redirect"),
    (Count::Preflights, "tidegate.requests.preflight"),
    (Count::UnknownBackend, "tidegate.requests.unknown_backend"),
    (Count::DeniedIpBanned, "tidegate.requests.deny.ip_banned"),
    (Count::DeniedGeo, "tidegate.requests.deny.geo_denied"),
    (Count::DeniedNoRoute, "tidegate.requests.deny.no_route"),
    (Count::DeniedNoBackend, "tidegate.requests.deny.no_backend"),
    (Count::DeniedNoGeoRule, "tidegate.requests.deny.no_geo_rule"),
    (Count::DeniedRateLimited, "tidegate.requests.deny.rate_limited"),
    (Count::DeniedTooLong, "tidegate.requests.deny.request_too_long"),
    (Count::DeniedCheckUnavailable, "tidegate.requests.deny.check_unavailable"),
    (Count::DeniedNotReady, "tidegate.requests.deny.not_ready"),
    (Count::Unseen, "tidegate.requests.unseen"),
    (Count::Undecided, "tidegate.requests.undecided"),
    (Count::NoClientAddress, "tidegate.requests.no_client_address"),
    (Count::UnreadableForwardedFor, "tidegate.requests.unreadable_forwarded_for"),
    (Count::IpHit, "tidegate.check.ip.hit"),
    (Count::IpDirect, "tidegate.check.ip.direct"),
    (Count::IpFallback, "tidegate.check.ip.fallback"),
    (Count::IpUnavailable, "tidegate.check.ip.unavailable"),
    (Count::GeoHit, "tidegate.check.geo.hit"),
    (Count::GeoDirect, "tidegate.check.geo.direct"),
    (Count::GeoFallback, "tidegate.check.geo.fallback"),
    (Count::GeoUnavailable, "tidegate.check.geo.unavailable"),
    (Count::RouteHit, "tidegate.check.route.hit"),
    (Count::RouteDirect, "tidegate.check.route.direct"),
    (Count::RouteFallback, "tidegate.check.route.fallback"),
    (Count::RouteUnavailable, "tidegate.check.route.unavailable"),
    (Count::IpFailed, "tidegate.direct.ip.failed"),
    (Count::GeoFailed, "tidegate.direct.geo.failed"),
    (Count::RouteFailed, "tidegate.direct.route.failed"),
    (Count::LateAnswers, "tidegate.direct.late"),
    (Count::IpCompared, "tidegate.shadow.ip.compared"),
    (Count::IpMismatched, "tidegate.shadow.ip.mismatched"),
    (Count::GeoCompared, "tidegate.shadow.geo.compared"),
    (Count::GeoMismatched, "tidegate.shadow.geo.mismatched"),
    (Count::RouteCompared, "tidegate.shadow.route.compared"),
    (Count::RouteMismatched, "tidegate.shadow.route.mismatched"),
    (Count::LimitsPassed, "tidegate.limits.passed"),
    (Count::LimitsShadowDenied, "tidegate.limits.shadow_denied"),
    (Count::LimitsRetries, "tidegate.limits.retries"),
    (Count::LimitsGivenUp, "tidegate.limits.given_up"),
    (Count::LimitsForgotten, "tidegate.limits.forgotten"),
    (Count::SyncStored, "tidegate.recording.sync.stored"),
    (Count::SyncFailed, "tidegate.recording.sync.failed"),
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
/// [`EventQueue`](crate::record::queue::EventQueue).
pub const QUEUE_BYTES: &str = "tidegate.queue.bytes";

/// In the order of [`Gauge`].
pub const GAUGES: [(Gauge, &str); 16] = [
    (Gauge::RecorderBytes, "tidegate.recorder.bytes"),
    (Gauge::TablesSeq, "tidegate.tables.seq"),
    (Gauge::TablesAge, "tidegate.tables.age_seconds"),
    (Gauge::AllowEntries, "tidegate.tables.allow.entries"),
    (Gauge::BanBaseEntries, "tidegate.tables.bans_base.entries"),
    (Gauge::BanOverlayEntries, "tidegate.tables.bans_overlay.entries"),
    (Gauge::Routes, "tidegate.tables.routes.entries"),
    (Gauge::GeoRules, "tidegate.tables.geo.entries"),
    (Gauge::Limits, "tidegate.tables.limits.entries"),
    (Gauge::CountryEntries, "tidegate.tables.countries.entries"),
    (Gauge::FlagRouteCache, "tidegate.flags.enableRouteCache.percent"),
    (Gauge::FlagIpBlacklistCache, "tidegate.flags.enableIpBlacklistCache.percent"),
    (Gauge::FlagGeoRulesCache, "tidegate.flags.enableGeoRulesCache.percent"),
    (Gauge::FlagParallelExecution, "tidegate.flags.enableParallelExecution.percent"),
    (Gauge::FlagAsyncRecording, "tidegate.flags.enableAsyncRecording.percent"),
    (Gauge::LeaseAlive, "tidegate.lease.alive"),
];

impl Count {
    /// What counts a denial.
    #[must_use]
    pub fn denied(reason: Reason) -> Self {
        match reason {
            Reason::IpBanned => Self::DeniedIpBanned,
            Reason::GeoDenied => Self::DeniedGeo,
            Reason::NoGeoRule => Self::DeniedNoGeoRule,
            Reason::RateLimited => Self::DeniedRateLimited,
            Reason::TooLong => Self::DeniedTooLong,
            Reason::CheckUnavailable => Self::DeniedCheckUnavailable,
            Reason::NoRoute => Self::DeniedNoRoute,
            Reason::NoBackend => Self::DeniedNoBackend,
            Reason::NotReady => Self::DeniedNotReady,
        }
    }

    /// What counts who answered a check; nothing when nobody was asked.
    #[must_use]
    pub fn answered(check: Check, by: Answered) -> Option<Self> {
        let [hit, direct, fallback, unavailable] = match check {
            Check::Ip => [Self::IpHit, Self::IpDirect, Self::IpFallback, Self::IpUnavailable],
            Check::Geo => [Self::GeoHit, Self::GeoDirect, Self::GeoFallback, Self::GeoUnavailable],
            Check::Route => [Self::RouteHit, Self::RouteDirect, Self::RouteFallback, Self::RouteUnavailable],
        };
        match by {
            Answered::Unneeded => None,
            Answered::Cache => Some(hit),
            Answered::Direct => Some(direct),
            Answered::Fallback => Some(fallback),
            Answered::Nobody => Some(unavailable),
        }
    }

    /// What counts questions that failed.
    #[must_use]
    pub fn question_failed(check: Check) -> Self {
        match check {
            Check::Ip => Self::IpFailed,
            Check::Geo => Self::GeoFailed,
            Check::Route => Self::RouteFailed,
        }
    }

    /// What counts checks in shadow that were compared.
    #[must_use]
    pub fn compared(check: Check) -> Self {
        match check {
            Check::Ip => Self::IpCompared,
            Check::Geo => Self::GeoCompared,
            Check::Route => Self::RouteCompared,
        }
    }

    /// What counts those of the compared that differed.
    #[must_use]
    pub fn mismatched(check: Check) -> Self {
        match check {
            Check::Ip => Self::IpMismatched,
            Check::Geo => Self::GeoMismatched,
            Check::Route => Self::RouteMismatched,
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

impl Gauge {
    /// What shows a flag's share.
    #[must_use]
    pub fn flag(flag: Flag) -> Self {
        match flag {
            Flag::RouteCache => Self::FlagRouteCache,
            Flag::IpBlacklistCache => Self::FlagIpBlacklistCache,
            Flag::GeoRulesCache => Self::FlagGeoRulesCache,
            Flag::ParallelExecution => Self::FlagParallelExecution,
            Flag::AsyncRecording => Self::FlagAsyncRecording,
        }
    }
}
