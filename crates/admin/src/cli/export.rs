//! `tidegate export`: what people wrote, as files that `apply` takes, as CSV, or as SQL that `sqlite3`
//! executes.

mod csv;
mod sql;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tidegate_policy::flags::Flag;

use super::api_client::{AccessArgs, ApiClient};
use super::documents::{list_path, yaml};
use super::output::{print_error_line, print_line, print_text};
use crate::manifest::Kind;
use crate::store::DocumentKind;

/// Entries of addresses per request.
const ADDRESSES_PAGE: usize = 1_000;

/// Options of `tidegate export`.
#[derive(clap::Args, Debug)]
pub struct ExportArgs {
    /// What to export.
    #[arg(required = true, value_enum, value_name = "WHAT")]
    what: Vec<Exported>,
    /// Format. CSV has one kind only.
    #[arg(long, value_enum, default_value_t)]
    format: ExportFormat,
    /// Write files into this directory, one per document, and one for each of bans, allow list and flags:
    /// `tidegate apply -R -f DIR` takes them. It is created if it does not exist; files of documents that
    /// are gone since stay in it.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
}

/// What is exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Exported {
    Routes,
    Listeners,
    Bans,
    AllowList,
    GeoRules,
    Limits,
    Backends,
    Pages,
    AutoBans,
    Sources,
    Rollouts,
    Flags,
    /// All of these.
    All,
}

/// Format of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
enum ExportFormat {
    /// Documents, as `apply` takes them.
    #[default]
    Yaml,
    /// Lines of a table, for spreadsheets; bans are a list that `tidegate bans import` takes.
    Csv,
    /// Statements for `sqlite3`, in one transaction: the database of a service that runs may take them.
    /// Rows that are there already are replaced, and no row is removed.
    Sql,
}

impl Exported {
    fn kinds(self) -> Vec<Kind> {
        match self {
            Self::Routes => vec![Kind::Document(DocumentKind::Route)],
            Self::Listeners => vec![Kind::Document(DocumentKind::Listener)],
            Self::Bans => vec![Kind::Ban],
            Self::AllowList => vec![Kind::AllowListEntry],
            Self::GeoRules => vec![Kind::Document(DocumentKind::GeoRule)],
            Self::Limits => vec![Kind::Document(DocumentKind::Limit)],
            Self::Backends => vec![Kind::Document(DocumentKind::Backend)],
            Self::Pages => vec![Kind::Document(DocumentKind::Page)],
            Self::AutoBans => vec![Kind::Document(DocumentKind::AutoBan)],
            Self::Sources => vec![Kind::Document(DocumentKind::Source)],
            Self::Rollouts => vec![Kind::Document(DocumentKind::Rollout)],
            Self::Flags => vec![Kind::Flags],
            Self::All => Kind::ALL.to_vec(),
        }
    }
}

/// Something of the service, as the API gave it, and as a document of a file.
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) answer: Value,
    pub(super) manifest: Value,
}

/// Prints or writes what was asked for.
///
/// # Errors
/// When the service does not answer, or a file cannot be written.
pub async fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let asked: Vec<Kind> = args.what.iter().flat_map(|what| what.kinds()).collect();
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| asked.contains(kind)).collect();
    let is_yaml = args.format == ExportFormat::Yaml;
    ensure!(
        args.format != ExportFormat::Csv || kinds.len() == 1,
        "csv has one kind only: export each by itself"
    );
    ensure!(args.dir.is_none() || is_yaml, "--dir is for yaml");
    let service = ApiClient::new(&args.access)?;
    let (mut items, mut bans) = (Vec::new(), Vec::new());
    for &kind in &kinds {
        match (kind, args.format) {
            (Kind::Ban, ExportFormat::Csv) => {
                return print_text(&list_of_bans(&service, "format=csv").await?);
            }
            (Kind::Ban, ExportFormat::Sql) => {
                for query in ["format=sql", "format=sql&shadow=true"] {
                    bans.push(list_of_bans(&service, query).await?);
                }
            }
            _ => items.extend(fetch(&service, kind).await?),
        }
    }
    leave_out_allowed(&mut items);
    if let Some(dir) = &args.dir {
        return write(dir, &items, &kinds).with_context(|| format!("cannot write to {}", dir.display()));
    }
    print_text(&match args.format {
        ExportFormat::Yaml => stream(items.iter(), &kinds)?,
        ExportFormat::Csv => csv::lines(&items)?,
        ExportFormat::Sql => sql::statements(&items, &bans)?,
    })
}

/// All bans in force, or those in shadow, whosever they are, as the service writes a list of them.
async fn list_of_bans(service: &ApiClient, query: &str) -> anyhow::Result<String> {
    let mut list = Vec::new();
    let target = format!("/api/admin/bans/export?{query}");
    let more = |chunk: &[u8]| {
        list.extend_from_slice(chunk);
        Ok(())
    };
    service.download(Method::GET, &target, more).await?;
    String::from_utf8(list).context("the service's list of bans is not UTF-8")
}

async fn fetch(service: &ApiClient, kind: Kind) -> anyhow::Result<Vec<Item>> {
    let addresses = async |status: &str| -> anyhow::Result<Vec<Item>> {
        let filter = [("status", status)];
        let all = service.list_by("/api/admin/ip-monitor", &filter, ADDRESSES_PAGE).await?;
        // What only sources ban comes with them.
        let has_row = |entry: &Value| entry["rows"].as_array().is_some_and(|rows| !rows.is_empty());
        let in_force = all.into_iter().filter(|entry| entry["expired"] == false && has_row(entry));
        Ok(in_force.map(|entry| address(kind, entry)).collect())
    };
    match kind {
        Kind::Ban => {
            let mut bans = addresses("banned").await?;
            bans.extend(addresses("watched").await?);
            let mut bans = made_by_people(bans);
            // Of one prefix and one `applies_to` `apply` takes one document: of what denies and what is in shadow, and of
            // what is written in two ways, the first.
            let mut places = BTreeSet::new();
            bans.retain(|ban| places.insert((ban.name.clone(), ban.answer["applies_to"].to_string())));
            Ok(bans)
        }
        Kind::AllowListEntry => addresses("allowed").await,
        Kind::Flags => {
            let answer = service
                .request(Method::GET, "/api/admin/optimization/flags", None, Flag::ALL[0].name())
                .await?;
            let manifest = kind.manifest("", answer.clone());
            Ok(vec![Item { kind, name: String::new(), answer, manifest }])
        }
        Kind::Document(_) => {
            let all = service.list(&list_path(kind), &[]).await?;
            let item = |answer: Value| {
                let (name, manifest) = kind.of_answer(answer.clone());
                Item { kind, name, answer, manifest }
            };
            Ok(all.into_iter().map(item).collect())
        }
    }
}

/// The bans without those of lists: a document would make them bans by hand, which no list removes again.
fn made_by_people(bans: Vec<Item>) -> Vec<Item> {
    let all = bans.len();
    let by_hand: Vec<Item> = bans.into_iter().filter(is_by_hand).collect();
    let of_lists = all.saturating_sub(by_hand.len());
    if of_lists > 0 {
        print_error_line(format_args!(
            "bans of lists that are left out: {of_lists}; `tidegate bans export` has them"
        ));
    }
    by_hand
}

fn is_by_hand(ban: &Item) -> bool {
    ban.answer["source"].is_null()
}

/// Leaves out bans everywhere of exactly what the allow list has, as other programs may write them: the allow list beats
/// them, and of one prefix `apply` takes one document.
fn leave_out_allowed(items: &mut Vec<Item>) {
    let allowed: BTreeSet<String> =
        items.iter().filter(|item| item.kind == Kind::AllowListEntry).map(|item| item.name.clone()).collect();
    let all = items.len();
    let is_everywhere = |item: &Item| item.answer["applies_to"].is_null();
    items.retain(|item| item.kind != Kind::Ban || !is_everywhere(item) || !allowed.contains(&item.name));
    let gone = all.saturating_sub(items.len());
    if gone > 0 {
        print_error_line(format_args!("bans that are left out, for the allow list has the same: {gone}"));
    }
}

fn address(kind: Kind, entry: Value) -> Item {
    let name = entry["ip"].as_str().unwrap_or_default().to_owned();
    // What its rows say, whatever sources have.
    let own = if entry["own"].is_null() { &entry } else { &entry["own"] };
    let mut spec = json!({ "reason": own["reason"], "expires_at": own["until"] });
    if entry["status"] == "watched" {
        spec["mode"] = "shadow".into();
    }
    // The file is to be applied as it is. What else is written into it is still looked at.
    if entry["needs_force"].is_string() {
        spec["force"] = true.into();
    }
    if !entry["applies_to"].is_null() {
        spec["applies_to"] = entry["applies_to"].clone();
    }
    Item { kind, manifest: kind.manifest(&name, spec), name, answer: entry }
}

/// The documents as a stream of YAML, with an empty list of each of `kinds` of which there is none: so it
/// can be told from one that was not exported.
fn stream<'i>(items: impl Iterator<Item = &'i Item> + Clone, kinds: &[Kind]) -> anyhow::Result<String> {
    let missing = kinds.iter().filter(|kind| !items.clone().any(|item| item.kind == **kind));
    let missing: Vec<Value> = missing.map(|kind| kind.list(Vec::new())).collect();
    let documents = items.map(|item| &item.manifest).chain(&missing);
    Ok(documents.map(yaml).collect::<Result<Vec<_>, _>>()?.join("---\n"))
}

fn write(dir: &Path, items: &[Item], kinds: &[Kind]) -> anyhow::Result<()> {
    for &kind in kinds {
        let of_kind = || items.iter().filter(move |item| item.kind == kind);
        let count = of_kind().count();
        match kind {
            Kind::Document(_) if count > 0 => {
                for item in of_kind() {
                    // The name of a route may have its namespace before it, which is a directory then.
                    let path = dir.join(kind.plural()).join(format!("{}.yaml", item.name));
                    std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
                    std::fs::write(path, yaml(&item.manifest)?)?;
                }
            }
            _ => {
                std::fs::create_dir_all(dir)?;
                std::fs::write(dir.join(format!("{}.yaml", kind.plural())), stream(of_kind(), &[kind])?)?;
            }
        }
        if count > 0 {
            print_line(format_args!("{}: {count}", kind.plural()))?;
        }
    }
    Ok(())
}
