//! `tidegate gateways`, `refresh` and `warmup`.

use reqwest::Method;
use serde_json::Value;

use super::api_args::{ApiArgs, span};
use super::output::{applied, cell, items, table};

/// Options of `tidegate refresh` and `tidegate warmup`.
#[derive(clap::Args, Debug)]
pub struct ProgressArgs {
    /// How long to wait for the gateways, up to 30s.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    wait: String,
    #[command(flatten)]
    api: ApiArgs,
}

/// Prints the connected gateways, and what each enforces.
///
/// # Errors
/// When the service does not answer.
pub async fn list(api: &ApiArgs) -> anyhow::Result<()> {
    let answer = api.get("/api/admin/gateways", "items").await?;
    api.output.print(&answer, || table(HEADINGS, items(&answer).map(row)))
}

/// Makes every gateway load all tables anew.
///
/// # Errors
/// When the service does not answer, or not every gateway did so in time.
pub async fn refresh(args: &ProgressArgs) -> anyhow::Result<()> {
    args.order("/api/admin/optimization/cache/refresh").await
}

/// Waits until every gateway enforces what is in the database.
///
/// # Errors
/// When the service does not answer, or not every gateway does so in time.
pub async fn warmup(args: &ProgressArgs) -> anyhow::Result<()> {
    args.order("/api/admin/optimization/warmup").await
}

impl ProgressArgs {
    async fn order(&self, path: &str) -> anyhow::Result<()> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let target = format!("{path}?{}", query.append_pair("wait", &self.wait).finish());
        let answer = self.api.client()?.request(Method::POST, &target, None, "version").await?;
        self.api.output.print(&answer, || {
            format!(
                "{} after {} ms: version {}\n",
                applied(&answer),
                answer["elapsed_ms"],
                cell(&answer["version"])
            )
        })?;
        let behind: Vec<String> = answer["behind"].as_array().into_iter().flatten().map(cell).collect();
        anyhow::ensure!(behind.is_empty(), "not there yet: {}", behind.join(", "));
        Ok(())
    }
}

const HEADINGS: [&str; 7] = ["node", "process", "address", "enforces", "vms", "stale", "heard of"];

fn row(gateway: &Value) -> [String; 7] {
    let silent_ms = gateway["silent_for_ms"].as_u64().unwrap_or_default();
    let heard = match (gateway["lost"] == true, silent_ms) {
        (true, _) => format!("lost, {} s ago", silent_ms / 1_000),
        (false, 0) => "now".to_owned(),
        (false, _) => format!("{silent_ms} ms ago"),
    };
    let text = |name: &str| cell(&gateway[name]);
    [text("node"), text("process"), text("address"), text("enforces"), text("vms"), text("stale_vms"), heard]
}
