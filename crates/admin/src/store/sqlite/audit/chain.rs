//! The chain: each row of the audit has a hash over itself and the hash of the row before it, so that
//! a row that was changed or removed is found. Whoever can write the whole table can also compute
//! the hashes anew: against that only an anchor helps that is kept elsewhere.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{MAX_ROWS, SELECT, audit_row};
use crate::store::sqlite::integers::to_sql;
use crate::store::sqlite::meta;
use crate::store::{AuditAnchor, AuditCheck, AuditRow, MAX_AUDIT_FAULTS};

/// The newest row that was removed because there were too many, `<id> <hash>`, in `meta`.
const REMOVED: &str = "audit.removed";

/// Where the chain is: id and hash of a row; 0 and empty before the first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Link {
    id: u64,
    hash: String,
}

/// Adds `row` at the end of the chain with its id and hash, and removes the oldest if there are too
/// many.
pub(super) fn append(conn: &Connection, row: AuditRow) -> rusqlite::Result<()> {
    let mut last = last(conn)?;
    // Ids count on over rows that were removed, so that their absence shows.
    let mut id = last_id(conn)?.max(last.id).saturating_add(1);
    if id > i64::MAX.unsigned_abs() {
        // Another program wrote a row with the last id of all, which shows: entries go on before it.
        last = last_before_gap(conn)?;
        id = last.id.saturating_add(1);
    }
    let row = AuditRow { id, ..row };
    let hash = hash(&last.hash, &row);
    conn.prepare_cached(
        "INSERT INTO audit (id, at, who, what, target, was, became, address, request_id, changes, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        to_sql(row.id),
        row.at,
        row.actor,
        row.kind,
        row.name,
        row.before,
        row.after,
        row.address,
        row.request_id,
        row.changes.map(to_sql),
        hash
    ])?;
    trim(conn, to_sql(row.id).saturating_sub(MAX_ROWS))
}

/// Removes the rows up to `id`, and remembers the last of them.
fn trim(conn: &Connection, id: i64) -> rusqlite::Result<()> {
    if id <= 0 {
        return Ok(());
    }
    let newest: Option<(i64, Option<String>)> = conn
        .prepare_cached("SELECT id, hash FROM audit WHERE id <= ?1 ORDER BY id DESC LIMIT 1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((newest, hash)) = newest else { return Ok(()) };
    conn.prepare_cached("DELETE FROM audit WHERE id <= ?1")?.execute([newest])?;
    meta::set_text(conn, REMOVED, &format!("{newest} {}", hash.unwrap_or_default()))
}

/// Gives all rows their hashes, of which those of an earlier schema version have none.
pub(in crate::store::sqlite) fn link_all(conn: &Connection) -> rusqlite::Result<()> {
    let mut before = Link::default();
    let mut update = conn.prepare("UPDATE audit SET hash = ?2 WHERE id = ?1")?;
    let mut statement = conn.prepare(&format!("{SELECT} ORDER BY id"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let row = audit_row(row)?;
        if before.id == 0 && row.id > 1 {
            meta::set_text(conn, REMOVED, &format!("{} ", row.id - 1))?;
        }
        before = Link { id: row.id, hash: hash(&before.hash, &row) };
        update.execute(params![to_sql(before.id), before.hash])?;
    }
    Ok(())
}

/// Checks all rows. `anchor`: a row that must be there as it was.
pub(in crate::store::sqlite) fn check(
    conn: &Connection,
    anchor: Option<&AuditAnchor>,
) -> rusqlite::Result<AuditCheck> {
    check_keeping(conn, anchor, MAX_ROWS)
}

/// The same where the newest `kept` rows are never removed.
fn check_keeping(conn: &Connection, anchor: Option<&AuditAnchor>, kept: i64) -> rusqlite::Result<AuditCheck> {
    let mut found = AuditCheck::default();
    let fault = |faults: &mut Vec<String>, text: String| {
        if faults.len() < MAX_AUDIT_FAULTS {
            faults.push(text);
        }
    };
    let (removed, last) = (removed(conn)?, last_id(conn)?);
    // Of what an earlier schema version had removed there is no hash.
    if !removed.hash.is_empty() && removed.id > last.saturating_sub(kept.unsigned_abs()) {
        fault(&mut found.faults, format!("{}, and were not too many", missing(1, removed.id)));
    }
    let mut before = removed.clone();
    let mut anchored = anchor.is_none();
    let mut statement = conn.prepare(&format!("{SELECT} ORDER BY id"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let row = audit_row(row)?;
        found.entries += 1;
        let expected = before.id.saturating_add(1);
        if row.id != expected {
            fault(&mut found.faults, missing(expected, row.id.saturating_sub(1)));
        } else if row.hash != hash(&before.hash, &row) {
            let text = format!("entry {} is not as it was written, or the one before it is not", row.id);
            fault(&mut found.faults, text);
        }
        if let Some(anchor) = anchor.filter(|anchor| anchor.id == row.id) {
            anchored = true;
            if anchor.hash != row.hash {
                let text = format!("entry {} has another hash than the one that was kept of it", row.id);
                fault(&mut found.faults, text);
            }
        }
        before = Link { id: row.id, hash: row.hash };
    }
    if last > before.id {
        fault(&mut found.faults, missing(before.id.saturating_add(1), last));
    }
    if let Some(anchor) = anchor.filter(|_| !anchored) {
        let text = match anchor.id <= removed.id {
            true => format!("entry {} is not kept any more: take a newer one", anchor.id),
            false => format!("entry {} is missing, of which the hash was kept", anchor.id),
        };
        fault(&mut found.faults, text);
    }
    found.last = (found.entries > 0).then_some(AuditAnchor { id: before.id, hash: before.hash });
    Ok(found)
}

fn missing(first: u64, last: u64) -> String {
    match first == last {
        true => format!("entry {first} is missing"),
        false => format!("entries {first} to {last} are missing"),
    }
}

/// The newest row.
fn last(conn: &Connection) -> rusqlite::Result<Link> {
    let found = conn
        .prepare_cached("SELECT id, coalesce(hash, '') FROM audit ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| Ok(Link { id: row.get::<_, i64>(0)?.unsigned_abs(), hash: row.get(1)? }))
        .optional()?;
    found.map_or_else(|| removed(conn), Ok)
}

/// The last row before the first id that none has.
fn last_before_gap(conn: &Connection) -> rusqlite::Result<Link> {
    let found = conn
        .prepare_cached(
            "SELECT id, coalesce(hash, '') FROM audit AS one WHERE id > 0 AND id < ?1
               AND NOT EXISTS (SELECT 1 FROM audit AS next WHERE next.id = one.id + 1) ORDER BY id LIMIT 1",
        )?
        .query_row([i64::MAX], |row| Ok(Link { id: row.get::<_, i64>(0)?.unsigned_abs(), hash: row.get(1)? }))
        .optional()?;
    found.map_or_else(|| removed(conn), Ok)
}

/// The highest id that there ever was, as SQLite remembers it.
fn last_id(conn: &Connection) -> rusqlite::Result<u64> {
    let id: Option<i64> = conn
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'audit'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(id.unwrap_or(0).unsigned_abs())
}

fn removed(conn: &Connection) -> rusqlite::Result<Link> {
    let text = meta::get_text(conn, REMOVED)?.unwrap_or_default();
    let (id, hash) = text.split_once(' ').unwrap_or_default();
    Ok(Link { id: id.parse().unwrap_or(0), hash: hash.to_owned() })
}

/// SHA-256 over the hash before and all that a row says, as a JSON array without blanks.
fn hash(before: &str, row: &AuditRow) -> String {
    let AuditRow { id, at, actor, address, request_id, kind, name, before: was, after, changes, hash: _ } =
        row;
    let said = json!([before, id, at, actor, address, request_id, kind, name, was, after, changes]);
    hex::encode(Sha256::digest(said.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::audit::Auditor;
    use crate::store::sqlite::schema::{Upgrade, ensure};

    /// A database with this many entries.
    fn with_entries(count: usize) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        ensure(&conn, Upgrade::Allowed).unwrap();
        for n in 0..count {
            Auditor::new(&conn, &"alice".into(), "2026-01-01 00:00:00.000")
                .write("flag", "f", None, Some(n.to_string()))
                .unwrap();
        }
        conn
    }

    /// What is found after `tampering` with five entries.
    fn faults(tampering: &str) -> Vec<String> {
        let conn = with_entries(5);
        conn.execute_batch(&format!("DROP TRIGGER audit_changed; DROP TRIGGER audit_removed; {tampering}"))
            .unwrap();
        check(&conn, None).unwrap().faults
    }

    #[test]
    fn what_was_changed_or_removed_is_found() {
        assert_eq!(faults(""), [] as [&str; 0]);
        let changed = |id| format!("entry {id} is not as it was written, or the one before it is not");
        for column in ["at", "who", "what", "target", "was", "became", "address", "request_id", "changes"] {
            assert_eq!(
                faults(&format!("UPDATE audit SET {column} = '7' WHERE id = 3")),
                [changed(3)],
                "{column}"
            );
        }
        for no_number in ["''", "'x'", "-1", "1.5", "x'00'"] {
            let found = faults(&format!("UPDATE audit SET changes = {no_number} WHERE id = 3"));
            assert_eq!(found, [changed(3)], "{no_number}");
        }
        assert_eq!(faults("UPDATE audit SET hash = '00' WHERE id = 3"), [changed(3), changed(4)]);
        assert_eq!(faults("DELETE FROM audit WHERE id IN (2, 3)"), ["entries 2 to 3 are missing"]);
        assert_eq!(faults("DELETE FROM audit WHERE id = 1"), ["entry 1 is missing"]);
        assert_eq!(faults("DELETE FROM audit WHERE id > 4"), ["entry 5 is missing"]);
        assert_eq!(faults("DELETE FROM audit"), ["entries 1 to 5 are missing"]);
    }

    #[test]
    fn a_row_added_after_others_were_removed_does_not_hide_that() {
        let conn = with_entries(5);
        conn.execute_batch("DROP TRIGGER audit_removed; DELETE FROM audit WHERE id >= 4").unwrap();
        let by = "alice".into();
        Auditor::new(&conn, &by, "now").write("flag", "f", None, Some("true".to_owned())).unwrap();
        assert_eq!(check(&conn, None).unwrap().faults, ["entries 4 to 5 are missing"]);
    }

    #[test]
    fn an_anchor_finds_a_chain_that_was_written_anew() {
        let conn = with_entries(5);
        let kept = check(&conn, None).unwrap().last.unwrap();
        assert_eq!(check(&conn, Some(&kept)).unwrap().faults, [] as [&str; 0]);
        conn.execute_batch("DROP TRIGGER audit_changed; UPDATE audit SET who = 'bob' WHERE id = 2").unwrap();
        link_all(&conn).unwrap();
        assert_eq!(check(&conn, None).unwrap().faults, [] as [&str; 0]);
        let found = check(&conn, Some(&kept)).unwrap().faults;
        assert_eq!(found, ["entry 5 has another hash than the one that was kept of it"]);
    }

    #[test]
    fn the_oldest_are_removed_and_the_rest_is_still_whole() {
        let conn = with_entries(5);
        conn.execute_batch("DROP TRIGGER audit_removed").unwrap();
        trim(&conn, 3).unwrap();
        let check = |kept| check_keeping(&conn, None, kept).unwrap();
        let found = check(2);
        assert_eq!((found.entries, found.faults.len()), (2, 0), "{found:?}");
        assert_eq!(check(3).faults, ["entries 1 to 3 are missing, and were not too many"]);
        conn.execute_batch("DELETE FROM audit WHERE id = 4").unwrap();
        assert_eq!(check(2).faults, ["entry 4 is missing"]);
    }

    #[test]
    fn a_row_with_the_last_id_of_all_is_found_and_stops_nobody() {
        let conn = with_entries(2);
        let insert =
            "INSERT INTO audit (id, at, who, what, target) VALUES (9223372036854775807, '', '', '', '')";
        conn.execute_batch(insert).unwrap();
        let by = "alice".into();
        for value in ["3", "4"] {
            Auditor::new(&conn, &by, "now").write("flag", "f", None, Some(value.to_owned())).unwrap();
        }
        let found = check(&conn, None).unwrap();
        assert_eq!(
            (found.entries, found.faults),
            (5, vec!["entries 5 to 9223372036854775806 are missing".to_owned()])
        );
        // Nor does it when it is gone.
        conn.execute_batch("DROP TRIGGER audit_removed; DELETE FROM audit WHERE id > 5").unwrap();
        Auditor::new(&conn, &by, "now").write("flag", "f", None, Some("5".to_owned())).unwrap();
        let newest: i64 = conn.query_row("SELECT max(id) FROM audit", [], |row| row.get(0)).unwrap();
        assert_eq!(newest, 5);
    }

    #[test]
    fn nobody_changes_or_removes_a_row_by_mistake() {
        let conn = with_entries(2);
        for refused in ["UPDATE audit SET who = 'bob'", "DELETE FROM audit WHERE id = 2"] {
            let error = conn.execute_batch(refused).unwrap_err().to_string();
            assert!(error.contains("the audit is only appended to"), "{error}");
        }
    }
}
