//! Events of requests, and how they are sent to the admin service: numbered by the VM
//! of the request, sealed into batches, and posted until they are acknowledged.
//! `docs/ARCHITECTURE.md`, "An event".

use std::net::IpAddr;

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use crate::check::{Answered, Check, PerCheck};
use crate::codec::{FormatError, decode, encode};
use crate::flags::Modes;
use crate::geo::Country;

/// Version of a [`Batch`]'s bytes.
pub const BATCH_FORMAT: u8 = 6;
/// Version of an [`EventPost`]'s bytes.
pub const POST_FORMAT: u8 = 1;
/// Version of an [`OpenEvent`]'s bytes.
pub const OPEN_FORMAT: u8 = 5;
/// The most bytes of one sealed batch.
pub const MAX_BATCH: usize = 1 << 20;
/// The most bytes of one post.
pub const MAX_POST: usize = 4 << 20;
/// The most bytes of one open event.
pub const MAX_OPEN: usize = 16 << 10;

/// Longest method that is recorded, in bytes; longer ones are cut.
pub const MAX_METHOD: usize = 32;
/// Longest host that is recorded, in bytes.
pub const MAX_HOST: usize = 255;
/// Longest path that is recorded, in bytes, without its query.
pub const MAX_PATH: usize = 2048;
/// Longest answer of a check that a [`Mismatch`] holds, in bytes.
pub const MAX_FOUND: usize = 256;
/// Longest user agent that is recorded, in bytes.
pub const MAX_USER_AGENT: usize = 256;

/// The id of a VM, as the source of events and in shared data: a random number of its start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct VmId(pub u128);

impl std::fmt::Display for VmId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One request, as it ended. `(source, number)` is its identity. `None` is what Envoy
/// does not have: a request that it refused before the filter has neither host nor path.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TrafficEvent {
    /// Number among the source's events, from 1, without gaps.
    pub number: u64,
    /// When the request arrived, milliseconds since the Unix epoch, UTC.
    pub time_ms: u64,
    /// Request method.
    #[serde(with = "serde_bytes")]
    pub method: Option<Vec<u8>>,
    /// Host as sent, port included.
    #[serde(with = "serde_bytes")]
    pub host: Option<Vec<u8>>,
    /// Path without its query, which may have secrets in it.
    #[serde(with = "serde_bytes")]
    pub path: Option<Vec<u8>>,
    /// The client's address, by Envoy's trusted-hop rules.
    pub client: Option<IpAddr>,
    /// What was decided.
    pub verdict: VerdictCode,
    /// Machine-readable reason of a denial, like `ip_banned`.
    pub reason: Option<String>,
    /// What decided: the ban's prefix, for example.
    pub rule: Option<String>,
    /// The route that matched: `NAME`, or `NAMESPACE/NAME` if its namespace is not `default`.
    pub route: Option<String>,
    /// The path template that matched, as written in its route: it has few values, where
    /// paths have many.
    pub template: Option<String>,
    /// Name of the first limit in shadow that would have denied.
    pub shadow_limit: Option<String>,
    /// Reason of the denial by the first ban or geo rule in shadow that would have denied.
    pub would_deny: Option<String>,
    /// What it is: the ban's prefix, or the geo rule's name.
    pub would_deny_rule: Option<String>,
    /// Final status; `None` when the client left before one was known.
    pub status: Option<u16>,
    /// From the request's arrival to its end, microseconds.
    pub duration_us: Option<u64>,
    /// From the moment the gate let it go on to the end of its response, microseconds: what lies behind
    /// the gate took. `None`: the gate answered, there was no whole response, or it is a tunnel.
    pub upstream_us: Option<u64>,
    /// The gate's own part of [`Self::duration_us`], microseconds: from the request's arrival until the gate
    /// let it go on, 0 if it did at once, and what the response waited for the event to be stored. Of one
    /// that it did not let go on: all of it. `None`: Envoy refused the request before the filter.
    pub gate_us: Option<u64>,
    /// Bytes of the request's body that came: what [`Self::bytes_out`] is of the response's.
    pub bytes_in: Option<u64>,
    /// Bytes of the body that were sent to the client, by whoever answered: as in its encoding
    /// (`content-encoding`), without headers, trailers and the framing of HTTP. A tunnel's are all
    /// that went through it.
    pub bytes_out: Option<u64>,
    /// User agent, as sent.
    #[serde(with = "serde_bytes")]
    pub user_agent: Option<Vec<u8>>,
    /// A tunnel (101 or CONNECT): its duration is no measure of latency.
    pub tunnel: bool,
    /// The sequence number of the tables that the request began with, 0 when
    /// there were none.
    pub tables_seq: u64,
    /// The client's country, if the decision needed it and it is known.
    pub country: Option<Country>,
    /// The flags as they applied to this request; `None`: Envoy refused the request before
    /// the filter.
    pub modes: Option<Modes>,
    /// What answered each check.
    pub answered: PerCheck<Answered>,
    /// Checks in shadow that the cache answered differently.
    pub mismatches: Vec<Mismatch>,
}

/// A check that cache and database answered differently.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mismatch {
    /// Which.
    pub check: Check,
    /// The database's answer, as text for people.
    pub direct: String,
    /// The cache's answer.
    pub cached: String,
    /// The database's sequence number with that answer.
    pub direct_seq: u64,
    /// The cache's sequence number. If it is lower, the cache was only behind: during a change
    /// that is right for some milliseconds; for longer it is a fault.
    pub cached_seq: u64,
}

impl Mismatch {
    /// Whether the cache was only behind the database.
    #[must_use]
    pub fn is_lagging(&self) -> bool {
        self.cached_seq < self.direct_seq
    }
}

/// An event that a response waits for (synchronous recording): the body of
/// `POST /api/data-plane/v1/events?sync=1`. The completed event has the same number and
/// is sent as all others are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpenEvent {
    /// The VM that numbered it.
    pub source: VmId,
    /// The event so far: its status is that of the response's headers.
    pub event: TrafficEvent,
}

impl OpenEvent {
    /// The event's bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        open_bytes(self.source, &self.event)
    }

    /// Reads an open event.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_OPEN`], of another version or malformed, or
    /// the number is 0.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let open: Self = decode(OPEN_FORMAT, MAX_OPEN, bytes)?;
        if open.event.number == 0 { Err(FormatError::Malformed("event number 0")) } else { Ok(open) }
    }
}

/// The bytes of the [`OpenEvent`] of `source` and `event`. The event is encoded as in a
/// batch, by the same code.
///
/// # Errors
/// When the event cannot be encoded.
pub fn open_bytes(source: VmId, event: &TrafficEvent) -> Result<Vec<u8>, FormatError> {
    let mut bytes = encode(OPEN_FORMAT, &source)?;
    append_event(&mut bytes, event)?;
    Ok(bytes)
}

/// What the gate did with a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum VerdictCode {
    /// The gate let it pass.
    Allow,
    /// The gate denied it.
    Deny,
    /// The gate let it pass, and its route answered it with a redirect.
    Redirect,
    /// The gate decided nothing. Envoy refused the request before the filter; or,
    /// where the event has [`modes`](TrafficEvent::modes), it ended while the
    /// gate's questions about it were open.
    #[default]
    Unseen,
}

impl VerdictCode {
    /// The name in rows, metrics and headers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Redirect => "redirect",
            Self::Unseen => "unseen",
        }
    }
}

/// Why events were given up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum DropReason {
    /// The worker's own buffer was full: the queue was not drained for too long.
    BufferFull,
    /// The recorder had as many unacknowledged batches as it may.
    RecorderFull,
    /// The batch could not be encoded.
    Unencodable,
    /// The admin service did not take the batch for 24 hours.
    Expired,
}

impl DropReason {
    /// The name in statistics and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::RecorderFull => "recorder_full",
            Self::Unencodable => "unencodable",
            Self::Expired => "expired",
        }
    }
}

/// A run of events that were numbered and then given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DroppedRange {
    /// The VM that numbered them.
    pub source: VmId,
    /// First number, included.
    pub first: u64,
    /// Last number, included.
    pub last: u64,
    /// Why.
    pub reason: DropReason,
}

/// A sealed run of events of one source, numbered `first` to `first + events.len() - 1`
/// without gaps. It is not split again. An empty one carries only the other fields.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Batch {
    /// The VM that numbered the events.
    pub source: VmId,
    /// The number of the first event.
    pub first: u64,
    /// The highest number given so far: cumulative, merged by maximum.
    pub numbered_hi: u64,
    /// The source ends with this batch: there will be no higher number.
    pub closing: bool,
    /// Events of this source that were given up, oldest first, all since the last batch that
    /// was enqueued. Each range is in one batch only: if the queue loses that, the range is
    /// lost with it.
    pub dropped: Vec<DroppedRange>,
    /// The events, in order of their numbers.
    pub events: Vec<TrafficEvent>,
}

impl Batch {
    /// The batch's bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(BATCH_FORMAT, self)
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_BATCH`], of another version, malformed, or
    /// the events' numbers are not the run that `first` begins.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let batch: Self = decode(BATCH_FORMAT, MAX_BATCH, bytes)?;
        let mut expected = Some(batch.first);
        for event in &batch.events {
            if expected != Some(event.number) || event.number == 0 {
                return Err(FormatError::Malformed("event numbers are not one run"));
            }
            expected = event.number.checked_add(1);
        }
        if batch.events.last().is_some_and(|last| last.number > batch.numbered_hi) {
            return Err(FormatError::Malformed("an event's number is over numbered_hi"));
        }
        Ok(batch)
    }
}

/// The fields in front of a [`Batch`]'s events: a VM writes them once the events are
/// encoded, and the recorder reads nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BatchHead {
    /// As in [`Batch`].
    pub source: VmId,
    /// As in [`Batch`].
    pub first: u64,
    /// As in [`Batch`].
    pub numbered_hi: u64,
    /// As in [`Batch`].
    pub closing: bool,
    /// As in [`Batch`].
    pub dropped: Vec<DroppedRange>,
}

impl BatchHead {
    /// The bytes of the batch of these fields and `count` events; `events` is what
    /// [`append_event`] wrote for each, in order.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn seal(&self, count: u32, events: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut bytes = encode(BATCH_FORMAT, &(self, count))?;
        bytes.extend_from_slice(events);
        Ok(bytes)
    }

    /// The fields of a batch and the number of its events, which are not read.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_BATCH`], of another version, or malformed as
    /// far as they are read.
    pub fn read(bytes: &[u8]) -> Result<(Self, u32), FormatError> {
        crate::codec::decode_front(BATCH_FORMAT, MAX_BATCH, bytes)
    }
}

/// Appends an event's bytes as they are in a batch, so that a VM keeps events encoded and
/// knows their size.
///
/// # Errors
/// When the event cannot be encoded; then nothing is appended.
pub fn append_event(bytes: &mut Vec<u8>, event: &TrafficEvent) -> Result<(), FormatError> {
    let before = bytes.len();
    postcard::serialize_with_flavor(event, Appending(bytes)).map_err(|_| {
        bytes.truncate(before);
        FormatError::Malformed("event cannot be encoded")
    })
}

/// Output for postcard, which takes its output by value and drops it on an error. Texts are appended
/// whole, where postcard's own output for a vector takes byte by byte.
struct Appending<'b>(&'b mut Vec<u8>);

impl Flavor for Appending<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// How the answer to a post that is stored begins, after status 200. What else says 200 is not the
/// admin service: a page of something in between.
pub const RECEIPT: &[u8] = br#"{"stored":"#;

/// How the answers to a post begin whose content the admin service will never take. What else
/// refuses a post is something in between, and the post is kept.
pub const REFUSALS: [&[u8]; 4] = [
    br#"{"type":"urn:tidegate:problem:invalid_body""#,
    br#"{"type":"urn:tidegate:problem:body_too_large""#,
    br#"{"type":"urn:tidegate:problem:post_too_large""#,
    br#"{"type":"urn:tidegate:problem:impossible_claim""#,
];

/// Header of a post by a gateway whose Envoy does not tell it of requests that reach no filter: they have
/// no numbers.
pub const UNTOLD_HEADER: &str = "x-tidegate-untold";

/// The body of `POST /api/data-plane/v1/events`; a [`RECEIPT`] acknowledges all of it, and the
/// recorder keeps it until then. The headers are those of the sync.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventPost {
    /// Every VM of this gateway that the recorder knows of, whether it has
    /// batches here or not.
    pub sources: Vec<SourceReport>,
    /// Batches that the recorder itself gave up.
    pub dropped: Vec<DroppedRange>,
    /// Bytes waiting in the shared queue and in the recorder, this post included.
    pub waiting_bytes: u64,
    /// Age of the oldest batch waiting, milliseconds.
    pub oldest_ms: u64,
    /// Posts repeated so far by this recorder.
    pub retries: u64,
    /// Sealed batches, each as [`Batch::to_bytes`] made it.
    pub batches: Vec<SealedBatch>,
}

/// A sealed batch's bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedBatch(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// What the recorder knows of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SourceReport {
    /// The VM.
    pub source: VmId,
    /// The highest number that it is known to have given.
    pub numbered_hi: u64,
    /// Whether it is alive.
    pub state: SourceState,
}

/// Whether a VM still numbers events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SourceState {
    /// Its last heartbeat is at most 10 s ago.
    Alive,
    /// No heartbeat for 10 s, and the queue has been drained since: events that are
    /// missing will not come any more.
    Dead,
}

impl EventPost {
    /// The post's bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(POST_FORMAT, self)
    }

    /// Reads a post; its batches stay sealed.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_POST`], of another version or malformed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        decode(POST_FORMAT, MAX_POST, bytes)
    }
}

/// `bytes`, cut to `max`.
#[must_use]
pub fn bounded(bytes: &[u8], max: usize) -> Vec<u8> {
    bytes.get(..max).unwrap_or(bytes).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(first: u64, numbers: &[u64], numbered_hi: u64) -> Batch {
        let events = numbers
            .iter()
            .map(|&number| TrafficEvent {
                number,
                path: Some(b"/\xff".to_vec()),
                client: Some("2001:db8::1".parse().unwrap()),
                ..TrafficEvent::default()
            })
            .collect();
        Batch { source: VmId(7), first, numbered_hi, events, ..Batch::default() }
    }

    #[test]
    fn a_batch_is_one_run_or_an_error() {
        let good = batch(3, &[3, 4, 5], 5);
        assert_eq!(Batch::from_bytes(&good.to_bytes().unwrap()), Ok(good));
        for bad in [batch(3, &[3, 5], 5), batch(2, &[3], 3), batch(0, &[0], 1), batch(3, &[3, 4], 3)] {
            let bytes = bad.to_bytes().unwrap();
            assert!(matches!(Batch::from_bytes(&bytes), Err(FormatError::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_batch_written_in_parts_is_the_same_batch() {
        let mut whole = batch(3, &[3, 4, 5], 9);
        whole.dropped =
            vec![DroppedRange { source: VmId(7), first: 1, last: 2, reason: DropReason::BufferFull }];
        let mut events = Vec::new();
        for event in &whole.events {
            append_event(&mut events, event).unwrap();
        }
        let head = BatchHead {
            source: whole.source,
            first: whole.first,
            numbered_hi: whole.numbered_hi,
            closing: whole.closing,
            dropped: whole.dropped.clone(),
        };
        let bytes = head.seal(3, &events).unwrap();
        assert_eq!(bytes, whole.to_bytes().unwrap());
        assert_eq!(BatchHead::read(&bytes), Ok((head, 3)));
    }

    #[test]
    fn an_open_event_is_read_as_it_was_written() {
        let event = batch(1, &[1], 1).events.remove(0);
        let open = OpenEvent { source: VmId(u128::MAX), event };
        assert_eq!(OpenEvent::from_bytes(&open.to_bytes().unwrap()).as_ref(), Ok(&open));
        let unnumbered = TrafficEvent { number: 0, ..open.event };
        assert!(OpenEvent::from_bytes(&open_bytes(open.source, &unnumbered).unwrap()).is_err());
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = batch(1, &[1], 1).to_bytes().unwrap();
        bytes[0] = 9;
        assert_eq!(Batch::from_bytes(&bytes), Err(FormatError::Version { found: 9, known: BATCH_FORMAT }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(mut bytes: Vec<u8>) {
            if let Some(first) = bytes.first_mut() { *first = BATCH_FORMAT; }
            let _ = Batch::from_bytes(&bytes);
            let _ = BatchHead::read(&bytes);
            let _ = EventPost::from_bytes(&bytes);
        }

        #[test]
        fn truncated_and_flipped_batches_do_not_panic(cut in 0usize..200, flip in 0usize..200, to: u8) {
            let mut bytes = batch(1, &[1, 2], 9).to_bytes().unwrap();
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(flip) { *byte = to; }
            let _ = Batch::from_bytes(&bytes);
        }
    }
}
