//! `tidegate audit`: who changed what, and whether the audit is whole.

use anyhow::{Context, bail};
use form_urlencoded::Serializer;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api_args::ApiArgs;
use super::output::{cell, table};
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
    /// Of this kind: ban, unban, flag, route, token, ...; several with commas between them.
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
    /// The newest of them, at most this many.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    api: ApiArgs,
}

fn anchor(text: &str) -> Result<AuditAnchor, String> {
    text.parse().map_err(|()| AuditAnchor::FORM.to_owned())
}

/// Runs the command.
///
/// # Errors
/// When the service or database cannot be asked, or the audit is not whole.
pub async fn run(args: &AuditArgs) -> anyhow::Result<()> {
    match &args.command {
        Some(AuditCommand::Verify { place, anchor }) => verify(place, anchor.as_ref()).await,
        None => list(&args.list).await,
    }
}

/// Entries per request, at most.
const PAGE: usize = 1_000;

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let ListArgs { actor, kind, name, since, until, limit, api } = args;
    let filters = [("actor", actor), ("kind", kind), ("name", name), ("since", since), ("until", until)];
    let filters = filters.into_iter().filter_map(|(parameter, value)| Some((parameter, value.as_deref()?)));
    let filters: Vec<(&str, &str)> = filters.collect();
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    let client = api.client()?;
    while items.len() < *limit {
        let mut query = Serializer::new(String::new());
        query.extend_pairs(&filters).append_pair("limit", &PAGE.min(limit - items.len()).to_string());
        query.extend_pairs(cursor.iter().map(|cursor| ("cursor", cursor)));
        let target = format!("/api/admin/audit?{}", query.finish());
        let mut answer = client.request(Method::GET, &target, None, "items").await?;
        items.append(answer["items"].as_array_mut().context("the service answered no list")?);
        cursor = answer["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    let answer = json!({ "items": items });
    api.output.print(&answer, || table(HEADINGS, items.iter().map(row)))
}

const HEADINGS: [&str; 7] = ["at", "actor", "address", "kind", "name", "before", "after"];

fn row(entry: &Value) -> [String; 7] {
    let mut row = HEADINGS.map(|field| cell(&entry[field]));
    if let (Some(count), Some(after)) = (entry["changes"].as_u64(), row.last_mut()) {
        after.push_str(&format!(" ({count} changes)"));
    }
    row
}

async fn verify(place: &PlaceArgs, anchor: Option<&AuditAnchor>) -> anyhow::Result<()> {
    let check = match place.service()? {
        Some(service) => {
            let query = anchor.map(|anchor| format!("?anchor={}:{}", anchor.id, anchor.hash));
            let target = format!("/api/admin/audit/verify{}", query.unwrap_or_default());
            AuditCheck::deserialize(service.request(Method::GET, &target, None, "entries").await?)?
        }
        None => SqliteStore::check_audit_beside(place.existing_database()?, anchor)?,
    };
    let answer = serde_json::to_value(&check)?;
    if !check.faults.is_empty() {
        if !place.output.is_table() {
            place.output.print(&answer, String::new)?;
        }
        bail!("the audit is not whole:\n{}", check.faults.join("\n"));
    }
    place.output.print(&answer, || match &check.last {
        Some(last) => format!("{} entries, the newest {}:{}\n", check.entries, last.id, last.hash),
        None => "no entries\n".to_owned(),
    })
}
