//! Bans by rules: rows of `ip_monitor`, or of `scoped_bans`, whose source is the rule, and how often each prefix was banned,
//! by which its next ban is longer.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};
use tidegate_author::{AutoBan, write_scope};
use tidegate_policy::address::Prefix;

use super::aliases::AddressAliases;
use super::audit::Auditor;
use super::integers::to_sql;
use super::rows;
use super::{ban_import, ip_monitor, scoped_bans};
use crate::store::{
    BanImport, BanMode, ImportCounts, ImportedBan, IpRow, RuleBan, RuleBans, StoreTable, prefix_of_key,
    time_text,
};

/// Prefixes whose bans are remembered; those that would be forgotten soonest go first.
const MAX_REMEMBERED: i64 = 100_000;

/// Writes the bans at `now` (milliseconds), in the write transaction that `audit` is for. Returns how many are
/// new, there already, or allowed; and how many rows were written.
pub(super) fn put(
    audit: &Auditor<'_>,
    aliases: &AddressAliases,
    bans: &RuleBans,
    now: i64,
) -> rusqlite::Result<(ImportCounts, usize)> {
    let mut counts = ImportCounts::default();
    let mut written = 0;
    for ban in &bans.bans {
        let ip = ban.prefix.to_string();
        if ip_monitor::is_allowed(audit.conn, aliases, &ip, now)? {
            counts.allowed += 1;
            continue;
        }
        let held = HeldBan::of(audit.conn, &ip, &bans.rule)?;
        let rows = match bans.rule.is_shadow {
            true => watch(audit, bans, ban, held.as_ref(), now)?,
            false => put_one(audit, bans, ban, held.as_ref(), now)?,
        };
        match rows {
            0 => counts.kept += 1,
            _ => counts.added += 1,
        }
        written += rows;
    }
    Ok((counts, written))
}

/// Where the rule's bans apply, as rows have it.
fn scope_of(rule: &AutoBan) -> Option<String> {
    rule.applies_to.as_ref().map(|scope| write_scope(scope).to_string())
}

/// What there is of a prefix where a rule's bans apply: everywhere the row, elsewhere the rule's own row.
struct HeldBan {
    status: String,
    source: String,
    expires_at: Option<String>,
    /// As the audit has it.
    told: String,
}

impl HeldBan {
    fn of(conn: &Connection, ip: &str, rule: &AutoBan) -> rusqlite::Result<Option<Self>> {
        let Some(scope) = scope_of(rule) else {
            let row: Option<IpRow> = rows::row(conn, StoreTable::Ip, ip)?;
            return Ok(row.map(|row| Self {
                told: ip_monitor::audit_json(&row),
                status: row.status,
                source: row.source.unwrap_or_default(),
                expires_at: row.expires_at,
            }));
        };
        let row = scoped_bans::of_place(conn, ip, &rule.source(), &scope)?.into_iter().next();
        Ok(row.map(|row| Self {
            told: scoped_bans::audit_json(&row),
            status: row.status,
            source: row.source,
            expires_at: row.expires_at,
        }))
    }

    /// Whether it still says what it says at `now`.
    fn is_in_force(&self, now: i64) -> bool {
        self.expires_at.as_deref().and_then(time_text::to_ms).is_none_or(|end| now < end)
    }
}

/// Bans; returns the rows written: none where it is banned already, for at least as long by hand, or by
/// this rule: requests that were under way when it was banned are no repetition.
fn put_one(
    audit: &Auditor<'_>,
    bans: &RuleBans,
    ban: &RuleBan,
    held: Option<&HeldBan>,
    now: i64,
) -> rusqlite::Result<usize> {
    let rule = &*bans.rule;
    let source = rule.source();
    let is_mine = |row: &&HeldBan| {
        row.is_in_force(now)
            && row.status.eq_ignore_ascii_case("banned")
            && row.source.split(',').any(|name| name == source)
    };
    if held.filter(is_mine).is_some() && !rule.matches.has_banned() {
        return Ok(0);
    }
    let earlier = earlier_bans(audit.conn, rule, &ban.prefix, now)?;
    let ttl = i64::from(rule.ttl_after(earlier));
    let end = end_after(ttl, now);
    let row = row_of(bans, ban, BanMode::Enforce, end);
    let rows = ban_import::put_one(audit.conn, &row, now, audit.now)?;
    if rows > 0 {
        remember(audit.conn, rule, &ban.prefix, earlier.saturating_add(1), end)?;
        tell(audit, bans, held, ban, "ban")?;
    }
    Ok(rows)
}

/// Watches, unless anything is said of the prefix already; returns the rows written.
fn watch(
    audit: &Auditor<'_>,
    bans: &RuleBans,
    ban: &RuleBan,
    held: Option<&HeldBan>,
    now: i64,
) -> rusqlite::Result<usize> {
    if held.is_some_and(|row| row.is_in_force(now)) {
        return Ok(0);
    }
    let end = end_after(bans.rule.ttl_s.into(), now);
    let row = row_of(bans, ban, BanMode::Shadow, end);
    let rows = ban_import::put_one(audit.conn, &row, now, audit.now)?;
    if rows > 0 {
        tell(audit, bans, held, ban, "watch")?;
    }
    Ok(rows)
}

/// The second (Unix) in which what lasts `ttl` seconds from `now` (milliseconds) ends: no earlier than that.
fn end_after(ttl: i64, now: i64) -> i64 {
    now.div_euclid(1_000) + i64::from(now.rem_euclid(1_000) > 0) + ttl
}

/// The row of a ban by a rule that ends at the second `end`, as a list of one.
fn row_of(bans: &RuleBans, ban: &RuleBan, mode: BanMode, end: i64) -> BanImport {
    let reason = Some(Arc::from(bans.reason(ban)));
    let expires = tidegate_policy::UnixSeconds::try_from(end).ok();
    BanImport {
        source: Some(bans.rule.source()),
        replaces: false,
        mode,
        bans: vec![ImportedBan {
            prefix: ban.prefix,
            expires,
            reason,
            applies_to: scope_of(&bans.rule).map(Into::into),
        }],
    }
}

/// Writes the audit: the row, and the requests that caused it.
fn tell(
    audit: &Auditor<'_>,
    bans: &RuleBans,
    held: Option<&HeldBan>,
    ban: &RuleBan,
    kind: &str,
) -> rusqlite::Result<()> {
    let ip = ban.prefix.to_string();
    let row = HeldBan::of(audit.conn, &ip, &bans.rule)?;
    let shown = row.as_ref().map(|row| row.told.as_str()).unwrap_or_default();
    let mut shown: Value = serde_json::from_str(shown).unwrap_or_default();
    shown["source"] = json!(row.map(|row| row.source).filter(|source| !source.is_empty()));
    shown["requests"] = json!(ban.bad);
    shown["of"] = json!(ban.all);
    shown["within_s"] = json!(bans.rule.window_s);
    audit.write(kind, &ip, held.map(|row| row.told.clone()), Some(shown.to_string()))
}

/// How often the rule has banned the prefix, as far as that is not forgotten.
fn earlier_bans(conn: &Connection, rule: &AutoBan, prefix: &Prefix, now: i64) -> rusqlite::Result<u32> {
    let bans: Option<i64> = conn
        .prepare_cached("SELECT bans FROM auto_ban_history WHERE key = ?1 AND rule = ?2 AND forget_at > ?3")?
        .query_row(params![prefix.to_string(), rule.name, now.div_euclid(1_000)], |row| row.get(0))
        .optional()?;
    Ok(bans.and_then(|bans| u32::try_from(bans).ok()).unwrap_or_default())
}

/// Remembers the ban that ends at the second `end`, if the next one would be longer.
fn remember(conn: &Connection, rule: &AutoBan, prefix: &Prefix, bans: u32, end: i64) -> rusqlite::Result<()> {
    if rule.factor > 1 {
        let forget_at = end.saturating_add(rule.max_ttl_s.into());
        conn.prepare_cached(
            "INSERT OR REPLACE INTO auto_ban_history (key, rule, bans, forget_at) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![prefix.to_string(), rule.name, bans, forget_at])?;
    }
    Ok(())
}

/// Forgets how often these prefixes were banned: somebody has taken their bans back.
pub(super) fn forget(conn: &Connection, keys: &[String]) -> rusqlite::Result<()> {
    let mut remove = conn.prepare_cached("DELETE FROM auto_ban_history WHERE key = ?1")?;
    for prefix in keys.iter().filter_map(|key| prefix_of_key(key)) {
        remove.execute([prefix.to_string()])?;
    }
    Ok(())
}

/// Removes what is forgotten at `now` (milliseconds), or too much; returns how many, at most `most`.
pub(super) fn trim(conn: &Connection, now: i64, most: usize) -> rusqlite::Result<u64> {
    let mut remove = conn.prepare_cached(
        "DELETE FROM auto_ban_history WHERE (key, rule) IN (
           SELECT key, rule FROM auto_ban_history WHERE forget_at <= ?1 ORDER BY forget_at LIMIT ?2)",
    )?;
    let most = to_sql(most as u64);
    let removed = remove.execute([now.div_euclid(1_000), most])?;
    if removed > 0 {
        return Ok(removed as u64);
    }
    let all: i64 =
        conn.prepare_cached("SELECT count(*) FROM auto_ban_history")?.query_row([], |row| row.get(0))?;
    let too_many = (all - MAX_REMEMBERED).clamp(0, most);
    Ok(remove.execute([i64::MAX, too_many])? as u64)
}

#[cfg(test)]
mod tests {
    use tidegate_author::read_auto_ban;

    use super::*;
    use crate::store::sqlite::schema;

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        schema::ensure(&conn, schema::Upgrade::Allowed).unwrap();
        conn
    }

    #[test]
    fn repetitions_are_forgotten_after_the_longest_ban() {
        let conn = database();
        let document = json!({"match": {"status": 404}, "threshold": 3, "window": "1m",
            "ban": {"ttl": "10s", "factor": 2, "max_ttl": "1m"}});
        let rule = Arc::new(read_auto_ban("r", &document).unwrap());
        let prefix: Prefix = "192.0.2.1".parse().unwrap();
        let ban = RuleBan { prefix, bad: 3, all: None };
        let bans = RuleBans { rule: Arc::clone(&rule), bans: vec![ban] };
        let by = "auto-bans/r".into();
        let audit = Auditor::new(&conn, &by, "2026-01-01 00:00:00.000");
        let (counts, rows) = put(&audit, &AddressAliases::default(), &bans, 5_000).unwrap();
        assert_eq!((counts.added, rows), (1, 1));
        // The ban ends at 15, and the longest would be a minute.
        let earlier = |now| earlier_bans(&conn, &rule, &prefix, now).unwrap();
        assert_eq!((earlier(74_999), earlier(75_000)), (1, 0));
        assert_eq!((trim(&conn, 74_999, 9).unwrap(), trim(&conn, 75_000, 9).unwrap()), (0, 1));
    }

    #[test]
    fn so_many_are_remembered_those_that_last_longest() {
        let conn = database();
        conn.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MAX_REMEMBERED} + 3)
             INSERT INTO auto_ban_history SELECT 'key' || i, 'r', 1, 1000 + i FROM n"
        ))
        .unwrap();
        assert_eq!(
            (trim(&conn, 0, 2).unwrap(), trim(&conn, 0, 9).unwrap(), trim(&conn, 0, 9).unwrap()),
            (2, 1, 0)
        );
        let soonest = conn.query_row("SELECT min(forget_at) FROM auto_ban_history", [], |row| row.get(0));
        assert_eq!(soonest, Ok(1_004));
    }
}
