//! `tidegate bans`: print, import and export them, and enforce those in shadow.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};
use tidegate_policy::address::Prefix;

use super::addresses::{self, WhichBansArgs};
use super::api_args::{ApiArgs, ChangeArgs, span};
use super::api_client::{AccessArgs, ApiClient, Upload};
use super::output::{applied, cell, line_stream, print_error_line};
use super::{block_on, failure};

/// Some entries were refused, and all others imported.
const SOME_REFUSED: u8 = 3;

/// Bytes of the last line of an export, which may say what was left out, at most.
const LAST_LINE: usize = 200;

/// Commands for bans.
#[derive(clap::Subcommand, Debug)]
pub enum BansCommand {
    /// Print all bans, expired ones included until they are removed.
    List(ListArgs),
    /// Ban what a list has: all at once, or nothing. docs/BANS.md has the formats. Exits with 0 if all
    /// entries were taken, 3 if some were refused (they are printed), 1 if nothing was changed.
    Import(ImportArgs),
    /// Print the bans that are in force at this moment, those of lists too: as a list that `bans import` takes,
    /// or as SQL for `sqlite3`. Bans in shadow are not among them without `--shadow`.
    Export(BanExportArgs),
    /// Make bans in shadow deny.
    Enforce(EnforceBansArgs),
}

/// Options of `tidegate bans list`.
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// Print the bans in shadow, and how many requests of the last 30 days each would have denied.
    #[arg(long)]
    shadow: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Options of `tidegate bans enforce`.
#[derive(clap::Args, Debug)]
pub struct EnforceBansArgs {
    /// Addresses or blocks of bans in shadow.
    #[arg(required_unless_present = "source", value_name = "ADDRESS")]
    addresses: Vec<Prefix>,
    /// All that this source has in shadow.
    #[arg(long, value_name = "NAME", conflicts_with = "addresses")]
    source: Option<String>,
    #[command(flatten)]
    which: WhichBansArgs,
    /// Enforce a ban although its network is protected, or on the allow list.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Options of `tidegate bans import`.
#[derive(clap::Args, Debug)]
pub struct ImportArgs {
    /// The list, also as a gzip file; `-`: standard input.
    file: PathBuf,
    /// Its format: plain, netset, drop, ipsum, csv, json, jsonl or crowdsec; without it, as its content
    /// tells.
    #[arg(long)]
    format: Option<String>,
    /// Whose list it is: a name of a-z, 0-9, `.`, `_` and `-`.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Remove the bans of this source that the list does not have.
    #[arg(long, requires = "source")]
    replace: bool,
    /// For how long, where the list does not say: 90m, 4h, 7d.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    ttl: Option<String>,
    /// Why, where the list does not say.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Skip entries with a lower score.
    #[arg(long, value_name = "NUMBER")]
    min_score: Option<f64>,
    /// Only record which requests the bans would deny, and deny none.
    #[arg(long)]
    shadow: bool,
    /// Only print what would be changed.
    #[arg(long)]
    dry_run: bool,
    /// Change nothing if an entry is refused.
    #[arg(long)]
    strict: bool,
    /// Take protected networks and allowed addresses too, and a list without an entry.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Options of `tidegate bans export`.
#[derive(clap::Args, Debug)]
pub struct BanExportArgs {
    /// plain (addresses alone), csv, json, jsonl (with reason, source, beginning and end), or sql.
    #[arg(long, default_value = "plain")]
    format: String,
    /// Only the bans of this source.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The bans in shadow, and no others.
    #[arg(long)]
    shadow: bool,
    #[command(flatten)]
    access: AccessArgs,
}

/// Runs the command.
pub fn run(command: &BansCommand) -> ExitCode {
    let done = match command {
        BansCommand::List(args) => block_on(list(args)).map(|()| false),
        BansCommand::Import(args) => block_on_import(args),
        BansCommand::Export(args) => block_on(export(args)).map(|()| false),
        BansCommand::Enforce(args) => block_on(enforce(args)).map(|()| false),
    };
    match done {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(SOME_REFUSED),
        Err(error) => failure(&error),
    }
}

fn block_on_import(args: &ImportArgs) -> anyhow::Result<bool> {
    let mut answer = Value::Null;
    block_on(async {
        answer = import(args).await?;
        Ok(())
    })?;
    for refused in answer["refusals"].as_array().into_iter().flatten() {
        let [line, text, why] = ["line", "text", "detail"].map(|name| cell(&refused[name]));
        print_error_line(format_args!("line {line}: {text}: {why}"));
    }
    let (refused, listed) = (sum(&answer["refused"]), answer["refusals"].as_array().map_or(0, Vec::len));
    if refused > listed as u64 {
        print_error_line(format_args!("and {} more", refused - listed as u64));
    }
    args.change.api.output.print(&answer, || said(&answer))?;
    Ok(refused > 0)
}

async fn import(args: &ImportArgs) -> anyhow::Result<Value> {
    let list = match args.file.as_path() {
        path if path == Path::new("-") => Upload::of_standard_input(),
        path => Upload::of_file(path)?,
    };
    Ok(args.change.api.client()?.upload(&args.target(), list.unpacked()?, "added").await?)
}

impl ImportArgs {
    fn target(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("wait_applied", self.change.wait());
        let texts = [
            ("format", self.format.clone()),
            ("source", self.source.clone()),
            ("ttl", self.ttl.clone()),
            ("reason", self.reason.clone()),
            ("min_score", self.min_score.map(|score| score.to_string())),
            ("mode", self.replace.then(|| "replace".to_owned())),
        ];
        query.extend_pairs(texts.into_iter().filter_map(|(name, text)| Some((name, text?))));
        let flags = [
            ("shadow", self.shadow),
            ("dry_run", self.dry_run),
            ("strict", self.strict),
            ("force", self.force),
        ];
        query.extend_pairs(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name, "true")));
        format!("/api/admin/bans/import?{}", query.finish())
    }
}

fn sum(counts: &Value) -> u64 {
    counts.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
}

/// What an import did, in words.
fn said(answer: &Value) -> String {
    let [added, kept, removed, duplicates] =
        ["added", "kept", "removed", "duplicates"].map(|name| cell(&answer[name]));
    let (skipped, refused) = (sum(&answer["skipped"]), sum(&answer["refused"]));
    let end = match answer["dry_run"] == true {
        true => "nothing was changed".to_owned(),
        false => applied(answer),
    };
    format!(
        "{added} added, {kept} kept, {removed} removed; {duplicates} duplicates, {skipped} skipped, \
         {refused} refused; {end}\n"
    )
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    match args.shadow {
        true => addresses::list_shadow(&args.api).await,
        false => addresses::list(&args.api, "banned").await,
    }
}

async fn enforce(args: &EnforceBansArgs) -> anyhow::Result<()> {
    let Some(source) = &args.source else {
        return addresses::enforce(&args.addresses, &args.which, args.force, &args.change).await;
    };
    let (client, body) = (args.change.api.client()?, json!({ "source": source }));
    let answer = args.change.change(&client, Method::POST, "/api/admin/bans/enforce", Some(&body)).await?;
    let said = |answer: &Value| {
        let (source, rows) = (cell(&answer["source"]), cell(&answer["rows"]));
        format!("{rows} bans of {source} deny from now on; {}\n", applied(answer))
    };
    args.change.api.output.print(&answer, || said(&answer))
}

async fn export(args: &BanExportArgs) -> anyhow::Result<()> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("format", &args.format);
    query.extend_pairs(args.source.iter().map(|source| ("source", source)));
    query.extend_pairs(args.shadow.then_some(("shadow", "true")));
    let target = format!("/api/admin/bans/export?{}", query.finish());
    let (mut print, mut tail) = (line_stream(), Vec::new());
    let each = |chunk: &[u8]| {
        tail.extend_from_slice(chunk);
        tail.drain(..tail.len().saturating_sub(LAST_LINE));
        print(chunk)
    };
    ApiClient::new(&args.access)?.download(Method::GET, &target, each).await?;
    let tail = String::from_utf8_lossy(&tail);
    if let Some(left_out) = tail.lines().next_back().and_then(|line| line.strip_prefix("# left out")) {
        print_error_line(format_args!("left out{left_out}"));
    }
    Ok(())
}
