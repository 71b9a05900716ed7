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
    /// What is wrong with the form of some, which are among [`wanted`](Self::wanted) as far as their kind is known.
    pub errors: Vec<FieldError>,
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
    /// Its form is wrong: it is read, so that all that is wrong is said at once, and no more.
    pub is_malformed: bool,
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
/// When the body is no such object. What is wrong with its documents is among what is returned.
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
    let mut places: BTreeMap<(Kind, String, Option<String>), usize> = BTreeMap::new();
    for (at, document) in documents.into_iter().enumerate() {
        let (one, mut wrong) = one(at, document);
        let is_named = wrong.is_empty();
        errors.append(&mut wrong);
        let Some(one) = one else { continue };
        if is_named {
            // An address is banned everywhere or allowed, and not both; elsewhere it is banned once for each place.
            let kind = if one.kind == Kind::AllowListEntry { Kind::Ban } else { one.kind };
            if let Some(other) = places.insert((kind, one.name.clone(), one.kind.place(&one.spec)), at) {
                let detail = format!("`/documents/{other}` is `{}` as well", one.name);
                let pointer = format!("/documents/{at}/metadata/name");
                errors.push(FieldError::field(pointer, "conflict", detail));
            }
        }
        wanted.push(one);
    }
    Ok(RequestedDocuments { wanted, kinds, errors })
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

/// A document, if its kind is known, and all that is wrong with its form.
fn one(at: usize, document: Value) -> (Option<Wanted>, Vec<FieldError>) {
    let mut errors = FormErrors { at, errors: Vec::new() };
    let Some(kind) = document["kind"].as_str().and_then(Kind::named) else {
        let known = Kind::ALL.map(Kind::name).join(", ");
        errors.push("/kind", "not_supported", format!("must be one of: {known}"));
        return (None, errors.errors);
    };
    if kind == Kind::Document(DocumentKind::Route) {
        return route(at, kind, document);
    }
    let Value::Object(mut fields) = document else {
        errors.push("", "wrong_type", "must be an object");
        return (None, errors.errors);
    };
    let spec = fields.remove("spec").unwrap_or_default();
    for (field, value) in &fields {
        match (field.as_str(), value) {
            ("kind", _) | ("metadata", Value::Object(_) | Value::Null) => {}
            ("metadata", _) => errors.push("/metadata", "wrong_type", "must be an object"),
            ("apiVersion", version) if version == API_VERSION => {}
            ("apiVersion", _) => {
                errors.push("/apiVersion", "not_supported", format!("must be {API_VERSION}"));
            }
            (other, _) => {
                let detail = "a document has apiVersion, kind, metadata and spec";
                errors.push(&format!("/{}", shortened(other)), "unknown_field", detail);
            }
        }
    }
    let metadata = fields.remove("metadata").unwrap_or_default();
    let name = read_metadata(kind, &metadata, &mut errors).unwrap_or_default();
    let manifest = kind.manifest(&name, spec.clone());
    let is_malformed = !errors.errors.is_empty();
    (Some(Wanted { at, kind, name, spec, manifest, is_malformed }), errors.errors)
}

/// What is wrong with the form of the document at this place.
struct FormErrors {
    at: usize,
    errors: Vec<FieldError>,
}

impl FormErrors {
    fn push(&mut self, pointer: &str, code: &'static str, detail: impl Into<String>) {
        self.errors.push(FieldError::field(format!("/documents/{}{pointer}", self.at), code, detail));
    }
}

/// The name, which flags have none of; `None`: there is none that is right.
fn read_metadata(kind: Kind, metadata: &Value, errors: &mut FormErrors) -> Option<String> {
    // Tools put labels and annotations into everything; they change nothing.
    let is_known =
        |field: &str| matches!(field, "labels" | "annotations") || field == "name" && kind != Kind::Flags;
    for field in metadata.as_object().into_iter().flat_map(serde_json::Map::keys).filter(|f| !is_known(f)) {
        let detail = match kind {
            Kind::Flags => "the flags have neither name nor namespace: leave it out".to_owned(),
            _ => format!("a {} has a name and no more: leave it out", kind.name()),
        };
        errors.push(&format!("/metadata/{}", shortened(field)), "unknown_field", detail);
    }
    match (kind, metadata["name"].as_str()) {
        (Kind::Flags, _) => None,
        // What is no object has been said.
        (_, None) if !metadata.is_object() && !metadata.is_null() => None,
        (_, None) => {
            errors.push("/metadata/name", "required", "must be the document's name");
            None
        }
        (Kind::Ban | Kind::AllowListEntry, Some(name)) => match name.parse::<Prefix>() {
            Ok(prefix) => Some(prefix.to_string()),
            Err(error) => {
                errors.push("/metadata/name", "invalid_ip", error.to_string());
                None
            }
        },
        (_, Some(name)) => Some(name.to_owned()),
    }
}

fn route(at: usize, kind: Kind, document: Value) -> (Option<Wanted>, Vec<FieldError>) {
    let of = |field: &str| document["metadata"][field].as_str();
    // What is wrong with it, its name and apiVersion as well, is said when it is read.
    let name = author::route_id(of("namespace"), of("name").unwrap_or_default());
    if name.is_empty()
        && let Err(problems) = author::read(&document)
    {
        let error = |one: author::DocumentError| {
            FieldError::field(format!("/documents/{at}{}", one.pointer), one.code, one.message)
        };
        return (None, problems.into_iter().map(error).collect());
    }
    // What is stored has the apiVersion of routes, whatever the document has: so this is asked here.
    let mut errors = FormErrors { at, errors: Vec::new() };
    if document["apiVersion"] == API_VERSION {
        errors.push("/apiVersion", "not_supported", format!("must be {}", author::API_VERSION));
    }
    let manifest = kind.manifest(&name, document);
    let is_malformed = !errors.errors.is_empty();
    let spec = manifest.clone();
    (Some(Wanted { at, kind, name, spec, manifest, is_malformed }), errors.errors)
}
