//! `tidegate events`: recorded requests.

use std::time::Duration;

use anyhow::Context;
use form_urlencoded::Serializer;
use reqwest::Method;
use serde_json::Value;

use super::api_args::ApiArgs;
use super::api_client::{ApiClient, RequestError};
use super::output::{cell, items, line_stream, plain_json, print_error_line, stream_text, table};

/// Where events are.
const PATH: &str = "/api/admin/events";
/// Pause before a connection that broke off is made anew.
const RETRY: Duration = Duration::from_secs(1);

/// Arguments of `tidegate events`.
#[derive(clap::Args, Debug)]
pub struct EventsArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Not earlier than this: a time, or a span before now (2h).
    #[arg(long, value_name = "WHEN", conflicts_with = "follow")]
    since: Option<String>,
    /// Earlier than this.
    #[arg(long, value_name = "WHEN", conflicts_with = "follow")]
    until: Option<String>,
    /// At most this many, the newest; 50 without it, 100,000 with --format.
    #[arg(long, value_name = "COUNT", conflicts_with = "follow")]
    limit: Option<usize>,
    /// Print requests as they end, until the command is stopped.
    #[arg(short, long)]
    follow: bool,
    /// Write all fields in this format, up to a million requests: csv or jsonl.
    #[arg(long, value_name = "FORMAT", value_parser = ["csv", "jsonl"], conflicts_with = "follow")]
    format: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Which requests.
#[derive(clap::Args, Debug)]
struct FilterArgs {
    /// Of this client, or of clients in this block.
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Of clients in this country.
    #[arg(long, value_name = "COUNTRY")]
    country: Option<String>,
    /// That this HTTPRoute matched.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Whose path begins so.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// With this status, or of this class (4xx).
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// With this verdict: allow, deny, redirect or unseen.
    #[arg(long, value_name = "VERDICT")]
    verdict: Option<String>,
    /// With this reason, like ip_banned.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// That an entry in shadow would have denied for this reason: ip_banned or geo_denied.
    #[arg(long, value_name = "REASON")]
    would_deny: Option<String>,
    /// That this entry in shadow would have denied: a ban's prefix, or a geo rule's name.
    #[arg(long, value_name = "ENTRY")]
    would_deny_rule: Option<String>,
    /// That the ban of this source denied, or would have in shadow.
    #[arg(long, value_name = "NAME")]
    ban_source: Option<String>,
    /// With this method.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// To this host.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Of which this check in shadow differed: ip, geo, route, or any.
    #[arg(long, value_name = "CHECK")]
    mismatch: Option<String>,
}

impl FilterArgs {
    fn parameters(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Self {
            ip,
            country,
            route,
            path,
            status,
            verdict,
            reason,
            would_deny,
            would_deny_rule,
            ban_source,
            method,
            host,
            mismatch,
        } = self;
        [
            ("ip", ip),
            ("country", country),
            ("route", route),
            ("path", path),
            ("status", status),
            ("verdict", verdict),
            ("reason", reason),
            ("would_deny", would_deny),
            ("would_deny_rule", would_deny_rule),
            ("ban_source", ban_source),
            ("method", method),
            ("host", host),
            ("mismatch", mismatch),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

/// Runs the command.
///
/// # Errors
/// When the service does not answer, or refuses a filter.
pub async fn run(args: &EventsArgs) -> anyhow::Result<()> {
    let mut query = Serializer::new(String::new());
    let times = [("since", &args.since), ("until", &args.until)];
    query.extend_pairs(args.filter.parameters());
    query.extend_pairs(times.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))));
    let client = args.api.client()?;
    if args.follow {
        return follow(args, &client, &format!("{PATH}?{}", query.finish())).await;
    }
    if let Some(format) = &args.format {
        query.append_pair("format", format);
        query.extend_pairs(args.limit.map(|limit| ("limit", limit.to_string())));
        let target = format!("{PATH}?{}", query.finish());
        client.download(Method::GET, &target, line_stream()).await?;
        return Ok(());
    }
    let found = list(&client, &query.finish(), args.limit.unwrap_or(50)).await?;
    let answer = serde_json::json!({ "items": found });
    args.api.output.print(&answer, || {
        table(
            ["time", "client", "country", "method", "host", "path", "status", "verdict", "reason", "ms"],
            items(&answer).map(|event| {
                let [method, host, path] = ["method", "host", "path"].map(|name| cell(&event[name]));
                let [status, verdict, reason] =
                    ["status", "verdict", "reason"].map(|name| cell(&event[name]));
                let [time, client, country] =
                    ["timestamp", "client_ip", "country"].map(|name| cell(&event[name]));
                [time, client, country, method, host, path, status, verdict, reason, duration(event)]
            }),
        )
    })
}

/// The newest events, at most `limit`.
async fn list(client: &ApiClient, query: &str, limit: usize) -> anyhow::Result<Vec<Value>> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = (limit - found.len()).min(1_000);
        let answer = client
            .request(Method::GET, &format!("{PATH}?{query}&limit={page}{cursor}"), None, "items")
            .await?;
        found.extend(answer["items"].as_array().context("the service answered no list")?.iter().cloned());
        match answer["next"].as_str() {
            // A page may be empty and not the last: the service looks for a second at a time.
            Some(next) if found.len() < limit => cursor = format!("&cursor={next}"),
            _ => return Ok(found),
        }
    }
}

async fn follow(args: &EventsArgs, client: &ApiClient, target: &str) -> anyhow::Result<()> {
    let (mut last_id, mut is_note, mut is_begun) = (None, false, false);
    let mut said = String::new();
    loop {
        let came_back = last_id.clone();
        let ended = client.follow(target, came_back.as_deref(), |line| {
            is_begun = true;
            match line.split_once(": ") {
                Some(("id", id)) => last_id = Some(id.to_owned()),
                Some(("event", kind)) => is_note = kind == "skipped",
                Some(("data", data)) if std::mem::take(&mut is_note) => {
                    let missed: Value = serde_json::from_str(data)?;
                    print_error_line(format_args!(
                        "too slow: up to {} events are not shown",
                        missed["events"]
                    ));
                }
                Some(("data", data)) if !args.api.output.is_table() => {
                    stream_text(&format!("{}\n", plain_json(data)))?;
                }
                Some(("data", data)) => stream_text(&line_of(&serde_json::from_str(data)?))?,
                _ => {}
            }
            Ok(())
        });
        match ended.await {
            // The service ends each stream after some minutes.
            Ok(()) => said.clear(),
            Err(error) => match error.downcast_ref() {
                Some(RequestError::Unreachable(why)) if is_begun => {
                    if said != *why {
                        print_error_line(format_args!("{why}; trying again"));
                        said.clone_from(why);
                    }
                }
                _ => return Err(error),
            },
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// An event as a line for people.
fn line_of(event: &Value) -> String {
    let part = |name| cell(&event[name]);
    let reason = event["reason"].as_str().map(|reason| format!(" {reason}")).unwrap_or_default();
    format!(
        "{}  {}  {} {}{}  {}  {}{reason}  {} ms\n",
        part("timestamp"),
        part("client_ip"),
        part("method"),
        part("host"),
        part("path"),
        part("status"),
        part("verdict"),
        duration(event)
    )
}

fn duration(event: &Value) -> String {
    event["duration_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"))
}
