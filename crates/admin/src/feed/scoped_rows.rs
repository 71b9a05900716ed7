//! The rows of `scoped_bans`, parsed: change by change, and all at once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tidegate_author::{read_scope_text, write_scope};
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::scope::Scope;

use super::clock::{self, Millis};
use super::ip_monitor::{ChangedPrefixes, IpMonitor, ListedPrefix, timestamp};
use super::ip_rows::{ReasonInterner, RowStatus};
use super::row_index::{RowIndex, UnreadableRow};
use crate::store::{ScopedBanKey, ScopedBanRow, StoreTable, prefix_of_key, time_text};

const TABLE: StoreTable = StoreTable::ScopedBans;

/// A valid row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ScopedRow {
    /// The raw key; `None`: it is as we write it.
    raw_key: Option<Arc<str>>,
    /// Whose it is; `None`: it was banned by hand.
    source: Option<Arc<str>>,
    pub scope: Arc<Scope>,
    /// Banned or watched.
    pub status: RowStatus,
    reason: Option<Arc<str>>,
    pub created: Option<Millis>,
    updated: Option<Millis>,
    pub expires: Option<UnixSeconds>,
}

/// The rows of one prefix, by raw key.
pub(super) type ScopedRows = Arc<[ScopedRow]>;

impl ScopedRow {
    /// Parses a row. A ban whose end cannot be read is at least a ban without end. One whose scope cannot be read is
    /// none: what was meant for one site must not hold on all others of the gate, which would lock out people whom
    /// nobody meant; and the row is in quarantine, which health says.
    #[expect(clippy::result_large_err, reason = "a row that is read is as large")]
    fn read(
        row: &ScopedBanRow,
        reasons: &mut ReasonInterner,
    ) -> Result<(Prefix, Self), UnreadableRow<(Prefix, Self)>> {
        let unreadable = |why: String| UnreadableRow { why, kept: None };
        let prefix: Prefix = row
            .ip
            .parse()
            .map_err(|error: tidegate_policy::address::PrefixError| unreadable(error.to_string()))?;
        let status =
            [RowStatus::Banned, RowStatus::Watched].into_iter().find(|status| status.is(&row.status));
        let status = status.ok_or_else(|| {
            let shown: String = row.status.chars().take(60).collect();
            unreadable(format!(
                "status `{shown}` is none of a ban: write banned or watched (an entry of the allow list holds \
                 everywhere, and is a row of ip_monitor)"
            ))
        })?;
        let scope = read_scope_text(&row.applies_to);
        let scope = scope.map_err(|why| unreadable(format!("applies_to {why}")))?;
        let end = clock::optional(row.expires_at.as_deref());
        let mut parsed = Self {
            raw_key: None,
            source: Some(row.source.as_str())
                .filter(|source| !source.is_empty())
                .map(|name| reasons.share(name)),
            scope: reasons.share_scope(scope),
            status,
            reason: row.reason.as_deref().map(|reason| reasons.share(reason)),
            created: row.created_at.as_deref().and_then(clock::millis),
            updated: row.updated_at.as_deref().and_then(clock::millis),
            expires: end.as_ref().copied().ok().flatten().and_then(clock::expiry),
        };
        let key = row.key();
        parsed.raw_key = (parsed.key(&prefix) != key).then(|| key.into());
        match end {
            Ok(_) => Ok((prefix, parsed)),
            Err(why) => Err(UnreadableRow {
                why: format!("expires_at {why}"),
                kept: (status == RowStatus::Banned).then_some((prefix, parsed)),
            }),
        }
    }

    /// The raw key.
    pub fn key(&self, prefix: &Prefix) -> String {
        self.raw_key.as_deref().map_or_else(
            || {
                let (ip, applies_to) = (prefix.to_string(), write_scope(&self.scope).to_string());
                let source = self.source.as_deref().unwrap_or_default();
                ScopedBanKey { ip: &ip, source, applies_to: &applies_to }.to_string()
            },
            str::to_owned,
        )
    }

    /// The row of `prefix` as a row of the database.
    pub fn to_row(&self, prefix: &Prefix) -> ScopedBanRow {
        let key = self.key(prefix);
        let key = ScopedBanKey::read(&key).unwrap_or(ScopedBanKey { ip: "", source: "", applies_to: "" });
        ScopedBanRow {
            ip: key.ip.to_owned(),
            applies_to: key.applies_to.to_owned(),
            source: key.source.to_owned(),
            status: self.status.name().to_owned(),
            reason: self.reason.as_deref().map(str::to_owned),
            created_at: self.created.map(clock::text),
            updated_at: self.updated.map(clock::text),
            expires_at: self.expires.map(|second| time_text::from_ms(i64::from(second) * 1_000)),
        }
    }

    /// Whether it is in shadow, and its end, as the table has them.
    pub fn in_table(&self) -> (bool, Option<UnixSeconds>) {
        (self.status == RowStatus::Watched, self.expires)
    }

    /// As an entry of lists. `left_out`: it has no effect.
    pub fn listed(&self, prefix: &Prefix, left_out: bool) -> ListedPrefix {
        ListedPrefix {
            prefix: *prefix,
            status: self.status,
            scope: Some(Arc::clone(&self.scope)),
            reason: self.reason.clone(),
            created: self.created.and_then(timestamp),
            updated: self.updated.and_then(timestamp),
            expires: self.expires,
            source: self.source.clone(),
            sources: Vec::new(),
            own: None,
            keys: vec![self.key(prefix)],
            left_out,
        }
    }
}

impl IpMonitor {
    /// The row with the raw key `key`, and its prefix.
    pub fn scoped_row(&self, key: &str) -> Option<(Prefix, &ScopedRow)> {
        let prefix = prefix_of_key(key)?;
        let rows = self.scoped.get(&prefix)?;
        Some((prefix, rows.iter().find(|row| row.key(&prefix) == key)?))
    }

    /// Reads a row of `scoped_bans`. One that cannot be read keeps the meaning that it had. `index` has the rows that
    /// could not be read before.
    #[expect(clippy::result_large_err, reason = "a row that is read is as large")]
    pub fn read_scoped(
        &self,
        index: &RowIndex,
        row: &ScopedBanRow,
        reasons: &mut ReasonInterner,
    ) -> Result<(Prefix, ScopedRow), UnreadableRow<(Prefix, ScopedRow)>> {
        ScopedRow::read(row, reasons).map_err(|UnreadableRow { why, kept }| {
            let key = row.key();
            let held = self.scoped_row(&index.origin(TABLE, &key)).map(|(prefix, row)| (prefix, row.clone()));
            let instead = match (&held, &kept) {
                (Some(_), _) => "what it said before stays in force",
                (None, Some(_)) => "until it has one that can be read it is a ban without end",
                (None, None) => "it has no effect",
            };
            // Read once more, it is held as what it was taken for the first time.
            let before = index.why(TABLE, &key).filter(|before| before.starts_with(&why));
            let why = before.map_or_else(|| format!("{why}; {instead}"), |before| before.to_string());
            UnreadableRow { why, kept: held.or(kept) }
        })
    }

    /// Applies changed rows of `scoped_bans`; `None`: deleted.
    pub fn apply_scoped(
        &mut self,
        index: &mut RowIndex,
        mut changes: Vec<(String, Option<ScopedBanRow>)>,
        changed: &mut ChangedPrefixes,
    ) {
        let mut reasons = ReasonInterner::default();
        // A row is still held under a key that it had when its new one is read.
        changes.sort_by_key(|(_, row)| row.is_none());
        for (key, row) in changes {
            changed.scoped = true;
            if row.is_some() {
                index.replace_origin(TABLE, &key);
            }
            #[expect(clippy::result_large_err, reason = "a row that is read is as large")]
            let read = row.map(|row| self.read_scoped(index, &row, &mut reasons));
            match &read {
                Some(Err(bad)) => index.quarantine(TABLE, &key, bad.why.clone()),
                _ => index.unquarantine(TABLE, &key),
            }
            match read {
                None if index.is_origin(TABLE, &key) => {}
                Some(Err(UnreadableRow { kept, .. })) => {
                    let own = kept.filter(|(prefix, row)| row.key(prefix) == key);
                    self.set_scoped_row(&key, own.map(|(_, row)| row));
                    continue;
                }
                Some(Ok((_, row))) => self.set_scoped_row(&key, Some(row)),
                None => self.set_scoped_row(&key, None),
            }
            if let Some(origin) = index.take_origin(TABLE, &key) {
                self.set_scoped_row(&origin, None);
            }
        }
    }

    /// Makes `row` the row with the raw key `key`.
    fn set_scoped_row(&mut self, key: &str, row: Option<ScopedRow>) {
        let Some(prefix) = prefix_of_key(key) else { return };
        let held = self.scoped.get(&prefix).map_or(&[][..], |rows| rows);
        let mut rows: Vec<ScopedRow> = held.iter().filter(|held| held.key(&prefix) != key).cloned().collect();
        rows.extend(row);
        rows.sort_by_cached_key(|row| row.key(&prefix));
        match rows.is_empty() {
            true => drop(self.scoped.remove(&prefix)),
            false => drop(self.scoped.insert(prefix, rows.into())),
        }
    }
}

/// All rows of `scoped_bans`, parsed: by prefix, and the invalid ones.
pub(super) struct ParsedScopedBans {
    prefixes: BTreeMap<Prefix, ScopedRows>,
    quarantine: BTreeMap<Arc<str>, Arc<str>>,
}

impl ParsedScopedBans {
    /// Parses all rows; those that cannot be read mean what they do in `held`.
    pub fn read(rows: Vec<ScopedBanRow>, held: &IpMonitor, index: &RowIndex) -> Self {
        let (mut reasons, mut quarantine) = (ReasonInterner::default(), BTreeMap::new());
        let mut read: BTreeMap<Prefix, Vec<ScopedRow>> = BTreeMap::new();
        for row in rows {
            let parsed = match held.read_scoped(index, &row, &mut reasons) {
                Ok(parsed) => Some(parsed),
                Err(UnreadableRow { why, kept }) => {
                    quarantine.insert(row.key().into(), why.into());
                    kept
                }
            };
            if let Some((prefix, row)) = parsed {
                read.entry(prefix).or_default().push(row);
            }
        }
        let prefixes = read.into_iter().map(|(prefix, mut rows)| {
            rows.sort_by_cached_key(|row| row.key(&prefix));
            (prefix, rows.into())
        });
        Self { prefixes: prefixes.collect(), quarantine }
    }

    /// The first prefix in which `ips` differs from these rows, or the first key of a row that cannot be read. Keys in
    /// `moved` are left out.
    pub fn first_difference(
        &self,
        ips: &IpMonitor,
        index: &RowIndex,
        moved: &HashSet<String>,
    ) -> Option<String> {
        let skipped: HashSet<Prefix> = moved.iter().filter_map(|key| prefix_of_key(key)).collect();
        let changed = self.prefixes.iter().filter(|(prefix, rows)| ips.scoped.get(*prefix) != Some(rows));
        let gone = ips.scoped.keys().filter(|prefix| !self.prefixes.contains_key(prefix));
        let mut differing = changed.map(|(prefix, _)| prefix).chain(gone);
        if let Some(prefix) = differing.find(|prefix| !skipped.contains(prefix)) {
            return Some(prefix.to_string());
        }
        let held: BTreeMap<_, _> = index.quarantine_of(TABLE).collect();
        let mine = self.quarantine.iter().filter(|(key, why)| held.get(key) != Some(why)).map(|(key, _)| key);
        let theirs = held.keys().copied().filter(|key| !self.quarantine.contains_key(*key));
        mine.chain(theirs).find(|key| !moved.contains(&***key)).map(ToString::to_string)
    }

    /// Replaces what `ips` and `index` have of these rows.
    pub fn replace_all(self, ips: &mut IpMonitor, index: &mut RowIndex, changed: &mut ChangedPrefixes) {
        let scoped = self.prefixes.into_iter().collect();
        changed.scoped |= ips.scoped != scoped;
        ips.scoped = scoped;
        index.forget(TABLE);
        for key in index.moved(TABLE) {
            if !self.quarantine.contains_key(&key) {
                index.take_origin(TABLE, &key);
            }
        }
        for (key, why) in self.quarantine {
            index.quarantine(TABLE, &key, why.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(applies_to: &str, status: &str) -> ScopedBanRow {
        ScopedBanRow {
            ip: "9.9.9.9".into(),
            applies_to: applies_to.into(),
            status: status.into(),
            ..ScopedBanRow::default()
        }
    }

    #[expect(clippy::result_large_err, reason = "a row that is read is as large")]
    fn read(row: &ScopedBanRow) -> Result<(Prefix, ScopedRow), UnreadableRow<(Prefix, ScopedRow)>> {
        ScopedRow::read(row, &mut ReasonInterner::default())
    }

    #[test]
    fn a_scope_or_a_status_that_cannot_be_read_makes_no_ban() {
        for (scope, status, what) in [
            ("shop.example.com", "banned", "applies_to "),
            ("{}", "banned", "applies_to "),
            ("", "banned", "applies_to "),
            (r#"{"routes":["r"]}"#, "allowed", "status `allowed`"),
        ] {
            let bad = read(&row(scope, status)).unwrap_err();
            assert!(bad.why.starts_with(what) && bad.kept.is_none(), "{}", bad.why);
        }
    }

    #[test]
    fn a_row_is_written_as_it_was_read() {
        for (ip, scope, source) in [
            ("9.9.9.9", r#"{"routes":["r"]}"#, ""),
            ("9.9.9.9/32", r#"{"routes": ["default/r"], "hostnames": ["b.example", "a.example"]}"#, "auto.r"),
        ] {
            let row = ScopedBanRow {
                ip: ip.into(),
                source: source.into(),
                reason: Some("x".into()),
                created_at: Some("2026-11-20 18:00:00.123".into()),
                expires_at: Some("2026-11-23 18:00:00.000".into()),
                ..row(scope, "Watched")
            };
            let (prefix, read) = read(&row).unwrap();
            let written = ScopedBanRow { status: "watched".into(), ..row };
            assert_eq!((read.key(&prefix), read.to_row(&prefix)), (written.key(), written));
            assert_eq!(read.scope.routes, ["r"]);
        }
    }
}
