//! Posts of recorders, and what is counted of them.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_policy::check::PerCheck;
use tidegate_policy::wire::event::{Batch, DroppedRange, SourceReport, TrafficEvent, VmId};
use tidegate_policy::wire::sync::Gateway;

/// An event's identity: its source, and its number there.
pub type EventId = (VmId, u64);

/// By event, whose lists have the ban that denied its request, or would have in shadow, with commas between the
/// names. Of a ban by hand there is nothing.
pub type BanSources = HashMap<EventId, Arc<str>>;

/// One post of a recorder: decoded batches, and reports about their sources.
#[derive(Clone, Debug)]
pub struct Append {
    /// The gateway that posted.
    pub gateway: Gateway,
    /// Reports about its sources (VMs).
    pub sources: Vec<SourceReport>,
    /// Ranges of event numbers that the recorder gave up.
    pub dropped: Vec<DroppedRange>,
    /// The batches.
    pub batches: Vec<Batch>,
    /// Retries, waiting bytes and age as the recorder reported them.
    pub recorder: RecorderFigures,
    /// The gateway's Envoy does not tell it of requests that reach no filter.
    pub untold: bool,
    /// Whose lists have the bans that its events name. Gateways do not know it.
    pub ban_sources: BanSources,
}

impl Append {
    /// Whose lists have the ban that denied the request of `event`, or would have in shadow.
    pub(super) fn ban_source(&self, source: VmId, event: &TrafficEvent) -> Option<&str> {
        self.ban_sources.get(&(source, event.number)).map(|names| &**names)
    }
}

/// Bytes that a process can hold, at most.
const MOST_WAITING_BYTES: u64 = 1 << 40;

/// Milliseconds that a batch can wait, at most.
const MOST_WAITING_MS: u64 = 30 * 86_400 * 1_000;

/// Posts that a recorder can repeat, at most.
const MOST_RETRIES: u64 = 1 << 32;

/// State of a recorder, as it reported it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecorderFigures {
    /// Bytes waiting in queue and recorder.
    pub waiting_bytes: u64,
    /// Age of the oldest of them, milliseconds.
    pub oldest_ms: u64,
    /// Posts repeated so far.
    pub retries: u64,
}

impl RecorderFigures {
    /// The same, no higher than any recorder can mean.
    #[must_use]
    pub fn bounded(self) -> Self {
        const { assert!(MOST_WAITING_MS > 24 * 3_600 * 1_000, "recorders give up after a day") };
        Self {
            waiting_bytes: self.waiting_bytes.min(MOST_WAITING_BYTES),
            oldest_ms: self.oldest_ms.min(MOST_WAITING_MS),
            retries: self.retries.min(MOST_RETRIES),
        }
    }
}

/// Result of an [`Append`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Appended {
    /// Events stored by this call.
    pub stored: u64,
    /// Events that were in the ledger already.
    pub duplicates: u64,
    /// Claims of sources that are not possible: batches, reports and dropped ranges that were passed
    /// over.
    pub refused: u64,
}

/// A number of events that a source was said to have reached, and cannot have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedClaim {
    /// The source.
    pub source: VmId,
    /// The gateway that said so, as rows have it.
    pub gateway: String,
    /// The number.
    pub number: u64,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// A source of which numbers are neither stored nor dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceGap {
    /// The source.
    pub source: VmId,
    /// Its gateway, as rows have it.
    pub gateway: String,
    /// Its highest number.
    pub numbered: u64,
    /// Of these, stored.
    pub stored: u64,
    /// Of these, dropped.
    pub dropped: u64,
}

/// Counts of how one check was answered. Each event is counted once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckCounts {
    /// From the gateway's tables, as the flag says.
    pub cache: u64,
    /// By the admin service, from the database.
    pub direct: u64,
    /// From the gateway's tables, because the admin service did not answer.
    pub fallback: u64,
    /// Not at all.
    pub unavailable: u64,
    /// In shadow: direct answers that were compared with the gateway's tables.
    pub compared: u64,
    /// In shadow: those that differed.
    pub mismatched: u64,
    /// Of the differing ones, those where the gateway's tables had a lower `seq`.
    pub lagging: u64,
}

/// An address that requests came from. Only the most frequent ones are kept: a
/// new one takes the place of the rarest and its count (the space-saving
/// algorithm), so `count` is too high by `over` at most, and never too low.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressCount {
    /// The client's address in canonical form.
    pub ip: String,
    /// Requests.
    pub count: u64,
    /// How much `count` may be too high.
    pub over: u64,
    /// UTC, as text.
    pub last_seen: String,
}

/// The counts of `recording/stats`, over all sources there ever were.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordingCounts {
    /// Sum of the sources' highest numbers.
    pub numbered: u64,
    /// Events in the ledger.
    pub stored: u64,
    /// Numbered, neither stored nor dropped, may still arrive.
    pub pending: u64,
    /// Numbered, neither stored nor dropped, will not arrive.
    pub lost: u64,
    /// Those of [`Self::lost`], and those whose VM's later numbers are stored or dropped, so that they are late at least.
    pub missing: u64,
    /// Given up by worker or recorder, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// Events received twice.
    pub duplicates: u64,
    /// Sources that died without a closing record. Completeness is exact while there are none,
    /// otherwise an upper bound.
    pub unclosed: u64,
    /// Whether a gateway has posted whose Envoy does not tell it of requests that reach no filter:
    /// completeness knows nothing of these.
    pub untold: bool,
    /// Sources heard of within the last 10 s.
    pub alive: u64,
    /// Batches that could not be read.
    pub malformed: u64,
    /// Claims of sources that are not possible, and were not believed.
    pub refused: u64,
    /// The last of them since the service began.
    pub last_refused: Option<RefusedClaim>,
    /// The sources of which most is missing.
    pub gaps: Vec<SourceGap>,
    /// Stored events whose rows retention has removed since.
    pub removed: u64,
    /// Open events: stored before the response, and their request has not ended yet.
    pub open: u64,
    /// Of `stored`: events whose source ended, or gave them up, before their request ended. They
    /// hold what was known when the response began.
    pub incomplete: u64,
    /// How the checks were answered.
    pub checks: PerCheck<CheckCounts>,
    /// As the recorders last reported.
    pub recorder: RecorderFigures,
}

impl RecordingCounts {
    /// Whether all numbers are known that gateways gave; `silent`: gateways with VMs that have not ended, as far as is
    /// known, and that are not heard of. What these numbered since their last post is not known.
    #[must_use]
    pub fn is_exact(&self, silent: usize) -> bool {
        self.unclosed == 0 && silent == 0 && !self.untold
    }
}
