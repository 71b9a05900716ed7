//! Bans that apply at some hostnames or routes only: a table beside that of all others, so that a request of
//! an address without one is decided as if there were none. A prefix may have several, each with a scope, an
//! end and a mode of its own.
//!
//! The bytes are a [`Layout`]: the different scopes; for each prefix a number, in the place where an
//! [`AddressTable`] has the ends of its entries; and at that number (from 1) in the rows, the prefix's bans.
//! Prefixes with the same bans share their rows, so an entry of a source takes 9.25 bytes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::UnixSeconds;
use crate::address::Prefix;
use crate::codec::{FormatError, MAX_TABLE, at_most, decode, encode};
use crate::scope::Scope;
use crate::table::{AddressTable, Entry, EntryState, TableCheck};

/// Version of the layout.
pub(crate) const SCOPED_BANS_FORMAT: u8 = 1;
/// Different scopes, at most: a row names one with a byte.
pub const MAX_SCOPES: usize = 255;
/// Prefixes, at most: of IPv6, each with an end of its own, they fit into a table.
pub const MAX_SCOPED_PREFIXES: usize = 2_000_000;
/// Bans of a prefix, at most: one that denies and one in shadow for each scope. A request reads no more of them,
/// whatever the bytes say.
const MAX_BANS: usize = 2 * MAX_SCOPES;
/// Bytes of a row: scope, flags, end (little-endian; 0: none).
const ROW: usize = 6;
/// Flag of the last row of a prefix.
const LAST: u8 = 1;
/// Flag of a ban in shadow.
const SHADOW: u8 = 2;

/// A ban of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ScopedBan<S> {
    /// Where it applies.
    pub scope: S,
    /// It does not deny: what it would deny is recorded.
    pub shadow: bool,
    /// When it ends.
    pub expires: Option<UnixSeconds>,
}

/// The table. By default without bans.
pub struct ScopedBans {
    scopes: Vec<Scope>,
    rows: Vec<u8>,
    prefixes: AddressTable,
}

/// What covers a client, where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScopedMatch {
    /// The longest prefix with a ban that denies.
    pub banned: Option<Prefix>,
    /// If there is none, the longest with a ban in shadow.
    pub watched: Option<Prefix>,
}

impl ScopedMatch {
    /// What covers the client by two tables: in each the longest prefix.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        // Of two prefixes that cover an address the longer one is the greater.
        let banned = self.banned.max(other.banned);
        Self { banned, watched: self.watched.max(other.watched).filter(|_| banned.is_none()) }
    }
}

#[derive(Serialize, Deserialize)]
struct Layout {
    #[serde(deserialize_with = "at_most::<MAX_SCOPES, _, _>")]
    scopes: Vec<Scope>,
    #[serde(with = "serde_bytes")]
    rows: Vec<u8>,
    #[serde(with = "serde_bytes")]
    prefixes: Vec<u8>,
}

impl ScopedBans {
    /// Writes a table of these prefixes, in their order, each once and with at least one ban; the scope of a ban
    /// is its index in `scopes`. The same always gives the same bytes.
    ///
    /// # Errors
    /// When prefixes are out of order or too many, a prefix has over two bans for each possible scope, or scopes are too
    /// many, or one is empty.
    pub fn encode<'b>(
        scopes: Vec<Scope>,
        bans: impl Iterator<Item = (Prefix, &'b [ScopedBan<u8>])>,
    ) -> Result<Vec<u8>, FormatError> {
        if scopes.len() > MAX_SCOPES || scopes.iter().any(Scope::is_empty) {
            return Err(FormatError::Malformed("too many scopes, or an empty one"));
        }
        let mut known: HashMap<Vec<ScopedBan<u8>>, u32> = HashMap::new();
        let (mut rows, mut entries) = (Vec::new(), Vec::new());
        for (prefix, bans) in bans {
            if bans.len() > MAX_BANS {
                return Err(FormatError::Malformed("too many bans of a prefix"));
            }
            let number = match known.get(bans) {
                Some(number) => *number,
                None => {
                    let number = u32::try_from(rows.len() / ROW).unwrap_or(u32::MAX).saturating_add(1);
                    write_rows(bans, &mut rows);
                    known.insert(bans.to_vec(), number);
                    number
                }
            };
            entries.push(Entry { prefix, state: EntryState::Present(Some(number)) });
        }
        let prefixes = AddressTable::encode(entries.iter().copied())?;
        let bytes = encode(SCOPED_BANS_FORMAT, &Layout { scopes, rows, prefixes })?;
        match bytes.len() {
            len if len > MAX_TABLE => Err(FormatError::TooLong { len, max: MAX_TABLE }),
            _ => Ok(bytes),
        }
    }

    /// The bytes of a table without bans.
    ///
    /// # Errors
    /// See [`encode`](crate::codec::encode()): never.
    pub fn empty_bytes() -> Result<Vec<u8>, FormatError> {
        let prefixes = AddressTable::empty().as_bytes().to_vec();
        encode(SCOPED_BANS_FORMAT, &Layout { scopes: Vec::new(), rows: Vec::new(), prefixes })
    }

    /// Number of prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether there is no ban.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// What covers `client` by bans whose scope the request is in, as `is_in` says, and that have not ended.
    /// `now` is called for bans with an end only, and `is_in` for those that have not ended. (Not generic: there
    /// would be a copy for each caller in the filter.)
    pub fn find(
        &self,
        client: IpAddr,
        now: &dyn Fn() -> UnixSeconds,
        is_in: &mut dyn FnMut(&Scope) -> bool,
    ) -> ScopedMatch {
        let mut found = ScopedMatch::default();
        for entry in self.prefixes.covering(client) {
            for ban in self.bans(&entry) {
                let in_force = ban.expires.is_none_or(|end| now() < end);
                if !in_force || ban.shadow && found.watched.is_some() || !is_in(ban.scope) {
                    continue;
                }
                if !ban.shadow {
                    return ScopedMatch { banned: Some(entry.prefix), watched: None };
                }
                found.watched = Some(entry.prefix);
            }
        }
        found
    }

    /// The bans of a prefix. A number without rows, or a row without a scope, which the writer does not write, is
    /// no ban.
    fn bans(&self, entry: &Entry) -> impl Iterator<Item = ScopedBan<&Scope>> {
        let first = match entry.state {
            EntryState::Present(Some(number)) => number.saturating_sub(1) as usize,
            EntryState::Present(None) | EntryState::Absent => usize::MAX,
        };
        let rows = self.rows.as_chunks::<ROW>().0.get(first..).unwrap_or_default();
        let rows = rows.get(..MAX_BANS).unwrap_or(rows);
        let behind = rows.iter().position(|[_, flags, ..]| flags & LAST != 0);
        let rows = behind.and_then(|last| rows.get(..=last)).unwrap_or_default();
        rows.iter().filter_map(|&[scope, flags, a, b, c, d]| {
            let end = u32::from_le_bytes([a, b, c, d]);
            Some(ScopedBan {
                scope: self.scopes.get(usize::from(scope))?,
                shadow: flags & SHADOW != 0,
                expires: (end != 0).then_some(end),
            })
        })
    }
}

impl Default for ScopedBans {
    fn default() -> Self {
        Self { scopes: Vec::new(), rows: Vec::new(), prefixes: AddressTable::empty() }
    }
}

fn write_rows(bans: &[ScopedBan<u8>], rows: &mut Vec<u8>) {
    let last = bans.len().saturating_sub(1);
    for (at, ban) in bans.iter().enumerate() {
        let flags = if at == last { LAST } else { 0 } | if ban.shadow { SHADOW } else { 0 };
        rows.extend([ban.scope, flags]);
        // An end at second 0 is written as one at second 1, as in a table of addresses.
        rows.extend(ban.expires.map_or(0, |end| end.max(1)).to_le_bytes());
    }
}

/// A check of a table's bytes in steps, as of a table of addresses.
pub struct ScopedBansCheck {
    scopes: Vec<Scope>,
    rows: Vec<u8>,
    prefixes: TableCheck,
}

impl ScopedBansCheck {
    /// Begins; copies the bytes.
    ///
    /// # Errors
    /// When they are not a table, as far as that shows without looking at every prefix.
    pub fn new(bytes: &[u8]) -> Result<Self, FormatError> {
        let Layout { scopes, rows, prefixes } = decode(SCOPED_BANS_FORMAT, MAX_TABLE, bytes)?;
        // It would say of no request that it is outside of it.
        if scopes.iter().any(Scope::is_empty) {
            return Err(FormatError::Malformed("an empty scope"));
        }
        Ok(Self { scopes, rows, prefixes: TableCheck::new(prefixes)? })
    }

    /// Checks up to `entries` more; the table once all are checked.
    ///
    /// # Errors
    /// As [`TableCheck::step`].
    pub fn step(&mut self, entries: usize) -> Result<Option<Arc<ScopedBans>>, FormatError> {
        let prefixes = self.prefixes.step(entries)?;
        Ok(prefixes.map(|prefixes| {
            let (scopes, rows) = (std::mem::take(&mut self.scopes), std::mem::take(&mut self.rows));
            Arc::new(ScopedBans { scopes, rows, prefixes })
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::{any_address, any_entries, any_expiry};

    type Bans = BTreeMap<Prefix, Vec<ScopedBan<u8>>>;

    fn scopes() -> Vec<Scope> {
        ["a", "b", "c"].map(|name| Scope { hostnames: vec![name.to_owned()], routes: vec![] }).into()
    }

    fn table(bans: &Bans) -> Arc<ScopedBans> {
        let bytes = ScopedBans::encode(scopes(), bans.iter().map(|(prefix, bans)| (*prefix, &bans[..])));
        let mut check = ScopedBansCheck::new(&bytes.unwrap()).unwrap();
        loop {
            if let Some(table) = check.step(3).unwrap() {
                return table;
            }
        }
    }

    /// The longest prefix of a list with a ban of this mode whose scope is one of `of`.
    fn naive(bans: &Bans, client: IpAddr, now: UnixSeconds, of: &[u8], shadow: bool) -> Option<Prefix> {
        let holds = |ban: &ScopedBan<u8>| {
            ban.shadow == shadow && of.contains(&ban.scope) && ban.expires.is_none_or(|end| now < end)
        };
        let covering = bans.iter().filter(|(prefix, bans)| prefix.contains(client) && bans.iter().any(holds));
        covering.map(|(prefix, _)| *prefix).max_by_key(Prefix::len)
    }

    fn any_bans() -> impl Strategy<Value = (Bans, IpAddr)> {
        let ban = (0u8..3, any::<bool>(), any_expiry())
            .prop_map(|(scope, shadow, expires)| ScopedBan { scope, shadow, expires })
            .boxed();
        any_entries(false, 30).prop_flat_map(move |entries| {
            let bans = prop::collection::vec(prop::collection::vec(ban.clone(), 1..5), entries.len());
            let prefixes: Vec<Prefix> = entries.iter().map(|entry| entry.prefix).collect();
            let bans = bans.prop_map(move |bans| prefixes.iter().copied().zip(bans).collect::<Bans>());
            (bans, any_address(&entries))
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_a_list_of_prefixes_and_scopes_says(
            (bans, client) in any_bans(),
            now in 97u32..104,
            of in prop::collection::vec(0u8..3, 0..3),
        ) {
            let found = table(&bans).find(client, &|| now, &mut |scope| {
                let at = scopes().iter().position(|one| one == scope).unwrap();
                of.contains(&u8::try_from(at).unwrap())
            });
            let banned = naive(&bans, client, now, &of, false);
            prop_assert_eq!(found.banned, banned);
            let watched = naive(&bans, client, now, &of, true).filter(|_| banned.is_none());
            prop_assert_eq!(found.watched, watched);
        }

        #[test]
        fn any_bytes_are_a_table_or_an_error(bytes: Vec<u8>, client: u32, cut in 0usize..200, (bans, _) in any_bans()) {
            let mut bad = bytes;
            bad.insert(0, SCOPED_BANS_FORMAT);
            let _ = ScopedBansCheck::new(&bad).and_then(|mut check| check.step(usize::MAX));
            let bytes = ScopedBans::encode(scopes(), bans.iter().map(|(prefix, bans)| (*prefix, &bans[..]))).unwrap();
            let mut bytes = bytes;
            if let Some(byte) = bytes.get_mut(cut) { *byte ^= 1; }
            if let Ok(Some(table)) = ScopedBansCheck::new(&bytes).and_then(|mut check| check.step(usize::MAX)) {
                let _ = table.find(IpAddr::V4(client.into()), &|| 0, &mut |_| true);
            }
        }
    }

    #[test]
    fn prefixes_with_the_same_bans_share_their_rows() {
        let ban = ScopedBan { scope: 1, shadow: false, expires: None };
        let bans: Bans = (0..1_000u32).map(|n| (Prefix::v4(n, 32).unwrap(), vec![ban])).collect();
        assert_eq!(table(&bans).rows.len(), ROW);
    }

    #[test]
    fn a_request_reads_no_more_bans_of_a_prefix_than_there_can_be() {
        let ban = ScopedBan { scope: 0, shadow: false, expires: None };
        let bans = |number: usize| Bans::from([(Prefix::v4(1, 32).unwrap(), vec![ban; number])]);
        let found = |number: usize| {
            let looked_at = std::cell::Cell::new(0);
            table(&bans(number)).find(IpAddr::V4(1.into()), &|| 0, &mut |_| {
                looked_at.set(looked_at.get() + 1);
                false
            });
            looked_at.get()
        };
        assert_eq!(found(MAX_BANS), MAX_BANS);
        let too_many = vec![ban; MAX_BANS + 1];
        let prefix = Prefix::v4(1, 32).unwrap();
        assert!(ScopedBans::encode(scopes(), [(prefix, &too_many[..])].into_iter()).is_err());
        // Bytes that no writer made: the last row of the prefix is one too far.
        let rows = [[0, 0, 0, 0, 0, 0]; MAX_BANS].concat();
        let rows = [&rows[..], &[0, LAST, 0, 0, 0, 0]].concat();
        let entry = Entry { prefix, state: EntryState::Present(Some(1)) };
        let prefixes = AddressTable::encode([entry].into_iter()).unwrap();
        let bytes = encode(SCOPED_BANS_FORMAT, &Layout { scopes: scopes(), rows, prefixes }).unwrap();
        let table = ScopedBansCheck::new(&bytes).unwrap().step(usize::MAX).unwrap().unwrap();
        assert_eq!(table.find(IpAddr::V4(1.into()), &|| 0, &mut |_| true), ScopedMatch::default());
    }

    #[test]
    fn a_scope_that_says_nothing_is_none() {
        let none = ScopedBans::encode(vec![Scope::default()], std::iter::empty());
        assert!(none.is_err());
        let layout = Layout {
            scopes: vec![Scope::default()],
            rows: vec![],
            prefixes: AddressTable::empty().as_bytes().to_vec(),
        };
        assert!(ScopedBansCheck::new(&encode(SCOPED_BANS_FORMAT, &layout).unwrap()).is_err());
        assert!(ScopedBans::encode(vec![scopes()[0].clone(); 256], std::iter::empty()).is_err());
    }
}
