//! Reading the tables that gateways get, and their log.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::database::Database;
use super::schema::{EPOCH, RELOAD, read_state};
use crate::store::{
    ChangedRows, Changes, CountriesRow, DocumentKind, DocumentRow, FlagRow, IpRow, PerDocumentKind,
    StoreTable, StoredRows, Unchanged,
};

/// Why consumers read everything anew: a mark in the log holds one of these.
pub(super) const WHYS: [&str; 3] = [REPLACED, RESTORED, TAMPERED];
/// Another file was moved to the database's place.
pub(super) const REPLACED: &str = "the database file was replaced";
/// The log is shorter than it was.
pub(super) const RESTORED: &str = "the database went back to an earlier state";
/// The schema cookie moved.
pub(super) const TAMPERED: &str = "another program changed the schema, or restored or vacuumed the database";

/// A row of a table with a key, as it is read.
pub(super) trait KeyedRow: Sized {
    /// The table's columns, the key first.
    const COLUMNS: &[&str];

    /// The row whose columns begin at `from`; `None` when it has no key: there is
    /// no such row.
    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>>;

    /// The columns as SQL, of the table called `t`.
    fn columns() -> String {
        let columns: Vec<String> = Self::COLUMNS.iter().map(|name| format!("t.{name}")).collect();
        columns.join(", ")
    }
}

/// A value as text, whatever type somebody gave it. What is no UTF-8 loses the
/// bytes that are none.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Integer(n) => Some(n.to_string()),
        ValueRef::Real(x) => Some(x.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    })
}

impl KeyedRow for IpRow {
    const COLUMNS: &[&str] = &["ip", "status", "reason", "created_at", "updated_at", "expires_at"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        let Some(ip) = text(row, from)? else { return Ok(None) };
        Ok(Some(Self {
            ip,
            status: text(row, from + 1)?.unwrap_or_default(),
            reason: text(row, from + 2)?,
            created_at: text(row, from + 3)?,
            updated_at: text(row, from + 4)?,
            expires_at: text(row, from + 5)?,
        }))
    }
}

impl KeyedRow for DocumentRow {
    const COLUMNS: &[&str] = &["name", "document", "created_at", "updated_at"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        let Some(name) = text(row, from)? else { return Ok(None) };
        Ok(Some(Self {
            name,
            document: text(row, from + 1)?.unwrap_or_default(),
            created_at: text(row, from + 2)?,
            updated_at: text(row, from + 3)?,
        }))
    }
}

impl KeyedRow for FlagRow {
    const COLUMNS: &[&str] = &["name", "value", "updated_at"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        let Some(name) = text(row, from)? else { return Ok(None) };
        let value = text(row, from + 1)?.unwrap_or_default();
        Ok(Some(Self { name, value, updated_at: text(row, from + 2)? }))
    }
}

impl KeyedRow for CountriesRow {
    const COLUMNS: &[&str] = &["id", "source", "imported_at", "data"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        if text(row, from)?.is_none() {
            return Ok(None);
        }
        let table = match row.get_ref(from + 3)? {
            ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
            _ => Vec::new(),
        };
        let source = text(row, from + 1)?.unwrap_or_default();
        Ok(Some(Self { source, imported_at: text(row, from + 2)?, table }))
    }
}

/// The row of `table` with this key.
pub(super) fn row<R: KeyedRow>(
    conn: &Connection,
    table: StoreTable,
    key: &str,
) -> rusqlite::Result<Option<R>> {
    let key_column = R::COLUMNS.first().copied().unwrap_or("rowid");
    let sql = format!("SELECT {} FROM {} t WHERE t.{key_column} = ?1", R::columns(), table.name());
    conn.prepare_cached(&sql)?.query_row([key], |row| R::read(row, 0)).optional().map(Option::flatten)
}

fn all<R: KeyedRow>(conn: &Connection, table: StoreTable) -> rusqlite::Result<Vec<R>> {
    let mut statement = conn.prepare_cached(&format!("SELECT {} FROM {} t", R::columns(), table.name()))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(R::read(row, 0)?);
    }
    Ok(found)
}

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
            StoreTable::Flags => snapshot.flags = all(conn, *table)?,
            StoreTable::Countries => snapshot.countries = all(conn, *table)?.pop(),
            StoreTable::Documents(kind) => *snapshot.documents.get_mut(*kind) = all(conn, *table)?,
        }
    }
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
        *documents.get_mut(kind) = changed(conn, StoreTable::Documents(kind), since)?;
    }
    Ok(ChangedRows {
        ips: changed(conn, StoreTable::Ip, since)?,
        flags: changed(conn, StoreTable::Flags, since)?,
        countries: changed(conn, StoreTable::Countries, since)?.pop().map(|(_, row)| row),
        documents,
    })
}

/// Whether the log says so.
pub(super) fn is_unchanged(conn: &Connection, unchanged: Unchanged) -> rusqlite::Result<bool> {
    let Unchanged { tables, since } = unchanged;
    if read_state(conn)?.newest < since || reason_to_reload(conn, since)?.is_some() {
        return Ok(false);
    }
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    let mut changes = conn.prepare_cached("SELECT 1 FROM change_log WHERE seq > ?1 AND tbl = ?2")?;
    for table in tables {
        if changes.exists(params![since, table.name()])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A mark after `since`, or a log that does not reach back so far.
fn reason_to_reload(conn: &Connection, since: u64) -> rusqlite::Result<Option<Changes>> {
    let since = i64::try_from(since).unwrap_or(i64::MAX);
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
        let why = WHYS.into_iter().find(|&why| said.as_deref() == Some(why)).unwrap_or(TAMPERED);
        return Ok(Some(Changes::Reload { new_epoch, why }));
    }
    let reaches = oldest <= since.saturating_add(1);
    Ok((!reaches)
        .then_some(Changes::Reload { new_epoch: false, why: "the log does not reach back that far" }))
}

/// Keys of `table` that changed, with their rows. The join is in SQL because a
/// raw key need not be UTF-8.
fn changed<R: KeyedRow>(
    conn: &Connection,
    table: StoreTable,
    since: u64,
) -> rusqlite::Result<Vec<(String, Option<R>)>> {
    let key = R::COLUMNS.first().copied().unwrap_or("rowid");
    let mut statement = conn.prepare_cached(&format!(
        "SELECT l.key, {} FROM (SELECT DISTINCT key FROM change_log WHERE seq > ?1 AND tbl = '{table}') l
         LEFT JOIN {table} t ON t.{key} = l.key",
        R::columns(),
        table = table.name(),
    ))?;
    let rows = statement.query_map([i64::try_from(since).unwrap_or(i64::MAX)], |row| {
        Ok((text(row, 0)?.unwrap_or_default(), R::read(row, 1)?))
    })?;
    rows.collect()
}
