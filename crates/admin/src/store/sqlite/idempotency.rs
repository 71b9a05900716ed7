//! Requests with an `Idempotency-Key` that have changed something, and what they were answered.

use rusqlite::{Connection, OptionalExtension, params};

use crate::store::{IdempotencyKey, KeptRequest};

/// How long they are kept, milliseconds.
const KEPT_FOR: i64 = 24 * 3_600 * 1_000;
/// How many are kept; the oldest are removed first.
const MAX_KEYS: i64 = 10_000;

/// Keeps a request, with its answer once there is one, and removes those that are too old or too many.
pub(super) fn keep(
    conn: &Connection,
    key: &IdempotencyKey,
    answer: Option<&str>,
    now: i64,
) -> rusqlite::Result<usize> {
    conn.prepare_cached("DELETE FROM idempotency_keys WHERE at < ?1")?.execute([now - KEPT_FOR])?;
    let rows = conn
        .prepare_cached(
            "INSERT INTO idempotency_keys (key, request, at, answer) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (key) DO UPDATE SET answer = excluded.answer",
        )?
        .execute(params![key.key, key.request, now, answer])?;
    conn.prepare_cached(
        "DELETE FROM idempotency_keys WHERE key IN
           (SELECT key FROM idempotency_keys ORDER BY at DESC LIMIT -1 OFFSET ?1)",
    )?
    .execute([MAX_KEYS])?;
    Ok(rows)
}

/// The request that came with this key, if it is not older than they are kept.
pub(super) fn find(conn: &Connection, key: &str, now: i64) -> rusqlite::Result<Option<KeptRequest>> {
    conn.prepare_cached("SELECT request, answer FROM idempotency_keys WHERE key = ?1 AND at >= ?2")?
        .query_row(params![key, now - KEPT_FOR], |row| {
            Ok(KeptRequest { request: row.get(0)?, answer: row.get(1)? })
        })
        .optional()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::schema::{Upgrade, ensure};

    #[test]
    fn requests_are_kept_for_a_day_and_no_more_than_there_may_be() {
        let conn = Connection::open_in_memory().unwrap();
        ensure(&conn, Upgrade::Allowed).unwrap();
        let key = |name: &str| IdempotencyKey { key: name.to_owned(), request: format!("r{name}") };
        keep(&conn, &key("a"), None, 1_000).unwrap();
        let found = |name: &str, now| find(&conn, name, now).unwrap().map(|kept| (kept.request, kept.answer));
        assert_eq!(found("a", 1_000), Some(("ra".to_owned(), None)));
        keep(&conn, &key("a"), Some("{}"), 2_000).unwrap();
        assert_eq!(found("a", 1_000 + KEPT_FOR), Some(("ra".to_owned(), Some("{}".to_owned()))));
        assert_eq!(found("a", 1_001 + KEPT_FOR), None);
        let count = || {
            conn.query_row("SELECT count(*) FROM idempotency_keys", [], |row| row.get::<_, i64>(0)).unwrap()
        };
        keep(&conn, &key("b"), None, 1_001 + KEPT_FOR).unwrap();
        assert_eq!(count(), 1_i64, "what is too old is removed");
        conn.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MAX_KEYS})
             INSERT INTO idempotency_keys (key, request, at) SELECT 'n' || i, '', {KEPT_FOR} * 2 + i FROM n"
        ))
        .unwrap();
        keep(&conn, &key("c"), None, 3 * KEPT_FOR).unwrap();
        assert_eq!(count(), MAX_KEYS);
        assert_eq!((found("b", KEPT_FOR), found("n1", KEPT_FOR)), (None, None), "the oldest are removed");
    }
}
