//! Bans and entries of the allow list among the documents.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_author::write_scope;
use tidegate_policy::address::Prefix;
use tidegate_policy::scope::Scope;

use super::manifests::{MAX_DOCUMENTS, Wanted};
use super::plan::Planner;
use crate::api::admin::ip_monitor::AddressStatus;
use crate::api::body;
use crate::api::entry_fields::{self, Expiry, Ttl};
use crate::feed::{ListedPrefix, RowStatus, Snapshot};
use crate::manifest::Kind;
use crate::problem::FieldError;
use crate::store::{BanMode, Change, IpRow, ScopedBanRow};
use crate::time;

/// What a ban or an entry of the allow list says.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct EntrySpec {
    reason: Option<String>,
    ttl: Option<Ttl>,
    expires_at: Option<Expiry>,
    /// Of a ban: whether it denies; it does unless it says otherwise.
    mode: Option<BanMode>,
    /// As in the API: a ban of what is protected or allowed, an entry of a wide block. It is no part of what is
    /// stored, so an entry that is there already is unchanged with and without it.
    #[serde(default)]
    force: bool,
    /// Of bans alone.
    applies_to: Option<Value>,
}

/// An entry that was read.
struct ReadEntry {
    prefix: Prefix,
    status: RowStatus,
    reason: Option<String>,
    /// `None`: never.
    end: Option<Timestamp>,
    is_forced: bool,
    /// `None`: everywhere.
    scope: Option<Scope>,
}

impl ReadEntry {
    /// # Errors
    /// All that is wrong, with pointers into the spec.
    fn of(one: &Wanted) -> Result<Self, Vec<FieldError>> {
        let spec: EntrySpec = match &one.spec {
            Value::Null => EntrySpec::default(),
            spec => body::fields_of(spec).map_err(|problem| problem.errors().to_vec())?,
        };
        let mut errors = Vec::new();
        let end = entry_fields::end(spec.ttl, spec.expires_at.as_ref()).map_err(|error| errors.push(error));
        if one.kind != Kind::Ban && spec.mode.is_some() {
            errors.push(FieldError::field("/mode", "unknown_field", "only bans have a mode"));
        }
        if one.kind != Kind::Ban && spec.applies_to.is_some() {
            let detail = "an entry of the allow list holds everywhere: leave it out";
            errors.push(FieldError::field("/applies_to", "not_supported", detail));
        }
        let scope = entry_fields::applies_to(spec.applies_to.as_ref()).map_err(|found| errors.extend(found));
        if one.is_malformed {
            // What becomes of it is not asked, so its reason is all that is left to check.
            errors.extend(entry_fields::check_reason(spec.reason.as_deref()).err());
            errors.retain(|error| error.code != "in_the_past");
        }
        match (one.name.parse::<Prefix>(), end, scope) {
            (Ok(prefix), Ok(end), Ok(scope)) if errors.is_empty() && !one.is_malformed => {
                let status = status(one.kind, spec.mode.unwrap_or_default());
                Ok(Self { prefix, status, reason: spec.reason, end, is_forced: spec.force, scope })
            }
            _ => Err(errors),
        }
    }

    /// As answers show it.
    fn manifest(&self, kind: Kind) -> Value {
        let end = self.end.map(time::rounded_up);
        let spec = shown_spec(self.reason.as_deref(), end, self.status, self.scope.as_ref());
        kind.manifest(&self.prefix.to_string(), spec)
    }
}

/// The mode that manifests show: what denies does not say it.
fn shown_mode(status: RowStatus) -> Option<BanMode> {
    (status == RowStatus::Watched).then_some(BanMode::Shadow)
}

/// The status of an entry of `kind`, a ban in `mode`.
fn status(kind: Kind, mode: BanMode) -> RowStatus {
    if kind == Kind::Ban { RowStatus::of_ban(mode) } else { RowStatus::Allowed }
}

/// An entry that there is, as answers show it.
fn listed_manifest(kind: Kind, listed: &ListedPrefix) -> Value {
    let end = crate::api::admin::ip_monitor::until(listed);
    let spec = shown_spec(listed.reason.as_deref(), end, listed.status, listed.scope.as_deref());
    kind.manifest(&listed.prefix.to_string(), spec)
}

fn shown_spec(reason: Option<&str>, end: Option<String>, status: RowStatus, scope: Option<&Scope>) -> Value {
    let mut spec = json!({ "reason": reason, "expires_at": end, "mode": shown_mode(status) });
    if let Some(scope) = scope {
        spec["applies_to"] = write_scope(scope);
    }
    spec
}

/// The kinds, with the statuses that their entries may have.
const LISTS: [(Kind, &[RowStatus]); 2] =
    [(Kind::Ban, &[RowStatus::Banned, RowStatus::Watched]), (Kind::AllowListEntry, &[RowStatus::Allowed])];

/// The rows of `prefix` with each of `statuses` that a document of this scope means, whatever sources have: of what
/// applies everywhere any, of the others those by hand.
fn held(
    before: &Snapshot,
    prefix: &Prefix,
    statuses: &[RowStatus],
    scope: Option<&Scope>,
) -> Vec<ListedPrefix> {
    let rows = statuses.iter().flat_map(|status| before.all_listed_rows(prefix, *status));
    let is_meant = |listed: &ListedPrefix| {
        listed.scope.as_deref() == scope && (scope.is_none() || listed.source.is_none())
    };
    rows.filter(is_meant).collect()
}

impl<'a> Planner<'a> {
    /// Plans the entries of both lists: first what is removed, for an address may go from one list to the other.
    pub(super) fn addresses(&mut self) {
        let entries = LISTS.map(|(kind, statuses)| {
            let entries: Vec<(&Wanted, ReadEntry)> =
                self.of_kind(kind).filter_map(|one| Some((one, self.read_entry(one)?))).collect();
            if self.is_pruned(kind) {
                let kept = entries.iter().map(|(_, entry)| (entry.prefix, entry.scope.clone())).collect();
                self.prune_entries(kind, statuses, &kept);
            }
            (statuses, entries)
        });
        for (statuses, entries) in entries {
            entries.into_iter().for_each(|(one, entry)| self.entry(one, statuses, entry));
        }
    }

    /// What `one` says; `None`: it is refused, or over.
    fn read_entry(&mut self, one: &Wanted) -> Option<ReadEntry> {
        match ReadEntry::of(one) {
            Ok(entry) => return Some(entry),
            // An export may have entries that ended since it was made.
            Err(errors) if !one.is_malformed && errors.iter().all(|error| error.code == "in_the_past") => {
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

    fn entry(&mut self, one: &Wanted, statuses: &[RowStatus], entry: ReadEntry) {
        let held = held(self.before, &entry.prefix, statuses, entry.scope.as_ref());
        let status = entry.status;
        let (before, after) =
            (held.first().map(|listed| listed_manifest(one.kind, listed)), entry.manifest(one.kind));
        // What a rule or a list has is beside it, and what other programs wrote twice is exported once.
        let mut by_hand = held.iter().filter(|listed| listed.source.is_none());
        let is_held = by_hand.next().is_some_and(|listed| listed_manifest(one.kind, listed) == after);
        if is_held || held.len() == 1 && before.as_ref() == Some(&after) {
            return self.note_as(one, "unchanged", Some(after), None);
        }
        // Not of what is unchanged: another program may have written it, and the export of what is in force is
        // no error. Where it is not yet it is refused, not cut: nobody's words are changed without a word.
        if let Err(error) = entry_fields::check_reason(entry.reason.as_deref()) {
            return self.refuse(vec![one.error("/reason", error.code, &*error.detail)]);
        }
        let is_forced = self.wishes.force || entry.is_forced;
        if is_forced {
            self.forced.insert(one.at);
        } else if let Some(error) = self.not_by_mistake(one, status, &entry.prefix) {
            return self.refuse(vec![error]);
        }
        let outcome = if held.is_empty() { "created" } else { "configured" };
        self.note_as(one, outcome, before, Some(after));
        let (ip, now, expires_at) =
            (one.name.clone(), time::to_sql(time::now()), entry.end.map(time::to_sql));
        let applies_to = entry.scope.as_ref().map(entry_fields::scope_text);
        self.note_row(&entry, &held, (now, expires_at.clone()), applies_to.as_deref());
        let reason = entry.reason;
        self.plan.changes.push(match status {
            RowStatus::Allowed => Change::Allow { ip, reason, expires_at },
            RowStatus::Banned => ban(ip, reason, expires_at, BanMode::Enforce, applies_to),
            RowStatus::Watched => ban(ip, reason, expires_at, BanMode::Shadow, applies_to),
        });
    }

    /// Notes the row that `entry` becomes `now`, in the place of `held`.
    fn note_row(
        &mut self,
        entry: &ReadEntry,
        held: &[ListedPrefix],
        (now, expires_at): (String, Option<String>),
        applies_to: Option<&str>,
    ) {
        let (ip, status) = (entry.prefix.to_string(), entry.status.name().to_owned());
        let (reason, now) = (entry.reason.clone(), Some(now));
        let Some(applies_to) = applies_to else {
            let row = IpRow {
                ip: ip.clone(),
                status,
                reason,
                created_at: now.clone(),
                updated_at: now,
                expires_at,
                source: None,
            };
            return self.rows.ips.push((ip, Some(row)));
        };
        let row = ScopedBanRow {
            ip,
            applies_to: applies_to.to_owned(),
            source: String::new(),
            status,
            reason,
            created_at: now.clone(),
            updated_at: now,
            expires_at,
        };
        let key = row.key();
        let others = held.iter().flat_map(|listed| &listed.keys).filter(|held| **held != key);
        self.rows.scoped.extend(others.map(|key| (key.clone(), None)));
        self.rows.scoped.push((key, Some(row)));
    }

    /// Why nobody should put the prefix on this list by mistake.
    fn not_by_mistake(&self, one: &Wanted, status: RowStatus, prefix: &Prefix) -> Option<FieldError> {
        if status == RowStatus::Allowed {
            let wide = entry_fields::too_wide_to_allow(prefix)?;
            return Some(one.error(
                "",
                "block_too_wide",
                format!("{wide}: take it out, or say `force: true` in its spec"),
            ));
        }
        let protected = self.app.protected.overlapping(prefix, &self.app.gateways)?;
        let detail =
            format!("{prefix} has addresses of {protected}: take it out, or say `force: true` in its spec");
        Some(one.error("", "protected_network", detail))
    }

    /// `kept`: what the documents have, and where it applies.
    fn prune_entries(
        &mut self,
        kind: Kind,
        statuses: &[RowStatus],
        kept: &BTreeSet<(Prefix, Option<Scope>)>,
    ) {
        let (before, now) = (self.before, time::now_seconds());
        // What a list has is its source's to remove, and what has ended goes by itself: no export has it.
        let gone = |status| {
            // A prefix has one for each scope.
            let all: BTreeSet<Prefix> = before.list(Some(status), None).map(|listed| listed.prefix).collect();
            let rows = all.into_iter().flat_map(move |prefix| before.all_listed_rows(&prefix, status));
            let is_kept =
                |listed: &ListedPrefix| kept.contains(&(listed.prefix, listed.scope.as_deref().cloned()));
            rows.filter(move |listed| listed.source.is_none() && !is_kept(listed))
                .filter(move |listed| listed.expires.is_none_or(|end| now < end))
        };
        let many = statuses.iter().map(|status| gone(*status).count()).fold(0, usize::saturating_add);
        if many > MAX_DOCUMENTS {
            let detail = format!(
                "{many} of kind {} would be removed, and one call removes {MAX_DOCUMENTS} at most: remove them \
                 otherwise, or apply without `prune`",
                kind.name()
            );
            return self.refuse(vec![FieldError::field("/documents", "out_of_range", detail)]);
        }
        for listed in statuses.iter().flat_map(|status| gone(*status)) {
            self.note_removed(kind, listed.prefix.to_string(), listed_manifest(kind, &listed));
            let keys = listed.keys;
            match listed.scope {
                None => self.rows.ips.extend(keys.iter().map(|key| (key.clone(), None))),
                Some(_) => self.rows.scoped.extend(keys.iter().map(|key| (key.clone(), None))),
            }
            self.plan.changes.push(match listed.status {
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
        for (kind, _) in LISTS {
            for one in self.of_kind(kind) {
                let Ok(prefix) = one.name.parse::<Prefix>() else { continue };
                if !self.is_written(one) {
                    continue;
                }
                let mode = if one.spec["mode"] == "shadow" { BanMode::Shadow } else { BanMode::Enforce };
                let status = status(kind, mode);
                let Ok(scope) = entry_fields::applies_to(one.spec.get("applies_to")) else { continue };
                let mut listed = after
                    .all_listed(&prefix)
                    .filter(|listed| listed.status == status && listed.scope.as_deref() == scope.as_ref());
                if listed.any(|listed| listed.left_out) {
                    let error =
                        one.error("", "table_full", format!("the table has no room for {}", one.name));
                    self.refuse(vec![error]);
                } else if status != RowStatus::Allowed && !self.forced.contains(&one.at) {
                    let allowed = self.allowed_after(one, &prefix, scope.is_some(), after);
                    self.refuse(allowed.into_iter().collect());
                }
            }
        }
    }

    /// Why a ban would have no effect, or take an entry of the allow list away that nobody has removed.
    fn allowed_after(
        &self,
        one: &Wanted,
        prefix: &Prefix,
        is_scoped: bool,
        after: &Snapshot,
    ) -> Option<FieldError> {
        let now = time::now_seconds();
        let replaced = self
            .before
            .listed(prefix, RowStatus::Allowed)
            .filter(|listed| listed.expires.is_none_or(|end| now < end) && !self.disallowed.contains(prefix))
            // Another one is written beside it.
            .filter(|_| !is_scoped);
        let entry = match replaced {
            Some(_) => prefix.to_string(),
            None => {
                let then = AddressStatus::of(after, prefix, now);
                then.entry.filter(|_| then.status == "allowed")?
            }
        };
        let detail = format!(
            "{entry} is on the allow list, which beats every ban: take it out, or say `force: true` in its spec"
        );
        Some(one.error("", "address_allowed", detail))
    }
}

fn ban(
    ip: String,
    reason: Option<String>,
    expires_at: Option<String>,
    mode: BanMode,
    applies_to: Option<String>,
) -> Change {
    Change::Ban { ip, reason, expires_at, mode, applies_to, unless_allowed: false }
}
