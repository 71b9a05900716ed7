//! The documents of a body, as far as their form goes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::address::Prefix;

use crate::api::query::shortened;
use crate::manifest::{API_VERSION, Kind};
use crate::problem::{ApiResult, FieldError, Problem};
use crate::store::DocumentKind;

/// Documents in a body, at most, and bans or entries of the allow list that are removed because a body does not
/// have them: they are one transaction, which bans wait for.
pub const MAX_DOCUMENTS: usize = 20_000;

/// What a body has.
#[derive(Debug)]
pub struct RequestedDocuments {
    /// In their order.
    pub wanted: Vec<Wanted>,
    /// The kinds that it has all documents of, also where there is none.
    pub kinds: BTreeSet<Kind>,
}

/// A document of the body.
#[derive(Debug)]
pub struct Wanted {
    /// Its place in the list.
    pub at: usize,
    pub kind: Kind,
    /// Of a ban or an entry of the allow list the prefix in canonical form.
    pub name: String,
    /// What the API takes: of a route the whole document.
    pub spec: Value,
    /// As answers show it.
    pub manifest: Value,
}

impl Wanted {
    /// An error at `pointer` of [`spec`](Self::spec).
    pub fn error(&self, pointer: &str, code: &'static str, detail: impl Into<String>) -> FieldError {
        let spec = match (self.kind, pointer) {
            (Kind::Document(DocumentKind::Route), _) => "",
            // The document of the API has its name in it, that of a file beside it.
            (_, "/name") => "/metadata",
            _ => "/spec",
        };
        FieldError::field(format!("/documents/{}{spec}{pointer}", self.at), code, detail)
    }

    /// The errors of a problem with it.
    pub fn errors(&self, problem: &Problem) -> Vec<FieldError> {
        let named = problem.errors().iter();
        let named = named.map(|e| self.error(e.pointer.as_deref().unwrap_or_default(), e.code, &*e.detail));
        let named: Vec<_> = named.collect();
        match named.is_empty() {
            true => vec![self.error("", problem.code().name(), problem.detail())],
            false => named,
        }
    }
}

/// Reads `{"documents": [...], "kinds": [...]}`, of which the second may be left out.
///
/// # Errors
/// All that is wrong.
pub fn read(body: Value) -> ApiResult<RequestedDocuments> {
    let Value::Object(mut fields) = body else {
        return Err(Problem::field("", "wrong_type", "the body must be an object with `documents`"));
    };
    let Some(Value::Array(documents)) = fields.remove("documents") else {
        return Err(Problem::field("/documents", "wrong_type", "must be a list of documents"));
    };
    let kinds = read_kinds(fields.remove("kinds").unwrap_or_default())?;
    if let Some(name) = fields.keys().next() {
        let name = shortened(name);
        return Err(Problem::field(
            format!("/{name}"),
            "unknown_field",
            "the body has `documents` and `kinds`",
        ));
    }
    if (documents.is_empty() && kinds.is_empty()) || documents.len() > MAX_DOCUMENTS {
        let detail = format!("may have 1 to {MAX_DOCUMENTS} documents");
        return Err(Problem::field("/documents", "out_of_range", detail));
    }
    let (mut wanted, mut errors) = (Vec::new(), Vec::new());
    let mut places: BTreeMap<(Kind, String), usize> = BTreeMap::new();
    for (at, document) in documents.into_iter().enumerate() {
        match one(at, document) {
            Ok(one) => {
                // An address is banned or allowed, and not both.
                let kind = if one.kind == Kind::AllowListEntry { Kind::Ban } else { one.kind };
                if let Some(other) = places.insert((kind, one.name.clone()), at) {
                    let detail = format!("document {other} of the list is `{}` as well", one.name);
                    errors.push(FieldError::field(
                        format!("/documents/{at}/metadata/name"),
                        "conflict",
                        detail,
                    ));
                }
                wanted.push(one);
            }
            Err(mut wrong) => errors.append(&mut wrong),
        }
    }
    if errors.is_empty() { Ok(RequestedDocuments { wanted, kinds }) } else { Err(Problem::fields(errors)) }
}

fn read_kinds(kinds: Value) -> ApiResult<BTreeSet<Kind>> {
    let kind = |name: &Value| name.as_str().and_then(Kind::named).filter(|kind| *kind != Kind::Flags);
    let read = match &kinds {
        Value::Null => Some(BTreeSet::new()),
        Value::Array(names) => names.iter().map(kind).collect(),
        _ => None,
    };
    read.ok_or_else(|| {
        let known = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Flags).map(Kind::name);
        let detail = format!("must be a list of kinds: {}", known.collect::<Vec<_>>().join(", "));
        Problem::field("/kinds", "invalid", detail)
    })
}

fn one(at: usize, document: Value) -> Result<Wanted, Vec<FieldError>> {
    let wrong = |pointer: &str, code, detail: String| {
        vec![FieldError::field(format!("/documents/{at}{pointer}"), code, detail)]
    };
    let kind = document["kind"].as_str().and_then(Kind::named).ok_or_else(|| {
        let known = Kind::ALL.map(Kind::name).join(", ");
        wrong("/kind", "not_supported", format!("must be one of: {known}"))
    })?;
    if kind == Kind::Document(DocumentKind::Route) {
        return route(at, kind, document);
    }
    let Value::Object(mut fields) = document else {
        return Err(wrong("", "wrong_type", "must be an object".to_owned()));
    };
    let spec = fields.remove("spec").unwrap_or_default();
    for (field, value) in &fields {
        match (field.as_str(), value) {
            ("kind", _) | ("metadata", Value::Object(_) | Value::Null) => {}
            ("metadata", _) => return Err(wrong("/metadata", "wrong_type", "must be an object".to_owned())),
            ("apiVersion", version) if version == API_VERSION => {}
            ("apiVersion", _) => {
                return Err(wrong("/apiVersion", "not_supported", format!("must be {API_VERSION}")));
            }
            (other, _) => {
                let detail = "a document has apiVersion, kind, metadata and spec".to_owned();
                return Err(wrong(&format!("/{}", shortened(other)), "unknown_field", detail));
            }
        }
    }
    let name = match (kind, fields.get("metadata").and_then(|metadata| metadata["name"].as_str())) {
        (Kind::Flags, _) => String::new(),
        (_, None) => {
            return Err(wrong("/metadata/name", "required", "must be the document's name".to_owned()));
        }
        (Kind::Ban | Kind::AllowListEntry, Some(name)) => match name.parse::<Prefix>() {
            Ok(prefix) => prefix.to_string(),
            Err(error) => return Err(wrong("/metadata/name", "invalid_ip", error.to_string())),
        },
        (_, Some(name)) => name.to_owned(),
    };
    let manifest = kind.manifest(&name, spec.clone());
    Ok(Wanted { at, kind, name, spec, manifest })
}

fn route(at: usize, kind: Kind, document: Value) -> Result<Wanted, Vec<FieldError>> {
    let of = |field: &str| document["metadata"][field].as_str();
    // Without a name it is refused when it is read.
    let name = author::route_id(of("namespace"), of("name").unwrap_or_default());
    if name.is_empty()
        && let Err(problems) = author::read(&document)
    {
        let error = |one: author::DocumentError| {
            FieldError::field(format!("/documents/{at}{}", one.pointer), one.code, one.message)
        };
        return Err(problems.into_iter().map(error).collect());
    }
    let manifest = kind.manifest(&name, document);
    Ok(Wanted { at, kind, name, spec: manifest.clone(), manifest })
}
