//! The feed: how the admin service sends tables to a gateway, and how a gateway acks
//! what it enforces. `docs/ARCHITECTURE.md`, "A table change".
//!
//! `GET /api/data-plane/v1/sync?since=<epoch>.<seq>&wait=<seconds>` with the
//! headers below answers 304, or 200 with a [`SyncAnswer`];
//! `GET /api/data-plane/v1/sync/blob/<hash>?offset=<n>` answers up to
//! [`MAX_PAGE`] bytes of a table, or 410 if the service no longer keeps it;
//! `POST /api/data-plane/v1/sync/ack` with the same headers and no body answers 204.
//!
//! What a gateway enforces and holds is sent in headers, so that the poll is a GET without a
//! body, and the ack a POST with the same headers. Pages serve any table by its hash, because a
//! route table can be larger than one answer just as a base of bans can. What a gateway holds
//! already is recognized by hash or digest and not sent again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::codec::{FormatError, at_most, decode, encode};
use crate::digest::{BlobHash, SetDigest};
use crate::table::Entry;
use crate::tables::{PerTable, Table};
use crate::version::Version;

/// Version of [`SyncAnswer`]'s bytes.
pub const SYNC_FORMAT: u8 = 4;
/// The most bytes of a page and of an answer: Envoy buffers a callout's whole body.
pub const MAX_PAGE: usize = 4 << 20;
/// A whole table up to this size, in bytes, is sent inside the answer.
pub const MAX_INLINE: usize = 1 << 20;
/// Header of sync and ack: the gateway, as [`Gateway`].
pub const GATEWAY_HEADER: &str = "x-tidegate-gateway";
/// Header of sync and ack: what the gateway enforces, as [`Ack`].
pub const ACK_HEADER: &str = "x-tidegate-ack";
/// Header of sync: what the gateway holds, as [`Held`].
pub const HELD_HEADER: &str = "x-tidegate-held";
/// Header of sync: the VM that polls, as [`Poller`].
pub const POLLER_HEADER: &str = "x-tidegate-poller";
/// Header of every answer on the gateways' listener, refusals included: the service's clock,
/// milliseconds since the Unix epoch. What Envoy answers in the service's place, and what
/// something in between does, lacks it.
pub const TIME_HEADER: &str = "x-tidegate-time";

/// A gateway: one process of Envoy. `<node>;<process, 16 hex digits>`; the node's
/// name is cut to 200 characters out of `[A-Za-z0-9._~:/@-]`, others become `_`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Gateway {
    /// Envoy's node id: the same after a restart.
    pub node: String,
    /// A random number of the process.
    pub process: u64,
}

impl Gateway {
    /// A gateway by its node id, made safe for a header, and process id.
    #[must_use]
    pub fn new(node: &[u8], process: u64) -> Self {
        let safe = |b: &u8| match b {
            b if b.is_ascii_alphanumeric() || b"._~:/@-".contains(b) => char::from(*b),
            _ => '_',
        };
        Self { node: node.iter().take(200).map(safe).collect(), process }
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{:016x}", self.node, self.process)
    }
}

impl FromStr for Gateway {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let bad = || FormatError::Malformed("a gateway is <node>;<process, 16 hex digits>");
        let (node, process) = text.rsplit_once(';').ok_or_else(bad)?;
        if node.len() > 200 {
            return Err(bad());
        }
        Ok(Self::new(node.as_bytes(), u64::from_str_radix(process, 16).map_err(|_| bad())?))
    }
}

/// What a gateway enforces in **all** VMs that serve requests:
/// `<version>;refresh=<n>;live=<n>;stale=<n>`. `stale` VMs had no heartbeat for 2 s, so
/// the version does not hold for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ack {
    /// The oldest version that a live VM enforces.
    pub version: Version,
    /// The newest refresh that every live VM has carried out.
    pub refresh: u64,
    /// VMs that serve requests, with a heartbeat within 2 s.
    pub live: u32,
    /// VMs that serve requests, without one.
    pub stale: u32,
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};refresh={};live={};stale={}", self.version, self.refresh, self.live, self.stale)
    }
}

impl FromStr for Ack {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let bad = || FormatError::Malformed("an ack is <version>;refresh=<n>;live=<n>;stale=<n>");
        let mut parts = text.split(';');
        let mut ack = Self { version: parts.next().ok_or_else(bad)?.parse()?, ..Self::default() };
        for part in parts {
            // A name of a later version is ignored: the older side reads the others.
            match part.split_once('=').ok_or_else(bad)? {
                ("refresh", n) => ack.refresh = n.parse().map_err(|_| bad())?,
                ("live", n) => ack.live = n.parse().map_err(|_| bad())?,
                ("stale", n) => ack.stale = n.parse().map_err(|_| bad())?,
                _ => {}
            }
        }
        Ok(ack)
    }
}

/// The VM that polls for its gateway: `lease=<n>;recorder=<0 or 1>;clock=<milliseconds>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Poller {
    /// Its number among the holders of the lease: each has one more than the holder before it.
    pub lease: u64,
    /// Whether it is the singleton recorder, and not a VM that decides requests as well.
    pub recorder: bool,
    /// Its clock, milliseconds since the Unix epoch.
    pub clock_ms: u64,
}

impl fmt::Display for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lease, recorder, clock_ms } = self;
        write!(f, "lease={lease};recorder={};clock={clock_ms}", u8::from(*recorder))
    }
}

impl FromStr for Poller {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let bad = || FormatError::Malformed("a poller is lease=<n>;recorder=<0 or 1>;clock=<milliseconds>");
        let mut poller = Self::default();
        for part in text.split(';') {
            // A name of a later version is ignored: the older side reads the others.
            match part.split_once('=').ok_or_else(bad)? {
                ("lease", n) => poller.lease = n.parse().map_err(|_| bad())?,
                ("recorder", is) => poller.recorder = is == "1",
                ("clock", ms) => poller.clock_ms = ms.parse().map_err(|_| bad())?,
                _ => {}
            }
        }
        Ok(poller)
    }
}

/// What a gateway holds, so that what is equal is not sent again:
/// `allow=<hash>,routes=<hash>,bans=<count>-<sum>,refresh=<n>`, each table by its
/// [`name`](Table::name); what it does not hold is left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Hash of each table. Never that of the overlay of bans, which `bans` covers.
    pub hashes: PerTable<Option<BlobHash>>,
    /// Digest of all bans: base and overlay together.
    pub bans: Option<SetDigest>,
    /// The newest refresh that it has received. Without this, a refresh ordered between
    /// two polls would reach the gateway only with the next change.
    pub refresh: Option<u64>,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hashes =
            self.hashes.iter().filter_map(|(table, hash)| Some((table.name(), (*hash)?.to_string())));
        let bans = self.bans.map(|bans| ("bans", bans.to_string()));
        let refresh = self.refresh.map(|refresh| ("refresh", refresh.to_string()));
        for (at, (name, value)) in hashes.chain(bans).chain(refresh).enumerate() {
            write!(f, "{}{name}={value}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Held {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let bad = || FormatError::Malformed("held is a list of <table>=<hash>");
        let mut held = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            match name {
                "refresh" => held.refresh = Some(value.parse().map_err(|_| bad())?),
                "bans" => {
                    let (count, sum) = value.split_once('-').ok_or_else(bad)?;
                    let count = count.parse().map_err(|_| bad())?;
                    let sum = u128::from_str_radix(sum, 16).map_err(|_| bad())?;
                    held.bans = Some(SetDigest { count, sum });
                }
                name => {
                    if let Some(table) = Table::named(name) {
                        held.hashes[table] = Some(value.parse().map_err(|_| bad())?);
                    }
                }
            }
        }
        Ok(held)
    }
}

/// What changed since the version that the gateway holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncAnswer {
    /// The version that the gateway holds once it has applied this answer.
    pub version: Version,
    /// Number of refreshes ordered so far. If it is higher than the gateway's, the gateway
    /// loads all tables anew, even if nothing seems changed.
    pub refresh: u64,
    /// The admin service's clock, milliseconds since the Unix epoch: entries expire by
    /// this clock in gateways.
    pub server_time_ms: u64,
    /// A caller of the API waits for this version to be enforced: ack at once.
    pub ack_wanted: bool,
    /// The whole tables that changed.
    #[serde(deserialize_with = "at_most::<{ Table::COUNT }, _, _>")]
    pub whole: Vec<WholeUpdate>,
    /// The ban table, when it changed.
    pub bans: Option<BansUpdate>,
}

/// A table that is sent whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WholeUpdate {
    /// Which one: one that is [sent whole](Table::is_sent_whole).
    pub table: Table,
    /// Its hash and length.
    pub blob: BlobRef,
    /// Its bytes, unless there are more than [`MAX_INLINE`]: then they are fetched in
    /// pages.
    #[serde(with = "serde_bytes")]
    pub bytes: Option<Vec<u8>>,
}

/// An immutable run of bytes that the admin service serves in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its hash, by which it is requested.
    pub hash: BlobHash,
    /// Its size in bytes, at most [`Table::max_bytes`].
    pub len: u64,
}

impl BlobRef {
    /// Hash and length of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: BlobHash::of(bytes), len: bytes.len() as u64 }
    }
}

/// An update of the ban table: an immutable base, and an overlay with the changes since.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BansUpdate {
    /// The base that `overlay` is relative to; an
    /// [`AddressTable`](crate::table::AddressTable).
    pub base: BlobRef,
    /// For a gateway with another base that the service knows: with these changes applied
    /// to its overlay, the gateway's base and overlay have the entries of `base`. So the
    /// gateway folds them, and downloads `base` only if the hash differs.
    pub fold: Option<Vec<Entry>>,
    /// How the overlay changes.
    pub overlay: OverlayUpdate,
    /// Digest of base and overlay together once all is applied.
    pub digest: SetDigest,
}

/// How a gateway's overlay becomes the service's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OverlayUpdate {
    /// Apply to the overlay held.
    Delta(Vec<Entry>),
    /// Start from an empty overlay. Always so when `base` is new to the gateway.
    Whole(Vec<Entry>),
}

impl SyncAnswer {
    /// The answer's bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(SYNC_FORMAT, self)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// When the bytes are longer than [`MAX_PAGE`], of another version or malformed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        decode(SYNC_FORMAT, MAX_PAGE, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_say_what_they_were_made_from() {
        let version = Version { epoch: 0xab, seq: 7 };
        let ack = Ack { version, refresh: 3, live: 2, stale: 1 };
        assert_eq!(ack.to_string().parse(), Ok(ack));
        assert_eq!("00000000000000ab.7;refresh=3;later=x;live=2;stale=1".parse(), Ok(ack));
        let poller = Poller { lease: 3, recorder: true, clock_ms: 1_795_456_800_000 };
        assert_eq!(poller.to_string().parse(), Ok(poller));
        assert_eq!("lease=3;later=x;recorder=1;clock=1795456800000".parse(), Ok(poller));
        assert!("lease=x".parse::<Poller>().is_err() && "".parse::<Poller>().is_err());
        let bans = Some(SetDigest { count: 2, sum: 5 });
        let mut held = Held { bans, refresh: Some(4), ..Held::default() };
        held.hashes[Table::Routes] = Some(BlobHash(9));
        held.hashes[Table::BanBase] = Some(BlobHash(1));
        assert_eq!(held.to_string().parse(), Ok(held));
        assert_eq!("".parse(), Ok(Held::default()));
        let gateway = Gateway::new("node ü;1".as_bytes(), 77);
        assert_eq!(gateway.node, "node____1");
        assert_eq!(gateway.to_string().parse(), Ok(gateway));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(mut bytes: Vec<u8>) {
            if let Some(first) = bytes.first_mut() { *first = SYNC_FORMAT; }
            let _ = SyncAnswer::from_bytes(&bytes);
        }
    }
}
