//! Former rows: what rows that cannot be read now said before, so that it is known after a
//! restart. In JSON, for people to read.

use rusqlite::{Connection, params};

use crate::store::{FormerRow, FormerRows, StoreTable};

/// A former row in JSON; `None`: to be removed.
pub(super) type FormerChange = (StoreTable, String, Option<String>);

/// Those that are kept. What is no former row is passed over.
pub(super) fn read(conn: &Connection) -> rusqlite::Result<FormerRows> {
    let mut statement = conn.prepare_cached("SELECT tbl, key, row FROM former_rows")?;
    let mut rows = statement.query([])?;
    let mut found = FormerRows::new();
    while let Some(row) = rows.next()? {
        let (Ok(table), Ok(key), Ok(json)) =
            (row.get_ref(0)?.as_str(), row.get_ref(1)?.as_str(), row.get_ref(2)?.as_str())
        else {
            continue;
        };
        let table = StoreTable::ALL.into_iter().find(|known| known.name() == table);
        if let (Some(table), Ok(former)) = (table, serde_json::from_str(json)) {
            found.insert((table, key.to_owned()), former);
        }
    }
    Ok(found)
}

/// What makes `wanted` of `kept`.
pub(super) fn changes(kept: &FormerRows, wanted: &FormerRows) -> Vec<FormerChange> {
    let json = |row: &FormerRow| serde_json::to_string(row).ok();
    let gone = kept.keys().filter(|key| !wanted.contains_key(*key)).map(|(table, key)| (*table, key, None));
    let new = wanted.iter().filter(|(key, row)| kept.get(*key) != Some(*row));
    let new = new.map(|((table, key), row)| (*table, key, json(row)));
    gone.chain(new).map(|(table, key, json)| (table, key.clone(), json)).collect()
}

/// Writes changes; returns how many.
pub(super) fn write(conn: &Connection, changes: &[FormerChange]) -> rusqlite::Result<u64> {
    let mut put =
        conn.prepare_cached("INSERT OR REPLACE INTO former_rows (tbl, key, row) VALUES (?1, ?2, ?3)")?;
    let mut delete = conn.prepare_cached("DELETE FROM former_rows WHERE tbl = ?1 AND key = ?2")?;
    for (table, key, json) in changes {
        match json {
            Some(json) => put.execute(params![table.name(), key, json])?,
            None => delete.execute(params![table.name(), key])?,
        };
    }
    Ok(changes.len() as u64)
}
