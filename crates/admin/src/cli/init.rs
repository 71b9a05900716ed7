//! `tidegate init`: a new database with its first token.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::BY;
use super::output::{OutputArgs, print_error_line, print_line};
use super::token::{self, DatabaseArg};
use crate::auth::{self, Role};
use crate::store::sqlite::SqliteStore;
use crate::store::{Change, TokenRow};

/// Options of `tidegate init`.
#[derive(clap::Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    db: DatabaseArg,
    /// Name of the token.
    #[arg(long, value_name = "NAME", value_parser = token::name, default_value = "first")]
    name: String,
    /// Take the token from this file, in the place of making and printing one: 32 to 1,024 visible
    /// characters of ASCII.
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When the database has a token of the role `admin` already, or cannot be written.
pub fn run(args: &InitArgs) -> anyhow::Result<()> {
    // First, for the database is made when it is looked at.
    let text = match &args.token_file {
        Some(path) => crate::serve::token_in_file(path)
            .context("--token-file")?
            .with_context(|| format!("--token-file: there is no file {}", path.display()))?,
        None => auth::new_token().context("no random bytes")?,
    };
    let known = SqliteStore::tokens_beside(&args.db.path)?;
    if let Some(admin) = known.iter().find(|token| token.role == Role::Admin.name()) {
        bail!(
            "{} has a token of the role `admin` already, `{}`: `tidegate token create` makes further ones",
            args.db.path.display(),
            admin.name
        );
    }
    let token = TokenRow {
        hash: auth::hash_token(&text),
        name: args.name.clone(),
        role: Role::Admin.name().to_owned(),
        ..TokenRow::default()
    };
    let change = Change::AddToken { token, only_new_name: true };
    let added = SqliteStore::commit_beside(&args.db.path, &change, &BY.into())?;
    ensure!(added.rows > 0, "there is a token called `{}` already, or this token is known", args.name);
    match &args.token_file {
        Some(path) => print_line(format_args!("the token in {} is good for everything", path.display())),
        None => {
            let made = json!({ "name": args.name, "role": Role::Admin.name(), "token": text });
            token::print_new(OutputArgs::default(), &made)?;
            let (path, name) = (args.db.path.display(), &args.name);
            print_error_line(format_args!(
                "{path}: the token `{name}` is good for everything, and is not shown again; `tidegate serve` runs the service, \
                 `tidegate token create` makes further tokens"
            ));
            Ok(())
        }
    }
}
