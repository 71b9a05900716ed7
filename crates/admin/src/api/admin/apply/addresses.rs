//! Bans and entries of the allow list among the documents.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_policy::address::Prefix;

use super::manifests::{MAX_DOCUMENTS, Wanted};
use super::plan::Planner;
use crate::api::admin::ip_monitor::AddressStatus;
use crate::api::body;
use crate::api::entry_fields::{self, Expiry, Ttl};
use crate::feed::{ListedPrefix, RowStatus, Snapshot};
use crate::manifest::Kind;
use crate::problem::FieldError;
use crate::store::{BanMode, Change, IpRow};
use crate::time;

/// What a ban or an entry of the allow list says.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct EntrySpec {
    reason: Option<String>,
    ttl: Option<Ttl>,
    expires_at: Option<Expiry>,
}

/// An entry that was read.
struct ReadEntry {
    prefix: Prefix,
    reason: Option<String>,
    /// `None`: never.
    end: Option<Timestamp>,
}

impl ReadEntry {
    /// # Errors
    /// All that is wrong, with pointers into the spec.
    fn of(one: &Wanted) -> Result<Self, Vec<FieldError>> {
        let spec: EntrySpec = match &one.spec {
            Value::Null => EntrySpec::default(),
            spec => body::fields_of(spec).map_err(|problem| problem.errors().to_vec())?,
        };
        let mut errors: Vec<FieldError> =
            entry_fields::check_reason(spec.reason.as_deref()).err().into_iter().collect();
        let end = entry_fields::end(spec.ttl, spec.expires_at.as_ref()).map_err(|error| errors.push(error));
        match (one.name.parse::<Prefix>(), end) {
            (Ok(prefix), Ok(end)) if errors.is_empty() => Ok(Self { prefix, reason: spec.reason, end }),
            _ => Err(errors),
        }
    }

    /// As answers show it.
    fn manifest(&self, kind: Kind) -> Value {
        let end = self.end.map(time::rounded_up);
        kind.manifest(&self.prefix.to_string(), json!({ "reason": self.reason, "expires_at": end }))
    }
}

/// An entry that there is, as answers show it.
fn listed_manifest(kind: Kind, listed: &ListedPrefix) -> Value {
    let end = crate::api::admin::ip_monitor::until(listed);
    let spec = json!({ "reason": listed.reason.as_deref(), "expires_at": end });
    kind.manifest(&listed.prefix.to_string(), spec)
}

const LISTS: [(Kind, RowStatus); 2] =
    [(Kind::Ban, RowStatus::Banned), (Kind::AllowListEntry, RowStatus::Allowed)];

impl<'a> Planner<'a> {
    /// Plans the entries of both lists: first what is removed, for an address may go from one list to the other.
    pub(super) fn addresses(&mut self) {
        let entries = LISTS.map(|(kind, status)| {
            let entries: Vec<(&Wanted, ReadEntry)> =
                self.of_kind(kind).filter_map(|one| Some((one, self.read_entry(one)?))).collect();
            if self.is_pruned(kind) {
                let prefixes = entries.iter().map(|(_, entry)| entry.prefix).collect();
                self.prune_entries(kind, status, &prefixes);
            }
            (status, entries)
        });
        for (status, entries) in entries {
            entries.into_iter().for_each(|(one, entry)| self.entry(one, status, entry));
        }
    }

    /// What `one` says; `None`: it is refused, or over.
    fn read_entry(&mut self, one: &Wanted) -> Option<ReadEntry> {
        match ReadEntry::of(one) {
            Ok(entry) => return Some(entry),
            // An export may have entries that ended since it was made.
            Err(errors) if errors.iter().all(|error| error.code == "in_the_past") => {
                self.note_as(one, "over", None, None);
            }
            Err(errors) => {
                let errors = errors
                    .iter()
                    .map(|e| one.error(e.pointer.as_deref().unwrap_or_default(), e.code, &*e.detail));
                let errors = errors.collect();
                self.refuse(errors);
            }
        }
        None
    }

    fn entry(&mut self, one: &Wanted, status: RowStatus, entry: ReadEntry) {
        let listed = self.before.listed_rows(&entry.prefix, status);
        let as_written = listed.as_ref().filter(|listed| listed.keys == [one.name.as_str()]);
        let (before, after) =
            (as_written.map(|listed| listed_manifest(one.kind, listed)), entry.manifest(one.kind));
        if before.as_ref() == Some(&after) {
            return self.note_as(one, "unchanged", before, None);
        }
        if !self.wishes.force
            && let Some(error) = self.not_by_mistake(one, status, &entry.prefix)
        {
            return self.refuse(vec![error]);
        }
        let outcome = if listed.is_some() { "configured" } else { "created" };
        self.note_as(one, outcome, before, Some(after));
        let (ip, now, expires_at) =
            (one.name.clone(), time::to_sql(time::now()), entry.end.map(time::to_sql));
        let row = IpRow {
            ip: ip.clone(),
            status: status.name().to_owned(),
            reason: entry.reason.clone(),
            created_at: Some(now.clone()),
            updated_at: Some(now),
            expires_at: expires_at.clone(),
            source: None,
        };
        self.rows.ips.push((ip.clone(), Some(row)));
        let reason = entry.reason;
        self.plan.changes.push(match status {
            RowStatus::Allowed => Change::Allow { ip, reason, expires_at },
            _ => Change::Ban { ip, reason, expires_at, mode: BanMode::Enforce, unless_allowed: false },
        });
    }

    /// Why nobody should put the prefix on this list by mistake.
    fn not_by_mistake(&self, one: &Wanted, status: RowStatus, prefix: &Prefix) -> Option<FieldError> {
        if status == RowStatus::Allowed {
            let wide = entry_fields::too_wide_to_allow(prefix)?;
            return Some(one.error("", "block_too_wide", format!("{wide}: take it out, or use `force`")));
        }
        let protected = self.app.protected.overlapping(prefix, &self.app.gateways)?;
        let detail = format!("{prefix} has addresses of {protected}: take it out, or use `force`");
        Some(one.error("", "protected_network", detail))
    }

    fn prune_entries(&mut self, kind: Kind, status: RowStatus, prefixes: &BTreeSet<Prefix>) {
        let before = self.before;
        // What a list has is its source's to remove.
        let gone = || {
            let listed = before.list(Some(status), None);
            listed.filter(|listed| listed.source.is_none() && !prefixes.contains(&listed.prefix))
        };
        let many = gone().count();
        if many > MAX_DOCUMENTS {
            let detail = format!(
                "{many} of kind {} would be removed, and one call removes {MAX_DOCUMENTS} at most: remove them \
                 otherwise, or apply without `prune`",
                kind.name()
            );
            return self.refuse(vec![FieldError::field("/documents", "out_of_range", detail)]);
        }
        // As its rows have it, whatever sources do.
        for listed in gone().filter_map(|listed| before.listed_rows(&listed.prefix, status)) {
            self.note_removed(kind, listed.prefix.to_string(), listed_manifest(kind, &listed));
            let keys = listed.keys;
            self.rows.ips.extend(keys.iter().map(|key| (key.clone(), None)));
            self.plan.changes.push(match status {
                RowStatus::Allowed => {
                    self.disallowed.insert(listed.prefix);
                    Change::Disallow { keys }
                }
                _ => Change::Unban { keys },
            });
        }
    }

    /// Whether those that are written have room and, if they are bans, an effect.
    pub(super) fn check_addresses(&mut self, after: &Snapshot) {
        for (kind, status) in LISTS {
            for one in self.of_kind(kind) {
                let Ok(prefix) = one.name.parse::<Prefix>() else { continue };
                if !self.is_written(one) {
                    continue;
                }
                let listed = after.listed(&prefix, status);
                if listed.is_some_and(|listed| listed.left_out) {
                    let error =
                        one.error("", "table_full", format!("the table has no room for {}", one.name));
                    self.refuse(vec![error]);
                } else if status == RowStatus::Banned && !self.wishes.force {
                    let allowed = self.allowed_after(one, &prefix, after);
                    self.refuse(allowed.into_iter().collect());
                }
            }
        }
    }

    /// Why a ban would have no effect, or take an entry of the allow list away that nobody has removed.
    fn allowed_after(&self, one: &Wanted, prefix: &Prefix, after: &Snapshot) -> Option<FieldError> {
        let now = time::now_seconds();
        let replaced = self
            .before
            .listed(prefix, RowStatus::Allowed)
            .filter(|listed| listed.expires.is_none_or(|end| now < end) && !self.disallowed.contains(prefix));
        let entry = match replaced {
            Some(_) => prefix.to_string(),
            None => {
                let then = AddressStatus::of(after, prefix, now);
                then.entry.filter(|_| then.status == "allowed")?
            }
        };
        let detail =
            format!("{entry} is on the allow list, which beats every ban: take it out, or use `force`");
        Some(one.error("", "address_allowed", detail))
    }
}
