//! Our own writes to the tables that people write, too.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};
use tidegate_policy::address::Prefix;

use super::schema::look;
use super::tables::text;
use crate::store::{Change, Committed, TokenRow, time_text};

/// The raw keys of `ip_monitor` that are not in canonical form, by what they
/// mean: a ban replaces every spelling of its prefix without reading the table.
#[derive(Default)]
pub(super) struct Spellings {
    others: HashMap<Prefix, Vec<String>>,
    /// The log has been followed up to here; `None`: not read yet.
    upto: Option<u64>,
}

/// What `key` means, if it is not in canonical form.
fn unusual(key: &str) -> Option<Prefix> {
    let prefix: Prefix = key.parse().ok()?;
    (prefix.to_string() != key).then_some(prefix)
}

impl Spellings {
    /// Forgets everything: the table is not what it was.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Where the log has been followed to.
    pub(super) fn upto(&self) -> Option<u64> {
        self.upto
    }

    /// Follows the log by at most `steps` rows, or reads the whole table the first
    /// time. A spelling too many is harmless, one too few is not: whoever rolls
    /// back a transaction in which this was called must [`Self::reset`].
    pub(super) fn follow(&mut self, conn: &Connection, steps: usize) -> rusqlite::Result<()> {
        let newest = look(conn)?.newest;
        let Some(upto) = self.upto else { return self.read_all(conn, newest) };
        if upto >= newest {
            return Ok(());
        }
        let mut log = conn.prepare_cached(
            "SELECT seq, key FROM change_log WHERE seq > ?1 AND tbl = 'ip_monitor' ORDER BY seq LIMIT ?2",
        )?;
        let limit = i64::try_from(steps).unwrap_or(i64::MAX);
        let mut rows = log.query(params![i64::try_from(upto).unwrap_or(i64::MAX), limit])?;
        let (mut seen, mut last) = (0, upto);
        while let Some(row) = rows.next()? {
            seen += 1;
            last = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(last);
            let Ok(key) = row.get_ref(1)?.as_str() else { continue };
            if let Some(prefix) = unusual(key) {
                self.note(conn, prefix, key)?;
            }
        }
        self.upto = Some(if seen < steps { newest } else { last });
        Ok(())
    }

    fn read_all(&mut self, conn: &Connection, newest: u64) -> rusqlite::Result<()> {
        let mut all = conn.prepare("SELECT ip FROM ip_monitor")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let Ok(key) = row.get_ref(0)?.as_str() else { continue };
            if let Some(prefix) = unusual(key) {
                self.others.entry(prefix).or_default().push(key.to_owned());
            }
        }
        self.upto = Some(newest);
        Ok(())
    }

    fn note(&mut self, conn: &Connection, prefix: Prefix, key: &str) -> rusqlite::Result<()> {
        let there = conn.prepare_cached("SELECT 1 FROM ip_monitor WHERE ip = ?1")?.exists([key])?;
        let known = self.others.entry(prefix).or_default();
        known.retain(|k| k != key);
        if there {
            known.push(key.to_owned());
        } else if known.is_empty() {
            self.others.remove(&prefix);
        }
        Ok(())
    }

    /// The unusual spellings of `prefix` that may be there.
    fn of(&self, prefix: Option<Prefix>) -> Vec<String> {
        prefix.and_then(|p| self.others.get(&p)).cloned().unwrap_or_default()
    }
}

/// Carries out `change` in the write transaction that `conn` is in.
pub(super) fn apply(
    conn: &Connection,
    spellings: &mut Spellings,
    change: &Change,
) -> rusqlite::Result<Committed> {
    let now = time_text::from_ms(time_text::now_ms());
    let rows = match change {
        Change::Ban { ip, reason, expires_at } => {
            spellings.follow(conn, usize::MAX)?;
            ban(conn, spellings, ip, reason.as_deref(), expires_at.as_deref(), &now)?
        }
        Change::Unban { keys } => {
            spellings.follow(conn, usize::MAX)?;
            unban(conn, spellings, keys)?
        }
        Change::PutRoute { name, document } => conn
            .prepare_cached(
                "INSERT INTO routes (name, document, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)
                 ON CONFLICT (name) DO UPDATE SET document = excluded.document, updated_at = excluded.updated_at",
            )?
            .execute(params![name, document, now])?,
        Change::DeleteRoute { name } => {
            conn.prepare_cached("DELETE FROM routes WHERE name = ?1")?.execute([name])?
        }
    };
    Ok(Committed { seq: look(conn)?.newest, rows: rows as u64 })
}

fn ban(
    conn: &Connection,
    spellings: &Spellings,
    ip: &str,
    reason: Option<&str>,
    expires_at: Option<&str>,
    now: &str,
) -> rusqlite::Result<usize> {
    let mut since: Option<String> = None;
    let mut rows = 0;
    for key in spellings.of(ip.parse().ok()).iter().filter(|key| *key != ip) {
        let created = conn
            .prepare_cached("SELECT created_at FROM ip_monitor WHERE ip = ?1")?
            .query_row([key], |row| text(row, 0))
            .optional()?;
        // Text order is time order in all forms that we write ourselves.
        since = since.into_iter().chain(created.flatten()).min();
        rows += conn.prepare_cached("DELETE FROM ip_monitor WHERE ip = ?1")?.execute([key])?;
    }
    rows += conn
        .prepare_cached(
            "INSERT INTO ip_monitor (ip, status, reason, created_at, updated_at, expires_at)
             VALUES (?1, 'banned', ?2, ?3, ?4, ?5)
             ON CONFLICT (ip) DO UPDATE SET status = 'banned', reason = excluded.reason,
               updated_at = excluded.updated_at, expires_at = excluded.expires_at",
        )?
        .execute(params![ip, reason, since.as_deref().unwrap_or(now), now, expires_at])?;
    Ok(rows)
}

/// Removes the rows of `keys`, and of other spellings that came meanwhile, unless
/// they say something else than a ban.
fn unban(conn: &Connection, spellings: &Spellings, keys: &[String]) -> rusqlite::Result<usize> {
    let mut delete =
        conn.prepare_cached("DELETE FROM ip_monitor WHERE ip = ?1 AND status = 'banned' COLLATE NOCASE")?;
    let mut rows = 0;
    for key in keys {
        rows += delete.execute([key])?;
        let Ok(prefix) = key.parse::<Prefix>() else { continue };
        rows += delete.execute([prefix.to_string()])?;
        for other in spellings.of(Some(prefix)) {
            rows += delete.execute([other])?;
        }
    }
    Ok(rows)
}

/// Adds a token, or renames the one with this hash.
pub(super) fn add_token(conn: &Connection, token: &TokenRow) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO tokens (hash, name, scope) VALUES (?1, ?2, ?3)
         ON CONFLICT (hash) DO UPDATE SET name = excluded.name, scope = excluded.scope",
    )?
    .execute(params![token.hash, token.name, token.scope])?;
    Ok(())
}

/// Removes the tokens of this name: how many there were.
pub(super) fn remove_tokens(conn: &Connection, name: &str) -> rusqlite::Result<usize> {
    conn.execute("DELETE FROM tokens WHERE name = ?1", [name])
}

/// All tokens.
pub(super) fn tokens(conn: &Connection) -> rusqlite::Result<Vec<TokenRow>> {
    let mut statement = conn.prepare_cached("SELECT hash, name, scope FROM tokens ORDER BY name, hash")?;
    let rows = statement
        .query_map([], |row| Ok(TokenRow { hash: row.get(0)?, name: row.get(1)?, scope: row.get(2)? }))?;
    rows.collect()
}
