//! `tidegate token`: works beside a running service, which sees the change at
//! once.

use std::path::PathBuf;

use anyhow::Context;

use crate::auth::{self, Scope};
use crate::store::TokenRow;
use crate::store::sqlite::SqliteStore;

/// Commands for tokens.
#[derive(clap::Subcommand, Debug)]
pub enum TokenCommand {
    /// Create a token and print it once: only its hash is stored.
    Create {
        #[command(flatten)]
        db: DatabaseArg,
        /// Name of the token.
        #[arg(long, value_name = "NAME", value_parser = name)]
        name: String,
        /// What the token allows: its scope.
        #[arg(long, value_enum)]
        scope: Scope,
    },
    /// List the tokens by name and scope.
    List {
        #[command(flatten)]
        db: DatabaseArg,
    },
    /// Revoke every token of a name; a running service refuses it within a second.
    Revoke {
        #[command(flatten)]
        db: DatabaseArg,
        /// Name of the tokens.
        #[arg(long, value_name = "NAME")]
        name: String,
    },
}

/// The database.
#[derive(clap::Args, Debug)]
pub struct DatabaseArg {
    /// The database, a SQLite file; it is created if it does not exist.
    #[arg(long = "db", env = "TIDEGATE_DB", value_name = "PATH", default_value = "tidegate.db")]
    pub path: PathBuf,
}

fn name(text: &str) -> Result<String, String> {
    let fine = !text.trim().is_empty() && text.len() <= 100 && !text.chars().any(char::is_control);
    if fine { Ok(text.to_owned()) } else { Err("write 1 to 100 bytes without control characters".to_owned()) }
}

/// Runs the command.
pub fn run(command: &TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create { db, name, scope } => {
            let token = auth::new_token().context("no random bytes")?;
            let row = TokenRow {
                hash: auth::hash_token(&token),
                name: name.clone(),
                scope: scope.name().to_owned(),
            };
            SqliteStore::add_token_beside(&db.path, &row)?;
            println!("{token}");
            Ok(())
        }
        TokenCommand::List { db } => {
            for TokenRow { hash, name, scope } in SqliteStore::tokens_beside(&db.path)? {
                // The beginning of the hash distinguishes tokens of one name, and is not a
                // secret.
                println!("{}  {scope:8} {name}", hash.get(..8).unwrap_or(&hash));
            }
            Ok(())
        }
        TokenCommand::Revoke { db, name } => {
            let removed = SqliteStore::remove_tokens_beside(&db.path, name)?;
            anyhow::ensure!(
                removed > 0,
                "there is no token called `{name}`; `tidegate token list` shows them"
            );
            println!("{removed} revoked");
            Ok(())
        }
    }
}
