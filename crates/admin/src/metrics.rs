//! The service's own metrics, each declared once, and the page that Prometheus reads (OpenMetrics
//! 1.0). Nothing that a client sends gets into it: all labels have fixed sets of values.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// The media type of a page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Kind of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Only increases; its exported name ends in `_total`.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Counts observations by size.
    Histogram,
    /// A text, as a label of the value 1; its exported name ends in `_info`.
    Info,
}

/// A metric of the service.
#[derive(Clone, Copy, Debug)]
pub struct MetricDeclaration {
    /// Its name, without the suffix of its kind.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its labels, in the order in which their values are given.
    pub labels: &'static [&'static str],
    /// Its description: `# HELP`, and its row in docs/METRICS.md.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: MetricDeclaration = MetricDeclaration {
                name: $name,
                kind: MetricKind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All of them, in the order of the documentation.
        pub const ALL: &[MetricDeclaration] = &[$($id),*];
    };
}

metrics! {
    BUILD: Info "tidegate_admin_build" ["version"]
        "the version of the service";
    START_TIME_SECONDS: Gauge "tidegate_admin_start_time_seconds" []
        "when it began, in seconds since 1970";
    REQUESTS: Counter "tidegate_admin_requests" ["listener", "method", "endpoint", "class"]
        "requests of both listeners that were answered. `endpoint` is a pattern of the API (`/api/admin/routes/{name}`) or `none`, `class` `2xx`, `4xx`, ..., a made-up method is `other`";
    LIMITED: Counter "tidegate_admin_requests_limited" ["how"]
        "requests without a known token, `/api/health` and `/metrics` included, beyond 20 a second of one address: `delayed` for a second, `refused` with 429";
    REFUSED: Counter "tidegate_admin_requests_refused" ["listener", "why"]
        "requests that were not let in: `missing`, without a token; `unknown`, with a token that there is not (any more); `expired`, with one whose end has come; `wrong_role`; `wrong_node`, with a token that is bound to another node";
    CONNECTIONS: Gauge "tidegate_admin_connections" ["listener"]
        "open connections; `people` at most 1,024, `gateways` at most 32,768, both fewer if the process may open fewer files";
    CONNECTIONS_CLOSED: Counter "tidegate_admin_connections_closed" ["listener", "reason"]
        "connections that the service closed: `silent`, without a whole request within 10 s; `displaced`, idle and in the place of a new one; `refused`, when there was no room and none could be made. `failed` counts tries to accept one that the system refused: the process may open no more files";
    TLS_HANDSHAKES_FAILED: Counter "tidegate_admin_tls_handshakes_failed" ["listener"]
        "handshakes that did not succeed, on listeners with TLS: the client did not trust the certificate, showed none that is trusted, or spoke no TLS";
    CERTIFICATE_DAYS_LEFT: Gauge "tidegate_admin_certificate_days_left" ["listener"]
        "days until the certificate of a listener with TLS ends; below 0 once it has";
    CERTIFICATE_REFUSED: Gauge "tidegate_admin_certificate_refused" ["listener"]
        "1 while the certificate's files hold something that cannot be used, so that what they held before is";
    FEED_EPOCH: Info "tidegate_admin_feed_epoch" ["epoch"]
        "epoch of the tables: another one after each start, and after the database was restored";
    FEED_SEQ: Gauge "tidegate_admin_feed_seq" []
        "sequence number of the tables that gateways get";
    FEED_STOPPED: Gauge "tidegate_admin_feed_stopped" []
        "1 while gateways hear of no change because the database cannot be followed";
    TABLE_ENTRIES: Gauge "tidegate_admin_table_entries" ["table"]
        "entries of each table: `bans` and, of them, `bans_overlay`, `allow`, `shadow_bans` (also as `watched`), `scoped_bans`, `scoped_sources`, `routes`, `geo`, `countries`, `limits`";
    QUARANTINED_ROWS: Gauge "tidegate_admin_quarantined_rows" ["table"]
        "rows that cannot be read, or have no effect for another reason";
    TABLE_LEFT_OUT: Gauge "tidegate_admin_table_left_out" ["table"]
        "of these, entries that have no effect because their table is full: `bans`, `allow`, `shadow_bans`, `scoped_bans` (of sources as well)";
    SOURCES: Gauge "tidegate_admin_ban_sources" ["state"]
        "sources of bans: `ok`; `failing`, whose last fetch failed; `held_back`, whose list became empty or lost too much at once; `stale`, not fetched for three intervals and five minutes";
    SOURCE_ENTRIES: Gauge "tidegate_admin_ban_source_entries" []
        "entries of all their sets together";
    SOURCE_AGE_SECONDS: Gauge "tidegate_admin_ban_source_age_seconds" []
        "age of what the source has that was fetched longest ago, from its creation if it never was; 0: there is no source";
    SOURCE_FETCHES: Counter "tidegate_admin_ban_source_fetches" ["outcome"]
        "their fetches: `replaced` the set, `unchanged`, `held_back`, `failed`";
    GATEWAYS: Gauge "tidegate_admin_gateways" ["state"]
        "gateways: `live`; `stale`, live but with VMs not heard of for 2 s; `lost`, not heard of for 3 s, and forgotten a day later or when a new process of their node appears";
    GATEWAY_VMS: Gauge "tidegate_admin_gateway_vms" ["state"]
        "VMs that serve requests, of gateways that are not lost: `live`, `stale`";
    CHANGE_ENFORCED_SECONDS: Histogram "tidegate_change_enforced_seconds" []
        "from a change to the ack of a gateway that **all** its VMs enforce it; one observation for each version and gateway";
    CHANGE_UNENFORCED_SECONDS: Gauge "tidegate_change_unenforced_seconds" []
        "age of the oldest change that a gateway that is not lost does not enforce in all its VMs; 0: there is none. One that cannot read a table (OPERATIONS.md, Upgrading) enforces no version";
    STORE_BYTES: Gauge "tidegate_admin_store_bytes" ["file"]
        "the database's file (`database`) and its write-ahead log (`wal`)";
    STORE_LOCK_WAITS: Counter "tidegate_admin_store_lock_waits" []
        "writes that had to wait because another program held the write lock";
    STORE_LOCKED_SECONDS: Gauge "tidegate_admin_store_locked_seconds" []
        "since when another program holds it, if over 1 s";
    STORE_USABLE: Gauge "tidegate_admin_store_usable" []
        "0 while the database is gone, or something else in its place";
    STORE_FAILING: Gauge "tidegate_admin_store_failing" ["operation"]
        "kinds of `write`, `read` or `checkpoint` (writing the write-ahead log back) whose last try failed: the disk is full, the file damaged. Without anything to write, a write is tried every 10 s";
    EVENT_BYTES: Gauge "tidegate_admin_event_bytes" ["of"]
        "what events may take in the database with their indexes (`limit`), and take (`taken`; while the whole database is under the limit, all of it)";
    STORE_READABLE: Gauge "tidegate_admin_store_readable" []
        "0 while the figures below could not be read: they are missing then";
    AUTO_BANS: Counter "tidegate_admin_auto_bans" ["outcome"]
        "addresses that reached the threshold of a rule of automatic bans: `banned`; `watched`, by a rule in shadow; `known`, that were banned already; `protected` and `allowed`, that are not banned; `held_back`, beyond the rule's `max_bans`; `failed`, when the database took nothing";
    AUTO_BAN_COUNTERS: Gauge "tidegate_admin_auto_ban_counters" []
        "counters of these rules, one for each rule and address; at most 100,000";
    AUTO_BAN_COUNTERS_DROPPED: Counter "tidegate_admin_auto_ban_counters_dropped" []
        "counters that were dropped for others though they had requests of the window";
    AUTO_BAN_EVENTS_LATE: Counter "tidegate_admin_auto_ban_events_late" []
        "events that came too late to be counted by a rule";
    ROLLOUT_PHASE: Gauge "tidegate_admin_rollout_phase" ["phase"]
        "1 for the phase of the rollout's run that has not ended: `running`, `waiting_for_approval` or `paused`; all 0: there is none";
    ROLLOUT_STAGE: Gauge "tidegate_admin_rollout_stage" []
        "the stage that this run is in, from 1; 0: there is none";
    ROLLOUT_HELD_SECONDS: Gauge "tidegate_admin_rollout_held_seconds" []
        "for how long this stage has been held";
    ROLLOUT_GATES: Gauge "tidegate_admin_rollout_gates" ["verdict"]
        "gates of this stage by what they said last: `holds`, `fails`, or `undecided`, without enough data";
    ROLLOUT_STEPS: Counter "tidegate_admin_rollout_steps" ["kind"]
        "what happened to runs: `started`, `stage_entered`, `gate_failed`, `waiting_for_approval`, `approved`, `paused`, `resumed`, `stage_rolled_back`, `rolled_back`, `aborted`, `completed`";
    ROLLOUT_NOTICES: Counter "tidegate_admin_rollout_notices" ["outcome"]
        "tries to tell webhooks of rollouts: `sent`, `failed`; `given_up`, of these the last ones of a notice";
    EVENTS_NUMBERED: Counter "tidegate_admin_events_numbered" []
        "events that gates numbered, as far as is known";
    EVENTS_STORED: Counter "tidegate_admin_events_stored" []
        "of these, stored";
    EVENTS_DUPLICATES: Counter "tidegate_admin_events_duplicates" []
        "came again, and were not stored twice";
    EVENTS_MALFORMED: Counter "tidegate_admin_events_malformed" []
        "batches that could not be read";
    EVENTS_REFUSED: Counter "tidegate_admin_event_claims_refused" []
        "batches, reports of VMs and dropped ranges with a number that no VM can have reached: `last_refused` in recording/stats names one";
    EVENTS_REMOVED: Counter "tidegate_admin_events_removed" []
        "stored events whose rows retention has removed";
    EVENTS_DROPPED: Counter "tidegate_admin_events_dropped" ["reason"]
        "given up by gates; a reason is there once it has happened";
    EVENTS_PENDING: Gauge "tidegate_admin_events_pending" []
        "numbered, not here, may still come";
    EVENTS_LOST: Gauge "tidegate_admin_events_lost" []
        "numbered, not here, will not come";
    EVENTS_OPEN: Gauge "tidegate_admin_events_open" []
        "stored before their response, whose end has not come yet";
    EVENTS_INCOMPLETE: Gauge "tidegate_admin_events_incomplete" []
        "stored before their response, whose end will not come";
    SOURCES_ALIVE: Gauge "tidegate_admin_sources_alive" []
        "VMs that number events and were heard of within 10 s";
    SOURCES_UNCLOSED: Gauge "tidegate_admin_sources_unclosed" []
        "VMs that died without closing their events";
    RECORDER_WAITING_BYTES: Gauge "tidegate_admin_recorder_waiting_bytes" []
        "bytes of events that wait in gateways, as they said with their last posts";
    RECORDER_OLDEST_SECONDS: Gauge "tidegate_admin_recorder_oldest_seconds" []
        "age of the oldest of these";
    COMPLETENESS_RATIO: Gauge "tidegate_admin_completeness_ratio" []
        "stored by numbered events, 0 to 1";
    COMPLETENESS_EXACT: Gauge "tidegate_admin_completeness_exact" []
        "1: that is the figure; 0: an upper bound, because a VM is unclosed, a gateway silent, or one's Envoy does not tell it of all requests";
    GATEWAYS_SILENT: Gauge "tidegate_admin_gateways_silent" []
        "gateways with VMs that number events, and that are not heard of";
    CHECKS: Counter "tidegate_admin_checks" ["check", "outcome"]
        "checks of recorded requests by who answered, named as the gates'";
    SHADOW_COMPARED: Counter "tidegate_admin_shadow_compared" ["check"]
        "checks in shadow that were compared";
    SHADOW_MISMATCHED: Counter "tidegate_admin_shadow_mismatched" ["check"]
        "of these, those that differed";
    SHADOW_LAGGING: Counter "tidegate_admin_shadow_lagging" ["check"]
        "of these, those where the cache was only a moment behind";
}

impl MetricDeclaration {
    /// The name in the page.
    #[must_use]
    pub fn exported_name(&self) -> String {
        let suffix = match self.kind {
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
            MetricKind::Gauge | MetricKind::Histogram => "",
        };
        format!("{}{suffix}", self.name)
    }
}

type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// The listener of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listener {
    /// The people's listener.
    People,
    /// The gateways' listener.
    Gateways,
}

impl Listener {
    /// The name in metrics.
    fn name(self) -> &'static str {
        match self {
            Self::People => "people",
            Self::Gateways => "gateways",
        }
    }
}

/// Why a request was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It has no token.
    Missing,
    /// There is no such token.
    Unknown,
    /// The token has ended.
    Expired,
    /// The token's role may not do this.
    WrongRole,
    /// The token is bound to another node.
    WrongNode,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Missing, Self::Unknown, Self::Expired, Self::WrongRole, Self::WrongNode];

    /// The name in metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::WrongRole => "wrong_role",
            Self::WrongNode => "wrong_node",
        }
    }
}

/// Metrics that are counted when something happens. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Arc<Family<Labels, Counter>>,
    refused: Arc<Family<Labels, Counter>>,
}

impl Metrics {
    /// Counts an answered request; `endpoint` is the pattern of its path, empty if there is none.
    pub fn answered(&self, listener: Listener, method: &Method, endpoint: &str, status: StatusCode) {
        let class = match status.as_u16() {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        let endpoint = Cow::Owned(if endpoint.is_empty() { "none" } else { endpoint }.to_owned());
        let values = [listener.name().into(), method_label(method).into(), endpoint, class.into()];
        self.requests.get_or_create(&labels(&REQUESTS, values)).inc();
    }

    /// Counts a request that was not let in.
    pub fn refused(&self, listener: Listener, why: Refusal) {
        self.refused.get_or_create(&refused_labels(listener, why)).inc();
    }

    /// The counts of requests that were not let in.
    pub fn refusals(&self) -> Family<Labels, Counter> {
        for listener in [Listener::People, Listener::Gateways] {
            for why in Refusal::ALL {
                drop(self.refused.get_or_create(&refused_labels(listener, why)));
            }
        }
        Family::clone(&self.refused)
    }

    /// The counts of requests.
    pub fn requests(&self) -> Family<Labels, Counter> {
        Family::clone(&self.requests)
    }
}

fn refused_labels(listener: Listener, why: Refusal) -> Labels {
    labels(&REFUSED, [listener.name().into(), why.name().into()])
}

/// The method, if any endpoint uses it: clients may invent others.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// A page of metrics, as they are at one moment.
#[derive(Default)]
pub struct MetricsPage(Registry);

impl MetricsPage {
    /// Adds a metric that holds its own values.
    pub fn metric(&mut self, what: &MetricDeclaration, metric: impl Metric) {
        self.0.register(what.name, what.help, metric);
    }

    /// Adds a counter.
    pub fn counter(&mut self, what: &MetricDeclaration, value: u64) {
        self.metric(what, ConstCounter::new(value));
    }

    /// Adds a counter with labels.
    pub fn counters<const L: usize>(
        &mut self,
        what: &MetricDeclaration,
        values: impl IntoIterator<Item = ([&'static str; L], u64)>,
    ) {
        let family = Family::<Labels, Counter>::default();
        for (at, value) in values {
            family.get_or_create(&labels(what, at.map(Cow::Borrowed))).inc_by(value);
        }
        self.metric(what, family);
    }

    /// Adds a gauge.
    #[expect(clippy::cast_precision_loss, reason = "over 2^53 the last digits do not matter")]
    pub fn gauge(&mut self, what: &MetricDeclaration, value: u64) {
        self.fraction(what, value as f64);
    }

    /// Adds a gauge with a fractional value.
    pub fn fraction(&mut self, what: &MetricDeclaration, value: f64) {
        self.metric(what, ConstGauge::new(value));
    }

    /// Adds a gauge that is 1 if `value`, else 0.
    pub fn whether(&mut self, what: &MetricDeclaration, value: bool) {
        self.gauge(what, value.into());
    }

    /// Adds a gauge with a label.
    pub fn gauges(
        &mut self,
        what: &MetricDeclaration,
        values: impl IntoIterator<Item = (&'static str, usize)>,
    ) {
        let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
        for (at, value) in values {
            let value = u64::try_from(value).unwrap_or(u64::MAX);
            family.get_or_create(&labels(what, [Cow::Borrowed(at)])).set(value);
        }
        self.metric(what, family);
    }

    /// Adds a gauge with a fractional value and a label.
    pub fn fractions(
        &mut self,
        what: &MetricDeclaration,
        values: impl IntoIterator<Item = (&'static str, f64)>,
    ) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (at, value) in values {
            family.get_or_create(&labels(what, [Cow::Borrowed(at)])).set(value);
        }
        self.metric(what, family);
    }

    /// Adds an info metric.
    pub fn text(&mut self, what: &MetricDeclaration, text: String) {
        self.metric(what, Info::new(labels(what, [Cow::Owned(text)])));
    }

    /// The page as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut page, &self.0);
        page
    }
}

fn labels<const L: usize>(what: &MetricDeclaration, values: [Cow<'static, str>; L]) -> Labels {
    what.labels.iter().copied().zip(values).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_clients_make_up_share_a_label() {
        let metrics = Metrics::default();
        for method in ["GET", "BREW", "MELT"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            metrics.answered(Listener::People, &method, "", StatusCode::NOT_FOUND);
        }
        let mut page = MetricsPage::default();
        page.metric(&REQUESTS, metrics.requests());
        let text = page.encode();
        let line = |method: &str, count: u32| {
            format!(
                "tidegate_admin_requests_total{{listener=\"people\",method=\"{method}\",endpoint=\"none\",class=\"4xx\"}} {count}\n"
            )
        };
        assert!(text.contains(&line("GET", 1)) && text.contains(&line("other", 2)), "{text}");
        assert!(!text.contains("BREW"), "{text}");
    }

    #[test]
    fn the_documentation_has_these_metrics_and_no_others() {
        let docs = include_str!("../../../docs/METRICS.md");
        let listed: Vec<&str> = docs.lines().filter(|line| line.starts_with("| `tidegate_")).collect();
        let row = |what: &MetricDeclaration| {
            let labels =
                if what.labels.is_empty() { String::new() } else { format!("{{{}}}", what.labels.join(",")) };
            let kind = format!("{:?}", what.kind).to_lowercase();
            format!("| `{}{labels}` | {kind} | {} |", what.exported_name(), what.help)
        };
        assert_eq!(listed, ALL.iter().map(row).collect::<Vec<_>>());
    }
}
