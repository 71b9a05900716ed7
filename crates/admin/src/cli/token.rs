//! `tidegate token`: in a database, beside a service that may be running, or through a service's
//! API.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use form_urlencoded::byte_serialize;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate_policy::wire::sync::Gateway;

use super::BY;
use super::api_client::{AccessArgs, ApiClient, RequestError};
use super::output::{OutputArgs, cell, items, stream_text, table};
use crate::api::admin::tokens::TokenInfo;
use crate::auth::{self, Role};
use crate::store::sqlite::SqliteStore;
use crate::store::{Change, TokenRow};
use crate::time;

/// Commands for tokens.
#[derive(clap::Subcommand, Debug)]
pub enum TokenCommand {
    /// Create a token and print it once: only its hash is stored.
    Create {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        token: NewTokenArgs,
    },
    /// List the tokens: the beginning of the hash, role, name, and when each ends and was last used.
    List {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Revoke every token of a name: a running service refuses it at once, and within a second if it
    /// was revoked in the database.
    Revoke {
        #[command(flatten)]
        place: PlaceArgs,
        /// Name of the tokens.
        #[arg(long, value_name = "NAME")]
        name: String,
    },
}

/// Where the tokens are: a database, unless a service is named.
#[derive(clap::Args, Debug)]
pub struct PlaceArgs {
    /// The database, a SQLite file; only `token create` and `restore` create it if it does not exist. Without it the API of the
    /// service is used that --server or a context names; where nothing names one, this counts
    /// after all. [env: TIDEGATE_DB=] [default: tidegate.db]
    #[arg(long = "db", value_name = "PATH")]
    db: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A token to be created.
#[derive(clap::Args, Debug)]
pub struct NewTokenArgs {
    /// Name of the token.
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: String,
    /// What the token allows. `--scope` is the option's older name.
    #[arg(long, value_enum, alias = "scope")]
    role: Role,
    /// The node id of the only Envoy whose gateways may use it (role `gateway`).
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// When it ends: in a span from now (90d), or a time (2027-01-01).
    #[arg(long, value_name = "WHEN", value_parser = end)]
    expires: Option<jiff::Timestamp>,
}

/// The database.
#[derive(clap::Args, Debug)]
pub struct DatabaseArg {
    /// The database, a SQLite file; it is created if it does not exist.
    #[arg(long = "db", env = "TIDEGATE_DB", value_name = "PATH", default_value = "tidegate.db")]
    pub path: PathBuf,
}

/// A token's name.
pub fn name(text: &str) -> Result<String, String> {
    match auth::is_name(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("write {}", auth::NAME_FORM)),
    }
}

fn end(text: &str) -> Result<jiff::Timestamp, String> {
    let span = time::parse_duration(text).and_then(time::from_now);
    let end = span.or_else(|| time::parse_timestamp(text)).filter(|end| *end > time::now());
    end.ok_or_else(|| "write a span, like 90d, or a time to come, like 2027-01-01".to_owned())
}

/// Runs the command.
pub fn run(command: &TokenCommand) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            TokenCommand::Create { place, token } => {
                ensure!(
                    token.node.is_none() || token.role == Role::Gateway,
                    "--node is for tokens of the role `gateway`"
                );
                let made = match place.service()? {
                    Some(service) => create_through(&service, token).await?,
                    None => create_in(&place.database(), token)?,
                };
                print_new(place.output, &made)
            }
            TokenCommand::List { place } => {
                let tokens = match place.service()? {
                    Some(service) => service.list(TOKENS, &[]).await?,
                    None => {
                        let rows = SqliteStore::tokens_beside(place.existing_database()?)?;
                        let shown = rows.into_iter().map(|row| serde_json::to_value(TokenInfo::from(row)));
                        shown.collect::<Result<_, _>>()?
                    }
                };
                let answer = json!({ "items": tokens });
                place
                    .output
                    .print(&answer, || table(COLUMNS.map(|(heading, _)| heading), items(&answer).map(row)))
            }
            TokenCommand::Revoke { place, name } => {
                let revoked = match place.service()? {
                    Some(service) => revoke_through(&service, name).await?,
                    None => {
                        let change = Change::RevokeTokens { name: name.clone() };
                        SqliteStore::commit_beside(place.existing_database()?, &change, &BY.into())?.rows
                    }
                };
                if revoked == 0 {
                    bail!("there is no token called `{name}`; `tidegate token list` shows them");
                }
                place.output.print(&json!({ "revoked": revoked }), || format!("{revoked} revoked\n"))
            }
        }
    })
}

impl PlaceArgs {
    /// The service, if one is named.
    pub fn service(&self) -> anyhow::Result<Option<ApiClient>> {
        if self.db.is_some() {
            return Ok(None);
        }
        ApiClient::if_given(&self.access)
    }

    /// Whether there is a token for a service, and nothing names the service or the database.
    pub fn is_token_alone(&self) -> bool {
        let is_database = self.db.is_some() || std::env::var_os("TIDEGATE_DB").is_some();
        !is_database && self.access.has_token()
    }

    /// The database, if no service is named.
    pub fn database(&self) -> PathBuf {
        let named = self.db.clone().or_else(|| std::env::var_os("TIDEGATE_DB").map(PathBuf::from));
        named.unwrap_or_else(|| PathBuf::from("tidegate.db"))
    }

    /// The same, which must be there: what only looks at a database must not make one.
    ///
    /// # Errors
    /// When there is none.
    pub fn existing_database(&self) -> anyhow::Result<PathBuf> {
        let path = self.database();
        let exists = path.try_exists().with_context(|| format!("cannot look at {}", path.display()))?;
        ensure!(exists, "there is no database {}", path.display());
        Ok(path)
    }
}

/// Prints a token that was made: the only time that it is shown.
///
/// # Errors
/// When it cannot be written: then nobody has it.
pub fn print_new(output: OutputArgs, made: &Value) -> anyhow::Result<()> {
    let [name, token] = ["name", "token"].map(|field| made[field].as_str().unwrap_or_default());
    let text = output.text(made, || format!("{token}\n"))?;
    stream_text(&text).map_err(|error| {
        anyhow::anyhow!("the token `{name}` was made, and cannot be shown ({error:#}): revoke it")
    })
}

fn create_in(database: &Path, new: &NewTokenArgs) -> anyhow::Result<Value> {
    let text = auth::new_token().context("no random bytes")?;
    let token = TokenRow {
        hash: auth::hash_token(&text),
        name: new.name.clone(),
        role: new.role.name().to_owned(),
        node: new.node.as_ref().map(|node| Gateway::new(node.as_bytes(), 0).node),
        expires_at: new.expires.map(time::to_sql),
        ..TokenRow::default()
    };
    let change = Change::AddToken { token, only_new_name: true };
    let added = SqliteStore::commit_beside(database, &change, &BY.into())?;
    ensure!(
        added.rows > 0,
        "there is a token called `{0}` already: choose another name, or revoke that one with `tidegate token revoke \
         --name {0}`",
        new.name
    );
    Ok(json!({ "name": new.name, "role": new.role.name(), "token": text }))
}

async fn create_through(service: &ApiClient, new: &NewTokenArgs) -> anyhow::Result<Value> {
    let body = json!({
        "name": new.name,
        "role": new.role.name(),
        "node": new.node,
        "expires_at": new.expires.map(time::rfc3339),
    });
    Ok(service.request(Method::POST, TOKENS, Some(&body), "token").await?)
}

async fn revoke_through(service: &ApiClient, name: &str) -> anyhow::Result<u64> {
    // In a path a blank is %20, and not +.
    let name = byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20");
    match service.request(Method::DELETE, &format!("{TOKENS}/{name}"), None, "revoked").await {
        Ok(answer) => Ok(answer["revoked"].as_u64().unwrap_or_default()),
        Err(RequestError::Refused(refusal)) if refusal.is("token_not_found") => Ok(0),
        Err(other) => Err(other.into()),
    }
}

/// The path of the tokens in the API.
const TOKENS: &str = "/api/admin/tokens";

/// Headings of the list, and the fields below them.
const COLUMNS: [(&str, &str); 6] = [
    ("id", "id"),
    ("role", "role"),
    ("name", "name"),
    ("node", "node"),
    ("ends", "expires_at"),
    ("last used", "last_used_at"),
];

fn row(token: &Value) -> [String; 6] {
    COLUMNS.map(|(_, field)| match field {
        "expires_at" if token["expired"] == true => format!("{} (over)", cell(&token[field])),
        _ => cell(&token[field]),
    })
}
