//! An export as SQL, for `sqlite3` from version 3.31 on.

use std::fmt::Write;

use anyhow::Context;
use serde_json::Value;

use super::Item;
use crate::manifest::Kind;
use crate::store::{StoreTable, sql_literal};

/// Statements in one transaction. `bans`: those of the bans, as the service writes them.
///
/// # Errors
/// When `bans` is not one transaction.
pub fn statements(items: &[Item], bans: &[String]) -> anyhow::Result<String> {
    let mut sql = "BEGIN IMMEDIATE;\n".to_owned();
    for bans in bans {
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
            let (name, value) = (sql_literal(name), sql_literal(&value.to_string()));
            writeln!(sql, "INSERT OR REPLACE INTO flags (name, value) VALUES ({name}, {value});")
        }),
        // The service writes them.
        Kind::Ban => Ok(()),
        Kind::AllowListEntry => {
            let of = |field: &str| answer[field].as_str().map_or("NULL".to_owned(), sql_literal);
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
            sql_literal(name),
            sql_literal(&Value::to_string(answer))
        ),
    };
}
