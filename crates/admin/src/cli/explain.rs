//! `tidegate explain`.

use reqwest::Url;
use serde_json::Value;

use super::addresses::applies_to;
use super::api_args::ApiArgs;
use super::flags::state;
use super::output::cell;

/// Options of `tidegate explain`.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// The request's URL, as http://shop.example.com/cart?id=7.
    #[arg(value_parser = url)]
    url: Url,
    /// Its method.
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// A header line, NAME:VALUE; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "LINE")]
    headers: Vec<String>,
    /// The client's country, where gateways have it from a header.
    #[arg(long, value_name = "CODE")]
    country: Option<String>,
    /// The listener by which the request comes.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The gateway that it comes to, by Envoy's node id: for flags that are limited to gateways.
    #[arg(long, value_name = "NODE")]
    gateway: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

fn url(text: &str) -> Result<Url, String> {
    let url =
        text.parse().ok().filter(|url: &Url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| "write a URL, as http://shop.example.com/cart?id=7".to_owned())
}

/// Prints what would become of a request, and why.
///
/// # Errors
/// When the service does not answer, or there is no such request.
pub async fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let answer = args.api.get(&format!("/api/admin/explain?{}", args.query()), "decision").await?;
    args.api.output.print(&answer, || {
        text(&answer["decision"]) + &of_address(&answer["checks"]["ip"]) + &of_flags(&answer["flags"])
    })
}

impl ExplainArgs {
    fn query(&self) -> String {
        let url = &self.url;
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
        let path = url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("method", &self.method).append_pair("host", &host).append_pair("path", &path);
        // A listener says itself how requests come.
        if self.listener.is_none() {
            query.append_pair("scheme", url.scheme());
        }
        let given = [
            ("ip", &self.ip),
            ("country", &self.country),
            ("listener", &self.listener),
            ("gateway", &self.gateway),
        ];
        for (name, value) in given {
            query.extend_pairs(value.iter().map(|value| (name, value)));
        }
        query.extend_pairs(self.headers.iter().map(|line| ("header", line)));
        query.finish()
    }
}

/// The entry that covers the client, and the bans that do so elsewhere, a line for each.
fn of_address(check: &Value) -> String {
    let entry = (!check["entry"].is_null()).then(|| ("entry", &check["says"], check));
    let elsewhere = check["elsewhere"].as_array().into_iter().flatten();
    let elsewhere = elsewhere.map(|ban| ("elsewhere", &ban["status"], ban));
    let line = |(name, status, of): (&str, &Value, &Value)| {
        let given = [("source", "from"), ("until", "until"), ("reason", "because of")];
        let given = given.into_iter().filter(|(field, _)| !of[*field].is_null());
        let given: String = given.map(|(field, words)| format!(", {words} {}", cell(&of[field]))).collect();
        let status = if status == "watched" { "banned in shadow".to_owned() } else { cell(status) };
        let entry = cell(&of["entry"]);
        match &of["applies_to"] {
            Value::Null => format!("{name}: {entry} is {status} everywhere{given}\n"),
            scope => format!("{name}: {entry} is {status} for {}{given}\n", applies_to(scope)),
        }
    };
    entry.into_iter().chain(elsewhere).map(line).collect()
}

/// The flags that are limited to some requests, a line for each.
fn of_flags(flags: &Value) -> String {
    let flags = flags.as_object().into_iter().flatten();
    let limited = flags.filter(|(_, flag)| flag["state"].as_object().is_some_and(|state| state.len() > 1));
    let line = |(name, flag): (&String, &Value)| {
        let here = if flag["outside"] == true { "not for this request" } else { "for this request" };
        format!("{name}: {}, set to {} and {here}\n", cell(&flag["applies"]), state(&flag["state"]))
    };
    limited.map(line).collect()
}

/// What is known of the decision, a line for each field.
fn text(decision: &Value) -> String {
    let known = decision.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    known.map(|(name, value)| format!("{name}: {}\n", cell(value))).collect()
}
