//! The database's objects as SQL.

use tidegate_author::FIRST_LISTENERS;

use super::super::audit::MAX_ROWS;
use super::MOVED;
use crate::store::{DocumentKind, StoreTable};

/// Tables that people write have exactly one unique key and no rowid: a REPLACE by rowid, or by a
/// second key, would delete a row that no trigger sees. `geo_countries` is the exception: some
/// ten megabytes in one row. Its rowid is its only unique key, so a REPLACE can only delete the
/// row whose key is logged, and the bytes are in pages of their own.
///
/// `change_log` holds the raw key; its `tbl` is a table's name, with [`MOVED`] in front where the
/// next row has another key of the same row, or one of [`RELOAD`](super::RELOAD) and
/// [`EPOCH`](super::EPOCH). `was` is what a row said before it was updated or deleted, as values in
/// SQL with commas between them (`quote()` is older than JSON in SQLite).
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS ip_monitor (
  ip TEXT PRIMARY KEY NOT NULL CHECK (typeof(ip) = 'text'),
  status TEXT NOT NULL DEFAULT 'banned',
  reason TEXT,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  expires_at TEXT,
  source TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scoped_bans (
  ip TEXT NOT NULL CHECK (typeof(ip) = 'text' AND instr(ip, ' ') = 0),
  applies_to TEXT NOT NULL CHECK (typeof(applies_to) = 'text'),
  source TEXT NOT NULL DEFAULT '' CHECK (typeof(source) = 'text' AND instr(source, ' ') = 0),
  status TEXT NOT NULL DEFAULT 'banned',
  reason TEXT,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  expires_at TEXT,
  PRIMARY KEY (ip, source, applies_to)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flags (
  name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
  value TEXT NOT NULL DEFAULT 'false',
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS geo_countries (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  source TEXT NOT NULL DEFAULT '',
  imported_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS ban_source_sets (
  name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
  fetched_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  document TEXT NOT NULL DEFAULT '',
  etag TEXT,
  last_modified TEXT,
  counts TEXT NOT NULL DEFAULT '{}',
  entries BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ban_source_status (
  name TEXT PRIMARY KEY NOT NULL,
  checked_at TEXT,
  tried_at TEXT,
  failures INTEGER NOT NULL DEFAULT 0,
  error TEXT,
  held_back TEXT,
  next_try_at TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change_log (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  tbl TEXT NOT NULL,
  key NOT NULL,
  was TEXT
);
CREATE TABLE IF NOT EXISTS former_rows (
  tbl TEXT NOT NULL,
  key TEXT NOT NULL,
  row TEXT NOT NULL,
  PRIMARY KEY (tbl, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (
  hash TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  node TEXT,
  expires_at TEXT,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  created_by TEXT,
  last_used_at TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (
  name TEXT PRIMARY KEY NOT NULL,
  value NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (
  source BLOB PRIMARY KEY NOT NULL,
  gateway TEXT NOT NULL,
  numbered_hi INTEGER NOT NULL DEFAULT 0,
  stored INTEGER NOT NULL DEFAULT 0,
  dropped INTEGER NOT NULL DEFAULT 0,
  duplicates INTEGER NOT NULL DEFAULT 0,
  heard_at INTEGER NOT NULL,
  closed_at INTEGER,
  dead_at INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source_marks (
  source BLOB NOT NULL,
  at INTEGER NOT NULL,
  numbered_hi INTEGER NOT NULL,
  PRIMARY KEY (source, at)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (
  source BLOB NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  PRIMARY KEY (source, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dropped (
  source BLOB NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (source, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY,
  source BLOB NOT NULL,
  number INTEGER NOT NULL,
  timestamp TEXT NOT NULL,
  node TEXT NOT NULL,
  method TEXT,
  host TEXT,
  path TEXT,
  route TEXT,
  client_ip TEXT,
  verdict TEXT NOT NULL,
  reason TEXT,
  rule TEXT,
  status INTEGER,
  duration_us INTEGER,
  upstream_us INTEGER,
  bytes_in INTEGER,
  bytes_out INTEGER,
  user_agent TEXT,
  tunnel INTEGER NOT NULL,
  tables_seq INTEGER NOT NULL,
  country TEXT,
  modes TEXT,
  answered TEXT,
  mismatches TEXT,
  complete INTEGER NOT NULL DEFAULT 1,
  given_up_at TEXT,
  template TEXT,
  shadow_limit TEXT,
  would_deny TEXT,
  would_deny_rule TEXT,
  gate_us INTEGER,
  ban_source TEXT
);
CREATE INDEX IF NOT EXISTS events_timestamp ON events (timestamp);
CREATE TABLE IF NOT EXISTS check_counts (
  name TEXT PRIMARY KEY NOT NULL,
  cache INTEGER NOT NULL DEFAULT 0,
  direct INTEGER NOT NULL DEFAULT 0,
  fallback INTEGER NOT NULL DEFAULT 0,
  unavailable INTEGER NOT NULL DEFAULT 0,
  compared INTEGER NOT NULL DEFAULT 0,
  mismatched INTEGER NOT NULL DEFAULT 0,
  lagging INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen_addresses (
  place INTEGER PRIMARY KEY,
  ip TEXT NOT NULL,
  count INTEGER NOT NULL,
  over INTEGER NOT NULL,
  last_seen TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS idempotency_keys (
  key TEXT PRIMARY KEY NOT NULL,
  request TEXT NOT NULL,
  at INTEGER NOT NULL,
  answer TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS idempotency_keys_at ON idempotency_keys (at);
CREATE TABLE IF NOT EXISTS rollup_keys (
  id INTEGER PRIMARY KEY,
  route TEXT NOT NULL,
  template TEXT NOT NULL,
  host TEXT NOT NULL,
  method TEXT NOT NULL,
  class INTEGER NOT NULL,
  verdict TEXT NOT NULL,
  reason TEXT NOT NULL,
  UNIQUE (route, template, host, method, class, verdict, reason)
);
CREATE TABLE IF NOT EXISTS rollups (
  span INTEGER NOT NULL,
  at INTEGER NOT NULL,
  key INTEGER NOT NULL,
  requests INTEGER NOT NULL,
  bytes_in INTEGER NOT NULL,
  bytes_out INTEGER NOT NULL,
  checked INTEGER NOT NULL,
  cached INTEGER NOT NULL,
  duration BLOB NOT NULL,
  upstream BLOB NOT NULL,
  gate BLOB NOT NULL DEFAULT x'',
  PRIMARY KEY (span, at, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS top_values (
  day INTEGER NOT NULL,
  kind TEXT NOT NULL,
  place INTEGER NOT NULL,
  value TEXT NOT NULL,
  count INTEGER NOT NULL,
  over INTEGER NOT NULL,
  last_ms INTEGER NOT NULL,
  PRIMARY KEY (day, kind, place)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS auto_ban_history (
  key TEXT NOT NULL,
  rule TEXT NOT NULL,
  bans INTEGER NOT NULL,
  forget_at INTEGER NOT NULL,
  PRIMARY KEY (key, rule)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS auto_ban_history_forget_at ON auto_ban_history (forget_at);
CREATE TABLE IF NOT EXISTS rollout_runs (
  name TEXT PRIMARY KEY NOT NULL,
  revision INTEGER NOT NULL,
  state TEXT NOT NULL,
  active INTEGER NOT NULL,
  entered_seq INTEGER NOT NULL DEFAULT 0,
  measured TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollout_figures (
  name TEXT NOT NULL,
  run INTEGER NOT NULL,
  measurement INTEGER NOT NULL,
  of_clients INTEGER NOT NULL,
  block INTEGER NOT NULL,
  treated INTEGER NOT NULL,
  requests INTEGER NOT NULL,
  succeeded INTEGER NOT NULL,
  server_errors INTEGER NOT NULL,
  denied INTEGER NOT NULL,
  checks TEXT NOT NULL,
  gate BLOB NOT NULL,
  total BLOB NOT NULL,
  PRIMARY KEY (name, run, measurement, of_clients, block, treated)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollout_notices (
  id TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  webhook TEXT NOT NULL,
  body TEXT NOT NULL,
  made_ms INTEGER NOT NULL,
  next_try_ms INTEGER NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL,
  who TEXT NOT NULL,
  what TEXT NOT NULL,
  target TEXT NOT NULL,
  was TEXT,
  became TEXT,
  address TEXT,
  request_id TEXT,
  changes INTEGER,
  hash TEXT
);
CREATE INDEX IF NOT EXISTS audit_target ON audit (what, target);
CREATE INDEX IF NOT EXISTS audit_kind_at ON audit (what, at);
";

/// Index of the open events by their number. They are in the table of all events because a view
/// over two tables is too slow for the guide's queries: a COUNT over its WHERE no longer reads an
/// index alone (0.9 s instead of 0.02 s CPU for 1.2 million rows), and an ORDER BY timestamp
/// sorts everything first.
const EVENTS_OPEN: &str =
    "CREATE UNIQUE INDEX IF NOT EXISTS events_open ON events (source, number) WHERE complete = 0;";

/// Index of the events of which a check in shadow differed: one in a million, whom a search by time
/// alone would not reach. Other events cost it nothing.
const EVENTS_MISMATCHED: &str =
    "CREATE INDEX IF NOT EXISTS events_mismatched ON events (timestamp) WHERE mismatches IS NOT NULL;";

/// The view that people query for events; those that have not ended have `complete = 0`.
const VIEW: &str = "
CREATE VIEW IF NOT EXISTS traffic_events AS SELECT
  lower(hex(source)) AS source, number, timestamp, node, method, host, path, route, template,
  client_ip, country, verdict, reason, rule, shadow_limit, would_deny, would_deny_rule, ban_source, status,
  duration_us / 1000.0 AS duration_ms, upstream_us / 1000.0 AS upstream_ms, gate_us / 1000.0 AS gate_ms,
  bytes_in, bytes_out, user_agent, tunnel, tables_seq, modes, answered, mismatches, complete
FROM events;
";

/// The table of listeners.
pub(super) const LISTENERS: &str = StoreTable::Documents(DocumentKind::Listener).name();
/// Inserts the listeners that are there from the start.
pub(super) fn first_listeners() -> String {
    let insert = |(name, document)| {
        format!("INSERT OR IGNORE INTO {LISTENERS} (name, document) VALUES ('{name}', '{document}');")
    };
    FIRST_LISTENERS.map(insert).concat()
}

/// Tables, indexes and views besides those of [`StoreTable`].
const OTHER_OBJECTS: [&str; 29] = [
    "ban_source_status",
    "change_log",
    "former_rows",
    "tokens",
    "meta",
    "sources",
    "source_marks",
    "ledger",
    "dropped",
    "events",
    "events_timestamp",
    "events_open",
    "events_mismatched",
    "check_counts",
    "seen_addresses",
    "idempotency_keys",
    "idempotency_keys_at",
    "rollup_keys",
    "rollups",
    "top_values",
    "auto_ban_history",
    "auto_ban_history_forget_at",
    "rollout_runs",
    "rollout_figures",
    "rollout_notices",
    "audit",
    "audit_target",
    "audit_kind_at",
    "traffic_events",
];

/// Creates what is missing of tables, indexes and the view.
pub(super) fn create() -> String {
    let documents = DocumentKind::ALL.map(document_table).concat();
    [TABLES, &documents, EVENTS_OPEN, EVENTS_MISMATCHED, VIEW].concat()
}

fn document_table(kind: DocumentKind) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
           name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
           document TEXT NOT NULL,
           created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
           updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
         ) WITHOUT ROWID;",
        StoreTable::Documents(kind).name()
    )
}

/// The names of all objects that [`create`] creates.
pub(super) fn objects() -> impl Iterator<Item = &'static str> {
    StoreTable::ALL.map(StoreTable::name).into_iter().chain(OTHER_OBJECTS)
}

/// The triggers that write the change log, and those that keep the audit, as (name, text) in the
/// form that SQLite keeps. They run in the connection of the program that writes, so they use
/// built-in SQL only.
pub(super) fn triggers() -> impl Iterator<Item = (String, String)> {
    let tables = StoreTable::ALL.into_iter().map(|table| LoggedTable {
        name: table.name(),
        keys: [table.key_of("OLD"), table.key_of("NEW")],
        // A set whose source has the same as before is none that gateways have to follow.
        columns: if table == StoreTable::SourceSets { " OF name, entries" } else { "" },
        was: former_values(table),
    });
    let tokens = LoggedTable {
        name: TOKENS,
        keys: ["OLD.hash".to_owned(), "NEW.hash".to_owned()],
        // Not when they were last used.
        columns: " OF hash, name, role, node, expires_at",
        was: quoted(&["name", "role", "node", "expires_at"]),
    };
    tables.chain([tokens]).flat_map(LoggedTable::triggers).chain(audit_triggers())
}

/// The table of tokens, whose changes are logged for the audit.
pub(in super::super) const TOKENS: &str = "tokens";

/// Former values of a row's columns, as SQL.
fn former_values(table: StoreTable) -> String {
    match table {
        StoreTable::Ip => quoted(&["status", "reason", "expires_at", "source"]),
        StoreTable::ScopedBans => quoted(&["status", "reason", "expires_at"]),
        StoreTable::Flags => quoted(&["value"]),
        StoreTable::Countries => {
            format!("{} || ',' || length(OLD.data)", quoted(&["source", "imported_at"]))
        }
        StoreTable::SourceSets => {
            format!("{} || ',' || length(OLD.entries) || ',' || {}", quoted(&["fetched_at"]), quoted(&["counts"]))
        }
        // The audit keeps no longer ones either.
        StoreTable::Documents(_) => "quote(CASE WHEN length(OLD.document) <= 16384 THEN OLD.document ELSE '(' || length(OLD.document) || ' characters)' END)".to_owned(),
    }
}

fn quoted(columns: &[&str]) -> String {
    let quoted: Vec<String> = columns.iter().map(|column| format!("quote(OLD.{column})")).collect();
    quoted.join(" || ',' || ")
}

/// A table whose changes are logged.
struct LoggedTable {
    name: &'static str,
    /// The key of the row before a change, and after it, as SQL.
    keys: [String; 2],
    /// Which columns' updates are logged; empty: all.
    columns: &'static str,
    /// Former values, as SQL.
    was: String,
}

impl LoggedTable {
    fn triggers(self) -> [(String, String); 3] {
        let Self { name, keys: [old, new], columns, was } = self;
        // A key that was changed is followed by a mark and by the new key.
        let moved = [("", was.as_str()), (MOVED, "NULL")].map(|(mark, was)| {
            format!(
                "INSERT INTO change_log (tbl, key, was) SELECT '{mark}{name}', {old}, {was} WHERE {old} IS NOT {new};"
            )
        });
        let update = format!(
            "INSERT INTO change_log (tbl, key, was) VALUES ('{name}', {new}, CASE WHEN {old} IS {new} THEN {was} END);"
        );
        [
            (
                "inserted",
                "INSERT".to_owned(),
                format!("INSERT INTO change_log (tbl, key) VALUES ('{name}', {new});"),
            ),
            ("updated", format!("UPDATE{columns}"), format!("{} {update}", moved.join(" "))),
            (
                "deleted",
                "DELETE".to_owned(),
                format!("INSERT INTO change_log (tbl, key, was) VALUES ('{name}', {old}, {was});"),
            ),
        ]
        .map(|(suffix, event, body)| {
            let trigger = format!("{name}_{suffix}");
            let text = format!("CREATE TRIGGER {trigger} AFTER {event} ON {name} BEGIN {body} END");
            (trigger, text)
        })
    }
}

/// Rows of the audit are only added. The oldest are removed when there are too many.
fn audit_triggers() -> [(String, String); 2] {
    let refuse = "BEGIN SELECT RAISE(ABORT, 'the audit is only appended to'); END";
    let kept = format!("WHEN OLD.id > (SELECT max(id) FROM audit) - {MAX_ROWS}");
    [
        ("audit_changed", format!("CREATE TRIGGER audit_changed BEFORE UPDATE ON audit {refuse}")),
        ("audit_removed", format!("CREATE TRIGGER audit_removed BEFORE DELETE ON audit {kept} {refuse}")),
    ]
    .map(|(name, text)| (name.to_owned(), text))
}
