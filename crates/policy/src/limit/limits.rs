//! Limits and their table.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::gcra::Gcra;
use crate::address::Prefix;
use crate::codec::{FormatError, at_most, decode, encode};

/// Version of the bytes of [`Limits`].
pub const LIMITS_FORMAT: u8 = 2;
/// The most limits of a table: every request is compared with each.
pub const MAX_LIMITS: usize = 256;
/// The most bytes of a table: more than [`MAX_LIMITS`] of the largest limits take.
pub const MAX_LIMITS_BYTES: usize = 4 << 20;
/// The most routes, and the most address blocks, that one limit names.
pub const MAX_MATCHES: usize = 32;
/// The highest rate and burst.
pub const MAX_RATE: u32 = 1_000_000_000;
/// The longest period, seconds: a day.
pub const MAX_PER_S: u32 = 86_400;
/// The longest time in which a whole burst is replenished, seconds: a hundred years.
/// Longer times would overflow 64 bits of nanoseconds.
pub const MAX_REFILL_S: u64 = 3_155_760_000;
/// The leading bits by which IPv6 clients are told apart, unless a limit sets another
/// number: the block that one subscriber gets.
pub const V6_PREFIX: u8 = 64;
/// The most bytes of a limit's and a header's name, and of a route's id: a namespace (63), `/` and a
/// name (253).
const MAX_NAME: usize = 317;

/// A limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// Its name: DNS labels with dots between.
    pub name: String,
    /// What requests are counted by.
    pub key: LimitKey,
    /// Names of the routes that it holds for, sorted; none: all routes, and requests
    /// without one.
    #[serde(deserialize_with = "at_most::<MAX_MATCHES, _, _>")]
    pub routes: Vec<String>,
    /// Blocks of the clients that it holds for, sorted; none: all clients.
    #[serde(deserialize_with = "at_most::<MAX_MATCHES, _, _>")]
    pub cidrs: Vec<Prefix>,
    /// Requests in a period, 1 to [`MAX_RATE`].
    pub rate: u32,
    /// The period, seconds, 1 to [`MAX_PER_S`].
    pub per_s: u32,
    /// Requests that may come at once, 1 to [`MAX_RATE`].
    pub burst: u32,
    /// Whether it only counts, and denies nothing.
    pub shadow: bool,
    /// Whether responses to requests that pass also have the `RateLimit` headers.
    pub headers: bool,
    /// The leading bits by which IPv6 clients are told apart, 1 to 128.
    pub v6_prefix: u8,
    /// Whether browsers' preflight requests that a route's CORS filter answers count, too.
    pub count_preflights: bool,
}

/// What requests are counted by.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum LimitKey {
    /// The client's address.
    Ip,
    /// The value of this header, its name in lower case.
    Header(String),
    /// The route.
    Route,
    /// All requests together.
    Global,
}

impl Limit {
    /// A limit of one request a second that holds for all requests, without a name.
    #[must_use]
    pub fn new(key: LimitKey) -> Self {
        Self {
            name: String::new(),
            key,
            routes: Vec::new(),
            cidrs: Vec::new(),
            rate: 1,
            per_s: 1,
            burst: 1,
            shadow: false,
            headers: false,
            v6_prefix: V6_PREFIX,
            count_preflights: false,
        }
    }

    /// Its rate and burst.
    #[must_use]
    pub fn gcra(&self) -> Gcra {
        Gcra::new(self.rate, self.per_s, self.burst)
    }

    /// Seconds that a whole burst takes to be replenished, rounded down.
    #[must_use]
    pub fn refill_s(&self) -> u64 {
        let whole = u64::from(self.burst).saturating_mul(u64::from(self.per_s));
        whole.checked_div(u64::from(self.rate)).unwrap_or(u64::MAX)
    }

    /// Whether it holds for requests of this route and client.
    #[must_use]
    pub fn applies(&self, route: Option<&str>, client: Option<IpAddr>) -> bool {
        let is_route = |route: &str| self.routes.binary_search_by(|name| name.as_str().cmp(route)).is_ok();
        let is_client = |client| self.cidrs.iter().any(|block| block.contains(client));
        (self.routes.is_empty() || route.is_some_and(is_route))
            && (self.cidrs.is_empty() || client.is_some_and(is_client))
    }

    /// Whether all of it is in range and in order.
    pub(super) fn is_valid(&self) -> bool {
        let is_name = |name: &str| (1..=MAX_NAME).contains(&name.len());
        let is_key = match &self.key {
            LimitKey::Header(name) => is_name(name) && !name.bytes().any(|byte| byte.is_ascii_uppercase()),
            LimitKey::Ip | LimitKey::Route | LimitKey::Global => true,
        };
        // The name is sent as a structured string in a response header.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        is_name(&self.name)
            && self.name.bytes().all(is_plain)
            && is_key
            && self.routes.iter().all(|route| is_name(route))
            && self.routes.is_sorted_by(|a, b| a < b)
            && self.cidrs.is_sorted_by(|a, b| a < b)
            && (1..=MAX_RATE).contains(&self.rate)
            && (1..=MAX_RATE).contains(&self.burst)
            && (1..=MAX_PER_S).contains(&self.per_s)
            && (1..=128).contains(&self.v6_prefix)
            && self.refill_s() <= MAX_REFILL_S
    }
}

/// All limits, in the order of their names.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    #[serde(deserialize_with = "at_most::<MAX_LIMITS, _, _>")]
    pub(super) limits: Vec<Limit>,
}

impl Limits {
    /// These limits; of two with one name the later counts.
    #[must_use]
    pub fn new(limits: impl IntoIterator<Item = Limit>) -> Self {
        let by_name: std::collections::BTreeMap<String, Limit> = limits
            .into_iter()
            .map(|mut limit| {
                limit.routes.sort_unstable();
                limit.routes.dedup();
                limit.cidrs.sort_unstable();
                limit.cidrs.dedup();
                (limit.name.clone(), limit)
            })
            .collect();
        Self { limits: by_name.into_values().collect() }
    }

    /// All of them, in the order of their names.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.limits.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Those that hold for requests of this route and client, in the order of their
    /// names. A client on the allow list is exempt from all limits, which the caller sees
    /// to.
    pub fn applying(&self, route: Option<&str>, client: Option<IpAddr>) -> impl Iterator<Item = &Limit> {
        self.limits.iter().filter(move |limit| limit.applies(route, client))
    }

    /// The limits' bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(LIMITS_FORMAT, self)
    }

    /// Reads limits.
    ///
    /// # Errors
    /// When the bytes are too long, of another version or malformed, the limits are
    /// over [`MAX_LIMITS`] or out of order, or one of them is out of range.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let limits: Self = decode(LIMITS_FORMAT, MAX_LIMITS_BYTES, bytes)?;
        if !limits.limits.is_sorted_by(|a, b| a.name < b.name) || !limits.limits.iter().all(Limit::is_valid) {
            return Err(FormatError::Malformed("limits out of order, or out of range"));
        }
        Ok(limits)
    }
}
