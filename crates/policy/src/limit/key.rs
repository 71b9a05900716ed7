//! The key that a request counts under for a limit, and the bucket that holds it.

use std::borrow::Cow;
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::limits::{Limit, LimitKey, Limits};
use crate::address::{Prefix, canonical};
use crate::request::Facts;
use crate::route::RouteMatch;

/// Buckets of keys that clients choose: addresses and headers.
pub const CLIENT_BUCKETS: u16 = 4096;
/// Buckets of keys that the operator chooses: routes, and all requests together.
/// They are apart, so that no number of client addresses can evict them.
pub const OPERATOR_BUCKETS: u16 = 256;
/// All buckets of a process: with 16 keys each, 69,632 keys.
pub const BUCKETS: u16 = CLIENT_BUCKETS + OPERATOR_BUCKETS;

/// The value of a limit's key for one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyValue<'r> {
    /// The client's address, or the block that it is in.
    Client(Prefix),
    /// The value of the limit's header; lines joined by `,`.
    Header(Cow<'r, [u8]>),
    /// The route.
    Route(&'r str),
    /// All requests together.
    Global,
}

impl<'r> KeyValue<'r> {
    /// The key value of the request under `limit`; `route`: the one that matched.
    /// `None`: the limit does not hold for it, because its client or its route is not
    /// known. If the limit's header is absent, or all its lines are empty, the client's
    /// address counts: otherwise all clients without the header would share a limit.
    #[must_use]
    pub fn of(limit: &Limit, facts: &Facts<'r>, route: Option<&'r str>) -> Option<Self> {
        match &limit.key {
            LimitKey::Ip => client(facts.client, limit.v6_prefix),
            LimitKey::Header(name) => {
                header(facts.headers, name.as_bytes()).or_else(|| client(facts.client, limit.v6_prefix))
            }
            LimitKey::Route => route.map(Self::Route),
            LimitKey::Global => Some(Self::Global),
        }
    }
}

impl Limits {
    /// The limits that hold for a request that `route` matched, with its key value under
    /// each. A page's user does not ask for the browser's preflight requests, and a page cannot
    /// read that one was denied: they count where the limit says so.
    pub fn of<'l, 'r>(
        &'l self,
        facts: &Facts<'r>,
        route: Option<&RouteMatch<'r>>,
    ) -> impl Iterator<Item = (&'l Limit, KeyValue<'r>)> {
        let facts = *facts;
        let is_preflight = route.is_some_and(|route| route.preflight(&facts).is_some());
        let route = route.map(|route| route.route);
        self.applying(route, facts.client)
            .filter(move |limit| limit.count_preflights || !is_preflight)
            .filter_map(move |limit| Some((limit, KeyValue::of(limit, &facts, route)?)))
    }
}

fn client<'r>(client: Option<IpAddr>, v6_prefix: u8) -> Option<KeyValue<'r>> {
    let block = match canonical(client?) {
        v4 @ IpAddr::V4(_) => Some(Prefix::host(v4)),
        IpAddr::V6(v6) => Prefix::v6(v6.to_bits(), v6_prefix),
    };
    block.map(KeyValue::Client)
}

fn header<'r>(lines: &[(&'r [u8], &'r [u8])], name: &[u8]) -> Option<KeyValue<'r>> {
    let values = lines.iter().filter(|(found, _)| *found == name).map(|(_, value)| value.trim_ascii());
    let mut values = values.filter(|value| !value.is_empty());
    let mut joined = Cow::Borrowed(values.next()?);
    for value in values {
        let joined = joined.to_mut();
        joined.push(b',');
        joined.extend_from_slice(value);
    }
    Some(KeyValue::Header(joined))
}

/// The bucket in shared data that holds the time of a key, and the key's hash in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyLocation {
    /// The bucket, under [`BUCKETS`].
    pub bucket: u16,
    /// The key in it.
    pub hash: u128,
}

impl KeyLocation {
    /// The location of `value` under `limit`. `seed`: random, one for the process, and
    /// secret, so that no client can choose a value whose hash is another's. Rate, period,
    /// burst and shadow are part of the hash: if one of them changes, the limit begins
    /// anew.
    #[must_use]
    pub fn of(limit: &Limit, value: &KeyValue<'_>, seed: &[u8; 16]) -> Self {
        let mut hasher = SipHasher13::new_with_key(seed);
        hasher.write(limit.name.as_bytes());
        // No name has a zero byte.
        hasher.write_u8(0);
        for term in [limit.rate, limit.per_s, limit.burst, u32::from(limit.shadow)] {
            hasher.write_u32(term);
        }
        match value {
            KeyValue::Client(block) => {
                hasher.write_u8(1);
                hasher.write(&block.to_bytes());
            }
            KeyValue::Header(value) => {
                hasher.write_u8(2);
                hasher.write(value);
            }
            KeyValue::Route(route) => {
                hasher.write_u8(3);
                hasher.write(route.as_bytes());
            }
            KeyValue::Global => hasher.write_u8(4),
        }
        let hash = hasher.finish128().as_u128();
        let (first, buckets) = match value {
            KeyValue::Client(_) | KeyValue::Header(_) => (0, CLIENT_BUCKETS),
            KeyValue::Route(_) | KeyValue::Global => (CLIENT_BUCKETS, OPERATOR_BUCKETS),
        };
        let within = hash.checked_rem(u128::from(buckets)).and_then(|rest| u16::try_from(rest).ok());
        Self { bucket: within.unwrap_or_default().saturating_add(first), hash }
    }
}
