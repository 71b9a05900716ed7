//! Our own writes to the tables that people write, too. Each writes its entry of the audit in the
//! same transaction.

use rusqlite::Connection;

use super::aliases::AddressAliases;
use super::audit::Auditor;
use super::ban_import::{self, ImportPlan};
use super::ip_monitor::{List, NewEntry};
use super::schema::read_state;
use super::{
    auto_bans, ban_sources, change_log, countries, documents, flags, idempotency, ip_monitor, rollouts,
    scoped_bans, tokens,
};
use crate::store::{
    Author, BanMode, Change, Committed, DocumentKind, ImportCounts, UnchangedRows, time_text,
};

/// Applies `change`, by the author `by`, in the write transaction that `conn` is in, if all of
/// `only_if` holds there. `plan`: of an import, if it was made already.
pub(super) fn apply(
    conn: &Connection,
    aliases: &mut AddressAliases,
    change: &Change,
    plan: Option<&ImportPlan>,
    by: &Author,
    only_if: &[UnchangedRows],
) -> rusqlite::Result<Committed> {
    let stale = || -> rusqlite::Result<Committed> {
        Ok(Committed {
            seq: read_state(conn)?.newest,
            rows: 0,
            is_stale: true,
            import: ImportCounts::default(),
        })
    };
    for rows in only_if {
        if !change_log::are_unchanged(conn, rows)? {
            return stale();
        }
    }
    let now_ms = time_text::now_ms();
    let now = time_text::from_ms(now_ms);
    let audit = Auditor::new(conn, by, &now);
    let mut import = ImportCounts::default();
    let rows = match change {
        Change::Ban { ip, reason, expires_at, mode, applies_to, unless_allowed } => {
            aliases.follow(conn, usize::MAX)?;
            if *unless_allowed && ip_monitor::is_allowed(conn, aliases, ip, now_ms)? {
                return Ok(Committed { seq: read_state(conn)?.newest, rows: 0, is_stale: false, import });
            }
            let (reason, expires_at) = (reason.as_deref(), expires_at.as_deref());
            let entry = NewEntry { ip, reason, expires_at };
            match applies_to.as_deref() {
                None => ip_monitor::put(&audit, aliases, List::Bans(*mode), &entry)?,
                Some(scope) => scoped_bans::put(&audit, *mode, &entry, scope)?,
            }
        }
        Change::Allow { ip, reason, expires_at } => {
            aliases.follow(conn, usize::MAX)?;
            let (reason, expires_at) = (reason.as_deref(), expires_at.as_deref());
            let entry = NewEntry { ip, reason, expires_at };
            ip_monitor::put(&audit, aliases, List::Allowed, &entry)?
        }
        Change::Unban { keys } => {
            aliases.follow(conn, usize::MAX)?;
            auto_bans::forget(conn, keys)?;
            ip_monitor::remove(&audit, aliases, List::Bans(BanMode::Enforce), keys)?
        }
        Change::EnforceBans(which) => {
            aliases.follow(conn, usize::MAX)?;
            ip_monitor::enforce(&audit, aliases, which)?
        }
        Change::Disallow { keys } => {
            aliases.follow(conn, usize::MAX)?;
            ip_monitor::remove(&audit, aliases, List::Allowed, keys)?
        }
        Change::ImportBans(bans) => {
            let made;
            let plan = match plan {
                Some(plan) => plan,
                None => {
                    made = ImportPlan::make(conn, bans)?;
                    &made
                }
            };
            let rows;
            (import, rows) = ban_import::apply(&audit, bans, plan)?;
            rows
        }
        Change::BanByRule(bans) => {
            aliases.follow(conn, usize::MAX)?;
            let rows;
            (import, rows) = auto_bans::put(&audit, aliases, bans, now_ms)?;
            rows
        }
        Change::StepRollout(step) => match rollouts::step(&audit, step, now_ms)? {
            Some(rows) => rows,
            None => return stale(),
        },
        Change::NoteNoticeTry { id, tried } => rollouts::note_try(conn, id, *tried)?,
        Change::SetFlags { flags: states } => {
            flags::set(&audit, states)? + rollouts::note_set_by_hand(conn, &by.name, states)?
        }
        Change::PutDocument { only_if: Some(only_if), .. }
        | Change::DeleteDocument { only_if: Some(only_if), .. }
        | Change::All { only_if: Some(only_if), .. }
            if !change_log::is_unchanged(conn, *only_if)? =>
        {
            return stale();
        }
        Change::PutDocument { kind, name, document, .. } => documents::put(&audit, *kind, name, document)?,
        Change::DeleteDocument { kind: DocumentKind::Rollout, name, .. }
            if rollouts::is_active(conn, name)? =>
        {
            return stale();
        }
        Change::DeleteDocument { kind, name, .. } => documents::delete(&audit, *kind, name)?,
        Change::SourceFetched(fetched) => match ban_sources::put(&audit, fetched)? {
            Some(rows) => rows,
            None => return stale(),
        },
        Change::ForgetSources => ban_sources::remove_without_document(&audit)?,
        Change::SetCountries { source, table } => countries::set(&audit, source, table)?,
        Change::AddToken { token, only_new_name } => tokens::add(&audit, token, *only_new_name)?,
        Change::RevokeTokens { name } => tokens::revoke(&audit, name)?,
        Change::NoteBackup => {
            audit.write("backup", "database", None, Some("true".to_owned()))?;
            1
        }
        Change::KeepAnswer { answer } => match &by.key {
            Some(key) => idempotency::keep(conn, key, Some(answer), now_ms)?,
            None => 0,
        },
        Change::All { changes, .. } => {
            // The key is kept once, with all of them.
            let by = Author { key: None, ..by.clone() };
            let rows =
                changes.iter().map(|change| Ok(apply(conn, aliases, change, None, &by, &[])?.rows as usize));
            rows.sum::<rusqlite::Result<usize>>()?
        }
    };
    if let Some(key) = &by.key
        && rows > 0
        && !matches!(change, Change::KeepAnswer { .. })
    {
        idempotency::keep(conn, key, None, now_ms)?;
    }
    Ok(Committed { seq: read_state(conn)?.newest, rows: rows as u64, is_stale: false, import })
}
