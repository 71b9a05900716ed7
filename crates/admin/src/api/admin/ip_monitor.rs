//! `GET ip-monitor`: which addresses are banned, in shadow or not, or allowed, and why; and how many
//! requests came from them.

mod needs_force;
mod requests_seen;
mod shadow_hits;

use std::net::IpAddr;
use std::net::{Ipv4Addr, Ipv6Addr};

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tidegate_author::write_scope;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::cursor;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{CURSOR, ENTRY_STATUS, LIMIT, SEEN};
use crate::api::query::{PathParam, QueryParams};
use crate::auth::Role;
use crate::feed::{ListedPrefix, RowStatus, Snapshot};
use crate::problem::{ApiResult, Problem};
use crate::time;
use requests_seen::{RequestsSeen, Top};
use shadow_hits::ShadowHits;

/// The paths here.
pub fn routes() -> Endpoints {
    let mut lists = About::new("Lists the entries, or the addresses that most requests came from").query(&[
        &ENTRY_STATUS,
        &LIMIT,
        &CURSOR,
        &SEEN,
    ]);
    let pages = [lists.reference::<IpMonitorPage>(), lists.reference::<Top>()];
    Endpoints::default()
        .get(Role::Read, "/api/admin/ip-monitor", list)
        .about(lists.answers_json(json!({ "anyOf": pages })))
        // A block contains a slash: 203.0.113.0/24.
        .get(Role::Read, "/api/admin/ip-monitor/{*ip}", one)
        .about(About::new("Says what holds for an address or a block").answers::<AddressReport>())
}

/// Entries per page by default.
const DEFAULT_LIMIT: usize = 100;
/// Entries per page at most.
const MAX_LIMIT: usize = 1_000;

/// Status of an address or a block.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
pub struct AddressStatus {
    /// In canonical form.
    pub ip: String,
    /// `banned`, `allowed`, `watched` (a ban in shadow) or `none`.
    pub status: &'static str,
    /// The entry that decides: the address itself or a block around it.
    pub entry: Option<String>,
    reason: Option<String>,
    /// Whose lists have the entry, with commas between the names; null: it was entered by hand.
    source: Option<String>,
    /// The sources that have it, if any do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<String>,
    since: Option<String>,
    until: Option<String>,
    /// Where the entry applies, if not everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    applies_to: Option<Value>,
    /// Further bans that apply at some hostnames or routes only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limited: Vec<LimitedBan>,
}

/// A ban, perhaps one that applies at some hostnames or routes only.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
pub struct LimitedBan {
    /// The address or block.
    entry: String,
    /// `banned` or `watched`.
    status: &'static str,
    applies_to: Option<Value>,
    reason: Option<String>,
    source: Option<String>,
    until: Option<String>,
}

impl LimitedBan {
    /// The entry `listed`.
    pub fn new(listed: &ListedPrefix) -> Self {
        Self {
            entry: listed.prefix.to_string(),
            status: listed.status.name(),
            applies_to: scope(listed),
            reason: listed.reason.as_deref().map(str::to_owned),
            source: listed.source.as_deref().map(str::to_owned),
            until: until(listed),
        }
    }

    /// The same once it denies.
    pub fn enforced(listed: &ListedPrefix) -> Self {
        Self { status: RowStatus::Banned.name(), ..Self::new(listed) }
    }
}

/// Where an entry applies, as answers have it; `None`: everywhere.
pub fn scope(listed: &ListedPrefix) -> Option<Value> {
    listed.scope.as_deref().map(write_scope)
}

impl AddressStatus {
    /// Status of `prefix` at `now`: an allow entry beats every ban, the longest ban that applies everywhere
    /// decides, then the longest of the others, and expired entries do not count.
    pub fn of(snapshot: &Snapshot, prefix: &Prefix, now: UnixSeconds) -> Self {
        Self::of_entries(snapshot, prefix, now, |_| true)
    }

    /// The same once the rows of exactly `prefix` are gone for which `is_gone` returns true; what only sources have
    /// stays.
    pub fn without(
        snapshot: &Snapshot,
        prefix: &Prefix,
        now: UnixSeconds,
        is_gone: impl Fn(&ListedPrefix) -> bool,
    ) -> Self {
        Self::of_entries(snapshot, prefix, now, |listed| {
            listed.prefix != *prefix || listed.keys.is_empty() || !is_gone(listed)
        })
    }

    fn of_entries(
        snapshot: &Snapshot,
        prefix: &Prefix,
        now: UnixSeconds,
        counts: impl Fn(&ListedPrefix) -> bool,
    ) -> Self {
        let in_force: Vec<ListedPrefix> = snapshot
            .covering(first_address(prefix))
            .filter(|listed| listed.prefix.len() <= prefix.len() && !listed.left_out && counts(listed))
            .filter(|listed| listed.expires.is_none_or(|expires| now < expires))
            .collect();
        let decides =
            [RowStatus::Allowed, RowStatus::Banned, RowStatus::Watched].into_iter().find_map(|status| {
                let mut of_status = in_force.iter().filter(|listed| listed.status == status);
                of_status.clone().find(|listed| listed.scope.is_none()).or_else(|| of_status.next())
            });
        let limited = in_force.iter().filter(|listed| listed.scope.is_some() && Some(*listed) != decides);
        Self {
            ip: prefix.to_string(),
            status: decides.map_or("none", |listed| listed.status.name()),
            entry: decides.map(|listed| listed.prefix.to_string()),
            reason: decides.and_then(|listed| listed.reason.as_deref().map(str::to_owned)),
            source: decides.and_then(|listed| listed.source.as_deref().map(str::to_owned)),
            sources: decides.map(sources).unwrap_or_default(),
            since: decides.and_then(since),
            until: decides.and_then(until),
            applies_to: decides.and_then(scope),
            limited: limited.map(LimitedBan::new).collect(),
        }
    }
}

/// The names of the sources that have an entry.
pub fn sources(listed: &ListedPrefix) -> Vec<String> {
    listed.sources.iter().map(ToString::to_string).collect()
}

fn since(listed: &ListedPrefix) -> Option<String> {
    listed.created.or(listed.updated).map(time::rfc3339)
}

/// When an entry expires, as text for answers.
pub fn until(listed: &ListedPrefix) -> Option<String> {
    moment(listed.expires)
}

fn moment(end: Option<UnixSeconds>) -> Option<String> {
    Timestamp::from_second(end?.into()).ok().map(time::rfc3339)
}

fn first_address(prefix: &Prefix) -> IpAddr {
    match (prefix.as_v4(), prefix.as_v6()) {
        (Some((bits, _)), _) => Ipv4Addr::from_bits(bits).into(),
        (None, v6) => Ipv6Addr::from_bits(v6.map_or(0, |(bits, _)| bits)).into(),
    }
}

/// Status of an address or a block, how many requests came from there, and every entry that covers it.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
pub struct AddressReport {
    #[serde(flatten)]
    address: AddressStatus,
    requests_seen: Option<RequestsSeen>,
    /// Every entry of it or of a block around it, the longest prefix first: one of a prefix and status.
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<Entry>>,
}

/// Answers the status of one address or block.
pub async fn one(
    State(app): State<AppState>,
    PathParam(ip): PathParam,
    uri: Uri,
) -> ApiResult<Json<AddressReport>> {
    QueryParams::read(&uri, &[])?;
    let prefix: Prefix = ip.trim().parse().map_err(|error: tidegate_policy::address::PrefixError| {
        Problem::parameter("ip", "invalid_ip", error.to_string())
    })?;
    let (snapshot, now) = (app.in_force().await?, time::now_seconds());
    let address = AddressStatus::of(&snapshot, &prefix, now);
    // At most one of each status for each length of a prefix.
    let covering = snapshot.covering(first_address(&prefix));
    let covering = covering.filter(|listed| listed.prefix.len() <= prefix.len());
    let mut entries: Vec<Entry> = covering.map(|listed| Entry::new(listed, now)).collect();
    drop(snapshot);
    requests_seen::fill(&app, &mut entries).await?;
    shadow_hits::fill(&app, &mut entries).await?;
    let requests_seen = RequestsSeen::of(&app, &prefix).await?;
    Ok(Json(AddressReport { address, requests_seen, entries: Some(entries) }))
}

/// What the rows of an entry say by themselves.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
pub struct OwnEntry {
    reason: Option<String>,
    until: Option<String>,
}

/// An entry of the list.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
pub struct Entry {
    ip: String,
    status: &'static str,
    reason: Option<String>,
    source: Option<String>,
    /// The sources that have it, if any do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<String>,
    /// What its rows say by themselves, if sources have it as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<OwnEntry>,
    since: Option<String>,
    updated: Option<String>,
    until: Option<String>,
    expired: bool,
    /// Where it applies, if not everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    applies_to: Option<Value>,
    /// It has no effect: its table is full.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    left_out: bool,
    /// Why it would be refused without `force`, if it were written now.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs_force: Option<String>,
    /// Keys of its rows: one address can be written in several ways; none of what only sources have.
    rows: Vec<String>,
    requests_seen: Option<RequestsSeen>,
    /// Of a ban in shadow: the requests that it would have denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_deny: Option<ShadowHits>,
}

impl Entry {
    /// What is `listed`, at `now`, without the requests from there.
    pub fn new(listed: ListedPrefix, now: UnixSeconds) -> Self {
        let own = listed.own.as_ref().map(|(reason, end)| OwnEntry {
            reason: reason.as_deref().map(str::to_owned),
            until: moment(*end),
        });
        Self {
            ip: listed.prefix.to_string(),
            status: listed.status.name(),
            sources: sources(&listed),
            own,
            since: since(&listed),
            until: until(&listed),
            updated: listed.updated.map(time::rfc3339),
            expired: listed.expires.is_some_and(|expires| expires <= now),
            applies_to: scope(&listed),
            left_out: listed.left_out,
            needs_force: None,
            reason: listed.reason.as_deref().map(str::to_owned),
            source: listed.source.as_deref().map(str::to_owned),
            rows: listed.keys,
            requests_seen: None,
            would_deny: None,
        }
    }
}

/// A page of entries.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
pub struct IpMonitorPage {
    items: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Answers a page of all entries, expired ones included; with `seen=1` the addresses that most
/// requests came from, with or without an entry.
pub async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Response> {
    let params = QueryParams::read(&uri, &["status", "limit", "cursor", "seen"])?;
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    if params.flag("seen")? {
        for name in ["status", "cursor"] {
            if params.get(name).is_some() {
                let detail = format!("`{name}` is of the list of entries: leave it out, or `seen`");
                return Err(Problem::parameter(name, "conflict", detail));
            }
        }
        return Ok(Json(requests_seen::top(&app, limit).await?).into_response());
    }
    let status = params.get("status").map(status).transpose()?;
    Ok(Json(entries(&app, &params, status).await?).into_response())
}

/// The page of entries that `limit` and `cursor` of `params` ask for, with one status or all.
pub async fn entries(
    app: &AppState,
    params: &QueryParams,
    status: Option<RowStatus>,
) -> ApiResult<IpMonitorPage> {
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let from = params.get("cursor").map(Position::read).transpose()?.unwrap_or_default();
    let (snapshot, now) = (app.in_force().await?, time::now_seconds());
    let mut page = page(&snapshot, status, limit, from, now);
    needs_force::fill(app, &snapshot, now, &mut page.items);
    requests_seen::fill(app, &mut page.items).await?;
    shadow_hits::fill(app, &mut page.items).await?;
    Ok(page)
}

fn status(word: &str) -> ApiResult<RowStatus> {
    [RowStatus::Banned, RowStatus::Allowed, RowStatus::Watched]
        .into_iter()
        .find(|status| status.name() == word)
        .ok_or_else(|| Problem::parameter("status", "invalid", "`status` may be banned, allowed or watched"))
}

/// Where a page begins: after a prefix, and after this many entries of the next one, which may
/// have one per status and scope.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Position {
    behind: Option<Prefix>,
    skip: usize,
}

impl Position {
    fn read(cursor: &str) -> ApiResult<Self> {
        let text = cursor::read(cursor)?;
        let (skip, behind) = text.split_once(' ').ok_or_else(cursor::bad)?;
        let behind = match behind {
            "" => None,
            prefix => Some(prefix.parse().map_err(|_| cursor::bad())?),
        };
        Ok(Self { behind, skip: skip.parse().map_err(|_| cursor::bad())? })
    }

    fn write(self) -> String {
        let behind = self.behind.map(|prefix| prefix.to_string()).unwrap_or_default();
        cursor::write(&format!("{} {behind}", self.skip))
    }
}

fn page(
    snapshot: &Snapshot,
    status: Option<RowStatus>,
    limit: usize,
    from: Position,
    now: UnixSeconds,
) -> IpMonitorPage {
    let mut items = Vec::new();
    let (mut at, mut current) = (from, None);
    for listed in snapshot.list(status, from.behind).skip(from.skip) {
        if items.len() == limit {
            return IpMonitorPage { items, next: Some(at.write()) };
        }
        if let Some(previous) = current.filter(|previous| *previous != listed.prefix) {
            at = Position { behind: Some(previous), skip: 0 };
        }
        current = Some(listed.prefix);
        at.skip += 1;
        items.push(Entry::new(listed, now));
    }
    IpMonitorPage { items, next: None }
}
