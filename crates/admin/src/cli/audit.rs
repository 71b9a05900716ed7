//! `tidegate audit`: who changed what, and whether the audit is whole.

use anyhow::{Context, bail};
use form_urlencoded::Serializer;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::api_client::{AccessArgs, ApiClient};
use super::token::PlaceArgs;
use crate::store::sqlite::SqliteStore;
use crate::store::{AuditAnchor, AuditCheck};

/// Arguments of `tidegate audit`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    #[command(flatten)]
    list: ListArgs,
}

/// Commands for the audit besides listing it.
#[derive(clap::Subcommand, Debug)]
enum AuditCommand {
    /// Check that no entry was changed or removed since it was written. Exits with 1 if one was, and
    /// prints id and hash of the newest entry, which --anchor takes later.
    Verify {
        #[command(flatten)]
        place: PlaceArgs,
        /// Id and hash of an entry, as printed before and kept elsewhere: also finds a chain that was
        /// written anew, or cut off at its end.
        #[arg(long, value_name = "ID:HASH", value_parser = anchor)]
        anchor: Option<AuditAnchor>,
    },
}

/// Which entries are listed.
#[derive(clap::Args, Debug)]
struct ListArgs {
    /// Of this token's name, `command line`, or `sql`.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Of this kind: ban, unban, flag, route, token, ...
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// About this: a prefix, a flag, a document's name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Not earlier than this: a time, or a span before now (2h).
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Earlier than this.
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// The newest of them, at most this many, 1 to 1,000.
    #[arg(long, value_name = "COUNT", default_value = "50")]
    limit: String,
    /// Print one JSON object a line, with all fields.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: AccessArgs,
}

fn anchor(text: &str) -> Result<AuditAnchor, String> {
    text.parse().map_err(|()| AuditAnchor::FORM.to_owned())
}

/// Runs the command.
///
/// # Errors
/// When the service or database cannot be asked, or the audit is not whole.
pub fn run(args: &AuditArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.command {
            Some(AuditCommand::Verify { place, anchor }) => verify(place, anchor.as_ref()).await,
            None => list(&args.list).await,
        }
    })
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let mut query = Serializer::new(String::new());
    let ListArgs { actor, kind, name, since, until, limit, .. } = args;
    let filters = [("actor", actor), ("kind", kind), ("name", name), ("since", since), ("until", until)];
    for (parameter, value) in filters {
        query.extend_pairs(value.iter().map(|value| (parameter, value)));
    }
    let target = format!("/api/admin/audit?{}", query.append_pair("limit", limit).finish());
    let answer = ApiClient::new(&args.access)?.request(Method::GET, &target, None).await?;
    for entry in answer["items"].as_array().context("the service answered no list")? {
        match args.json {
            true => println!("{entry}"),
            false => println!("{}", line(entry)),
        }
    }
    Ok(())
}

/// An entry as a line.
fn line(entry: &Value) -> String {
    let text = |field: &str| entry[field].as_str().unwrap_or_default();
    let changes = entry["changes"].as_u64().map(|count| format!("  ({count} changes)")).unwrap_or_default();
    let from = entry["address"].as_str().map(|address| format!(" from {address}")).unwrap_or_default();
    format!(
        "{}  {}{from}  {} {}: {} -> {}{changes}",
        text("at"),
        text("actor"),
        text("kind"),
        text("name"),
        entry["before"],
        entry["after"]
    )
}

async fn verify(place: &PlaceArgs, anchor: Option<&AuditAnchor>) -> anyhow::Result<()> {
    let check = match place.service()? {
        Some(service) => {
            let query = anchor.map(|anchor| format!("?anchor={}:{}", anchor.id, anchor.hash));
            let target = format!("/api/admin/audit/verify{}", query.unwrap_or_default());
            AuditCheck::deserialize(service.request(Method::GET, &target, None).await?)?
        }
        None => SqliteStore::check_audit_beside(place.database(), anchor)?,
    };
    if !check.faults.is_empty() {
        bail!("the audit is not whole:\n{}", check.faults.join("\n"));
    }
    match check.last {
        Some(last) => println!("{} entries, the newest {}:{}", check.entries, last.id, last.hash),
        None => println!("no entries"),
    }
    Ok(())
}
