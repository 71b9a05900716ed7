//! Questions about statistics, and their answers.

use tidegate_statistics::histogram::HistogramSum;

/// Which requests.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatsFilter {
    /// Not earlier than this, Unix seconds. The span (minute, hour or day) that has it counts whole.
    pub since: i64,
    /// Earlier than this.
    pub until: i64,
    /// Of this route; `None`: any.
    pub route: Option<String>,
    /// To this host, without a port; `None`: any.
    pub host: Option<String>,
    /// Of this path template; `None`: any.
    pub template: Option<String>,
    /// With this method, as [`PathStats::method`]; `None`: any.
    pub method: Option<String>,
    /// Whether all requests of a route are counted as one path, without template and method.
    pub by_route: bool,
}

/// Requests of one kind, and what they took.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RequestStats {
    /// Requests that have ended.
    pub requests: u64,
    /// By class of status; the first: without a status.
    pub classes: [u64; 6],
    /// Of these, denied.
    pub denied: u64,
    /// Bytes of requests' bodies.
    pub bytes_in: u64,
    /// Bytes of responses' bodies.
    pub bytes_out: u64,
    /// Requests with a check that had to be answered.
    pub checked: u64,
    /// Of these, those of which every check was answered from the gateway's tables.
    pub cached: u64,
    /// Their durations but for tunnels, microseconds.
    pub duration: HistogramSum,
    /// What lies behind the gate took, microseconds.
    pub upstream: HistogramSum,
    /// What they waited for the gate, microseconds.
    pub gate: HistogramSum,
}

impl RequestStats {
    /// Adds all that is in `other`.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        for (count, more) in self.classes.iter_mut().zip(other.classes) {
            *count = count.saturating_add(more);
        }
        self.denied = self.denied.saturating_add(other.denied);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.checked = self.checked.saturating_add(other.checked);
        self.cached = self.cached.saturating_add(other.cached);
        self.duration.add_sum(&other.duration);
        self.upstream.add_sum(&other.upstream);
        self.gate.add_sum(&other.gate);
    }
}

/// Requests of one path.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PathStats {
    /// The route that matched; empty: none.
    pub route: String,
    /// The path of the rule that matched, as its route has it; empty: none.
    pub template: String,
    /// One of the methods of HTTP, `other`, or empty: not known.
    pub method: String,
    /// The requests.
    pub stats: RequestStats,
}

/// Requests by path.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PathsAnswer {
    /// Beginning and end of what is in it, Unix seconds; `None`: nothing is.
    pub covers: Option<(i64, i64)>,
    /// By path, in no order.
    pub paths: Vec<PathStats>,
    /// All of them.
    pub total: RequestStats,
}

/// Requests of one span of time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimelinePoint {
    /// Its beginning, Unix seconds.
    pub at: i64,
    /// Its length, seconds.
    pub seconds: i64,
    /// Requests by verdict, in the order of [`VERDICTS`].
    pub verdicts: [u64; 4],
    /// [`RequestStats::checked`].
    pub checked: u64,
    /// [`RequestStats::cached`].
    pub cached: u64,
    /// [`RequestStats::duration`].
    pub duration: HistogramSum,
    /// [`RequestStats::gate`].
    pub gate: HistogramSum,
}

/// Names of verdicts, as in [`EventRow::verdict`](super::EventRow::verdict).
pub const VERDICTS: [&str; 4] = ["allow", "deny", "redirect", "unseen"];

/// What the most frequent values are kept of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TopOf {
    /// The client's address.
    Ip,
    /// Its country.
    Country,
    /// The path.
    Path,
    /// The reason.
    Reason,
    /// The user agent.
    UserAgent,
    /// What decided.
    Rule,
    /// The limit that denied.
    Limit,
    /// The limit in shadow that would have denied.
    ShadowLimit,
    /// The limit that denied, a blank, and the client's address.
    LimitedClient,
    /// What entries in shadow would have denied: [`would_deny_value`].
    WouldDeny,
    /// The country of a client that was denied, a blank, and the reason.
    DeniedCountry,
    /// The source of bans whose list has the ban in shadow that would have denied.
    ShadowSource,
}

/// A value of [`TopOf::WouldDeny`]: the reason of the denial, a blank, and the entry in shadow.
#[must_use]
pub fn would_deny_value(reason: &str, entry: &str) -> String {
    format!("{reason} {entry}")
}

impl TopOf {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Ip,
        Self::Country,
        Self::Path,
        Self::Reason,
        Self::UserAgent,
        Self::Rule,
        Self::Limit,
        Self::ShadowLimit,
        Self::LimitedClient,
        Self::WouldDeny,
        Self::DeniedCountry,
        Self::ShadowSource,
    ];

    /// The name in the database, and of those that can be asked for in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Country => "country",
            Self::Path => "path",
            Self::Reason => "reason",
            Self::UserAgent => "user_agent",
            Self::Rule => "rule",
            Self::Limit => "limit",
            Self::ShadowLimit => "shadow_limit",
            Self::LimitedClient => "limited_client",
            Self::WouldDeny => "would_deny",
            Self::DeniedCountry => "denied_country",
            Self::ShadowSource => "shadow_source",
        }
    }
}

/// A frequent value. Only the most frequent of each day are kept, by the space-saving algorithm.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TopValue {
    /// The value.
    pub value: String,
    /// Requests.
    pub count: u64,
    /// How much `count` may be too high.
    pub over: u64,
    /// How much `count` may be too low: it was not kept on all days.
    pub under: u64,
    /// Milliseconds since the Unix epoch.
    pub last_ms: i64,
}
