//! Which entries of a list may be banned, and what became of the others.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tidegate_author::ban_list::{ListItem, ListedBan, ListedEnd, RefusalCode, RefusedEntry, SkipReason};
use tidegate_author::write_scope;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;

use crate::feed::{RowStatus, Snapshot};
use crate::store::ImportedBan;
use crate::time;

/// Blocks of one import, at most.
pub const MAX_BANS: usize = 2_000_000;
/// Refusals that an answer lists, at most.
pub const MAX_REFUSALS: usize = 100;
/// Different reasons that are kept once.
const MAX_SHARED_REASONS: usize = 10_000;
/// Bytes of reasons, at most; further ones are left out.
const MAX_REASON_BYTES: usize = 64 << 20;

/// Blocks none of which is in another.
#[derive(Clone, Default)]
pub struct DisjointBlocks(Vec<Prefix>);

impl DisjointBlocks {
    /// The outermost of `blocks`.
    pub fn new(blocks: impl IntoIterator<Item = Prefix>) -> Self {
        let mut blocks: Vec<Prefix> = blocks.into_iter().collect();
        // A block comes before those that are in it.
        blocks.sort_unstable();
        let mut outer: Vec<Prefix> = Vec::new();
        for block in blocks {
            if outer.last().is_none_or(|last| !last.contains(first(&block))) {
                outer.push(block);
            }
        }
        Self(outer)
    }

    /// The block that all of `prefix` is in.
    pub fn around(&self, prefix: &Prefix) -> Option<&Prefix> {
        let behind = self.0.partition_point(|block| first(block) <= first(prefix));
        let before = self.0.get(behind.checked_sub(1)?)?;
        (before.len() <= prefix.len() && before.contains(first(prefix))).then_some(before)
    }

    /// A block that has an address of `prefix`.
    pub fn overlapping(&self, prefix: &Prefix) -> Option<&Prefix> {
        let (begin, end) = prefix.ends();
        let at = self.0.partition_point(|block| block.ends().1 < begin);
        self.0.get(at).filter(|block| first(block) <= end)
    }
}

fn first(block: &Prefix) -> IpAddr {
    block.ends().0
}

/// What holds for all entries.
#[derive(Clone)]
pub struct ImportRules {
    protected: DisjointBlocks,
    allowed: DisjointBlocks,
    now: Timestamp,
    /// End and reason of entries that do not say one.
    pub end: Option<UnixSeconds>,
    pub reason: Option<Arc<str>>,
    /// Entries may say where they apply: not those of a source, whose document says it.
    pub take_scopes: bool,
}

impl ImportRules {
    /// Those of this moment: `protected` networks, and what `snapshot` allows.
    pub fn of(snapshot: &Snapshot, protected: impl IntoIterator<Item = Prefix>) -> Self {
        let now = time::now_seconds();
        let allowed = snapshot.list(Some(RowStatus::Allowed), None);
        let allowed = allowed.filter(|one| !one.left_out && one.expires.is_none_or(|end| now < end));
        Self {
            protected: DisjointBlocks::new(protected),
            allowed: DisjointBlocks::new(allowed.map(|one| one.prefix)),
            ..Self::none()
        }
    }

    /// Without protected networks and an allow list.
    pub fn none() -> Self {
        let (protected, allowed) = (DisjointBlocks::default(), DisjointBlocks::default());
        Self { protected, allowed, now: time::now(), end: None, reason: None, take_scopes: false }
    }

    /// Until when an entry is banned.
    fn end_of(&self, end: &ListedEnd) -> Result<Option<UnixSeconds>, (RefusalCode, String)> {
        let until = match end {
            ListedEnd::Unsaid => return Ok(self.end),
            ListedEnd::After(span) => return Ok(seconds_after(self.now, *span)),
            ListedEnd::At(text) => time::parse_timestamp(text).ok_or_else(|| {
                let why = format!("this end is no time: {}", crate::store::time_text::FORM);
                (RefusalCode::BadTime, why)
            })?,
        };
        if until <= self.now {
            let why = format!("the ban ended at {}", time::rfc3339(until));
            return Err((RefusalCode::Expired, why));
        }
        Ok(to_seconds(until))
    }

    fn check(&self, ban: &ListedBan) -> Result<Option<UnixSeconds>, (RefusalCode, String)> {
        let prefix = &ban.prefix;
        if let Some(protected) = self.protected.overlapping(prefix) {
            let why = format!("{prefix} has addresses of the protected network {protected}");
            return Err((RefusalCode::ProtectedNetwork, why));
        }
        if let Some(allowed) = self.allowed.around(prefix) {
            let why = format!("{allowed} is on the allow list, which beats every ban");
            return Err((RefusalCode::AddressAllowed, why));
        }
        if ban.applies_to.is_some() && !self.take_scopes {
            let why =
                "where a source's entries apply is said by `applies_to` of its document, for all of them";
            return Err((RefusalCode::BadAppliesTo, why.to_owned()));
        }
        self.end_of(&ban.end)
    }
}

/// The second that is `span` after `now`, rounded up; `None`: later than any table can say, which is
/// never.
pub fn seconds_after(now: Timestamp, span: std::time::Duration) -> Option<UnixSeconds> {
    let end = now.checked_add(jiff::SignedDuration::try_from(span).ok()?).ok()?;
    to_seconds(end)
}

fn to_seconds(end: Timestamp) -> Option<UnixSeconds> {
    UnixSeconds::try_from(end.as_millisecond().saturating_add(999).div_euclid(1_000)).ok()
}

/// The entries of a list so far.
pub struct CheckedList {
    rules: ImportRules,
    pub bans: Vec<ImportedBan>,
    /// Those that are only simulated; `None`: they are skipped.
    pub simulated: Option<Vec<ImportedBan>>,
    /// Entries that others of the list repeat.
    pub duplicates: u64,
    pub skipped: BTreeMap<SkipReason, u64>,
    pub refused: BTreeMap<RefusalCode, u64>,
    /// The first refusals.
    pub refusals: Vec<RefusedEntry>,
    reasons: HashSet<Arc<str>>,
    scopes: HashSet<Arc<str>>,
    reason_bytes: usize,
    max_reason_bytes: usize,
}

impl CheckedList {
    /// An empty list.
    pub fn new(rules: ImportRules) -> Self {
        Self {
            rules,
            bans: Vec::new(),
            simulated: None,
            duplicates: 0,
            skipped: BTreeMap::new(),
            refused: BTreeMap::new(),
            refusals: Vec::new(),
            reasons: HashSet::new(),
            scopes: HashSet::new(),
            reason_bytes: 0,
            max_reason_bytes: MAX_REASON_BYTES,
        }
    }

    /// The same, without the reasons that its entries say.
    pub fn without_reasons(self) -> Self {
        Self { max_reason_bytes: 0, ..self }
    }

    /// The same, with those that are only simulated.
    pub fn with_simulated(self) -> Self {
        Self { simulated: Some(Vec::new()), ..self }
    }

    /// Takes an entry.
    pub fn take(&mut self, item: ListItem) {
        match item {
            ListItem::Ban(ban) => {
                let taken = self.checked(ban);
                self.bans.extend(taken);
            }
            ListItem::Simulated(ban) if self.simulated.is_some() => {
                let taken = self.checked(ban);
                self.simulated.get_or_insert_default().extend(taken);
            }
            ListItem::Simulated(_) => *self.skipped.entry(SkipReason::Simulated).or_default() += 1,
            ListItem::Skipped(why) => *self.skipped.entry(why).or_default() += 1,
            ListItem::Refused(refused) => self.refuse(refused),
        }
    }

    fn checked(&mut self, ban: ListedBan) -> Option<ImportedBan> {
        match self.rules.check(&ban) {
            Ok(expires) => {
                let reason = ban.reason.and_then(|reason| self.shared(reason));
                let reason = reason.or_else(|| self.rules.reason.clone());
                let scope = ban.applies_to.map(|scope| write_scope(&scope).to_string());
                let applies_to = scope.map(|scope| self.shared_scope(scope));
                Some(ImportedBan { prefix: ban.prefix, expires, reason, applies_to })
            }
            Err((code, why)) => {
                self.refuse(RefusedEntry::new(ban.line, code, &ban.prefix.to_string(), why));
                None
            }
        }
    }

    /// How many entries were refused.
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Whether there may be more bans than an import may have: duplicates are not known yet.
    pub fn is_too_large(&self) -> bool {
        let simulated = self.simulated.as_ref().map_or(0, Vec::len);
        self.bans.len() + simulated >= MAX_BANS + MAX_BANS / 2
    }

    /// Brings the bans into their order, each once: of several of the same address that apply at the same hostnames and
    /// routes the one that ends last.
    pub fn sort(&mut self) {
        for bans in [Some(&mut self.bans), self.simulated.as_mut()].into_iter().flatten() {
            bans.sort_by(|one, other| (one.prefix, &one.applies_to).cmp(&(other.prefix, &other.applies_to)));
            let before = bans.len();
            bans.dedup_by(|later, kept| {
                let is_same = later.prefix == kept.prefix && later.applies_to == kept.applies_to;
                if is_same {
                    kept.expires = kept.expires.zip(later.expires).map(|(one, other)| one.max(other));
                }
                is_same
            });
            self.duplicates += (before - bans.len()) as u64;
        }
    }

    fn refuse(&mut self, refused: RefusedEntry) {
        *self.refused.entry(refused.code).or_default() += 1;
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.push(refused);
        }
    }

    fn shared_scope(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.scopes.get(text.as_str()) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.scopes.insert(Arc::clone(&text));
        text
    }

    /// How many different scopes the bans have.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().map(|scope| &**scope)
    }

    fn shared(&mut self, reason: String) -> Option<Arc<str>> {
        if let Some(known) = self.reasons.get(reason.as_str()) {
            return Some(Arc::clone(known));
        }
        self.reason_bytes += reason.len();
        if self.reason_bytes > self.max_reason_bytes {
            return None;
        }
        let reason: Arc<str> = reason.into();
        if self.reasons.len() < MAX_SHARED_REASONS {
            self.reasons.insert(Arc::clone(&reason));
        }
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_these_reasons_and_no_others() {
        let docs = include_str!("../../../../docs/BANS.md");
        let table = docs.split("| code | when |\n| --- | --- |\n").nth(1).unwrap();
        let row = |code: &RefusalCode| format!("| `{}` | {} |\n", code.name(), code.when());
        let rows: String = RefusalCode::ALL.iter().map(row).collect();
        assert_eq!(table.split("\n\n").next().unwrap(), rows.trim_end());
    }

    #[test]
    fn blocks_are_found_around_and_in_a_block() {
        let of = |text: &str| text.parse::<Prefix>().unwrap();
        let blocks = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "192.0.2.9", "2001:db8::/32"].map(of);
        let blocks = DisjointBlocks::new(blocks);
        for (text, around, overlaps) in [
            ("10.1.2.3", Some("10.0.0.0/8"), Some("10.0.0.0/8")),
            ("10.0.0.0/8", Some("10.0.0.0/8"), Some("10.0.0.0/8")),
            ("0.0.0.0/0", None, Some("10.0.0.0/8")),
            ("11.0.0.0", None, None),
            ("192.0.2.8", None, None),
            ("192.0.2.8/31", None, Some("192.0.2.9")),
            ("192.0.2.0/24", None, Some("192.0.2.7")),
            ("2001:db8:1::/48", Some("2001:db8::/32"), Some("2001:db8::/32")),
            ("::/0", None, Some("2001:db8::/32")),
            ("2001:db9::", None, None),
        ] {
            assert_eq!(blocks.around(&of(text)), around.map(of).as_ref(), "{text}");
            assert_eq!(blocks.overlapping(&of(text)), overlaps.map(of).as_ref(), "{text}");
        }
        assert_eq!(DisjointBlocks::default().overlapping(&of("0.0.0.0/0")), None);
    }
}
