//! `tidegate sources`: sources of bans, between files and a running service; how their fetches go; `refresh`.

use std::process::ExitCode;

use form_urlencoded::Serializer;
use reqwest::Method;
use serde_json::Value;

use super::api_args::{ApiArgs, ChangeArgs};
use super::documents::enforce::{self, ShadowDocumentsCommand};
use super::output::{applied, cell, items, print_error_line, table};
use super::{block_on, failure};
use crate::manifest::Kind;
use crate::store::DocumentKind;

/// The list was fetched, and is not in force.
const HELD_BACK: u8 = 3;

/// Commands for sources of bans.
#[derive(clap::Subcommand, Debug)]
pub enum SourcesCommand {
    #[command(flatten)]
    Documents(ShadowDocumentsCommand),
    /// Print the sources: when each was fetched last, what it has, and what is wrong.
    List(ApiArgs),
    /// Fetch a source now. Exits with 0 if its list is in force, 3 if it is held back, 1 if it could not be
    /// fetched.
    Refresh(RefreshArgs),
}

/// Options of `tidegate sources refresh`.
#[derive(clap::Args, Debug)]
pub struct RefreshArgs {
    /// The source's name.
    name: String,
    /// Take whatever the source has: a list that is empty, or lost most of its entries. Of CrowdSec read all
    /// decisions, and not only what changed.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Runs the command.
pub fn run(command: &SourcesCommand) -> ExitCode {
    match command {
        SourcesCommand::Documents(command) => enforce::run(command, Kind::Document(DocumentKind::Source)),
        SourcesCommand::List(api) => exit(block_on(list(api)).map(|()| ExitCode::SUCCESS)),
        SourcesCommand::Refresh(args) => {
            let mut code = ExitCode::SUCCESS;
            let done = block_on(async {
                code = refresh(args).await?;
                Ok(())
            });
            exit(done.map(|()| code))
        }
    }
}

fn exit(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| failure(&error))
}

async fn list(api: &ApiArgs) -> anyhow::Result<()> {
    let all = api.client()?.list("/api/admin/sources", &[]).await?;
    let answer = Value::from_iter([("items".to_owned(), Value::from(all))]);
    api.output.print(&answer, || table(HEADINGS, items(&answer).map(row)))
}

const HEADINGS: [&str; 7] = ["name", "mode", "state", "entries", "fetched", "next try", "what is wrong"];

fn row(source: &Value) -> [String; 7] {
    let status = &source["status"];
    let wrong = match (&status["held_back"]["detail"], &status["error"]) {
        (Value::Null, error) => cell(error),
        (held_back, Value::Null) => format!("held back: {}", cell(held_back)),
        (held_back, error) => {
            format!("held back: {}; and the last fetch failed: {}", cell(held_back), cell(error))
        }
    };
    let state = if status.is_null() { "new".to_owned() } else { cell(&status["state"]) };
    let cells = [&status["entries"], &status["fetched"], &status["next_try"]].map(cell);
    let [entries, fetched, next] = cells;
    let mode = source["mode"].as_str().unwrap_or("enforce").to_owned();
    [cell(&source["name"]), mode, state, entries, fetched, next, wrong]
}

async fn refresh(args: &RefreshArgs) -> anyhow::Result<ExitCode> {
    let mut query = Serializer::new(String::new());
    query.append_pair("wait_applied", args.change.wait());
    if args.force {
        query.append_pair("force", "true");
    }
    let name: String = form_urlencoded::byte_serialize(args.name.as_bytes()).collect();
    let target = format!("/api/admin/sources/{}/refresh?{}", name.replace('+', "%20"), query.finish());
    let answer = args.change.api.client()?.request(Method::POST, &target, None, "outcome").await?;
    let sum = |counts: &Value| -> u64 {
        counts.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
    };
    args.change.api.output.print(&answer, || {
        format!(
            "{}: {} entries, {} added, {} removed; {} refused; {}\n",
            cell(&answer["outcome"]),
            cell(&answer["entries"]),
            cell(&answer["added"]),
            cell(&answer["removed"]),
            sum(&answer["counts"]["refused"]),
            applied(&answer)
        )
    })?;
    if answer["outcome"] != "held_back" {
        return Ok(ExitCode::SUCCESS);
    }
    let why = cell(&answer["held_back"]["detail"]);
    print_error_line(format_args!("{why}: what was fetched before stays in force; --force takes it"));
    Ok(ExitCode::from(HELD_BACK))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_held_back_and_why_the_last_fetch_failed_are_both_said() {
        let held_back = json!({"code": "empty", "detail": "it is empty"});
        for (held_back, error, wanted) in [
            (&held_back, json!(null), "held back: it is empty"),
            (&json!(null), json!("no answer"), "no answer"),
            (&held_back, json!("no answer"), "held back: it is empty; and the last fetch failed: no answer"),
            (&json!(null), json!(null), "-"),
        ] {
            let source =
                json!({"name": "s", "status": {"state": "x", "error": error, "held_back": held_back}});
            assert_eq!(row(&source)[6], wanted);
        }
    }
}
