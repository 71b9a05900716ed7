//! `tidegate stats` and `tidegate top`: what requests there were, and who comes.

use form_urlencoded::Serializer;
use serde_json::Value;

use super::api_args::ApiArgs;
use super::output::{cell, items, table};

/// Commands for statistics.
#[derive(clap::Subcommand, Debug)]
pub enum StatsCommand {
    /// Print requests, their statuses and times by route, template and method.
    Paths {
        /// Of this route.
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// To this host, without a port.
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// Of this path template, as its route has it.
        #[arg(long, value_name = "TEMPLATE")]
        template: Option<String>,
        /// With this method.
        #[arg(long, value_name = "METHOD")]
        method: Option<String>,
        /// By what: path (route, template and method) or route.
        #[arg(long, value_name = "WHAT")]
        group: Option<String>,
        /// Highest first: requests, p50, p95, p99, bytes_out, errors or denied.
        #[arg(long, value_name = "FIELD")]
        sort: Option<String>,
        /// At most this many paths, 1 to 1,000.
        #[arg(long, value_name = "COUNT")]
        limit: Option<String>,
        #[command(flatten)]
        times: TimeArgs,
    },
    /// Print requests over time, by verdict, and their times.
    Timeline {
        /// Of this route.
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// To this host, without a port.
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// Of this path template, as its route has it.
        #[arg(long, value_name = "TEMPLATE")]
        template: Option<String>,
        /// With this method.
        #[arg(long, value_name = "METHOD")]
        method: Option<String>,
        /// Length of a step: 1m, 5m, 15m, 1h, 1d, or auto (at most 200 steps).
        #[arg(long, value_name = "SPAN")]
        step: Option<String>,
        #[command(flatten)]
        times: TimeArgs,
    },
    /// Print requests by the client's country, and how many of them were denied.
    Countries {
        #[command(flatten)]
        times: TimeArgs,
    },
    /// Print the limits that denied requests, or would have, and whose.
    Limits {
        #[command(flatten)]
        times: TimeArgs,
    },
}

/// Arguments of `tidegate top`.
#[derive(clap::Args, Debug)]
pub struct TopArgs {
    /// Of what: ip, country, path, reason, user_agent, rule, limit, would_deny or shadow_source.
    #[arg(long, value_name = "WHAT", default_value = "ip")]
    by: String,
    /// At most this many, 1 to 1,000.
    #[arg(long, value_name = "COUNT")]
    limit: Option<String>,
    #[command(flatten)]
    times: TimeArgs,
}

/// Which time.
#[derive(clap::Args, Debug)]
pub struct TimeArgs {
    /// Not earlier than this: a time, or a span before now (7d).
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Earlier than this.
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

impl TimeArgs {
    /// The answer of a path with these parameters.
    async fn get(&self, path: &str, parameters: &[(&str, Option<&String>)]) -> anyhow::Result<Value> {
        let times = [("since", self.since.as_ref()), ("until", self.until.as_ref())];
        let given =
            parameters.iter().chain(&times).filter_map(|(name, value)| Some((*name, value.as_ref()?)));
        let query = Serializer::new(String::new()).extend_pairs(given).finish();
        self.api.get(&format!("/api/admin/stats/{path}?{query}"), "items").await
    }
}

/// Runs `tidegate stats`.
///
/// # Errors
/// When the service does not answer, or refuses a parameter.
pub async fn run(command: &StatsCommand) -> anyhow::Result<()> {
    match command {
        StatsCommand::Paths { route, host, template, method, group, sort, limit, times } => {
            let of = [
                ("route", route),
                ("host", host),
                ("template", template),
                ("method", method),
                ("group", group),
                ("sort", sort),
                ("limit", limit),
            ];
            let answer = times.get("paths", &of.map(|(name, value)| (name, value.as_ref()))).await?;
            times.api.output.print(&answer, || paths_text(&answer))
        }
        StatsCommand::Timeline { route, host, template, method, step, times } => {
            let of = [
                ("route", route),
                ("host", host),
                ("template", template),
                ("method", method),
                ("step", step),
            ];
            let answer = times.get("timeline", &of.map(|(name, value)| (name, value.as_ref()))).await?;
            times.api.output.print(&answer, || timeline_text(&answer))
        }
        StatsCommand::Countries { times } => {
            let answer = times.get("countries", &[]).await?;
            times.api.output.print(&answer, || {
                let row = |item: &Value| {
                    ["country", "requests", "denied", "geo_denied", "last_seen"].map(|name| cell(&item[name]))
                };
                table(["country", "requests", "denied", "by geo rules", "last seen"], items(&answer).map(row))
            })
        }
        StatsCommand::Limits { times } => {
            let answer = times.get("limits", &[]).await?;
            times.api.output.print(&answer, || limits_text(&answer))
        }
    }
}

/// Runs `tidegate top`.
///
/// # Errors
/// When the service does not answer, or refuses a parameter.
pub async fn top(args: &TopArgs) -> anyhow::Result<()> {
    let answer = args.times.get("top", &[("by", Some(&args.by)), ("limit", args.limit.as_ref())]).await?;
    args.times.api.output.print(&answer, || {
        let row = |item: &Value| ["value", "requests", "over", "last_seen"].map(|column| cell(&item[column]));
        table([args.by.as_str(), "requests", "over", "last seen"], items(&answer).map(row))
    })
}

fn timeline_text(answer: &Value) -> String {
    let headings = [
        "at",
        "seconds",
        "requests",
        "allow",
        "deny",
        "redirect",
        "unseen",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "gate p95 ms",
    ];
    let row = |item: &Value| {
        let [at, seconds, requests, allow, deny, redirect, unseen] =
            ["at", "seconds", "requests", "allow", "deny", "redirect", "unseen"]
                .map(|name| cell(&item[name]));
        let [p50, p95, p99] = ["p50", "p95", "p99"].map(|name| milliseconds(&item["duration_ms"][name]));
        let gate = milliseconds(&item["gate_ms"]["p95"]);
        [at, seconds, requests, allow, deny, redirect, unseen, p50, p95, p99, gate]
    };
    table(headings, items(answer).map(row))
}

/// Milliseconds with a digit behind the point.
fn milliseconds(ms: &Value) -> String {
    ms.as_f64().map_or_else(dash, |ms| format!("{ms:.1}"))
}

fn paths_text(answer: &Value) -> String {
    let headings =
        ["route", "template", "method", "requests", "denied", "5xx", "cached", "p50 ms", "p95 ms", "p99 ms"];
    let row = |item: &Value, route: String| {
        let ms = |name: &str| milliseconds(&item["duration_ms"][name]);
        let share =
            item["cached_share"].as_f64().map_or_else(dash, |share| format!("{:.1} %", share * 100.0));
        let [template, method, requests, denied] =
            ["template", "method", "requests", "denied"].map(|name| cell(&item[name]));
        let errors = cell(&item["status"]["5xx"]);
        [route, template, method, requests, denied, errors, share, ms("p50"), ms("p95"), ms("p99")]
    };
    if answer["since"].is_null() {
        return "no request is recorded\n".to_owned();
    }
    let total = row(&answer["total"], "all".to_owned());
    let rows = items(answer).map(|item| row(item, cell(&item["route"]))).chain([total]);
    format!("from {} to {}\n{}", cell(&answer["since"]), cell(&answer["until"]), table(headings, rows))
}

fn limits_text(answer: &Value) -> String {
    let rows = items(answer).map(|item| {
        let clients = item["clients"].as_array().into_iter().flatten().take(3);
        let clients: Vec<String> =
            clients.map(|one| format!("{} ({})", cell(&one["value"]), one["requests"])).collect();
        let [limit, denied, would_deny] = ["limit", "denied", "would_deny"].map(|name| cell(&item[name]));
        [limit, denied, would_deny, if clients.is_empty() { dash() } else { clients.join(", ") }]
    });
    table(["limit", "denied", "would deny", "clients"], rows)
}

fn dash() -> String {
    "-".to_owned()
}
