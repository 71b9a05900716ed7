//! What an import of bans changes in `scoped_bans`: its own rows, whatever others have there.

use rusqlite::Connection;
use tidegate_policy::address::Prefix;

use super::rows::text;
use super::scoped_bans;
use crate::store::{BanImport, BanMode, ImportCounts, ImportedBan, ScopedBanKey, ScopedBanRow, time_text};

/// What is to be done with one row.
#[derive(Clone, Debug)]
pub(super) enum ScopedStep {
    /// Write this row of the ban.
    Put { is_new: bool, row: Box<ScopedBanRow> },
    /// The ban is allowed: nothing.
    Allowed,
    /// Delete the row of this key.
    Drop(String),
}

/// The steps of `import` by the state at `now` (milliseconds), in the transaction that `conn` is in.
pub(super) fn plan(conn: &Connection, import: &BanImport, now: i64) -> rusqlite::Result<Vec<ScopedStep>> {
    let mut steps = Vec::new();
    for ban in &import.bans {
        if let Some(scope) = ban.applies_to.as_deref() {
            steps.extend(of_ban(conn, import, (ban, scope), now)?);
        }
    }
    gone(conn, import, &mut steps)?;
    Ok(steps)
}

/// What a ban changes; `None`: nothing.
pub(super) fn of_ban(
    conn: &Connection,
    import: &BanImport,
    (ban, scope): (&ImportedBan, &str),
    now: i64,
) -> rusqlite::Result<Option<ScopedStep>> {
    let (ip, source) = (ban.prefix.to_string(), import.source.as_deref().unwrap_or_default());
    let is_allowed = conn
        .prepare_cached("SELECT 1 FROM ip_monitor WHERE ip = ?1 AND status = 'allowed' COLLATE NOCASE")?
        .exists([&ip])?;
    if is_allowed {
        return Ok(Some(ScopedStep::Allowed));
    }
    let held = scoped_bans::of_place(conn, &ip, source, scope)?;
    let is_over = |row: &&ScopedBanRow| end_of(row).is_some_and(|end| end <= now);
    let mode = |row: &ScopedBanRow| BanMode::of_status(&row.status);
    let held = held.iter().filter(|row| !is_over(row)).find(|row| mode(row).is_some());
    let expires_at = ban.expires.map(|end| time_text::from_ms(i64::from(end).saturating_mul(1_000)));
    let row = Box::new(ScopedBanRow {
        ip,
        applies_to: held.map_or(scope, |row| &row.applies_to).to_owned(),
        source: source.to_owned(),
        status: import.mode.status().to_owned(),
        reason: ban.reason.as_deref().map(str::to_owned),
        expires_at,
        ..ScopedBanRow::default()
    });
    let Some(held) = held else { return Ok(Some(ScopedStep::Put { is_new: true, row })) };
    let is_by_hand = import.source.is_none();
    let [had, wanted] = [end_of(held), end_of(&row)];
    let outlasts = had.is_none() || wanted.is_some_and(|wanted| had.is_some_and(|had| had >= wanted));
    Ok(match (mode(held), import.mode) {
        (Some(BanMode::Shadow), BanMode::Enforce) => Some(ScopedStep::Put { is_new: true, row }),
        // What somebody has banned by hand goes on denying, and as long as it says.
        (Some(BanMode::Enforce), BanMode::Shadow) if is_by_hand => None,
        (Some(BanMode::Enforce), BanMode::Shadow) => Some(ScopedStep::Put { is_new: false, row }),
        _ if is_by_hand && outlasts => None,
        _ if is_by_hand => {
            let reason = row.reason.clone().or_else(|| held.reason.clone());
            Some(ScopedStep::Put { is_new: false, row: Box::new(ScopedBanRow { reason, ..*row }) })
        }
        _ => (had != wanted || held.reason != row.reason).then_some(ScopedStep::Put { is_new: false, row }),
    })
}

/// The end in milliseconds; one that cannot be read is none.
fn end_of(row: &ScopedBanRow) -> Option<i64> {
    row.expires_at.as_deref().and_then(time_text::to_ms)
}

/// The rows that their source no longer has.
fn gone(conn: &Connection, import: &BanImport, steps: &mut Vec<ScopedStep>) -> rusqlite::Result<()> {
    let Some(name) = import.source.as_deref().filter(|_| import.replaces) else { return Ok(()) };
    let mut all = conn.prepare("SELECT ip, applies_to FROM scoped_bans WHERE source = ?1")?;
    let mut rows = all.query([name])?;
    while let Some(row) = rows.next()? {
        let [ip, scope] = [text(row, 0)?, text(row, 1)?].map(Option::unwrap_or_default);
        let prefix = ip.parse::<Prefix>().ok();
        if prefix.and_then(|prefix| import.position(&prefix, Some(&scope))).is_none() {
            let key = ScopedBanKey { ip: &ip, source: name, applies_to: &scope };
            steps.push(ScopedStep::Drop(key.to_string()));
        }
    }
    Ok(())
}

/// Adds what `steps` come to.
pub(super) fn count(steps: &[ScopedStep], counts: &mut ImportCounts) {
    for step in steps {
        match step {
            ScopedStep::Put { is_new, .. } => counts.added += u64::from(*is_new),
            ScopedStep::Allowed => counts.allowed += 1,
            ScopedStep::Drop(_) => counts.removed += 1,
        }
    }
}

/// Carries out `steps` at `now`, as rows have it. Returns the rows written.
pub(super) fn write(conn: &Connection, steps: &[ScopedStep], now: &str) -> rusqlite::Result<usize> {
    let mut written = 0;
    for step in steps {
        written += match step {
            ScopedStep::Put { row, .. } => {
                let now = Some(now.to_owned());
                let row = ScopedBanRow { created_at: now.clone(), updated_at: now, ..*row.clone() };
                scoped_bans::write(conn, &row)?
            }
            ScopedStep::Allowed => 0,
            ScopedStep::Drop(key) => match ScopedBanKey::read(key) {
                Some(key) => scoped_bans::delete(conn, key)?,
                None => 0,
            },
        };
    }
    Ok(written)
}
