//! Reading rows of the tables that people write, too: values may have any type.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::store::StoreTable;

/// A row of a table with a key.
pub(super) trait KeyedRow: Sized {
    /// The table's columns, the key first.
    const COLUMNS: &[&str];

    /// The row whose columns begin at `from`; `None` when its key is NULL: there is no such row.
    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>>;

    /// The columns as SQL, of a table with the alias `t`.
    fn columns() -> String {
        let columns: Vec<String> = Self::COLUMNS.iter().map(|name| format!("t.{name}")).collect();
        columns.join(", ")
    }
}

/// A value as text, whatever its type. Bytes that are not UTF-8 are replaced.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Integer(n) => Some(n.to_string()),
        ValueRef::Real(x) => Some(x.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    })
}

/// The row of `table` with this key.
pub(super) fn row<R: KeyedRow>(
    conn: &Connection,
    table: StoreTable,
    key: &str,
) -> rusqlite::Result<Option<R>> {
    let sql = format!("SELECT {} FROM {} t WHERE {}", R::columns(), table.name(), table.has_key("t", "?1"));
    conn.prepare_cached(&sql)?.query_row([key], |row| R::read(row, 0)).optional().map(Option::flatten)
}

/// All rows of `table`.
pub(super) fn all<R: KeyedRow>(conn: &Connection, table: StoreTable) -> rusqlite::Result<Vec<R>> {
    let mut statement = conn.prepare_cached(&format!("SELECT {} FROM {} t", R::columns(), table.name()))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(R::read(row, 0)?);
    }
    Ok(found)
}
