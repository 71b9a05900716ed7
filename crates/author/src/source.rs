//! Reads the document of a source of bans into a [`Source`].
//!
//! ```json
//! {"url": "https://lists.example.com/drop.txt", "interval": "1h", "reason": "on the drop list"}
//! {"type": "crowdsec", "url": "http://127.0.0.1:8080", "allow_private": true, "interval": "10s",
//!  "credentials": {"file": "crowdsec.key"}}
//! ```

use std::time::Duration;

use serde_json::Value;
use tidegate_policy::duration;
use tidegate_policy::scope::Scope;

use super::ban_list::ListFormat;
use super::names::is_token;
use super::reader::{DocumentError, DocumentErrors, DocumentNode, Object};
use super::scope::scope;
use super::url::{FILE_FORM, MAX_FILE, MAX_URL, Reach, is_file_name, url_problem};

/// `status` is what the API shows beside the document: a document that was got can be put back.
const FIELDS: &[&str] = &[
    "name",
    "url",
    "path",
    "type",
    "format",
    "interval",
    "mode",
    "ttl",
    "min_score",
    "reason",
    "max_shrink",
    "allow_insecure",
    "allow_private",
    "credentials",
    "ca_file",
    "applies_to",
    "status",
];
/// Longest reason, in characters, as of a ban.
const MAX_REASON: usize = 1_000;
/// Why a list is not fetched without TLS.
const IN_THE_CLEAR: &str = "is fetched in the clear, so that anybody on the way can ban whom he likes";
/// The shortest interval: a list is somebody else's, too.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// The longest interval.
const MAX_INTERVAL: Duration = Duration::from_secs(30 * 86_400);
/// The longest `ttl`.
const MAX_TTL: Duration = Duration::from_secs(366 * 86_400);
/// The interval of a list, if none is given.
const LIST_INTERVAL: Duration = Duration::from_secs(3_600);
/// That of CrowdSec, as of its own bouncers.
const CROWDSEC_INTERVAL: Duration = Duration::from_secs(10);
/// Share of its entries that a list may lose at once, if none is given.
const MAX_SHRINK: f64 = 0.5;

/// A source of bans: where a list of addresses is, and what becomes of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// Its name, which its bans show.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// How it is asked.
    pub kind: SourceType,
    /// The list's format; `None`: as its content tells.
    pub format: Option<ListFormat>,
    /// How often it is fetched, 10 s to 30 d.
    pub interval: Duration,
    /// What its entries do.
    pub mode: SourceMode,
    /// How long its entries hold when it can no longer be fetched; `None`: until it can.
    pub ttl: Option<Duration>,
    /// Entries with a lower score are skipped.
    pub min_score: Option<f64>,
    /// Why its addresses are banned.
    pub reason: Option<String>,
    /// Share of its entries, 0 to 1, that a list may lose at once; one that loses more is held back.
    pub max_shrink: f64,
    /// It may be fetched without TLS.
    pub allow_insecure: bool,
    /// It may be at an address outside of the public internet.
    pub allow_private: bool,
    /// The header that its server wants.
    pub credentials: Option<Credentials>,
    /// The name of the file with the authorities that its server's certificate is to be signed by, in the
    /// directory that the service has for such files; `None`: those of the system.
    pub ca_file: Option<String>,
    /// Where its entries apply; `None`: everywhere.
    pub applies_to: Option<Scope>,
}

/// Where a source is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// Its address: https, or http.
    Url(String),
    /// The name of a file in the directory that the service has for such files.
    File(String),
}

/// How a source is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceType {
    /// It answers with a list.
    List,
    /// It is CrowdSec's local API.
    CrowdSec,
}

/// What the entries of a source do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceMode {
    /// Requests of these addresses are denied.
    Enforce,
    /// They are not: which would be is recorded.
    Shadow,
}

/// A header that a source's server wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// The header's name, in lower case.
    pub header: String,
    /// The name of the file with its value, in the directory that the service has for such files.
    pub file: String,
}

/// Reads the source of this name. `url` or `path` is required; by default `type` is `list`, `interval` 1h (10s
/// of `crowdsec`), `mode` `enforce`, and `max_shrink` 0.5. A `name` in the document must be this one.
///
/// A URL without TLS needs `allow_insecure`, unless its host is loopback; an address outside of the public
/// internet, or a name that always means one, `allow_private`. What other names mean shows when it is fetched.
///
/// # Errors
/// All problems of the document, up to [`MAX_PROBLEMS`](super::MAX_PROBLEMS). A problem with `name` itself
/// has the pointer `/name`.
pub fn read_source(name: &str, document: &Value) -> Result<Source, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    // As the source of an import: a path has no place for `.` and `..`.
    if !(1..=63).contains(&name.len()) || !name.bytes().all(is_plain) || name.starts_with('.') {
        let message = "a source's name must be 1 to 63 of a-z, 0-9, `.`, `_` and `-`, and not begin with `.`";
        errors.note("/name", "invalid", message);
    }
    let source = source(name, &DocumentNode::root(document), &mut errors);
    errors.into_result(source)
}

fn source(name: &str, document: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Source> {
    let fields = document.object(FIELDS, errors)?;
    fields.check_name("the source is called", name, errors);
    let kind = match fields.get("type").map(|node| node.one_of(&["list", "crowdsec"], errors)) {
        None | Some(Some("list")) => Some(SourceType::List),
        Some(Some(_)) => Some(SourceType::CrowdSec),
        Some(None) => None,
    };
    let [allow_insecure, allow_private] = ["allow_insecure", "allow_private"]
        .map(|name| fields.get(name).map_or(Some(false), |node| node.boolean(errors)));
    let place = place(&fields, (allow_insecure, allow_private), errors);
    let is_crowdsec = kind == Some(SourceType::CrowdSec);
    for field in ["format", "min_score"] {
        if let Some(node) = fields.get(field).filter(|_| is_crowdsec) {
            node.note(errors, "conflict", format!("{field} is of lists: CrowdSec's decisions have none"));
        }
    }
    let default_interval = if is_crowdsec { CROWDSEC_INTERVAL } else { LIST_INTERVAL };
    let interval =
        span(&fields, "interval", MAX_INTERVAL, errors).map(|span| span.unwrap_or(default_interval));
    let credentials = match fields.get("credentials") {
        Some(node) => credentials(&node, is_crowdsec, errors).map(Some),
        None => Some(None),
    };
    let ca_file = match fields.get("ca_file") {
        Some(node) => file(&node, errors).map(Some),
        None => Some(None),
    };
    let is_https = |place: &Place| matches!(place, Place::Url(url) if url.starts_with("https://"));
    if let (Some(node), Some(place)) = (fields.get("ca_file"), &place)
        && !is_https(place)
    {
        node.note(errors, "conflict", "it is for a url with https://: leave it out");
    }
    if is_crowdsec && matches!(place, Some(Place::File(_))) {
        errors.note("/path", "conflict", "CrowdSec is asked at its url: leave path out");
    }
    if is_crowdsec && credentials == Some(None) {
        let message = "must name the file with the key of a bouncer: {\"file\": \"crowdsec.key\"}; `cscli bouncers add` \
                       makes one";
        errors.note("/credentials", "required", message);
    }
    Some(Source {
        name: name.to_owned(),
        place: place?,
        kind: kind?,
        format: format(&fields, errors)?,
        interval: interval?,
        mode: mode(&fields, errors)?,
        ttl: span(&fields, "ttl", MAX_TTL, errors)?,
        min_score: number(&fields, "min_score", errors)?,
        reason: match fields.get("reason") {
            Some(node) => Some(node.text(1, MAX_REASON, errors)?.to_owned()),
            None => None,
        },
        max_shrink: max_shrink(&fields, errors)?,
        allow_insecure: allow_insecure?,
        allow_private: allow_private?,
        credentials: credentials?,
        ca_file: ca_file?,
        applies_to: match fields.get("applies_to") {
            Some(node) => Some(scope(&node, errors)?),
            None => None,
        },
    })
}

fn place(
    fields: &Object<'_>,
    (allow_insecure, allow_private): (Option<bool>, Option<bool>),
    errors: &mut DocumentErrors,
) -> Option<Place> {
    match (fields.get("url"), fields.get("path")) {
        (Some(node), None) => {
            let text = node.text(1, MAX_URL, errors)?;
            let reach = Reach { allow_insecure: allow_insecure?, allow_private: allow_private? };
            let problem = url_problem(text, reach, IN_THE_CLEAR);
            if let Some((code, message)) = problem {
                node.note(errors, code, message);
                return None;
            }
            Some(Place::Url(text.to_owned()))
        }
        (None, Some(node)) => file(&node, errors).map(Place::File),
        (Some(_), Some(node)) => {
            node.note(errors, "conflict", "a source has a url or a path, not both");
            None
        }
        (None, None) => {
            errors.note("/url", "required", "must be given, or a path in its place");
            None
        }
    }
}

/// The name of a file, without a directory.
fn file(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    let text = node.text(1, MAX_FILE, errors)?;
    if !is_file_name(text) {
        node.note(errors, "invalid", FILE_FORM);
        return None;
    }
    Some(text.to_owned())
}

fn format(fields: &Object<'_>, errors: &mut DocumentErrors) -> Option<Option<ListFormat>> {
    let Some(node) = fields.get("format") else { return Some(None) };
    let format = node.text(0, usize::MAX, errors)?.parse::<ListFormat>().ok();
    if format.is_none() {
        node.note(errors, "invalid", ListFormat::FORM);
    }
    format.map(Some)
}

fn mode(fields: &Object<'_>, errors: &mut DocumentErrors) -> Option<SourceMode> {
    let Some(node) = fields.get("mode") else { return Some(SourceMode::Enforce) };
    Some(match node.one_of(&["enforce", "shadow"], errors)? {
        "shadow" => SourceMode::Shadow,
        _ => SourceMode::Enforce,
    })
}

/// A span of at least [`MIN_INTERVAL`].
fn span(
    fields: &Object<'_>,
    name: &str,
    max: Duration,
    errors: &mut DocumentErrors,
) -> Option<Option<Duration>> {
    let Some(node) = fields.get(name) else { return Some(None) };
    let Some(span) = duration::parse(node.text(0, usize::MAX, errors)?) else {
        node.note(errors, "invalid", "must be a span, as in 30s, 15m, 1h or 7d");
        return None;
    };
    if !(MIN_INTERVAL..=max).contains(&span) {
        let message = format!("from {}s to {}d is allowed", MIN_INTERVAL.as_secs(), max.as_secs() / 86_400);
        node.note(errors, "out_of_range", message);
        return None;
    }
    Some(Some(span))
}

fn number(fields: &Object<'_>, name: &str, errors: &mut DocumentErrors) -> Option<Option<f64>> {
    let Some(node) = fields.get(name) else { return Some(None) };
    let number = node.value.as_f64().filter(|number| number.is_finite());
    if number.is_none() {
        node.wrong_type("a number", errors);
    }
    number.map(Some)
}

fn max_shrink(fields: &Object<'_>, errors: &mut DocumentErrors) -> Option<f64> {
    let share = number(fields, "max_shrink", errors)?.unwrap_or(MAX_SHRINK);
    if (0.0..=1.0).contains(&share) {
        return Some(share);
    }
    errors.note("/max_shrink", "out_of_range", "must be a share from 0 to 1, as in 0.5");
    None
}

fn credentials(
    node: &DocumentNode<'_>,
    is_crowdsec: bool,
    errors: &mut DocumentErrors,
) -> Option<Credentials> {
    let fields = node.object(&["header", "file"], errors)?;
    let file = fields.require("file", errors).and_then(|node| file(&node, errors));
    let default = if is_crowdsec { "x-api-key" } else { "authorization" };
    let header = match fields.get("header") {
        None => Some(default.to_owned()),
        Some(node) => {
            let header = node.text(1, 253, errors)?.to_ascii_lowercase();
            let is_own = ["host", "connection", "content-length", "transfer-encoding", "te", "upgrade"]
                .contains(&header.as_str());
            if !is_token(&header) || is_own {
                node.note(
                    errors,
                    "invalid",
                    "must be the name of a header, as in Authorization or X-Api-Key",
                );
                return None;
            }
            Some(header)
        }
    };
    Some(Credentials { header: header?, file: file? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(document: &Value) -> Vec<(String, &'static str)> {
        let errors = read_source("s", document).expect_err("must be refused");
        errors.into_iter().map(|problem| (problem.pointer, problem.code)).collect()
    }

    #[test]
    fn what_is_left_out_is_what_most_want() {
        let list = read_source("drop", &json!({"url": "https://lists.example.com/drop.txt"})).unwrap();
        let wanted = Source {
            name: "drop".into(),
            place: Place::Url("https://lists.example.com/drop.txt".into()),
            kind: SourceType::List,
            format: None,
            interval: Duration::from_secs(3_600),
            mode: SourceMode::Enforce,
            ttl: None,
            min_score: None,
            reason: None,
            max_shrink: 0.5,
            allow_insecure: false,
            allow_private: false,
            credentials: None,
            ca_file: None,
            applies_to: None,
        };
        assert_eq!(list, wanted);
        let full = json!({"name": "a", "applies_to": {"hostnames": ["a.example"]}, "path": "mine.txt", "type": "list", "format": "ipsum", "interval": "15m",
            "mode": "shadow", "ttl": "7d", "min_score": 3, "reason": "listed", "max_shrink": 1,
            "credentials": {"header": "Key", "file": "abuse.key"}, "status": {"entries": 5}});
        let full = read_source("a", &full).unwrap();
        assert_eq!((full.place, full.format), (Place::File("mine.txt".into()), Some(ListFormat::Scored)));
        assert_eq!(full.mode, SourceMode::Shadow);
        assert_eq!(full.applies_to.unwrap().hostnames, ["a.example"]);
        assert_eq!(full.credentials, Some(Credentials { header: "key".into(), file: "abuse.key".into() }));
        let crowdsec = json!({"type": "crowdsec", "url": "http://127.0.0.1:8080", "allow_private": true,
            "credentials": {"file": "crowdsec.key"}});
        let crowdsec = read_source("cs", &crowdsec).unwrap();
        assert_eq!(
            (crowdsec.interval, crowdsec.credentials.unwrap().header.as_str()),
            (CROWDSEC_INTERVAL, "x-api-key")
        );
    }

    #[test]
    fn an_address_that_is_not_public_or_in_the_clear_must_be_allowed() {
        for (url, code) in [
            ("ftp://lists.example.com/x", Some("invalid")),
            ("https://", Some("invalid")),
            ("https://user:secret@lists.example.com/", Some("invalid")),
            ("https://lists.example.com/#x", Some("invalid")),
            ("https://lists.example.com/a b", Some("invalid")),
            ("https://lists.example.com:0/", Some("invalid")),
            ("https://127.1/", Some("invalid")),
            ("https://0x7f000001/", Some("invalid")),
            ("https://2130706433/", Some("invalid")),
            ("http://lists.example.com/", Some("invalid")),
            ("http://127.0.0.1:8080/", Some("private_address")),
            ("https://127.0.0.1/", Some("private_address")),
            ("https://localhost/", Some("private_address")),
            ("https://[::ffff:10.0.0.1]/", Some("private_address")),
            ("https://169.254.169.254/latest/meta-data", Some("private_address")),
            ("https://metadata.google.internal/", Some("private_address")),
            ("https://192.0.2.9:8443/x?y=z", None),
            ("https://[2606:4700::1111]:443", None),
        ] {
            let read = read_source("s", &json!({ "url": url }));
            let found = read.err().map(|errors| (errors[0].pointer.clone(), errors[0].code));
            assert_eq!(found, code.map(|code| ("/url".to_owned(), code)), "{url}");
        }
        let loopback = json!({"url": "http://localhost:8080/", "allow_private": true});
        assert!(read_source("s", &loopback).is_ok());
        let clear = json!({"url": "http://lists.example.com/", "allow_insecure": true});
        assert!(read_source("s", &clear).is_ok());
        let both = json!({"url": "http://10.0.0.1/", "allow_insecure": true});
        assert_eq!(refused(&both), [("/url".to_owned(), "private_address")]);
    }

    #[test]
    fn each_bad_field_is_named() {
        let cases = [
            ("path", json!("x"), "/path", "conflict"),
            ("type", json!("rss"), "/type", "invalid"),
            ("format", json!("xml"), "/format", "invalid"),
            ("interval", json!("1s"), "/interval", "out_of_range"),
            ("interval", json!("31d"), "/interval", "out_of_range"),
            ("interval", json!("often"), "/interval", "invalid"),
            ("interval", json!(60), "/interval", "wrong_type"),
            ("mode", json!("off"), "/mode", "invalid"),
            ("ttl", json!("0s"), "/ttl", "out_of_range"),
            ("min_score", json!("3"), "/min_score", "wrong_type"),
            ("reason", json!(""), "/reason", "invalid"),
            ("max_shrink", json!(1.5), "/max_shrink", "out_of_range"),
            ("allow_private", json!("yes"), "/allow_private", "wrong_type"),
            ("credentials", json!("secret"), "/credentials", "wrong_type"),
            ("credentials", json!({"header": "Key"}), "/credentials/file", "required"),
            ("credentials", json!({"file": "/etc/shadow"}), "/credentials/file", "invalid"),
            ("credentials", json!({"file": "..", "header": "Key"}), "/credentials/file", "invalid"),
            ("credentials", json!({"file": "k", "header": "Host"}), "/credentials/header", "invalid"),
            ("credentials", json!({"file": "k", "value": "secret"}), "/credentials/value", "unknown_field"),
            ("ca_file", json!("/etc/ssl/ca.pem"), "/ca_file", "invalid"),
            ("name", json!("other"), "/name", "invalid"),
            ("urls", json!([]), "/urls", "unknown_field"),
        ];
        for (field, value, pointer, code) in cases {
            let mut document = json!({"url": "https://lists.example.com/x"});
            document[field] = value.clone();
            assert_eq!(refused(&document), [(pointer.to_owned(), code)], "{field}: {value}");
        }
        assert_eq!(refused(&json!({})), [("/url".to_owned(), "required")]);
        assert_eq!(refused(&json!({"path": "../x"})), [("/path".to_owned(), "invalid")]);
        assert_eq!(refused(&json!({"path": "x", "ca_file": "y"})), [("/ca_file".to_owned(), "conflict")]);
        let crowdsec = json!({"type": "crowdsec", "url": "https://cs.example.com", "format": "json"});
        assert_eq!(
            refused(&crowdsec),
            [("/format".to_owned(), "conflict"), ("/credentials".to_owned(), "required")]
        );
        for name in ["", "A", "a b", "..", ".a", &"a".repeat(64)] {
            let found = read_source(name, &json!({"url": "https://lists.example.com/x"})).unwrap_err();
            assert_eq!((found[0].pointer.as_str(), found.len()), ("/name", 1), "{name}");
        }
    }
}
