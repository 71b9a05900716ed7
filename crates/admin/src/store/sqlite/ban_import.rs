//! Imports of bans. What each entry changes is worked out on a reader's connection, while single bans
//! go on; the writer then only writes what differs. Rows that were changed in between are worked out
//! again by the writer.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;

use super::audit::Auditor;
use super::change_log::{is_unchanged, reason_to_reload};
use super::integers::to_sql;
use super::rows::text;
use super::schema::{RELOAD, read_state};
use super::scoped_import::{self, ScopedStep};
use crate::store::{
    BanImport, BanMode, IMPORTED, ImportCounts, ImportedBan, StoreTable, Unchanged, time_text,
};

/// More rows than this are written without their triggers, which are as dear as the rows: the change
/// log says once that all rows are to be read again.
pub(super) const MOST_LOGGED: usize = 100_000;

/// What a row says, as far as an import is concerned.
struct HeldBan {
    status: String,
    reason: Option<String>,
    expires_at: Option<String>,
    source: Option<String>,
}

impl HeldBan {
    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Self> {
        let [status, reason, expires_at, source] = [0, 1, 2, 3].map(|column| text(row, from + column));
        Ok(Self {
            status: status?.unwrap_or_default(),
            reason: reason?,
            expires_at: expires_at?,
            source: source?,
        })
    }

    /// The end in milliseconds; one that cannot be read is none.
    fn end(&self) -> Option<i64> {
        self.expires_at.as_deref().and_then(time_text::to_ms)
    }

    fn sources(&self) -> impl Iterator<Item = &str> {
        self.source.iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty())
    }
}

/// What is to be done with one row.
#[derive(Clone, Debug)]
enum Step {
    /// Write the ban at this index.
    Put { index: usize, is_new: bool, row: Option<Box<MergedRow>> },
    /// The ban at this index is allowed: nothing.
    Allowed { index: usize },
    /// Delete the row of this key.
    Drop(String),
    /// The row of this key is now these sources' only.
    Release(String, String),
}

/// A row that is not quite as the import has it.
#[derive(Clone, Debug)]
struct MergedRow {
    reason: Option<String>,
    expires_at: Option<String>,
    source: Option<String>,
}

impl Step {
    /// The canonical key of its row.
    fn key<'s>(&'s self, import: &BanImport) -> Cow<'s, str> {
        match self {
            Self::Put { index, .. } | Self::Allowed { index } => {
                import.bans.get(*index).map(|ban| ban.prefix.to_string()).unwrap_or_default().into()
            }
            Self::Drop(key) | Self::Release(key, _) => canonical(key).into(),
        }
    }

    /// The key, as it is written, of a row that its source no longer has.
    fn row(self) -> Option<String> {
        match self {
            Self::Put { .. } | Self::Allowed { .. } => None,
            Self::Drop(key) | Self::Release(key, _) => Some(key),
        }
    }
}

/// `key` in canonical form, if it is a prefix.
fn canonical(key: &str) -> String {
    key.parse::<Prefix>().map_or_else(|_| key.to_owned(), |prefix| prefix.to_string())
}

/// What an import is to change, by the state at one moment.
#[derive(Clone, Debug)]
pub(super) struct ImportPlan {
    since: u64,
    steps: Vec<Step>,
    scoped: Vec<ScopedStep>,
}

impl ImportPlan {
    /// Works it out, in the transaction that `conn` is in.
    pub(super) fn make(conn: &Connection, import: &BanImport) -> rusqlite::Result<Self> {
        let since = read_state(conn)?.newest;
        let planner = Planner { conn, import, now: time_text::now_ms() };
        let mut steps = Vec::new();
        for (index, ban) in import.bans.iter().enumerate().filter(|(_, ban)| ban.applies_to.is_none()) {
            steps.extend(planner.of_ban(index, ban)?);
        }
        planner.gone(&mut steps)?;
        let scoped = scoped_import::plan(conn, import, planner.now)?;
        Ok(Self { since, steps, scoped })
    }

    /// The same by the state now, in the write transaction that `conn` is in.
    fn up_to_date(&self, conn: &Connection, import: &BanImport) -> rusqlite::Result<Option<Self>> {
        let Self { since, steps, .. } = self;
        if is_unchanged(conn, Unchanged { tables: &[StoreTable::Ip, StoreTable::ScopedBans], since: *since })?
        {
            return Ok(None);
        }
        if read_state(conn)?.newest < *since || reason_to_reload(conn, *since)?.is_some() {
            return Self::make(conn, import).map(Some);
        }
        let mut log = conn.prepare(
            "SELECT DISTINCT key FROM change_log WHERE seq > ?1 AND tbl IN ('ip_monitor', '>ip_monitor')",
        )?;
        let keys = log.query_map([to_sql(*since)], |row| text(row, 0))?;
        // As they are written: one prefix may have rows in several spellings.
        let mut keys: BTreeSet<String> = keys.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        let changed: HashSet<String> = keys.iter().map(|key| canonical(key)).collect();
        let (again, mut now): (Vec<Step>, Vec<Step>) =
            steps.iter().cloned().partition(|step| changed.contains(&*step.key(import)));
        keys.extend(again.into_iter().filter_map(Step::row));
        keys.extend(changed);
        let planner = Planner { conn, import, now: time_text::now_ms() };
        for key in &keys {
            now.extend(planner.of_key(key)?);
        }
        // There are few of them.
        let scoped = scoped_import::plan(conn, import, planner.now)?;
        Ok(Some(Self { since: *since, steps: now, scoped }))
    }

    /// What it comes to.
    pub(super) fn counts(&self, import: &BanImport) -> ImportCounts {
        let mut counts = ImportCounts::default();
        for step in &self.steps {
            match step {
                Step::Put { is_new, .. } => counts.added += u64::from(*is_new),
                Step::Allowed { .. } => counts.allowed += 1,
                Step::Drop(_) => counts.removed += 1,
                Step::Release(..) => counts.released += 1,
            }
        }
        scoped_import::count(&self.scoped, &mut counts);
        let others = counts.added.saturating_add(counts.allowed);
        counts.kept = (import.bans.len() as u64).saturating_sub(others);
        counts
    }
}

/// Works out steps.
struct Planner<'p> {
    conn: &'p Connection,
    import: &'p BanImport,
    /// Milliseconds since 1970.
    now: i64,
}

impl Planner<'_> {
    fn held(&self, key: &str) -> rusqlite::Result<Option<HeldBan>> {
        self.conn
            .prepare_cached("SELECT status, reason, expires_at, source FROM ip_monitor WHERE ip = ?1")?
            .query_row([key], |row| HeldBan::read(row, 0))
            .optional()
    }

    /// What a ban changes; `None`: nothing.
    fn of_ban(&self, index: usize, ban: &ImportedBan) -> rusqlite::Result<Option<Step>> {
        let Some(held) = self.held(&ban.prefix.to_string())? else {
            return Ok(Some(Step::Put { index, is_new: true, row: None }));
        };
        if held.status.eq_ignore_ascii_case("allowed") {
            return Ok(Some(Step::Allowed { index }));
        }
        let is_over = held.end().is_some_and(|end| end <= self.now);
        match (BanMode::of_status(&held.status).filter(|_| !is_over), self.import.mode) {
            (Some(BanMode::Enforce), BanMode::Shadow) => return Ok(self.taken_into_shadow(index, ban, &held)),
            (Some(mode), wanted) if mode == wanted => {}
            _ => return Ok(Some(Step::Put { index, is_new: true, row: None })),
        }
        let merged = self.merged(ban, &held);
        Ok(merged.map(|row| Step::Put { index, is_new: false, row: row.map(Box::new) }))
    }

    /// What becomes of a ban that denies, of which the import says that it is in shadow: it goes on
    /// denying if it is somebody else's, too.
    fn taken_into_shadow(&self, index: usize, ban: &ImportedBan, held: &HeldBan) -> Option<Step> {
        let name = self.import.source.as_deref()?;
        if !held.sources().any(|held| held == name) {
            return None;
        }
        let others: Vec<&str> = held.sources().filter(|held| *held != name).collect();
        Some(match others.as_slice() {
            [] => Step::Put { index, is_new: false, row: None },
            others => Step::Release(ban.prefix.to_string(), others.join(",")),
        })
    }

    /// What becomes of a ban that is held already: `None`: it stays; `Some(None)`: it becomes the
    /// import's.
    fn merged(&self, ban: &ImportedBan, held: &HeldBan) -> Option<Option<MergedRow>> {
        let (had, wanted) = (held.end(), ban.expires.map(ms));
        let outlasts = had.is_none() || wanted.is_some_and(|wanted| had.is_some_and(|had| had >= wanted));
        let later = || match outlasts {
            true => held.expires_at.clone(),
            false => wanted.map(time_text::from_ms),
        };
        let reason = || ban.reason.as_deref().map(str::to_owned);
        let others = |name: &str| held.sources().any(|held| held != name);
        match self.import.source.as_deref() {
            // By hand, like a single ban, which it then is.
            None if held.source.is_none() && outlasts => None,
            None => {
                let reason = reason().or_else(|| held.reason.clone());
                Some(Some(MergedRow { reason, expires_at: later(), source: None }))
            }
            Some(_) if held.sources().next().is_none() => (!outlasts).then_some(None),
            Some(name) if others(name) => {
                let is_mine = held.sources().any(|held| held == name);
                let all = held.source.as_deref().unwrap_or_default();
                let source = if is_mine { all.to_owned() } else { format!("{all},{name}") };
                let row =
                    MergedRow { reason: held.reason.clone(), expires_at: later(), source: Some(source) };
                (!is_mine || !outlasts).then_some(Some(row))
            }
            Some(_) => (had != wanted || held.reason != reason()).then_some(None),
        }
    }

    /// What becomes of a row that its source no longer has.
    fn of_gone(&self, key: &str, held: &HeldBan) -> Option<Step> {
        let name = self.import.source.as_deref().filter(|_| self.import.replaces)?;
        let is_mine = held.sources().any(|held| held == name) && BanMode::of_status(&held.status).is_some();
        let is_listed = key.parse().is_ok_and(|prefix| self.import.position(&prefix, None).is_some());
        if !is_mine || is_listed {
            return None;
        }
        let rest: Vec<&str> = held.sources().filter(|held| *held != name).collect();
        Some(match rest.as_slice() {
            [] => Step::Drop(key.to_owned()),
            rest => Step::Release(key.to_owned(), rest.join(",")),
        })
    }

    /// The steps of all rows that their source no longer has.
    fn gone(&self, steps: &mut Vec<Step>) -> rusqlite::Result<()> {
        if !self.import.replaces {
            return Ok(());
        }
        let mut all = self.conn.prepare(
            "SELECT ip, status, reason, expires_at, source FROM ip_monitor WHERE source IS NOT NULL",
        )?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let key = text(row, 0)?.unwrap_or_default();
            steps.extend(self.of_gone(&key, &HeldBan::read(row, 1)?));
        }
        Ok(())
    }

    /// What becomes of the row of this key, as it is written; a ban is written in canonical form.
    fn of_key(&self, key: &str) -> rusqlite::Result<Option<Step>> {
        if canonical(key) != key {
            return Ok(self.held(key)?.and_then(|held| self.of_gone(key, &held)));
        }
        let index = key.parse().ok().and_then(|prefix| self.import.position(&prefix, None));
        match index.and_then(|index| Some((index, self.import.bans.get(index)?))) {
            Some((index, ban)) => self.of_ban(index, ban),
            None => Ok(self.held(key)?.and_then(|held| self.of_gone(key, &held))),
        }
    }
}

fn ms(seconds: UnixSeconds) -> i64 {
    i64::from(seconds) * 1_000
}

/// Bans the only ban of `import` at `now` (milliseconds, and as rows have it), beside what there is by now.
/// Returns the rows written.
pub(super) fn put_one(
    conn: &Connection,
    import: &BanImport,
    now_ms: i64,
    now: &str,
) -> rusqlite::Result<usize> {
    let Some(ban) = import.bans.first() else { return Ok(0) };
    if let Some(scope) = ban.applies_to.as_deref() {
        let step = scoped_import::of_ban(conn, import, (ban, scope), now_ms)?;
        return scoped_import::write(conn, step.as_slice(), now);
    }
    match (Planner { conn, import, now: now_ms }).of_ban(0, ban)? {
        Some(step) => write(conn, import, &[step], now),
        None => Ok(0),
    }
}

/// Carries out an import as it was planned, in the write transaction that `audit` is for. Returns its
/// counts, and how many rows were written.
pub(super) fn apply(
    audit: &Auditor<'_>,
    import: &BanImport,
    plan: &ImportPlan,
) -> rusqlite::Result<(ImportCounts, usize)> {
    let conn = audit.conn;
    let newer = plan.up_to_date(conn, import)?;
    let plan = newer.as_ref().unwrap_or(plan);
    let written = logged_at_once(conn, plan.steps.len().saturating_add(plan.scoped.len()), || {
        let rows = write(conn, import, &plan.steps, audit.now)?;
        Ok(rows.saturating_add(scoped_import::write(conn, &plan.scoped, audit.now)?))
    })?;
    let counts = plan.counts(import);
    if written > 0 {
        let name = import.source.as_deref().unwrap_or("*");
        let told = json!({ "replaced": import.replaces, "mode": import.mode, "counts": counts }).to_string();
        audit.write_several("import", name, None, Some(told), Some(written as u64))?;
    }
    Ok((counts, written))
}

/// Runs `write`, which changes so many rows. If they are very many, the change log has one entry for
/// all of them.
pub(super) fn logged_at_once<T>(
    conn: &Connection,
    rows: usize,
    write: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    if rows <= MOST_LOGGED {
        return write();
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let written = write();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let written = written?;
    conn.execute("INSERT INTO change_log (tbl, key) VALUES (?1, ?2)", [RELOAD, IMPORTED])?;
    Ok(written)
}

fn write(conn: &Connection, import: &BanImport, steps: &[Step], now: &str) -> rusqlite::Result<usize> {
    let mut put = conn.prepare_cached(
        "INSERT INTO ip_monitor (ip, status, reason, created_at, updated_at, expires_at, source)
         VALUES (?1, ?6, ?2, ?3, ?3, ?4, ?5)
         ON CONFLICT (ip) DO UPDATE SET status = excluded.status, reason = excluded.reason,
           updated_at = excluded.updated_at, expires_at = excluded.expires_at, source = excluded.source",
    )?;
    let mut remove = conn.prepare_cached("DELETE FROM ip_monitor WHERE ip = ?1")?;
    let mut release = conn.prepare_cached("UPDATE ip_monitor SET source = ?2 WHERE ip = ?1")?;
    // Most ends are the same.
    let mut end: (Option<UnixSeconds>, Option<String>) = (None, None);
    let status = import.mode.status();
    let mut written = 0;
    for step in steps {
        written += match step {
            Step::Put { index, row, .. } => {
                let Some(ban) = import.bans.get(*index) else { continue };
                let ip = ban.prefix.to_string();
                match row {
                    Some(row) => {
                        put.execute(params![ip, row.reason, now, row.expires_at, row.source, status])?
                    }
                    None => {
                        if end.0 != ban.expires {
                            end = (ban.expires, ban.expires.map(|seconds| time_text::from_ms(ms(seconds))));
                        }
                        let reason = ban.reason.as_deref();
                        put.execute(params![ip, reason, now, end.1, import.source, status])?
                    }
                }
            }
            Step::Allowed { .. } => 0,
            Step::Drop(key) => remove.execute([key])?,
            Step::Release(key, rest) => release.execute([key, rest])?,
        };
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::schema::{Upgrade, ensure};

    #[test]
    fn rows_in_another_spelling_go_though_one_of_them_was_changed_after_the_plan() {
        for changed in ["9.9.9.9", "9.9.9.9/32"] {
            let conn = Connection::open_in_memory().unwrap();
            ensure(&conn, Upgrade::Allowed).unwrap();
            conn.execute_batch(
                "INSERT INTO ip_monitor (ip, source) VALUES ('9.9.9.9', 'a'), ('9.9.9.9/32', 'a'), ('8.8.8.8', 'a')",
            )
            .unwrap();
            let import = BanImport { source: Some("a".to_owned()), replaces: true, ..BanImport::default() };
            let plan = ImportPlan::make(&conn, &import).unwrap();
            conn.execute("UPDATE ip_monitor SET reason = 'new' WHERE ip = ?1", [changed]).unwrap();
            let by = "test".into();
            let audit = Auditor::new(&conn, &by, "2026-01-01 00:00:00.000");
            let (counts, _) = apply(&audit, &import, &plan).unwrap();
            let left: i64 = conn.query_row("SELECT count(*) FROM ip_monitor", [], |row| row.get(0)).unwrap();
            assert_eq!((counts.removed, left), (3, 0), "{changed}");
        }
    }
}
