//! An export as SQL, for `sqlite3` from version 3.31 on.

use std::fmt::Write;

use anyhow::Context;
use serde_json::Value;

use super::Item;
use crate::manifest::Kind;
use crate::store::StoreTable;

/// Statements in one transaction. `bans`: those of the bans, as the service writes them; empty without.
///
/// # Errors
/// When `bans` is not one transaction.
pub fn statements(items: &[Item], bans: &str) -> anyhow::Result<String> {
    let mut sql = "BEGIN IMMEDIATE;\n".to_owned();
    if !bans.is_empty() {
        let inner = bans.strip_prefix("BEGIN;\n").and_then(|rest| rest.strip_suffix("COMMIT;\n"));
        sql.push_str(inner.context("the service wrote its bans in another way than this version knows")?);
    }
    for item in items {
        statement(&mut sql, item);
    }
    sql.push_str("COMMIT;\n");
    Ok(sql)
}

fn statement(sql: &mut String, item: &Item) {
    let Item { kind, name, answer, .. } = item;
    // Writing to a text does not fail.
    let _ = match kind {
        Kind::Flags => answer.as_object().into_iter().flatten().try_for_each(|(name, value)| {
            let (name, value) = (literal(name), literal(&value.to_string()));
            writeln!(sql, "INSERT OR REPLACE INTO flags (name, value) VALUES ({name}, {value});")
        }),
        // The service writes them.
        Kind::Ban => Ok(()),
        Kind::AllowListEntry => {
            let of = |field: &str| answer[field].as_str().map_or("NULL".to_owned(), literal);
            writeln!(
                sql,
                "INSERT INTO ip_monitor (ip, status, reason, created_at, expires_at) VALUES ({}, {}, {}, {}, {}) \
                 ON CONFLICT (ip) DO UPDATE SET status = excluded.status, reason = excluded.reason, \
                 expires_at = excluded.expires_at;",
                of("ip"),
                of("status"),
                of("reason"),
                of("since"),
                of("until")
            )
        }
        Kind::Document(kind) => writeln!(
            sql,
            "INSERT INTO {} (name, document) VALUES ({}, {}) ON CONFLICT (name) DO UPDATE SET document = \
             excluded.document;",
            StoreTable::Documents(*kind).name(),
            literal(name),
            literal(&Value::to_string(answer))
        ),
    };
}

/// A text as a literal of SQL. One with a NUL, which ends a statement, is given by its bytes.
fn literal(text: &str) -> String {
    match text.contains('\0') {
        true => format!("CAST(X'{}' AS TEXT)", hex::encode(text)),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_texts_again() {
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        for text in ["", "it's", "''", "a;b--c\n\"x\"", "nul\0nul", "wörter"] {
            let read: String =
                conn.query_row(&format!("SELECT {}", literal(text)), [], |row| row.get(0)).unwrap();
            assert_eq!(read, text);
        }
    }
}
