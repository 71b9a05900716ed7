//! Parsing rows of `ip_monitor`, and merging the rows of one prefix.

use std::collections::HashSet;
use std::sync::Arc;

use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::scope::Scope;

use super::clock::{self, Millis};
use super::row_index::UnreadableRow;
use crate::store::{BanMode, IpRow, time_text};

/// Status of a row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RowStatus {
    /// Requests are denied.
    Banned,
    /// Requests skip the bans.
    Allowed,
    /// A ban in shadow: requests are not denied, and those that would be are recorded.
    Watched,
}

impl RowStatus {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Banned, Self::Allowed, Self::Watched];

    /// The status of a ban in this mode.
    #[must_use]
    pub fn of_ban(mode: BanMode) -> Self {
        match mode {
            BanMode::Enforce => Self::Banned,
            BanMode::Shadow => Self::Watched,
        }
    }

    /// Reads the text in the database; case does not matter.
    fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.is(word))
    }

    /// Whether `word` is its text in the database; case does not matter.
    pub fn is(self, word: &str) -> bool {
        self.name().eq_ignore_ascii_case(word)
    }

    /// The text in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::Allowed => "allowed",
            Self::Watched => "watched",
        }
    }
}

/// A valid row. Kept small: there may be a million.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ParsedRow {
    /// The raw key; `None`: it is the prefix in canonical form.
    key: Option<Arc<str>>,
    pub status: RowStatus,
    pub reason: Option<Arc<str>>,
    pub created: Option<Millis>,
    pub updated: Option<Millis>,
    pub expires: Option<UnixSeconds>,
    /// Whose lists have it, with commas between the names.
    pub source: Option<Arc<str>>,
}

/// The rows that mean one prefix, by raw key.
pub(super) type ParsedRows = Arc<[ParsedRow]>;

impl ParsedRow {
    /// Parses a row whose key means `prefix`. A ban whose end cannot be read is at least a ban
    /// without end.
    pub fn read(
        prefix: &Prefix,
        row: &IpRow,
        reasons: &mut ReasonInterner,
    ) -> Result<Self, UnreadableRow<Self>> {
        let status = RowStatus::read(&row.status).ok_or_else(|| {
            let shown: String = row.status.chars().take(60).collect();
            let why = format!("status `{shown}` is unknown: write banned, allowed or watched");
            UnreadableRow { why, kept: None }
        })?;
        let end = clock::optional(row.expires_at.as_deref());
        let key = (prefix.to_string() != row.ip).then(|| Arc::from(row.ip.as_str()));
        let parsed = Self {
            key,
            status,
            reason: row.reason.as_deref().map(|reason| reasons.share(reason)),
            created: row.created_at.as_deref().and_then(clock::millis),
            updated: row.updated_at.as_deref().and_then(clock::millis),
            expires: end.as_ref().copied().ok().flatten().and_then(clock::expiry),
            source: row.source.as_deref().map(|source| reasons.share(source)),
        };
        match end {
            Ok(_) => Ok(parsed),
            Err(why) => Err(UnreadableRow {
                why: format!("expires_at {why}"),
                kept: (status == RowStatus::Banned).then_some(parsed),
            }),
        }
    }

    /// The row of `prefix` as a row of the database.
    pub fn to_row(&self, prefix: &Prefix) -> IpRow {
        IpRow {
            ip: self.key(prefix),
            status: self.status.name().to_owned(),
            reason: self.reason.as_deref().map(str::to_owned),
            created_at: self.created.map(clock::text),
            updated_at: self.updated.map(clock::text),
            expires_at: self.expires.map(|second| time_text::from_ms(i64::from(second) * 1_000)),
            source: self.source.as_deref().map(str::to_owned),
        }
    }

    /// The raw key.
    pub fn key(&self, prefix: &Prefix) -> String {
        self.key.as_deref().map_or_else(|| prefix.to_string(), str::to_owned)
    }

    /// Whether this is the row of the raw key `raw`; `canonical` is its prefix's text.
    pub fn has_key(&self, raw: &str, canonical: &str) -> bool {
        self.key.as_deref().unwrap_or(canonical) == raw
    }

    /// Order of rows within a prefix.
    pub fn cmp_key(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// Stores reasons, sources and scopes that many rows share once.
#[derive(Default)]
pub(super) struct ReasonInterner {
    words: HashSet<Arc<str>>,
    scopes: HashSet<Arc<Scope>>,
}

impl ReasonInterner {
    pub fn share_scope(&mut self, scope: Scope) -> Arc<Scope> {
        if let Some(known) = self.scopes.get(&scope) {
            return Arc::clone(known);
        }
        let scope = Arc::new(scope);
        if self.scopes.len() < 10_000 {
            self.scopes.insert(Arc::clone(&scope));
        }
        scope
    }

    pub fn share(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.words.get(word) {
            return known.clone();
        }
        let word: Arc<str> = Arc::from(word);
        // Bounded: it is of no use if all reasons differ.
        if self.words.len() < 10_000 {
            self.words.insert(word.clone());
        }
        word
    }
}

/// The rows of a prefix, merged by status. `None`: no row with this status; `Some(None)`: never
/// expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct PrefixStatus {
    pub banned: Option<Option<UnixSeconds>>,
    pub allowed: Option<Option<UnixSeconds>>,
    pub watched: Option<Option<UnixSeconds>>,
}

impl PrefixStatus {
    /// Merges rows: a prefix has a status for as long as any of its rows does.
    pub fn of(rows: &[ParsedRow]) -> Self {
        let mut status = Self::default();
        for row in rows {
            let slot = status.slot(row.status);
            *slot = Some(match *slot {
                Some(until) => until.zip(row.expires).map(|(one, other)| one.max(other)),
                None => row.expires,
            });
        }
        status
    }

    pub fn get(mut self, status: RowStatus) -> Option<Option<UnixSeconds>> {
        *self.slot(status)
    }

    fn slot(&mut self, status: RowStatus) -> &mut Option<Option<UnixSeconds>> {
        match status {
            RowStatus::Banned => &mut self.banned,
            RowStatus::Allowed => &mut self.allowed,
            RowStatus::Watched => &mut self.watched,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ip: &str, status: &str, expires: Option<&str>) -> IpRow {
        IpRow {
            ip: ip.into(),
            status: status.into(),
            reason: None,
            created_at: None,
            updated_at: None,
            expires_at: expires.map(Into::into),
            source: None,
        }
    }

    fn read(row: &IpRow) -> Result<ParsedRow, UnreadableRow<ParsedRow>> {
        ParsedRow::read(&row.ip.parse().unwrap(), row, &mut ReasonInterner::default())
    }

    #[test]
    fn the_latest_end_counts_and_none_is_the_latest() {
        let early = read(&row("9.9.9.9", "banned", Some("2026-11-23 18:00:00"))).unwrap();
        let late = read(&row("9.9.9.9/32", "banned", Some("2026-11-23 18:00:01.5"))).unwrap();
        let never = read(&row("::ffff:9.9.9.9", "banned", None)).unwrap();
        let allowed = read(&row("::ffff:9.9.9.9", "allowed", None)).unwrap();
        let of = |rows: &[&ParsedRow]| {
            PrefixStatus::of(&rows.iter().map(|row| (*row).clone()).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), PrefixStatus::default());
        assert_eq!(of(&[&early, &late]).banned, Some(Some(1_795_456_802)));
        assert_eq!(of(&[&late, &early]).banned, Some(Some(1_795_456_802)));
        for rows in [[&early, &never, &late], [&never, &late, &early], [&late, &early, &never]] {
            assert_eq!(of(&rows).banned, Some(None));
        }
        let both = of(&[&early, &allowed]);
        assert_eq!((both.banned, both.allowed), (Some(Some(1_795_456_800)), Some(None)));
    }

    #[test]
    fn a_status_in_capitals_is_that_status() {
        assert_eq!(read(&row("9.9.9.9", "Banned", None)).unwrap().status, RowStatus::Banned);
    }

    #[test]
    fn what_cannot_be_read_says_what_would_be_right() {
        let status = read(&row("9.9.9.9", "blocked", None)).unwrap_err();
        assert!(status.why.contains("`blocked`") && status.why.contains("banned, allowed or watched"));
        assert_eq!(status.kept, None);
        let end = read(&row("9.9.9.9", "banned", Some("soon"))).unwrap_err();
        assert!(end.why.contains("`soon`") && end.why.contains("2026-11-23 18:00:00"), "{}", end.why);
        assert_eq!(end.kept, read(&row("9.9.9.9", "banned", None)).ok());
        assert_eq!(read(&row("9.9.9.9", "allowed", Some("soon"))).unwrap_err().kept, None);
    }

    #[test]
    fn a_row_is_written_as_it_was_read() {
        for expires in [None, Some("2026-11-23 18:00:00.000")] {
            for ip in ["9.9.9.9", "9.9.9.9/32"] {
                let created_at = Some("2026-11-20 18:00:00.123".to_owned());
                let row = IpRow {
                    created_at,
                    reason: Some("r".into()),
                    source: Some("s".into()),
                    ..row(ip, "banned", expires)
                };
                assert_eq!(read(&row).unwrap().to_row(&ip.parse().unwrap()), row);
            }
        }
    }

    #[test]
    fn an_end_may_be_a_date_or_unix_seconds_and_an_empty_one_is_never() {
        for (text, end) in [
            ("", None),
            ("2026-11-23", Some(1_795_392_000)),
            ("1795456800", Some(1_795_456_800)),
            ("1795456800.5", Some(1_795_456_801)),
            ("2099-12-31", Some(4_102_358_400)),
        ] {
            assert_eq!(read(&row("9.9.9.9", "banned", Some(text))).unwrap().expires, end, "{text}");
        }
    }
}
