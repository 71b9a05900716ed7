//! Parameters of queries and paths, as the OpenAPI document has them.

use serde_json::{Map, Value, json};

/// A parameter.
#[derive(Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    says: &'static str,
    /// Its schema as JSON.
    schema: &'static str,
    /// Whether it must be given.
    is_required: bool,
}

const TEXT: &str = r#"{"type": "string"}"#;
const NUMBER: &str = r#"{"type": "integer", "minimum": 0}"#;
const SWITCH: &str = r#"{"type": "integer", "enum": [0, 1], "default": 0}"#;
const BOOLEAN: &str = r#"{"type": "boolean", "default": false}"#;
const SPAN: &str = r#"{"type": "string", "examples": ["2s", "1h30m"]}"#;
const MOMENT: &str = r#"{"type": "string", "examples": ["2h", "2026-11-30T06:00:00Z"]}"#;

const fn optional(name: &'static str, schema: &'static str, says: &'static str) -> Parameter {
    Parameter { name, says, schema, is_required: false }
}

macro_rules! parameters {
    ($($constant:ident = $name:literal, $schema:expr, $says:literal;)*) => {
        $(#[doc = $says] pub const $constant: Parameter = optional($name, $schema, $says);)*
    };
}

parameters! {
    LIST_FORMAT = "format", r#"{"type": "string", "enum": ["plain", "netset", "drop", "ipsum", "csv", "json", "crowdsec", "jsonl"]}"#, "The list's format; as its content tells unless given";
    EXPORT_FORMAT = "format", r#"{"type": "string", "enum": ["plain", "csv", "json", "jsonl", "sql"], "default": "plain"}"#, "The format";
    SOURCE = "source", r#"{"type": "string", "pattern": "^[a-z0-9._-]{1,63}$"}"#, "Whose list it is";
    MODE = "mode", r#"{"type": "string", "enum": ["add", "replace"], "default": "add"}"#, "replace: bans of the source that the list does not have are removed";
    SHADOW = "shadow", BOOLEAN, "The bans are in shadow: they deny nobody, and what they would deny is recorded";
    TTL = "ttl", SPAN, "For how long, where an entry does not say";
    BAN_REASON = "reason", r#"{"type": "string", "maxLength": 1000}"#, "Why, where an entry does not say";
    MIN_SCORE = "min_score", r#"{"type": "number"}"#, "Entries with a lower score are skipped";
    STRICT = "strict", r#"{"type": "boolean", "default": false}"#, "Change nothing if an entry is refused";
    FORCE = "force", BOOLEAN, "Take protected networks, allowed addresses and an empty list, too";
    REFRESH_FORCE = "force", BOOLEAN, "Take whatever the source has, an empty list as well";
    REPORT_FORMAT = "format", r#"{"type": "string", "enum": ["json", "markdown"]}"#, "JSON, or a page of Markdown; unless given, what `Accept` asks for";
    LIMIT = "limit", r#"{"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}"#, "Items of a page, at most";
    DOCUMENTS = "limit", r#"{"type": "integer", "minimum": 1, "maximum": 10000, "default": 1000}"#, "Documents of a page, at most";
    CURSOR = "cursor", TEXT, "The `next` of the page before";
    WAIT_APPLIED = "wait_applied", SPAN, "Answer once every gateway enforces the change, or after this span: up to 30 s";
    DRY_RUN = "dry_run", BOOLEAN, "Check everything, answer what would be, and change nothing";
    WAIT = "wait", SPAN, "The longest wait for the gateways: up to 30 s; 2 s unless given";
    FLAG_STATUS = "status", SWITCH, "Whether the answer has the effect of the flags, too";
    ENTRY_STATUS = "status", r#"{"type": "string", "enum": ["banned", "allowed", "watched"]}"#, "Entries of this status only";
    SEEN = "seen", SWITCH, "1: the addresses that most requests came from";
    VERSION = "version", r#"{"type": "string", "pattern": "^[0-9a-f]{16}\\.[0-9]{1,19}$"}"#, "Whether gateways enforce this version, which a write has answered";
    ACTOR = "actor", TEXT, "Changes by this token or program only";
    KIND = "kind", r#"{"type": "array", "items": {"type": "string"}}"#, "Changes of these kinds only; repeated, or with commas between them";
    NAME = "name", TEXT, "Changes of what has this name only";
    SINCE = "since", MOMENT, "Not before this moment, or this span before now";
    UNTIL = "until", MOMENT, "Before this moment, or this span before now";
    ANCHOR = "anchor", r#"{"type": "string", "pattern": "^[0-9]+:[0-9A-Fa-f]{64}$"}"#, "An entry, as ID:HASH, that must be in the chain as it was";
    METHOD = "method", r#"{"type": "string", "minLength": 1, "maxLength": 32, "default": "GET"}"#, "The request's method";
    HOST = "host", r#"{"type": "string", "maxLength": 260, "default": "127.0.0.1"}"#, "What the request's Host says";
    IP = "ip", r#"{"type": "string", "examples": ["192.0.2.1", "2001:db8::1"]}"#, "The client's address";
    HEADER = "header", r#"{"type": "array", "items": {"type": "string"}, "maxItems": 100}"#, "A header line of the request, NAME:VALUE; may be repeated";
    COUNTRY = "country", r#"{"type": "string", "examples": ["DE"]}"#, "The client's country, where gateways have it from a header";
    LISTENER = "listener", TEXT, "The listener by which the request comes";
    GATEWAY = "gateway", TEXT, "The node id of the gateway that the request comes to, for flags that are limited to gateways";
    SCHEME = "scheme", r#"{"type": "string", "enum": ["http", "https"]}"#, "How the request arrives";
    PORT = "port", r#"{"type": "integer", "minimum": 1, "maximum": 65535}"#, "The port at which the request arrives";
    PRUNE = "prune", BOOLEAN, "Remove what the body does not have, of the kinds that it has";
    FILE_NAME = "name", TEXT, "What the table's source is called";
    FILE_FORMAT = "format", r#"{"type": "string", "enum": ["auto", "mmdb", "csv"], "default": "auto"}"#, "Format of the file";
    SYNC_SINCE = "since", TEXT, "The version that the gateway has";
    SYNC_WAIT = "wait", SPAN, "How long to wait for changes: up to 30 s";
    OFFSET = "offset", NUMBER, "Where in the table the page begins, in bytes";
    CLIENT = "ip", r#"{"type": "string", "examples": ["192.0.2.1", "192.0.2.0/24"]}"#, "The client's address, or a block around it";
    CLIENT_COUNTRY = "country", r#"{"type": "string", "pattern": "^[0-9A-Za-z]{2}$"}"#, "The client's country";
    ROUTE = "route", r#"{"type": "string", "minLength": 1, "maxLength": 1024}"#, "The route that matched";
    PATH_PREFIX = "path", r#"{"type": "string", "pattern": "^/[^?]*$", "maxLength": 2048}"#, "How the path begins";
    STATUS = "status", r#"{"type": "string", "pattern": "^[1-5](xx|[0-9]{2})$"}"#, "The status, or its class: 4xx";
    VERDICT = "verdict", r#"{"type": "string", "enum": ["allow", "deny", "redirect", "unseen"]}"#, "What the gate did";
    REASON = "reason", r#"{"type": "string", "examples": ["ip_banned"]}"#, "Why it did so";
    WOULD_DENY = "would_deny", r#"{"type": "string", "enum": ["ip_banned", "geo_denied"]}"#, "Why an entry in shadow would have denied it";
    BAN_SOURCE = "ban_source", r#"{"type": "string", "minLength": 1, "maxLength": 63}"#, "Whose list has the ban that denied it, or would have in shadow";
    WOULD_DENY_RULE = "would_deny_rule", r#"{"type": "string", "minLength": 1, "maxLength": 253}"#, "That entry: a ban's prefix, or a geo rule's name";
    SENT_METHOD = "method", r#"{"type": "string", "minLength": 1, "maxLength": 32}"#, "The method, whatever its case";
    SENT_HOST = "host", r#"{"type": "string", "minLength": 1, "maxLength": 255}"#, "The host, whatever its case; without a port";
    MISMATCH = "mismatch", r#"{"type": "string", "enum": ["any", "ip", "geo", "route"]}"#, "The check in shadow that database and gateway answered differently";
    CHECK = "check", r#"{"type": "string", "enum": ["ip", "geo", "route"]}"#, "Differences of this check only";
    LAGGING = "lagging", r#"{"type": "boolean"}"#, "Whether the gateway's tables were only behind the database; both unless given";
    FORMAT = "format", r#"{"type": "string", "enum": ["json", "csv", "jsonl"], "default": "json"}"#, "A page, or a download with a limit up to 1,000,000";
    SORT = "sort", r#"{"type": "string", "enum": ["requests", "p50", "p95", "p99", "bytes_out", "errors", "denied"], "default": "requests"}"#, "Highest first";
    TEMPLATE = "template", r#"{"type": "string", "minLength": 1, "maxLength": 2048}"#, "The path template that matched";
    COUNTED_METHOD = "method", r#"{"type": "string", "minLength": 1, "maxLength": 32}"#, "The method, whatever its case; `other`: none of HTTP's";
    GROUP = "group", r#"{"type": "string", "enum": ["path", "route"], "default": "path"}"#, "Count by route, template and method, or by the route alone";
    STEP = "step", r#"{"type": "string", "enum": ["1m", "5m", "15m", "1h", "1d", "auto"], "default": "1m"}"#, "Length of a step, where it is kept so finely; auto: at most 200 steps";
    CURVE_STEP = "step", SPAN, "Length of a slice, at least, up to 7d; as finely as it is measured unless given";
    TOP = "limit", r#"{"type": "integer", "minimum": 1, "maximum": 1000, "default": 20}"#, "Values, at most";
    CLIENTS = "limit", r#"{"type": "integer", "minimum": 1, "maximum": 100, "default": 10}"#, "Clients of each limit, at most";
    SYNC = "sync", SWITCH, "1: one event whose response waits for the answer";
}

/// Headers of conditional requests.
pub static CONDITIONS: [Parameter; 2] = [
    optional("If-Match", TEXT, "Entity tags that it must have, or `*`: that there must be one"),
    optional("If-None-Match", TEXT, "Entity tags that it must not have, or `*`: that there must be none"),
];

/// The header of a POST that changes something.
pub static IDEMPOTENCY_KEY: Parameter = optional(
    "Idempotency-Key",
    r#"{"type": "string", "minLength": 1, "maxLength": 255}"#,
    "Sent again with the same request within 24 hours, it has the first answer, and nothing is done again",
);

/// The path of a request that is described.
pub const PATH: Parameter = Parameter {
    name: "path",
    says: "The request's path with its query",
    schema: r#"{"type": "string", "pattern": "^/", "maxLength": 8192, "examples": ["/hello?x=1"]}"#,
    is_required: true,
};

/// What the most frequent values are of.
pub const BY: Parameter = Parameter {
    name: "by",
    says: "What the values are of",
    schema: r#"{"type": "string", "enum": ["ip", "country", "path", "reason", "user_agent", "rule", "limit", "would_deny", "shadow_source"]}"#,
    is_required: true,
};

impl Parameter {
    /// It as a parameter of a query.
    pub fn in_query(&self) -> Value {
        self.describe("query", self.says)
    }

    /// It as a header.
    pub fn in_header(&self) -> Value {
        self.describe("header", self.says)
    }

    fn describe(&self, place: &str, says: &str) -> Value {
        let mut schema: Value = serde_json::from_str(self.schema).unwrap_or_default();
        let examples = schema.as_object_mut().and_then(|schema| schema.remove("examples"));
        let mut described = Map::from_iter([
            ("name".to_owned(), self.name.into()),
            ("in".to_owned(), place.into()),
            ("description".to_owned(), says.into()),
            ("required".to_owned(), (self.is_required || place == "path").into()),
            ("schema".to_owned(), schema),
        ]);
        if let Some(Value::Array(examples)) = examples {
            let named = examples.into_iter().enumerate();
            let named: Map<_, _> =
                named.map(|(index, value)| (format!("e{index}"), json!({ "value": value }))).collect();
            described.insert("examples".to_owned(), named.into());
        }
        described.into()
    }
}

/// The parameter of a path that is called `name`, with or without the mark of those that take slashes.
pub fn in_path(name: &str) -> Value {
    let says = "A name, percent-encoded";
    let (schema, says) = match name.trim_start_matches('*') {
        "ip" if name.starts_with('*') => (
            r#"{"type": "string", "minLength": 1, "examples": ["192.0.2.1", "192.0.2.0/24", "2001:db8::1"]}"#,
            "An address or a block",
        ),
        "prefix" => (
            r#"{"type": "string", "minLength": 1, "examples": ["192.0.2.1", "192.0.2.0/28"]}"#,
            "An address or a block",
        ),
        "ip" => {
            (r#"{"type": "string", "minLength": 1, "examples": ["192.0.2.1", "2001:db8::1"]}"#, "An address")
        }
        "hash" => (
            r#"{"type": "string", "pattern": "^[0-9a-f]{32}$"}"#,
            "The table's hash, as the answer of sync has it",
        ),
        _ => (r#"{"type": "string", "minLength": 1, "examples": ["one"]}"#, says),
    };
    let name: String = name.trim_start_matches('*').to_owned();
    let mut described = optional("", schema, "").describe("path", says);
    described["name"] = name.into();
    described
}
