//! The metrics: meaning and name. The names are an interface.

use tidegate_policy::check::{Answered, Check};
use tidegate_policy::decide::Reason;
use tidegate_policy::flags::Flag;
use tidegate_policy::wire::event::DropReason;

/// For each metric: its meaning, its variant and its name.
macro_rules! metrics {
    ($all:ident $(#[$about:meta])+ $metric:ident $($(#[$help:meta])+ $variant:ident = $name:literal;)+) => {
        $(#[$about])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum $metric {
            $($(#[$help])+ $variant,)+
        }

        /// All of them with their names, in the order of their numbers.
        pub const $all: [($metric, &str); [$($name),+].len()] = [$(($metric::$variant, $name)),+];
    };
}

metrics! {
    COUNTS
    /// Counters.
    Count

    /// Requests that the gate let pass.
    Allowed = "tidegate.requests.allow";
    /// Requests that a route redirected.
    Redirected = "tidegate.requests.redirect";
    /// Browsers' preflight requests that a route's CORS filter answered.
    Preflights = "tidegate.requests.preflight";
    /// Requests that Envoy had no cluster for: a route names a backend that does
    /// not exist. They are among those that passed.
    UnknownBackend = "tidegate.requests.unknown_backend";
    /// Requests denied: their host is no `host` or `host:port`.
    DeniedBadHost = "tidegate.requests.deny.bad_host";
    /// Requests denied: the client's address is banned.
    DeniedIpBanned = "tidegate.requests.deny.ip_banned";
    /// Requests denied: the client's country may not enter.
    DeniedGeo = "tidegate.requests.deny.geo_denied";
    /// Requests denied: no route matches.
    DeniedNoRoute = "tidegate.requests.deny.no_route";
    /// Requests denied: the route's rule has no backend.
    DeniedNoBackend = "tidegate.requests.deny.no_backend";
    /// Requests denied: the route's rule names a geo rule that does not exist.
    DeniedNoGeoRule = "tidegate.requests.deny.no_geo_rule";
    /// Requests denied: a limit has nothing left.
    DeniedRateLimited = "tidegate.requests.deny.rate_limited";
    /// Requests denied: too long to be matched against the rules.
    DeniedTooLong = "tidegate.requests.deny.request_too_long";
    /// Requests denied: a route leads back to the gate.
    DeniedLoopDetected = "tidegate.requests.deny.loop_detected";
    /// Requests denied: a check could not be made.
    DeniedCheckUnavailable = "tidegate.requests.deny.check_unavailable";
    /// Requests denied: the gate could not decide.
    DeniedNotReady = "tidegate.requests.deny.not_ready";
    /// Requests that a ban in shadow would have denied.
    WouldDenyIpBanned = "tidegate.would_deny.ip_banned";
    /// Requests that a geo rule in shadow would have denied.
    WouldDenyGeo = "tidegate.would_deny.geo_denied";
    /// Requests that Envoy refused before the gate saw them.
    Unseen = "tidegate.requests.unseen";
    /// Requests that ended undecided: questions about them were open when the client
    /// left, or when Envoy gave the request up.
    Undecided = "tidegate.requests.undecided";
    /// Requests without a client address: no ban can cover them.
    NoClientAddress = "tidegate.requests.no_client_address";
    /// Requests whose last `X-Forwarded-For` entry is no bare address, so that
    /// Envoy took the peer's address instead.
    UnreadableForwardedFor = "tidegate.requests.unreadable_forwarded_for";
    /// Checks of ban and allow list answered from the cache.
    IpHit = "tidegate.check.ip.hit";
    /// Checks of ban and allow list answered by the admin service.
    IpDirect = "tidegate.check.ip.direct";
    /// Checks of ban and allow list answered from the cache because the admin service did not.
    IpFallback = "tidegate.check.ip.fallback";
    /// Checks of ban and allow list that neither cache nor admin service answered.
    IpUnavailable = "tidegate.check.ip.unavailable";
    /// Checks of country and geo rules answered from the cache.
    GeoHit = "tidegate.check.geo.hit";
    /// Checks of country and geo rules answered by the admin service.
    GeoDirect = "tidegate.check.geo.direct";
    /// Checks of country and geo rules answered from the cache because the admin service did not.
    GeoFallback = "tidegate.check.geo.fallback";
    /// Checks of country and geo rules that neither cache nor admin service answered.
    GeoUnavailable = "tidegate.check.geo.unavailable";
    /// Checks of routes answered from the cache.
    RouteHit = "tidegate.check.route.hit";
    /// Checks of routes answered by the admin service.
    RouteDirect = "tidegate.check.route.direct";
    /// Checks of routes answered from the cache because the admin service did not.
    RouteFallback = "tidegate.check.route.fallback";
    /// Checks of routes that neither cache nor admin service answered.
    RouteUnavailable = "tidegate.check.route.unavailable";
    /// Questions about ban and allow list that failed: not sent, no answer in time, or none that fits.
    IpFailed = "tidegate.direct.ip.failed";
    /// Questions about country and geo rules that failed: not sent, no answer in time, or none that fits.
    GeoFailed = "tidegate.direct.geo.failed";
    /// Questions about routes that failed: not sent, no answer in time, or none that fits.
    RouteFailed = "tidegate.direct.route.failed";
    /// Answers that came when their request no longer waited for them.
    LateAnswers = "tidegate.direct.late";
    /// Checks of ban and allow list in shadow: cache and database were compared.
    IpCompared = "tidegate.shadow.ip.compared";
    /// Those that differed.
    IpMismatched = "tidegate.shadow.ip.mismatched";
    /// Checks of country and geo rules in shadow: cache and database were compared.
    GeoCompared = "tidegate.shadow.geo.compared";
    /// Those that differed.
    GeoMismatched = "tidegate.shadow.geo.mismatched";
    /// Checks of routes in shadow: cache and database were compared.
    RouteCompared = "tidegate.shadow.route.compared";
    /// Those that differed.
    RouteMismatched = "tidegate.shadow.route.mismatched";
    /// Looks at a limit that let a request pass, in shadow or not.
    LimitsPassed = "tidegate.limits.passed";
    /// Looks at a limit in shadow that would have denied a request.
    LimitsShadowDenied = "tidegate.limits.shadow_denied";
    /// Looks at a limit made again because another worker wrote its bucket first.
    LimitsRetries = "tidegate.limits.retries";
    /// Looks at a limit given up after 32 of these; the request passed.
    LimitsGivenUp = "tidegate.limits.given_up";
    /// Keys of limits forgotten before they were replenished: their bucket was full.
    LimitsForgotten = "tidegate.limits.forgotten";
    /// Events that were stored while their response waited.
    SyncStored = "tidegate.recording.sync.stored";
    /// Events that were not stored; the response was sent all the same.
    SyncFailed = "tidegate.recording.sync.failed";
    /// Events numbered.
    EventsNumbered = "tidegate.events.numbered";
    /// Events handed to the queue.
    EventsEnqueued = "tidegate.events.enqueued";
    /// Events given up: the worker's buffer was full.
    DroppedBufferFull = "tidegate.events.dropped.buffer_full";
    /// Events given up by the recorder.
    DroppedRecorderFull = "tidegate.events.dropped.recorder_full";
    /// Events given up: they could not be encoded, or were refused as malformed.
    DroppedUnencodable = "tidegate.events.dropped.unencodable";
    /// Events given up: the admin service did not take them for 24 hours.
    DroppedExpired = "tidegate.events.dropped.expired";
    /// Posts of events that the admin service took.
    Posts = "tidegate.recorder.posts";
    /// Posts of events that failed and were repeated.
    PostRetries = "tidegate.recorder.retries";
    /// Messages in the events queue that are no batch.
    BatchesUnreadable = "tidegate.recorder.unreadable";
    /// Tables and answers of the admin service that did not decode or whose
    /// digest was wrong.
    DecodeFailures = "tidegate.sync.decode_failures";
    /// Polls of the admin service.
    Polls = "tidegate.sync.polls";
    /// Polls, pages and acks that failed.
    PollFailures = "tidegate.sync.poll_failures";
    /// Polls for all tables, because those held are unknown or wrong, or a refresh was
    /// ordered.
    FullLoads = "tidegate.sync.full_loads";
    /// Folds of the ban overlay into the base that did not give the base that the admin
    /// service named: it is downloaded then.
    Misfolds = "tidegate.sync.misfolds";
    /// Versions published to the VMs of the process.
    Publishes = "tidegate.sync.publishes";
    /// Sets of tables that a VM swapped in.
    Loads = "tidegate.sync.loads";
    /// Leases taken.
    Leases = "tidegate.lease.taken";
    /// Leases given up because another VM had taken over.
    Outranked = "tidegate.lease.outranked";
    /// Slots lost to another VM, after 10 s without a heartbeat.
    SlotsLost = "tidegate.slots.lost";
    /// Host calls that failed and should not.
    HostErrors = "tidegate.host_errors";
}

metrics! {
    GAUGES
    /// Gauges of the process. The VM that sets one last counts, unless stated otherwise.
    Gauge

    /// Bytes that the recorder holds until they are acknowledged.
    RecorderBytes = "tidegate.recorder.bytes";
    /// Sequence number of the tables that are enforced.
    TablesSeq = "tidegate.tables.seq";
    /// Seconds since the admin service last confirmed the tables.
    TablesAge = "tidegate.tables.age_seconds";
    /// Share of the clients for which each flag is on, in percent.
    FlagRouteCache = "tidegate.flags.enableRouteCache.percent";
    /// As above.
    FlagIpBlacklistCache = "tidegate.flags.enableIpBlacklistCache.percent";
    /// As above.
    FlagGeoRulesCache = "tidegate.flags.enableGeoRulesCache.percent";
    /// As above.
    FlagParallelExecution = "tidegate.flags.enableParallelExecution.percent";
    /// As above.
    FlagAsyncRecording = "tidegate.flags.enableAsyncRecording.percent";
    /// 1 while some VM of the process keeps its lease alive.
    LeaseAlive = "tidegate.lease.alive";
}

/// Prefix of the gauge of the bytes in an instance's events queue; the instance's id
/// follows. See [`EventQueue`](crate::record::queue::EventQueue).
pub const QUEUE_BYTES: &str = "tidegate.queue.bytes";

impl Count {
    /// The counter of denials for `reason`.
    #[must_use]
    pub fn denied(reason: Reason) -> Self {
        match reason {
            Reason::BadHost => Self::DeniedBadHost,
            Reason::IpBanned => Self::DeniedIpBanned,
            Reason::GeoDenied => Self::DeniedGeo,
            Reason::NoGeoRule => Self::DeniedNoGeoRule,
            Reason::RateLimited => Self::DeniedRateLimited,
            Reason::TooLong => Self::DeniedTooLong,
            Reason::LoopDetected => Self::DeniedLoopDetected,
            Reason::CheckUnavailable => Self::DeniedCheckUnavailable,
            Reason::NoRoute => Self::DeniedNoRoute,
            Reason::NoBackend => Self::DeniedNoBackend,
            Reason::NotReady => Self::DeniedNotReady,
        }
    }

    /// The counter of requests that an entry in shadow would have denied for `reason`; `None` for reasons
    /// that no such entry has.
    #[must_use]
    pub fn would_deny(reason: Reason) -> Option<Self> {
        match reason {
            Reason::IpBanned => Some(Self::WouldDenyIpBanned),
            Reason::GeoDenied => Some(Self::WouldDenyGeo),
            _ => None,
        }
    }

    /// The counter of checks answered `by`; `None` for a check that was not needed.
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

    /// The counter of questions that failed.
    #[must_use]
    pub fn question_failed(check: Check) -> Self {
        match check {
            Check::Ip => Self::IpFailed,
            Check::Geo => Self::GeoFailed,
            Check::Route => Self::RouteFailed,
        }
    }

    /// The counter of checks in shadow that were compared.
    #[must_use]
    pub fn compared(check: Check) -> Self {
        match check {
            Check::Ip => Self::IpCompared,
            Check::Geo => Self::GeoCompared,
            Check::Route => Self::RouteCompared,
        }
    }

    /// The counter of checks in shadow that differed.
    #[must_use]
    pub fn mismatched(check: Check) -> Self {
        match check {
            Check::Ip => Self::IpMismatched,
            Check::Geo => Self::GeoMismatched,
            Check::Route => Self::RouteMismatched,
        }
    }

    /// The counter of events that were given up for `reason`.
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
    /// The gauge of a flag's share.
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
