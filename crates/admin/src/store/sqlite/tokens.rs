//! Tokens of operators and gateways.

use rusqlite::{Connection, Row, params};
use serde_json::json;

use super::audit::Auditor;
use super::error::sql_error;
use super::rows::text;
use crate::store::{Author, StoreError, TokenRow, time_text};

/// Adds a token; returns the number of rows written: 0 where there is one of this hash, or of this
/// name and `only_new_name` is set.
pub(super) fn add(audit: &Auditor<'_>, token: &TokenRow, only_new_name: bool) -> rusqlite::Result<usize> {
    let known = "SELECT 1 FROM tokens WHERE hash = ?1 OR (?3 AND name = ?2)";
    if audit.conn.prepare_cached(known)?.exists(params![token.hash, token.name, only_new_name])? {
        return Ok(0);
    }
    let rows = audit
        .conn
        .prepare_cached(
            "INSERT INTO tokens (hash, name, role, node, expires_at, created_at, created_by)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            token.hash,
            token.name,
            token.role,
            token.node,
            token.expires_at,
            audit.now,
            &*audit.by.name
        ])?;
    audit.write("token", &token.name, None, Some(audit_json(token)))?;
    Ok(rows)
}

/// Removes the tokens of this name; returns how many there were.
pub(super) fn revoke(audit: &Auditor<'_>, name: &str) -> rusqlite::Result<usize> {
    let tokens = select(audit.conn, "WHERE name = ?1", [name])?;
    for token in &tokens {
        audit.conn.prepare_cached("DELETE FROM tokens WHERE hash = ?1")?.execute([&token.hash])?;
        audit.write("token", name, Some(audit_json(token)), None)?;
    }
    Ok(tokens.len())
}

/// Asks whether the token that let `by` in still does, in the transaction that `conn` is in.
///
/// # Errors
/// When it does not, or cannot be read.
pub(super) fn check_author(conn: &Connection, by: &Author) -> Result<(), StoreError> {
    let Some(token) = &by.token else { return Ok(()) };
    let row = of_hash(conn, &token.hash).map_err(|e| sql_error(&e))?;
    let row = row.filter(|row| row.role == token.role).ok_or(StoreError::TokenRevoked)?;
    match row.ends_ms() {
        Some(end) if end <= time_text::now_ms() => Err(StoreError::TokenEnded),
        _ => Ok(()),
    }
}

/// The token with this hash.
pub(super) fn of_hash(conn: &Connection, hash: &str) -> rusqlite::Result<Option<TokenRow>> {
    Ok(select(conn, "WHERE hash = ?1", [hash])?.pop())
}

/// All tokens.
pub(super) fn tokens(conn: &Connection) -> rusqlite::Result<Vec<TokenRow>> {
    select(conn, "", [])
}

/// Notes when tokens were last used; returns how many rows were written.
pub(super) fn note_used(conn: &Connection, uses: &[(String, i64)]) -> rusqlite::Result<u64> {
    let mut update = conn.prepare_cached("UPDATE tokens SET last_used_at = ?2 WHERE hash = ?1")?;
    uses.iter().try_fold(0, |rows, (hash, at)| {
        Ok(rows + update.execute(params![hash, time_text::from_ms(*at)])? as u64)
    })
}

fn select(conn: &Connection, filter: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<TokenRow>> {
    let sql = format!(
        "SELECT hash, name, role, node, expires_at, created_at, created_by, last_used_at FROM tokens {filter}
         ORDER BY name, created_at, hash"
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(params, token)?;
    rows.collect()
}

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        hash: text(row, 0)?.unwrap_or_default(),
        name: text(row, 1)?.unwrap_or_default(),
        role: text(row, 2)?.unwrap_or_default(),
        node: text(row, 3)?,
        expires_at: text(row, 4)?,
        created_at: text(row, 5)?,
        created_by: text(row, 6)?,
        last_used_at: text(row, 7)?,
    })
}

/// A token as the audit has it.
pub(super) fn audit_json(token: &TokenRow) -> String {
    json!({ "id": token.id(), "role": token.role, "node": token.node, "expires_at": token.expires_at })
        .to_string()
}
