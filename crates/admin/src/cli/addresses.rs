//! `tidegate ban`, `unban`, `bans`, `allow`, `disallow` and `allow-list`.

use anyhow::ensure;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tidegate_policy::address::Prefix;

use super::api_args::{ApiArgs, ChangeArgs, span};
use super::api_client::RequestError;
use super::output::{applied, cell, items, print_error_line, table};

/// Options of `tidegate ban` and `tidegate allow`.
#[derive(clap::Args, Debug)]
pub struct EntryArgs {
    /// Addresses, or blocks: 203.0.113.7, 203.0.113.0/24, 2001:db8::/32.
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<Prefix>,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// For how long: 90m, 4h, 1h30m. Without it and --until: for ever.
    #[arg(long, value_name = "SPAN", conflicts_with = "until", value_parser = span)]
    ttl: Option<String>,
    /// Until when: 2027-01-31, or 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Where a ban applies.
#[derive(clap::Args, Debug)]
pub struct BanScopeArgs {
    /// Only for requests with this hostname, also *.example.com; may be repeated. With --route as well, for those
    /// that have one of the hostnames and take one of the routes. Without both: for all.
    #[arg(long, value_name = "HOSTNAME")]
    host: Vec<String>,
    /// Only for requests that take this route: NAME, or NAMESPACE/NAME; may be repeated.
    #[arg(long, value_name = "ROUTE")]
    route: Vec<String>,
}

impl BanScopeArgs {
    /// As the API takes it; `None`: everywhere.
    fn scope(&self) -> Option<Value> {
        let fields = [("hostnames", &self.host), ("routes", &self.route)];
        let given = fields.into_iter().filter(|(_, names)| !names.is_empty());
        let scope: Map<_, _> = given.map(|(name, names)| (name.to_owned(), names.clone().into())).collect();
        (!scope.is_empty()).then(|| scope.into())
    }
}

/// Which of the bans of an address are meant.
#[derive(clap::Args, Debug)]
pub struct WhichBansArgs {
    /// Only the ban for this hostname; with several, the one for exactly these, as it was made.
    #[arg(long, value_name = "HOSTNAME")]
    host: Vec<String>,
    /// Only the ban for this route; with several, and with --host, as it was made.
    #[arg(long, value_name = "ROUTE")]
    route: Vec<String>,
}

impl WhichBansArgs {
    /// As the API takes it; `None`: all.
    pub fn scope(&self) -> Option<Value> {
        BanScopeArgs { host: self.host.clone(), route: self.route.clone() }.scope()
    }
}

/// Options of `tidegate ban`.
#[derive(clap::Args, Debug)]
pub struct BanArgs {
    #[command(flatten)]
    entry: EntryArgs,
    /// Only record which requests it would deny, and deny none.
    #[arg(long)]
    shadow: bool,
    #[command(flatten)]
    places: BanScopeArgs,
    /// Ban it although its network is protected, or on the allow list.
    #[arg(long)]
    force: bool,
}

/// Options of `tidegate allow`.
#[derive(clap::Args, Debug)]
pub struct AllowArgs {
    #[command(flatten)]
    entry: EntryArgs,
    /// Allow it although it is a very wide block, for which neither bans nor geo rules would hold.
    #[arg(long)]
    force: bool,
}

/// Options of `tidegate unban`.
#[derive(clap::Args, Debug)]
pub struct UnbanArgs {
    #[command(flatten)]
    entries: RemoveArgs,
    #[command(flatten)]
    which: WhichBansArgs,
}

/// Options of `tidegate unban` and `tidegate disallow`.
#[derive(clap::Args, Debug)]
pub struct RemoveArgs {
    /// The addresses or blocks of the entries.
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<Prefix>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Commands for a list of addresses.
#[derive(clap::Subcommand, Debug)]
pub enum ListCommand {
    /// Print all entries, expired ones included until they are removed.
    List(ApiArgs),
}

/// Bans addresses.
///
/// # Errors
/// When one was refused; the others are banned.
pub async fn ban(args: &BanArgs) -> anyhow::Result<()> {
    let BanArgs { entry, shadow, places, force } = args;
    let requests = entry.addresses.iter().map(|address| {
        let mut body = entry.fields(*force);
        body.insert("ip".to_owned(), address.to_string().into());
        if *shadow {
            body.insert("mode".to_owned(), "shadow".into());
        }
        body.extend(places.scope().map(|scope| ("applies_to".to_owned(), scope)));
        Request {
            address,
            method: Method::POST,
            path: "/api/admin/ip/ban".to_owned(),
            body: Some(body.into()),
        }
    });
    send(requests, &entry.change).await
}

/// Removes bans.
///
/// # Errors
/// When there is no such ban; the others are removed.
pub async fn unban(args: &UnbanArgs) -> anyhow::Result<()> {
    let UnbanArgs { entries, which } = args;
    let requests = entries.addresses.iter().map(|address| Request {
        address,
        method: Method::POST,
        path: "/api/admin/ip/unban".to_owned(),
        body: Some(json!({ "ip": address.to_string(), "applies_to": which.scope() })),
    });
    send(requests, &entries.change).await
}

/// Makes bans in shadow deny.
///
/// # Errors
/// When one was refused; the others deny.
pub async fn enforce(
    addresses: &[Prefix],
    which: &WhichBansArgs,
    force: bool,
    change: &ChangeArgs,
) -> anyhow::Result<()> {
    let requests = addresses.iter().map(|address| Request {
        address,
        method: Method::POST,
        path: "/api/admin/bans/enforce".to_owned(),
        body: Some(json!({ "ip": address.to_string(), "applies_to": which.scope(), "force": force })),
    });
    send(requests, change).await
}

/// Puts addresses on the allow list.
///
/// # Errors
/// When one was refused; the others are on it.
pub async fn allow(args: &AllowArgs) -> anyhow::Result<()> {
    let AllowArgs { entry, force } = args;
    let requests = entry.addresses.iter().map(|address| Request {
        address,
        method: Method::PUT,
        path: format!("/api/admin/allow-list/{address}"),
        body: Some(entry.fields(*force).into()),
    });
    send(requests, &entry.change).await
}

/// Removes addresses from the allow list.
///
/// # Errors
/// When one is not on it; the others are removed.
pub async fn disallow(args: &RemoveArgs) -> anyhow::Result<()> {
    let requests = args.addresses.iter().map(|address| Request {
        address,
        method: Method::DELETE,
        path: format!("/api/admin/allow-list/{address}"),
        body: None,
    });
    send(requests, &args.change).await
}

/// Prints all entries with this status, `banned` or `allowed`.
///
/// # Errors
/// When the service does not answer.
pub async fn list(api: &ApiArgs, status: &str) -> anyhow::Result<()> {
    let filter = [("status", status)];
    let answer = json!({ "items": api.client()?.list("/api/admin/ip-monitor", &filter).await? });
    let rows = items(&answer).map(|entry| {
        let [ip, since, source, reason] = ["ip", "since", "source", "reason"].map(|name| cell(&entry[name]));
        let seen = cell(&entry["requests_seen"]["count"]);
        [ip, since, until(entry), seen, applies_to(&entry["applies_to"]), source, reason]
    });
    let headings = ["address", "since", "until", "requests", "applies to", "source", "reason"];
    api.output.print(&answer, || table(headings, rows))
}

impl EntryArgs {
    fn fields(&self, force: bool) -> Map<String, Value> {
        let fields = [("reason", &self.reason), ("ttl", &self.ttl), ("expires_at", &self.until)];
        let given =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?.into())));
        given.chain(force.then(|| ("force".to_owned(), true.into()))).collect()
    }
}

/// A change of one entry.
struct Request<'a> {
    address: &'a Prefix,
    method: Method,
    path: String,
    body: Option<Value>,
}

/// Sends all of them, prints what was done, and says which were refused.
async fn send(requests: impl Iterator<Item = Request<'_>>, change: &ChangeArgs) -> anyhow::Result<()> {
    let client = change.api.client()?;
    let (mut done, mut refused, mut broken) = (Vec::new(), 0_usize, None);
    for Request { address, method, path, body } in requests {
        match change.change(&client, method, &path, body.as_ref()).await {
            Ok(answer) => done.push(answer),
            Err(RequestError::Refused(refusal)) => {
                print_error_line(format_args!("tidegate: {address}: {}", refusal.explained()));
                refused += 1;
            }
            Err(unreachable) => {
                broken = Some(unreachable);
                break;
            }
        }
    }
    let all = refused + done.len();
    if !done.is_empty() {
        change.api.output.print_each(done, said)?;
    }
    if let Some(unreachable) = broken {
        return Err(unreachable.into());
    }
    ensure!(refused == 0, "not changed: {refused} of {all} addresses");
    Ok(())
}

/// Prints all bans in shadow, and the requests that each would have denied.
///
/// # Errors
/// When the service does not answer.
pub async fn list_shadow(api: &ApiArgs) -> anyhow::Result<()> {
    let filter = [("status", "watched")];
    let answer = json!({ "items": api.client()?.list("/api/admin/ip-monitor", &filter).await? });
    let rows = items(&answer).map(|entry| {
        let hits = &entry["would_deny"];
        let requests = if hits.is_null() { "0".to_owned() } else { cell(&hits["requests"]) };
        let [address, since, source, reason] =
            ["ip", "since", "source", "reason"].map(|name| cell(&entry[name]));
        let (last, places) = (cell(&hits["last_seen"]), applies_to(&entry["applies_to"]));
        [address, since, until(entry), requests, last, places, source, reason]
    });
    let headings = ["address", "since", "until", "would deny", "last", "applies to", "source", "reason"];
    api.output.print(&answer, || table(headings, rows))
}

/// Where an entry applies, in words.
pub fn applies_to(scope: &Value) -> String {
    let names = |field: &str| {
        let names: Vec<&str> =
            scope[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        names.join(", ")
    };
    match (names("hostnames"), names("routes")) {
        (hosts, routes) if hosts.is_empty() && routes.is_empty() => "everywhere".to_owned(),
        (hosts, routes) if routes.is_empty() => hosts,
        (hosts, routes) if hosts.is_empty() => format!("route {routes}"),
        (hosts, routes) => format!("{hosts}; route {routes}"),
    }
}

/// Until when an entry holds, in words.
fn until(entry: &Value) -> String {
    match &entry["until"] {
        Value::Null => "for ever".to_owned(),
        end if entry["expired"] == true => format!("{} (over)", cell(end)),
        end => cell(end),
    }
}

/// What holds for an address now, in words.
fn said(answer: &Value) -> String {
    let (ip, status) = (cell(&answer["ip"]), cell(&answer["status"]));
    let until = answer["until"].as_str().map(|until| format!(" until {until}")).unwrap_or_default();
    let by = match answer["entry"].as_str() {
        Some(entry) if entry != ip => format!(" by {entry}"),
        _ => String::new(),
    };
    let status = match status.as_str() {
        "none" => "neither banned nor allowed".to_owned(),
        "watched" => "banned in shadow".to_owned(),
        _ => status,
    };
    let places = match &answer["applies_to"] {
        Value::Null => String::new(),
        scope => format!(" (applies to {})", applies_to(scope)),
    };
    // What was made to deny is listed, where there is more than one, or it does not apply everywhere.
    let bans = answer["bans"].as_array().map_or(&[][..], |bans| bans);
    let is_plain = bans.len() == 1 && bans.iter().all(|ban| ban["applies_to"].is_null());
    let until = match bans {
        [only] if is_plain => {
            only["until"].as_str().map(|until| format!(" until {until}")).unwrap_or_default()
        }
        _ => until,
    };
    let listed = bans.iter().filter(|_| !is_plain).map(|ban| {
        let end = ban["until"].as_str().map(|until| format!(" until {until}")).unwrap_or_default();
        format!("  applies to {}{end}\n", applies_to(&ban["applies_to"]))
    });
    let listed: String = listed.collect();
    let warnings = answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let warnings: String = warnings.map(|warning| format!("warning: {warning}\n")).collect();
    format!("{ip} is {status}{by}{places}{until}; {}\n{listed}{warnings}", applied(answer))
}
