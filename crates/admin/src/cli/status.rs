//! `tidegate status` and `tidegate recording`.

use anyhow::ensure;
use serde_json::Value;

use super::api_args::ApiArgs;
use super::output::{cell, table};

/// Prints whether anything is wrong, and what.
///
/// # Errors
/// When the service does not answer, or something is wrong.
pub async fn status(api: &ApiArgs) -> anyhow::Result<()> {
    let answer = api.get("/api/admin/optimization/health", "status").await?;
    api.output.print(&answer, || status_text(&answer))?;
    ensure!(answer["status"] == "ok", "the service is {}", cell(&answer["status"]));
    Ok(())
}

fn status_text(health: &Value) -> String {
    let said = |what: &str, heading: &str| -> String {
        let all = health[what].as_array().into_iter().flatten();
        all.map(|one| format!("{heading} {}: {}\n", cell(&one["code"]), cell(&one["detail"]))).collect()
    };
    let entries = |name: &str| cell(&health["tables"][name]["entries"]);
    let tables = [
        "bans",
        "shadow_bans",
        "scoped_bans",
        "scoped_sources",
        "allow",
        "geo",
        "routes",
        "backends",
        "limits",
    ]
    .map(|name| [name.to_owned(), entries(name)]);
    let tables = tables.into_iter().filter(|[_, entries]| entries != "-");
    let gateways = health["gateways"].as_array().map_or(0, Vec::len);
    format!(
        "{}, version {}, {gateways} gateways\n{}{}{}",
        cell(&health["status"]),
        cell(&health["version"]),
        said("reasons", "wrong:"),
        said("notes", "note:"),
        table(["table", "entries"], tables)
    )
}

/// Prints whether everything that happened is in the database.
///
/// # Errors
/// When the service does not answer.
pub async fn recording(api: &ApiArgs) -> anyhow::Result<()> {
    let answer = api.get("/api/admin/optimization/recording/stats", "numbered").await?;
    api.output.print(&answer, || recording_text(&answer))
}

fn recording_text(stats: &Value) -> String {
    let completeness = stats["completeness"].as_f64().unwrap_or_default() * 100.0;
    let kind = if stats["exact"] == true { "exactly" } else { "at most" };
    let rows = ["numbered", "stored", "pending", "lost", "duplicates", "malformed", "refused", "removed"]
        .map(|name| [name.to_owned(), cell(&stats[name])]);
    format!("{kind} {completeness:.4} % complete\n{}", table(["events", "count"], rows))
}
