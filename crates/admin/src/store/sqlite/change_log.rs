//! The log of changes that triggers write, and what readers get from it.

use rusqlite::{Connection, params};

use super::database::Database;
use super::former_rows;
use super::integers::to_sql;
use super::rows::{KeyedRow, all, text};
use super::schema::{EPOCH, MOVED, RELOAD, read_state};
use crate::store::{
    ChangedRows, Changes, DocumentKind, IMPORTED, PerDocumentKind, StoreTable, StoredRows, Unchanged,
    UnchangedRows,
};

/// Reasons to read all tables again; a mark in the log holds one of these as its key.
pub(super) const RELOAD_REASONS: [&str; 4] = [REPLACED, RESTORED, TAMPERED, IMPORTED];
/// Another file was moved to the database's path.
pub(super) const REPLACED: &str = "the database file was replaced";
/// The newest `seq` is lower than one seen before.
pub(super) const RESTORED: &str = "the database went back to an earlier state";
/// The schema cookie changed.
pub(super) const TAMPERED: &str = "another program changed the schema, or restored or vacuumed the database";

/// All rows of `tables`, in the read transaction that `conn` is in.
pub(super) fn read_tables(
    conn: &Connection,
    database: &Database,
    tables: &[StoreTable],
) -> rusqlite::Result<StoredRows> {
    let mut snapshot = StoredRows { seq: read_state(conn)?.newest, ..StoredRows::default() };
    database.saw(snapshot.seq);
    for table in tables {
        match table {
            StoreTable::Ip => snapshot.ips = all(conn, *table)?,
            StoreTable::ScopedBans => snapshot.scoped = all(conn, *table)?,
            StoreTable::Flags => snapshot.flags = all(conn, *table)?,
            StoreTable::Countries => snapshot.countries = all(conn, *table)?.pop(),
            StoreTable::SourceSets => snapshot.source_sets = all(conn, *table)?,
            StoreTable::Documents(kind) => snapshot.documents[*kind] = all(conn, *table)?,
        }
    }
    snapshot.former = former_rows::read(conn)?;
    Ok(snapshot)
}

/// What happened after `since`, in the read transaction that `conn` is in.
pub(super) fn changes(conn: &Connection, database: &Database, since: u64) -> rusqlite::Result<Changes> {
    let now = read_state(conn)?;
    let went_back = now.newest < since;
    if went_back {
        return Ok(Changes::Reload { new_epoch: true, why: RESTORED });
    }
    if now.schema != database.schema() {
        return Ok(Changes::Reload { new_epoch: false, why: TAMPERED });
    }
    database.saw(now.newest);
    if now.newest == since {
        return Ok(Changes::Rows { seq: since, rows: Box::default() });
    }
    if let Some(reload) = reason_to_reload(conn, since)? {
        return Ok(reload);
    }
    Ok(Changes::Rows { seq: now.newest, rows: Box::new(changed_rows(conn, since)?) })
}

fn changed_rows(conn: &Connection, since: u64) -> rusqlite::Result<ChangedRows> {
    let mut documents = PerDocumentKind::default();
    for kind in DocumentKind::ALL {
        documents[kind] = changed(conn, StoreTable::Documents(kind), since)?;
    }
    Ok(ChangedRows {
        ips: changed(conn, StoreTable::Ip, since)?,
        scoped: changed(conn, StoreTable::ScopedBans, since)?,
        flags: changed(conn, StoreTable::Flags, since)?,
        countries: changed(conn, StoreTable::Countries, since)?.pop().map(|(_, row)| row),
        source_sets: changed(conn, StoreTable::SourceSets, since)?,
        documents,
        moves: moves(conn, since)?,
    })
}

/// Keys that were changed after `since`.
fn moves(conn: &Connection, since: u64) -> rusqlite::Result<Vec<(StoreTable, String, String)>> {
    let mut statement = conn.prepare_cached(
        "SELECT m.tbl, m.key, n.key FROM change_log m JOIN change_log n ON n.seq = m.seq + 1
         WHERE m.seq > ?1 AND substr(m.tbl, 1, 1) = ?2 ORDER BY m.seq",
    )?;
    let mut rows = statement.query(params![to_sql(since), MOVED])?;
    let mut moves = Vec::new();
    while let Some(row) = rows.next()? {
        let [table, from, to] = [0, 1, 2].map(|column| text(row, column));
        let table = table?.unwrap_or_default();
        let table = StoreTable::ALL.into_iter().find(|known| table.strip_prefix(MOVED) == Some(known.name()));
        if let (Some(table), Some(from), Some(to)) = (table, from?, to?) {
            moves.push((table, from, to));
        }
    }
    Ok(moves)
}

/// Whether the condition holds, by the change log.
pub(super) fn is_unchanged(conn: &Connection, unchanged: Unchanged) -> rusqlite::Result<bool> {
    let Unchanged { tables, since } = unchanged;
    for table in tables {
        if !are_unchanged(conn, &UnchangedRows { table: *table, keys: None, since })? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The same of some rows.
pub(super) fn are_unchanged(conn: &Connection, rows: &UnchangedRows) -> rusqlite::Result<bool> {
    let UnchangedRows { table, keys, since } = rows;
    if read_state(conn)?.newest < *since || reason_to_reload(conn, *since)?.is_some() {
        return Ok(false);
    }
    let mut changes = conn.prepare_cached(
        "SELECT 1 FROM change_log WHERE seq > ?1 AND tbl = ?2 AND (?3 IS NULL OR key = ?3)",
    )?;
    let keys: Vec<Option<&String>> = keys.as_ref().map_or(vec![None], |keys| keys.iter().map(Some).collect());
    for key in keys {
        if changes.exists(params![to_sql(*since), table.name(), key])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Set if there is a mark after `since`, or the log does not reach back that far.
pub(super) fn reason_to_reload(conn: &Connection, since: u64) -> rusqlite::Result<Option<Changes>> {
    let since = to_sql(since);
    let oldest: i64 = conn
        .prepare_cached("SELECT coalesce(min(seq), 0) FROM change_log")?
        .query_row([], |row| row.get(0))?;
    let mut marks = conn.prepare_cached(
        "SELECT tbl, key FROM change_log WHERE seq > ?1 AND tbl IN (?2, ?3) ORDER BY tbl, seq LIMIT 1",
    )?;
    let mut marks = marks.query(params![since, EPOCH, RELOAD])?;
    if let Some(mark) = marks.next()? {
        let new_epoch = text(mark, 0)?.as_deref() == Some(EPOCH);
        let said = text(mark, 1)?;
        let why = RELOAD_REASONS.into_iter().find(|&why| said.as_deref() == Some(why)).unwrap_or(TAMPERED);
        return Ok(Some(Changes::Reload { new_epoch, why }));
    }
    let reaches = oldest <= since.saturating_add(1);
    Ok((!reaches)
        .then_some(Changes::Reload { new_epoch: false, why: "the log does not reach back that far" }))
}

/// Keys of `table` that changed after `since`, with their rows. The join is in SQL because a raw
/// key need not be UTF-8.
fn changed<R: KeyedRow>(
    conn: &Connection,
    table: StoreTable,
    since: u64,
) -> rusqlite::Result<Vec<(String, Option<R>)>> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT l.key, {} FROM (SELECT DISTINCT key FROM change_log WHERE seq > ?1 AND tbl = '{name}') l
         LEFT JOIN {name} t ON {}",
        R::columns(),
        table.has_key("t", "l.key"),
        name = table.name(),
    ))?;
    let rows = statement
        .query_map([to_sql(since)], |row| Ok((text(row, 0)?.unwrap_or_default(), R::read(row, 1)?)))?;
    rows.collect()
}

/// Removes the oldest rows below `below`, at most `limit`; returns how many were removed.
pub(super) fn trim(conn: &Connection, below: u64, limit: usize) -> rusqlite::Result<u64> {
    let below = to_sql(below);
    let limit = to_sql(limit as u64);
    // Never the newest row, which holds the highest `seq`.
    let gone = conn
        .prepare_cached(
            "DELETE FROM change_log WHERE seq IN (SELECT seq FROM change_log WHERE seq < ?1
               AND seq < (SELECT max(seq) FROM change_log) ORDER BY seq LIMIT ?2)",
        )?
        .execute(params![below, limit])?;
    Ok(gone as u64)
}

/// The values in `was`, a text of SQL literals as `quote()` writes them with commas between them.
/// `None`: NULL. What is no literal is taken as it is.
pub(super) fn text_of_quoted(was: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    let mut rest = was;
    loop {
        let value;
        if let Some(quoted) = rest.strip_prefix('\'') {
            let mut text = String::new();
            rest = quoted;
            while let Some((part, after)) = rest.split_once('\'') {
                text.push_str(part);
                rest = after;
                let Some(after) = rest.strip_prefix('\'') else { break };
                text.push('\'');
                rest = after;
            }
            value = Some(text);
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (literal, after) = rest.split_at(end);
            value = (literal != "NULL").then(|| literal.to_owned());
            rest = after;
        }
        values.push(value);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_as_sqlite_quotes_them() {
        let conn = Connection::open_in_memory().unwrap();
        let texts = [Some("it's, 'quoted'"), None, Some(""), Some("'"), Some("banned")];
        let sql = "SELECT quote(?1) || ',' || quote(?2) || ',' || quote(?3) || ',' || quote(?4) || ',' || quote(?5)";
        let quoted: String = conn.query_row(sql, texts, |row| row.get(0)).unwrap();
        let read = text_of_quoted(&quoted);
        assert_eq!(read.iter().map(Option::as_deref).collect::<Vec<_>>(), texts);
        let numbers = ["17", "1.5", "X'00'"].map(|n| Some(n.to_owned()));
        assert_eq!(text_of_quoted("17,1.5,X'00'"), numbers);
        assert_eq!(text_of_quoted("'unfinished"), [Some(String::new())]);
    }
}
