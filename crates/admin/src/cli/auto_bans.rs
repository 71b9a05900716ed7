//! `tidegate auto-bans`: rules of automatic bans, between files and a running service, and what they have done.

use serde_json::Value;

use super::api_args::ApiArgs;
use super::documents::enforce::ShadowDocumentsCommand;
use super::output::{cell, items, table};

/// Commands for automatic bans.
#[derive(clap::Subcommand, Debug)]
pub enum AutoBansCommand {
    /// Print what each rule has done since it was written, or the service began.
    List(ApiArgs),
    #[command(flatten)]
    Documents(ShadowDocumentsCommand),
}

const HEADINGS: [&str; 10] = [
    "name",
    "mode",
    "threshold",
    "banned",
    "watched",
    "protected",
    "allowed",
    "held back",
    "counters",
    "dropped",
];

/// Prints what each rule has done.
///
/// # Errors
/// When the service does not answer.
pub async fn list(api: &ApiArgs) -> anyhow::Result<()> {
    let answer = api.get("/api/admin/stats/auto-bans", "items").await?;
    api.output.print(&answer, || table(HEADINGS, items(&answer).map(row)))
}

fn row(rule: &Value) -> [String; 10] {
    let text = |name: &str| cell(&rule[name]);
    let outcome = |name: &str| cell(&rule["outcomes"][name]);
    let threshold = format!("{} in {} s", text("threshold"), text("window_s"));
    [
        text("name"),
        text("mode"),
        threshold,
        outcome("banned"),
        outcome("watched"),
        outcome("protected"),
        outcome("allowed"),
        outcome("held_back"),
        text("counters"),
        text("dropped"),
    ]
}
