//! The feed: how tables come from the admin service to a gateway, and how a
//! gateway says what it enforces. `docs/ARCHITECTURE.md`, "A table change".
//!
//! `GET /api/data-plane/v1/sync?since=<epoch>.<seq>&wait=<seconds>` with the
//! headers below answers 304, or 200 with a [`SyncAnswer`];
//! `GET /api/data-plane/v1/sync/blob/<hash>?offset=<n>` answers up to
//! [`MAX_PAGE`] bytes of a table, or 410 when nobody needs it any more;
//! `POST /api/data-plane/v1/sync/ack` with the same headers and no body answers 204.
//!
//! What a gateway enforces and holds travels as headers, so that the poll is a GET without a
//! body and the ack the same headers on a POST. Pages serve any table by its hash, as a route
//! table can be larger than one answer just as a base of bans can: one way of paging for both.
//! What a gateway holds already is compared by digest and not sent again.

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
/// Bytes of a page and of an answer: a callout's body is buffered whole by Envoy.
pub const MAX_PAGE: usize = 4 << 20;
/// A whole table up to this size travels inside the answer.
pub const MAX_INLINE: usize = 1 << 20;
/// Header of sync and ack: who asks, as [`Gateway`].
pub const GATEWAY_HEADER: &str = "x-tidegate-gateway";
/// Header of sync and ack: what the gateway enforces, as [`Ack`].
pub const ACK_HEADER: &str = "x-tidegate-ack";
/// Header of sync: what the gateway holds, as [`Held`].
pub const HELD_HEADER: &str = "x-tidegate-held";

/// A gateway: one process of Envoy. `<node>;<process, 16 hex digits>`; the node's
/// name is cut to 200 characters out of `[A-Za-z0-9._~:/@-]`, others become `_`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Gateway {
    /// Envoy's node id: stays over restarts.
    pub node: String,
    /// Minted once per process.
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
/// `<version>;refresh=<n>;live=<n>;stale=<n>`. `stale` VMs have not been heard of
/// for 2 s, so the version says nothing of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ack {
    /// The oldest version that a live VM enforces.
    pub version: Version,
    /// The newest refresh that every live VM has carried out.
    pub refresh: u64,
    /// VMs that serve requests and were heard of within 2 s.
    pub live: u32,
    /// VMs that serve requests and were not.
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
            // A name of a later version is passed over: the older side still
            // understands what it knows.
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

/// What a gateway holds, so that what is equal is not sent again:
/// `allow=<hash>,routes=<hash>,bans=<count>-<sum>,refresh=<n>`, each table by its
/// [`name`](Table::name); what it does not hold is left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Hash of each table. That of the overlay of bans is never given: `bans` says more.
    pub hashes: PerTable<Option<BlobHash>>,
    /// Digest of all bans: base and overlay together.
    pub bans: Option<SetDigest>,
    /// The newest refresh that it was told of. Without it a refresh ordered
    /// between two polls would reach the gateway with the next change only.
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
    /// Counts the refreshes ordered so far; a higher one than the gateway knows
    /// means: drop and load these tables anew, even if nothing seems changed.
    pub refresh: u64,
    /// The admin service's clock, milliseconds since the Unix epoch: gateways
    /// judge expiry by it.
    pub server_time_ms: u64,
    /// Somebody waits to hear that this version is enforced: ack at once.
    pub ack_wanted: bool,
    /// The whole tables that changed.
    #[serde(deserialize_with = "at_most::<{ Table::COUNT }, _, _>")]
    pub whole: Vec<WholeUpdate>,
    /// The ban table, when it changed.
    pub bans: Option<BansUpdate>,
}

/// A table that travels whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WholeUpdate {
    /// Which one: one that [travels whole](Table::travels_whole).
    pub table: Table,
    /// Its name and size.
    pub blob: BlobRef,
    /// Its bytes, unless they are over [`MAX_INLINE`]: then they are fetched by
    /// pages.
    #[serde(with = "serde_bytes")]
    pub bytes: Option<Vec<u8>>,
}

/// An immutable run of bytes that the admin service serves by pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its name.
    pub hash: BlobHash,
    /// Its size in bytes, at most [`MAX_TABLE`](crate::codec::MAX_TABLE).
    pub len: u64,
}

impl BlobRef {
    /// The name and size of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: BlobHash::of(bytes), len: bytes.len() as u64 }
    }
}

/// The ban table: an immutable base plus an overlay of what changed since.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BansUpdate {
    /// The base that `overlay` is relative to; an
    /// [`AddressTable`](crate::table::AddressTable).
    pub base: BlobRef,
    /// For a gateway whose base is another one that the service knows: applied to
    /// the gateway's overlay, these changes make it say what `base` says, so it
    /// can fold its own base and overlay and download only if the hash differs.
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
