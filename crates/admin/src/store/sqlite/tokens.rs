//! Tokens of operators and gateways.

use rusqlite::{Connection, params};

use crate::store::TokenRow;

/// Adds a token, or changes name and scope of the one with this hash.
pub(super) fn add_token(conn: &Connection, token: &TokenRow) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO tokens (hash, name, scope) VALUES (?1, ?2, ?3)
         ON CONFLICT (hash) DO UPDATE SET name = excluded.name, scope = excluded.scope",
    )?
    .execute(params![token.hash, token.name, token.scope])?;
    Ok(())
}

/// Removes the tokens of this name; returns how many there were.
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
