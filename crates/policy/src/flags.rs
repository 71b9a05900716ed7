//! The five flags of the rollout, and the mode of each check for one client.
//!
//! A flag can be on for a percentage of the clients: always the same ones, and for each
//! flag other ones. It can also be limited to gateways, hostnames or routes.

mod scope;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::address::Prefix;
use crate::codec::{FormatError, decode, encode};

pub use scope::{FlagScope, FlagSet};

/// Version of the bytes of [`Flags`].
pub const FLAGS_FORMAT: u8 = 2;
/// The most bytes of [`Flags`]: five scopes with 48 names each, which have 317 at most.
const MAX_FLAGS: usize = 80_000;

/// A flag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Flag {
    /// Routes are matched in the compiled table.
    RouteCache,
    /// Bans are looked up in the compiled table.
    IpBlacklistCache,
    /// Countries and geo rules are looked up in the compiled tables.
    GeoRulesCache,
    /// Questions to the admin service about one request are asked all at once.
    ParallelExecution,
    /// Events go through buffer and queue; no response waits for them.
    AsyncRecording,
}

impl Flag {
    /// All of them, in the order of the rollout.
    pub const ALL: [Self; 5] = [
        Self::RouteCache,
        Self::IpBlacklistCache,
        Self::GeoRulesCache,
        Self::ParallelExecution,
        Self::AsyncRecording,
    ];

    /// The name in the API, in rows and in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RouteCache => "enableRouteCache",
            Self::IpBlacklistCache => "enableIpBlacklistCache",
            Self::GeoRulesCache => "enableGeoRulesCache",
            Self::ParallelExecution => "enableParallelExecution",
            Self::AsyncRecording => "enableAsyncRecording",
        }
    }

    /// The flag of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flag| flag.name() == name)
    }

    /// Whether it can be in [`FlagState::Shadow`]: the three caches can.
    #[must_use]
    pub fn has_shadow(self) -> bool {
        matches!(self, Self::RouteCache | Self::IpBlacklistCache | Self::GeoRulesCache)
    }
}

/// What a flag is set to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum FlagState {
    /// `false`.
    #[default]
    Off,
    /// `"shadow"`: the direct answer decides, the cached one is compared.
    Shadow,
    /// `{"percent": n}`: on for this share of the clients, 0 to 100.
    Share(u8),
    /// `true`.
    On,
    /// `{"percent": n, "gateways": [...], "hostnames": [...], "routes": [...]}`: as [`Self::Share`] for requests within
    /// the scope, off for all others.
    Scoped(Box<ScopedShare>),
}

impl FlagState {
    /// The share of the clients, in percent, for which it is on, where it is.
    #[must_use]
    pub fn percent(&self) -> u8 {
        match self {
            Self::Off | Self::Shadow => 0,
            Self::Share(percent) => *percent,
            Self::Scoped(scoped) => scoped.percent,
            Self::On => 100,
        }
    }

    /// What it is limited to; `None`: nothing.
    #[must_use]
    pub fn scope(&self) -> Option<&FlagScope> {
        match self {
            Self::Scoped(scoped) => Some(&scoped.scope),
            Self::Off | Self::Shadow | Self::Share(_) | Self::On => None,
        }
    }
}

/// A flag that is on for a share of the clients, and only within a scope.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ScopedShare {
    /// 0 to 100.
    pub percent: u8,
    /// Not empty.
    pub scope: FlagScope,
}

/// All flags. The default is the start of the rollout: all off.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Flags([FlagState; 5]);

/// How one check is answered for one client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Mode {
    /// By the admin service, from its database.
    #[default]
    Direct,
    /// By the admin service; the cache's answer is compared.
    Shadow,
    /// From the cache.
    Cached,
}

impl Mode {
    /// The name in rows, headers and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Shadow => "shadow",
            Self::Cached => "cached",
        }
    }
}

/// The flags as they apply to one request. The default is all flags off, which also holds
/// while a gateway has no tables yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Modes {
    /// Of the ban and allow list.
    pub ip: Mode,
    /// Of country and geo rules.
    pub geo: Mode,
    /// Of routes.
    pub route: Mode,
    /// Whether questions to the admin service are asked all at once.
    pub parallel: bool,
    /// Whether no response waits for its event.
    pub async_recording: bool,
    /// Flags that are limited to a scope in which the request is not: they are off for it, whatever its client.
    pub outside: FlagSet,
}

impl Modes {
    /// Whether a flag is on.
    #[must_use]
    pub fn is_on(&self, flag: Flag) -> bool {
        match flag {
            Flag::RouteCache => self.route == Mode::Cached,
            Flag::IpBlacklistCache => self.ip == Mode::Cached,
            Flag::GeoRulesCache => self.geo == Mode::Cached,
            Flag::ParallelExecution => self.parallel,
            Flag::AsyncRecording => self.async_recording,
        }
    }
}

impl Flags {
    /// All on: the end of the rollout.
    #[must_use]
    pub fn all_on() -> Self {
        Self([const { FlagState::On }; 5])
    }

    /// What a flag is set to.
    #[must_use]
    pub fn get(&self, flag: Flag) -> &FlagState {
        let [route, ip, geo, parallel, recording] = &self.0;
        match flag {
            Flag::RouteCache => route,
            Flag::IpBlacklistCache => ip,
            Flag::GeoRulesCache => geo,
            Flag::ParallelExecution => parallel,
            Flag::AsyncRecording => recording,
        }
    }

    /// These flags with one of them set.
    #[must_use]
    pub fn with(mut self, flag: Flag, state: FlagState) -> Self {
        let [route, ip, geo, parallel, recording] = &mut self.0;
        *match flag {
            Flag::RouteCache => route,
            Flag::IpBlacklistCache => ip,
            Flag::GeoRulesCache => geo,
            Flag::ParallelExecution => parallel,
            Flag::AsyncRecording => recording,
        } = state;
        self
    }

    /// The flags as they apply to a request of `client`. All clients without an address count as one. `fits`: whether
    /// the request is in a scope; asked only of flags that have one.
    #[must_use]
    pub fn modes_at(&self, client: Option<IpAddr>, fits: impl Fn(&FlagScope) -> bool) -> Modes {
        let mut outside = FlagSet::default();
        let mut mode = |flag| {
            let state = self.get(flag);
            if !state.scope().is_none_or(&fits) {
                outside = outside.with(flag);
                return Mode::Direct;
            }
            match state {
                FlagState::Shadow => Mode::Shadow,
                state if is_on(flag, state, client) => Mode::Cached,
                _ => Mode::Direct,
            }
        };
        let (ip, geo, route) =
            (mode(Flag::IpBlacklistCache), mode(Flag::GeoRulesCache), mode(Flag::RouteCache));
        // These two have no shadow: they are on or not.
        let parallel = mode(Flag::ParallelExecution) == Mode::Cached;
        let async_recording = mode(Flag::AsyncRecording) == Mode::Cached;
        Modes { ip, geo, route, parallel, async_recording, outside }
    }

    /// The flags as they apply to a request of `client` that is in no scope.
    #[must_use]
    pub fn modes(&self, client: Option<IpAddr>) -> Modes {
        self.modes_at(client, |_| false)
    }

    /// The flags' bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(FLAGS_FORMAT, self)
    }

    /// Reads flags.
    ///
    /// # Errors
    /// When the bytes are of another version or malformed, a share is over 100,
    /// a scope is empty, or a flag is in shadow that has none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let flags: Self = decode(FLAGS_FORMAT, MAX_FLAGS, bytes)?;
        for flag in Flag::ALL {
            let state = flags.get(flag);
            if state.scope().is_some_and(FlagScope::is_empty) {
                return Err(FormatError::Malformed("a scope without a name"));
            }
            match state {
                state if state.percent() > 100 => {
                    return Err(FormatError::Malformed("a share over 100 percent"));
                }
                FlagState::Shadow if !flag.has_shadow() => {
                    return Err(FormatError::Malformed("a flag in shadow that has none"));
                }
                _ => {}
            }
        }
        Ok(flags)
    }
}

fn is_on(flag: Flag, state: &FlagState, client: Option<IpAddr>) -> bool {
    match state.percent() {
        0 => false,
        100.. => true,
        percent => place(flag, client) < u64::from(percent),
    }
}

/// A client's percentile, 0 to 99, by which shares are chosen: always the same for one
/// client and flag, and different for each flag. A flag that is on for a client at 10
/// percent is on for it at 20. Integers only (`hash * weight >> 32`, as flagd does it), so
/// that it is the same on every machine. The seed is the flag's index in [`Flag`], whose
/// order must therefore stay.
fn place(flag: Flag, client: Option<IpAddr>) -> u64 {
    let bytes = client.map(|client| Prefix::host(client).to_bytes());
    let seed = flag as u64;
    let hash = xxh3_64_with_seed(bytes.as_ref().map_or(&[], |bytes| bytes.as_slice()), seed);
    (hash >> 32).saturating_mul(100) >> 32
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn client(bits: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from_bits(bits).into())
    }

    fn scoped(percent: u8, hostnames: &[&str]) -> FlagState {
        let hostnames = hostnames.iter().map(ToString::to_string).collect();
        let place = crate::scope::Scope { hostnames, ..Default::default() };
        FlagState::Scoped(Box::new(ScopedShare { percent, scope: FlagScope { place, ..Default::default() } }))
    }

    #[test]
    fn bytes_say_the_flags_and_nothing_impossible() {
        let flags = Flags::default()
            .with(Flag::RouteCache, FlagState::Shadow)
            .with(Flag::GeoRulesCache, FlagState::Share(25))
            .with(Flag::ParallelExecution, scoped(100, &["a.example"]))
            .with(Flag::AsyncRecording, FlagState::On);
        assert_eq!(Flags::from_bytes(&flags.to_bytes().unwrap()).as_ref(), Ok(&flags));
        for (flag, bad) in [
            (Flag::RouteCache, FlagState::Share(101)),
            (Flag::RouteCache, scoped(101, &["a.example"])),
            (Flag::RouteCache, scoped(1, &[])),
            (Flag::RouteCache, scoped(1, &["a.example"; 17])),
            (Flag::AsyncRecording, FlagState::Shadow),
        ] {
            let bad = flags.clone().with(flag, bad);
            assert!(Flags::from_bytes(&bad.to_bytes().unwrap()).is_err());
        }
    }

    #[test]
    fn flags_choose_their_clients_independently() {
        for one in Flag::ALL {
            for other in Flag::ALL.into_iter().filter(|other| *other != one) {
                let both = |bits: &u32| {
                    let client = client(bits.wrapping_mul(2_654_435_761));
                    [one, other].into_iter().all(|flag| is_on(flag, &FlagState::Share(50), client))
                };
                let share = (0..40_000u32).filter(both).count();
                // A quarter of 40,000, and six standard deviations (87) around it.
                assert!((9_480..=10_520).contains(&share), "{share} of {one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn a_client_is_one_client_however_its_address_is_written() {
        let flags = Flag::ALL
            .into_iter()
            .fold(Flags::default(), |flags, flag| flags.with(flag, FlagState::Share(50)));
        for bits in 0..1_000u32 {
            let v4 = Ipv4Addr::from_bits(bits.wrapping_mul(2_654_435_761));
            assert_eq!(flags.modes(Some(v4.into())), flags.modes(Some(v4.to_ipv6_mapped().into())));
        }
        // The percentile is not part of a format, but gateways of different versions must
        // agree on it.
        let places = Flag::ALL.map(|flag| place(flag, Some(Ipv4Addr::new(192, 0, 2, 1).into())));
        assert_eq!(places, [55, 43, 29, 7, 36]);
    }

    proptest! {
        /// The bound is six standard deviations of a binomial share, so that a
        /// fair hash fails once in 5e8 cases.
        #[test]
        fn a_share_is_that_share_of_the_clients(percent in 0u8..=100, from: u32, step in 1u32..=1 << 16) {
            let flags = Flags::default().with(Flag::RouteCache, FlagState::Share(percent));
            let count = 20_000u32;
            let on = (0..count)
                .filter(|i| {
                    let client = client(from.wrapping_add(i.wrapping_mul(step)));
                    flags.modes(client).route == Mode::Cached
                })
                .count() as f64;
            let p = f64::from(percent) / 100.0;
            let n = f64::from(count);
            let bound = 6.0 * (n * p * (1.0 - p)).sqrt();
            prop_assert!((on - n * p).abs() <= bound, "{on} of {n} at {percent} percent");
        }

        #[test]
        fn who_is_in_a_share_is_in_every_larger_one(bits: u32, percent in 0u8..100) {
            let at = |share| Flags::default().with(Flag::GeoRulesCache, FlagState::Share(share)).modes(client(bits));
            if at(percent).geo == Mode::Cached {
                prop_assert_eq!(at(percent + 1).geo, Mode::Cached);
            }
        }

        /// A scope narrows a share, and chooses no other clients.
        #[test]
        fn within_its_scope_a_flag_is_as_without_one_and_off_elsewhere(bits: u32, percent in 0u8..=100, is_inside: bool) {
            for flag in Flag::ALL {
                let flags = Flags::all_on().with(flag, scoped(percent, &["a.example"]));
                let found = flags.modes_at(client(bits), |scope| {
                    assert_eq!(scope.place.hostnames, ["a.example"], "others have none");
                    is_inside
                });
                let share = if is_inside { FlagState::Share(percent) } else { FlagState::Off };
                let wanted = Flags::all_on().with(flag, share).modes(client(bits));
                let outside = if is_inside { FlagSet::default() } else { FlagSet::default().with(flag) };
                prop_assert_eq!(found, Modes { outside, ..wanted });
                prop_assert!(Flag::ALL.into_iter().all(|other| other == flag || found.is_on(other)));
            }
        }

        #[test]
        fn any_bytes_are_flags_or_an_error(mut bytes: Vec<u8>) {
            if let Some(first) = bytes.first_mut() { *first = FLAGS_FORMAT; }
            let _ = Flags::from_bytes(&bytes);
        }
    }
}
