//! `GET bans/export`: all bans that are in force, as a list.

use std::io;
use std::str::FromStr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{SOURCE_FORM, is_source};
use crate::api::admin::ip_monitor;
use crate::api::app_state::AppState;
use crate::api::query::QueryParams;
use crate::api::streamed_body::{Chunks, StreamedBody};
use crate::feed::{ListedPrefix, RowStatus, Snapshot};
use crate::problem::{ApiResult, Problem};
use crate::store::{BanMode, ScopedBanKey, sql_literal};
use crate::time;

/// Bytes of a chunk, about.
const CHUNK: usize = 64 << 10;

/// The media types of the formats.
pub const CONTENT_TYPES: [&str; 5] =
    ["text/plain", "text/csv", "application/json", "application/jsonl", "application/sql"];

/// A format that bans are written in. Each can be imported again, but for SQL, which `sqlite3` runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BanExportFormat {
    Plain,
    Csv,
    Json,
    JsonLines,
    Sql,
}

impl FromStr for BanExportFormat {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Ok(match name {
            "plain" => Self::Plain,
            "csv" => Self::Csv,
            "json" => Self::Json,
            "jsonl" => Self::JsonLines,
            "sql" => Self::Sql,
            _ => return Err(()),
        })
    }
}

impl BanExportFormat {
    fn content_type(self) -> &'static str {
        let [plain, csv, json, jsonl, sql] = CONTENT_TYPES;
        match self {
            Self::Plain => plain,
            Self::Csv => csv,
            Self::Json => json,
            Self::JsonLines => jsonl,
            Self::Sql => sql,
        }
    }

    /// What comes before the first entry, between two, and behind the last.
    fn around(self) -> [&'static str; 3] {
        match self {
            Self::Plain | Self::JsonLines => ["", "\n", "\n"],
            Self::Csv => ["ip,reason,source,since,until,applies_to\n", "", ""],
            Self::Json => ["[\n", ",\n", "\n]\n"],
            Self::Sql => ["BEGIN;\n", "\n", "\nCOMMIT;\n"],
        }
    }
}

/// Answers the bans as they are at this moment.
///
/// # Errors
/// When a parameter is wrong.
pub async fn export(State(app): State<AppState>, uri: Uri) -> ApiResult<Response> {
    let params = QueryParams::read(&uri, &["format", "source", "shadow"])?;
    let form = "write plain, csv, json, jsonl or sql";
    let format = params.parsed("format", form)?.unwrap_or(BanExportFormat::Plain);
    let source = params.get("source").map(str::to_owned);
    if source.as_deref().is_some_and(|name| !is_source(name)) {
        return Err(Problem::parameter("source", "invalid", SOURCE_FORM));
    }
    let mode = if params.boolean("shadow")? { BanMode::Shadow } else { BanMode::Enforce };
    let place = app.places.download()?;
    let snapshot = app.in_force().await?;
    let (chunks, body) = StreamedBody::new();
    tokio::task::spawn_blocking(move || {
        let _place = place;
        write(&snapshot, format, (mode, source.as_deref()), &chunks);
    });
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(format.content_type()))], Body::new(body)).into_response())
}

fn write(
    snapshot: &Arc<Snapshot>,
    format: BanExportFormat,
    (mode, source): (BanMode, Option<&str>),
    chunks: &Chunks,
) {
    let (now, [before, between, behind]) = (time::now_seconds(), format.around());
    let is_of = |listed: &ListedPrefix| match source {
        None => true,
        Some(name) => listed.source.as_deref().is_some_and(|all| all.split(',').any(|held| held == name)),
    };
    let bans = snapshot.list(Some(RowStatus::of_ban(mode)), None);
    let bans = bans.filter(|listed| listed.expires.is_none_or(|end| now < end)).filter(is_of);
    // Rows that only sources have would stay when those let go of them.
    let bans = bans.filter(|listed| format != BanExportFormat::Sql || !listed.keys.is_empty());
    // Of one prefix a row has one status, and what denies is to go on denying.
    let is_denied = |listed: &ListedPrefix| snapshot.listed_rows(&listed.prefix, RowStatus::Banned).is_some();
    let bans = bans.filter(|listed| {
        let is_unhidden = listed.status == RowStatus::Banned || listed.scope.is_some() || !is_denied(listed);
        format != BanExportFormat::Sql || is_unhidden
    });
    let mut chunk = before.as_bytes().to_vec();
    let mut is_first = true;
    let mut left_out = 0_usize;
    for listed in bans {
        // It would apply everywhere where the list is imported.
        if format == BanExportFormat::Plain && listed.scope.is_some() {
            left_out = left_out.saturating_add(1);
            continue;
        }
        if !std::mem::take(&mut is_first) {
            chunk.extend_from_slice(between.as_bytes());
        }
        let written = entry(&listed, format, &mut chunk);
        if chunk.len() >= CHUNK || written.is_err() {
            let full = written.map(|()| std::mem::take(&mut chunk).into());
            let is_broken = full.is_err();
            if !chunks.blocking_send(full) || is_broken {
                return;
            }
        }
    }
    if !is_first || matches!(format, BanExportFormat::Json | BanExportFormat::Sql) {
        chunk.extend_from_slice(behind.as_bytes());
    }
    if left_out > 0 {
        chunk.extend_from_slice(
            format!(
                "# left out, for they apply at some hostnames or routes only: {left_out}; csv, json and jsonl have them\n"
            )
            .as_bytes(),
        );
    }
    chunks.blocking_send(Ok(chunk.into()));
}

fn entry(listed: &ListedPrefix, format: BanExportFormat, to: &mut Vec<u8>) -> io::Result<()> {
    let ip = listed.prefix.to_string();
    let since = listed.created.or(listed.updated);
    let until = listed.expires.and_then(|end| jiff::Timestamp::from_second(end.into()).ok());
    let (reason, source) = (listed.reason.as_deref(), listed.source.as_deref());
    let scope = ip_monitor::scope(listed);
    match format {
        BanExportFormat::Plain => to.extend_from_slice(ip.as_bytes()),
        BanExportFormat::Json | BanExportFormat::JsonLines => {
            let [since, until] = [since, until].map(|moment| moment.map(time::rfc3339));
            let mut object =
                json!({ "ip": ip, "reason": reason, "source": source, "since": since, "until": until });
            if let Some(scope) = scope {
                object["applies_to"] = scope;
            }
            serde_json::to_writer(to, &object)?;
        }
        BanExportFormat::Csv => {
            let reason = reason.map(on_one_line).unwrap_or_default();
            let [since, until] = [since, until].map(|moment| moment.map(time::rfc3339).unwrap_or_default());
            let mut row = csv::Writer::from_writer(to);
            let (source, scope) = (source.unwrap_or_default(), scope.map(|scope| scope.to_string()));
            row.write_record([&ip, &reason, source, &since, &until, &scope.unwrap_or_default()])?;
            row.flush()?;
        }
        BanExportFormat::Sql => {
            let [since, until] = [since, until].map(|moment| moment.map(time::to_sql));
            let row = match listed.keys.first().map(String::as_str).and_then(ScopedBanKey::read) {
                Some(key) => {
                    let values = [
                        Some(key.ip.to_owned()),
                        Some(key.applies_to.to_owned()),
                        Some(key.source.to_owned()),
                    ];
                    scoped_statement(listed, values, reason.map(str::to_owned), [since, until])
                }
                None => statement(listed, ip, reason.map(str::to_owned), [since, until]),
            };
            to.extend_from_slice(row.as_bytes());
        }
    }
    Ok(())
}

fn literals<const N: usize>(values: [Option<String>; N]) -> [String; N] {
    values.map(|text| text.as_deref().map_or_else(|| "NULL".to_owned(), sql_literal))
}

/// SQL for a ban that applies everywhere, with its beginning and its end.
fn statement(
    listed: &ListedPrefix,
    ip: String,
    reason: Option<String>,
    [since, until]: [Option<String>; 2],
) -> String {
    let key = listed.keys.first().cloned().unwrap_or(ip);
    let source = listed.source.as_deref().map(str::to_owned);
    let [ip, reason, since, until, source] = literals([Some(key), reason, since, until, source]);
    format!(
        "INSERT INTO ip_monitor (ip, status, reason, created_at, expires_at, source) VALUES ({ip}, '{}', {reason}, \
         {since}, {until}, {source}) ON CONFLICT (ip) DO UPDATE SET status = excluded.status, \
         reason = excluded.reason, expires_at = excluded.expires_at, source = excluded.source;",
        listed.status.name()
    )
}

/// The same for another one; `key`: address, `applies_to` and source of its row.
fn scoped_statement(
    listed: &ListedPrefix,
    key: [Option<String>; 3],
    reason: Option<String>,
    [since, until]: [Option<String>; 2],
) -> String {
    let [ip, scope, source] = literals(key);
    let [reason, since, until] = literals([reason, since, until]);
    format!(
        "INSERT INTO scoped_bans (ip, applies_to, source, status, reason, created_at, expires_at) VALUES ({ip}, \
         {scope}, {source}, '{}', {reason}, {since}, {until}) ON CONFLICT (ip, source, applies_to) DO UPDATE SET \
         status = excluded.status, reason = excluded.reason, expires_at = excluded.expires_at;",
        listed.status.name()
    )
}

/// A text in which nothing ends the line: readers of lists read CSV line by line.
fn on_one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
