//! Questions about stored events, and their answers.

use std::ops::RangeInclusive;

use serde::Serialize;
use tidegate_policy::address::Prefix;
use tidegate_policy::check::Check;
use tidegate_policy::wire::event::Mismatch;
use utoipa::ToSchema;

/// Which differences of checks in shadow; `None`: any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MismatchFilter {
    /// Of this check.
    pub check: Option<Check>,
    /// Whether the gateway's tables were only behind the database.
    pub lagging: Option<bool>,
}

impl MismatchFilter {
    /// Whether it lets a difference pass.
    #[must_use]
    pub fn matches(&self, found: &Mismatch) -> bool {
        self.check.is_none_or(|check| check == found.check)
            && self.lagging.is_none_or(|lagging| lagging == found.is_lagging())
    }
}

/// Which events; `None`: any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventFilter {
    /// Not earlier than this, as [`EventRow::timestamp`].
    pub since: Option<String>,
    /// Earlier than this.
    pub until: Option<String>,
    /// The client's address, or a block around it.
    pub client: Option<Prefix>,
    /// [`EventRow::country`].
    pub country: Option<String>,
    /// [`EventRow::route`].
    pub route: Option<String>,
    /// How [`EventRow::path`] begins.
    pub path_prefix: Option<String>,
    /// [`EventRow::status`].
    pub status: Option<RangeInclusive<u16>>,
    /// [`EventRow::verdict`].
    pub verdict: Option<String>,
    /// [`EventRow::reason`].
    pub reason: Option<String>,
    /// [`EventRow::would_deny`].
    pub would_deny: Option<String>,
    /// [`EventRow::would_deny_rule`].
    pub would_deny_rule: Option<String>,
    /// One of the names in [`EventRow::ban_source`].
    pub ban_source: Option<String>,
    /// [`EventRow::method`], whatever its case.
    pub method: Option<String>,
    /// [`EventRow::host`], whatever its case; without a port it stands for any port.
    pub host: Option<String>,
    /// Of which a check in shadow differed so.
    pub mismatch: Option<MismatchFilter>,
}

/// An event as it is stored: `docs/API.md`, "The table `traffic_events`".
#[derive(Clone, PartialEq, Debug, Default, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct EventRow {
    /// Counts up in the order of arrival, with holes.
    #[serde(skip)]
    pub id: u64,
    pub timestamp: String,
    pub node: String,
    pub source: String,
    pub number: u64,
    pub method: Option<String>,
    pub host: Option<String>,
    pub path: Option<String>,
    pub route: Option<String>,
    pub template: Option<String>,
    pub client_ip: Option<String>,
    pub country: Option<String>,
    pub verdict: String,
    pub reason: Option<String>,
    pub rule: Option<String>,
    pub shadow_limit: Option<String>,
    pub would_deny: Option<String>,
    pub would_deny_rule: Option<String>,
    pub ban_source: Option<String>,
    pub status: Option<u16>,
    pub duration_ms: Option<f64>,
    pub upstream_ms: Option<f64>,
    pub gate_ms: Option<f64>,
    pub bytes_in: Option<u64>,
    pub bytes_out: Option<u64>,
    pub user_agent: Option<String>,
    pub tunnel: bool,
    pub tables_seq: u64,
    pub modes: Option<String>,
    pub answered: Option<String>,
    /// JSON, as text.
    pub mismatches: Option<String>,
    pub complete: bool,
}

/// Where a search of events goes on: at this event, and at those that came before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventPosition {
    /// [`EventRow::timestamp`] of that event.
    pub timestamp: String,
    /// [`EventRow::id`].
    pub id: u64,
}

/// Events that a search found, newest first.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EventPage {
    /// The events.
    pub rows: Vec<EventRow>,
    /// Where it goes on: there were enough, or it had taken its time. `None`: there are no more.
    pub next: Option<EventPosition>,
}

/// Events that came after others, in the order of their arrival.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EventTail {
    /// The events.
    pub rows: Vec<EventRow>,
    /// The id up to which this is all.
    pub last: u64,
    /// Whether there may be further ones already.
    pub more: bool,
    /// Ids that were passed over because the reader was too far behind: that many events, at most,
    /// whether or not the filter would have let them pass.
    pub skipped: u64,
}
