//! One rule of a document.

use std::collections::{BTreeMap, BTreeSet};

use super::super::geo;
use super::super::names::{is_subdomain, is_token, path_problem};
use super::super::pattern::Regex;
use super::super::reader::{Object, Place, Problems};
use super::super::template::Template;
use super::super::{Condition, Match, PathMatch, Rule, ValueMatch};
use super::{default_match, namespace};
use crate::route::{Backend, Method};

/// Bytes that the compiled regexes of one route may take together.
pub const MAX_ROUTE_AUTOMATA: usize = 1 << 20;

const MAX_MATCHES: usize = 64;
const MAX_CONDITIONS: usize = 16;
const MAX_BACKENDS: usize = 16;
const MAX_FILTERS: usize = 16;
/// What an `ExtensionRef` can name.
const GROUP: &str = "tidegate.dev";
const GEO_RULE: &str = "GeoRule";
const MAX_WEIGHT: u32 = 1_000_000;
/// Regexes of one document that may be refused before the rest is not tried any
/// more: finding out that one explodes takes some 30 ms.
const MAX_BAD_REGEXES: usize = 8;

const RULE: &[&str] =
    &["name", "matches", "filters", "backendRefs", "timeouts", "retry", "sessionPersistence"];
/// The types of a path; `Template` is Tidegate's own.
const PATH_TYPES: &[&str] = &["Exact", "PathPrefix", "RegularExpression", "Template"];
const FILTERS: &[&str] = &[
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "RequestRedirect",
    "URLRewrite",
    "CORS",
    "ExternalAuth",
    "ExtensionRef",
];

/// Reads the rules of one document.
pub(super) struct Reader<'p> {
    problems: &'p mut Problems,
    regexes: BTreeMap<String, Regex>,
    automata_bytes: usize,
    bad_regexes: usize,
}

/// Headers, or query parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Header,
    Query,
}

impl<'p> Reader<'p> {
    pub fn new(problems: &'p mut Problems) -> Self {
        Self { problems, regexes: BTreeMap::new(), automata_bytes: 0, bad_regexes: 0 }
    }

    pub fn rule(&mut self, place: &Place<'_>) -> Option<Rule> {
        let fields = place.object(RULE, self.problems)?;
        for name in ["timeouts", "retry", "sessionPersistence"] {
            if let Some(place) = fields.get(name) {
                let message = format!("{name} is not supported yet: leave it out");
                place.note(self.problems, "not_supported", message);
            }
        }
        let geo = self.geo_rules(&fields);
        let name = fields.get("name").and_then(|place| self.rule_name(&place));
        let mut matches = Vec::new();
        if let Some(list) = fields.get("matches") {
            for place in list.list(MAX_MATCHES, self.problems) {
                matches.extend(self.one_match(&place));
            }
        }
        if matches.is_empty() {
            matches.push(default_match());
        }
        let mut backends = Vec::new();
        if let Some(list) = fields.get("backendRefs") {
            for place in list.list(MAX_BACKENDS, self.problems) {
                backends.extend(self.backend(&place));
            }
        }
        Some(Rule { name, matches, backends, geo })
    }

    fn rule_name(&mut self, place: &Place<'_>) -> Option<String> {
        let name = place.text(1, 253, self.problems)?;
        if !is_subdomain(name) {
            place.note(self.problems, "invalid", "must be labels of a-z, 0-9 and - with dots between");
        }
        Some(name.to_owned())
    }

    /// The geo rules that a rule's filters name, each once.
    fn geo_rules(&mut self, fields: &Object<'_>) -> Vec<String> {
        let mut names = Vec::new();
        let list = fields.get("filters");
        for place in list.map(|list| list.list(MAX_FILTERS, self.problems)).unwrap_or_default() {
            if filter_type(&place) != "ExtensionRef" {
                self.refuse_filter(&place);
            } else if let Some(name) = self.geo_rule(&place)
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        names
    }

    /// The geo rule that an `ExtensionRef` names.
    fn geo_rule(&mut self, place: &Place<'_>) -> Option<String> {
        let fields = place.object(&["type", "extensionRef"], self.problems)?;
        let reference = fields.require("extensionRef", self.problems)?;
        let fields = reference.object(&["group", "kind", "name"], self.problems)?;
        for (field, only) in [("group", GROUP), ("kind", GEO_RULE)] {
            if let Some(place) = fields.require(field, self.problems)
                && place.text(0, 253, self.problems).is_some_and(|text| text != only)
            {
                let message =
                    format!("the only extension is kind {GEO_RULE} of group {GROUP}: must be {only}");
                place.note(self.problems, "not_supported", message);
            }
        }
        let place = fields.require("name", self.problems)?;
        let name = place.text(1, 253, self.problems)?;
        if let Some(problem) = geo::name_problem(name) {
            place.note(self.problems, "invalid", problem);
        }
        Some(name.to_owned())
    }

    /// The filters of a backendRef: none is supported.
    fn refuse_filters(&mut self, fields: &Object<'_>) {
        let Some(list) = fields.get("filters") else { return };
        for place in list.list(MAX_FILTERS, self.problems) {
            self.refuse_filter(&place);
        }
    }

    /// A filter that is not supported is a problem; one that does not exist is
    /// another.
    fn refuse_filter(&mut self, place: &Place<'_>) {
        let kind = filter_type(place);
        if FILTERS.contains(&kind) {
            let message = format!("the filter {kind} is not supported here yet: leave it out");
            place.note(self.problems, "not_supported", message);
        } else {
            let message = format!("a filter's type must be one of {}", FILTERS.join(", "));
            place.note(self.problems, "invalid", message);
        }
    }

    fn one_match(&mut self, place: &Place<'_>) -> Option<Match> {
        let fields = place.object(&["path", "headers", "queryParams", "method"], self.problems)?;
        let path = match fields.get("path") {
            Some(place) => self.path(&place)?,
            None => default_match().path,
        };
        let method = fields.get("method").and_then(|place| {
            let name = place.one_of(&Method::ALL.map(Method::name), self.problems)?;
            Method::from_name(name.as_bytes())
        });
        let headers = self.conditions(fields.get("headers"), Kind::Header);
        let query = self.conditions(fields.get("queryParams"), Kind::Query);
        Some(Match { path, method, headers, query })
    }

    fn path(&mut self, place: &Place<'_>) -> Option<PathMatch> {
        let fields = place.object(&["type", "value"], self.problems)?;
        let kind = match fields.get("type") {
            Some(place) => place.one_of(PATH_TYPES, self.problems)?,
            None => "PathPrefix",
        };
        let Some(place) = fields.get("value") else {
            let value = "/".to_owned();
            return Some(match kind {
                "Exact" => PathMatch::Exact(value),
                "PathPrefix" => PathMatch::Prefix(value),
                "Template" => PathMatch::Template(Template::parse(&value).ok()?),
                _ => PathMatch::Regex(Regex::compile(&value).ok()?),
            });
        };
        let value = place.text(0, 1024, self.problems)?;
        match kind {
            "RegularExpression" => return Some(PathMatch::Regex(self.path_regex(&place, value)?)),
            "Template" => return Some(PathMatch::Template(self.template(&place, value)?)),
            _ => {}
        }
        if let Some(problem) = path_problem(value) {
            place.note(self.problems, "invalid", problem);
            return None;
        }
        let value = value.to_owned();
        Some(if kind == "Exact" { PathMatch::Exact(value) } else { PathMatch::Prefix(value) })
    }

    fn template(&mut self, place: &Place<'_>, pattern: &str) -> Option<Template> {
        match Template::parse(pattern) {
            Ok(template) => Some(template),
            Err(error) => {
                place.note(self.problems, "invalid", error.to_string());
                None
            }
        }
    }

    fn path_regex(&mut self, place: &Place<'_>, pattern: &str) -> Option<Regex> {
        let regex = self.regex(place, pattern)?;
        if !regex.takes_paths() {
            let message = "matches no path: a regex must match the whole path, from its first /";
            place.note(self.problems, "invalid", message);
            return None;
        }
        Some(regex)
    }

    fn regex(&mut self, place: &Place<'_>, pattern: &str) -> Option<Regex> {
        if let Some(regex) = self.regexes.get(pattern) {
            return Some(regex.clone());
        }
        if self.bad_regexes >= MAX_BAD_REGEXES {
            return None;
        }
        match Regex::compile(pattern) {
            Ok(regex) => {
                self.automata_bytes = self.automata_bytes.saturating_add(regex.automaton().len());
                if self.automata_bytes > MAX_ROUTE_AUTOMATA {
                    self.bad_regexes = MAX_BAD_REGEXES;
                    let limit = MAX_ROUTE_AUTOMATA >> 10;
                    let message = format!("the regexes of this route compile to over {limit} KiB together");
                    place.note(self.problems, "bad_regex", message);
                    return None;
                }
                self.regexes.insert(pattern.to_owned(), regex.clone());
                Some(regex)
            }
            Err(error) => {
                self.bad_regexes = self.bad_regexes.saturating_add(1);
                place.note(self.problems, "bad_regex", error.to_string());
                None
            }
        }
    }

    /// Conditions, of equal names the first only. All are checked.
    fn conditions(&mut self, list: Option<Place<'_>>, kind: Kind) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let mut names = BTreeSet::new();
        for place in list.map(|list| list.list(MAX_CONDITIONS, self.problems)).unwrap_or_default() {
            if let Some(condition) = self.condition(&place, kind)
                && names.insert(condition.name.clone())
            {
                conditions.push(condition);
            }
        }
        conditions
    }

    fn condition(&mut self, place: &Place<'_>, kind: Kind) -> Option<Condition> {
        let fields = place.object(&["type", "name", "value"], self.problems)?;
        let is_regex = match fields.get("type") {
            Some(place) => {
                place.one_of(&["Exact", "RegularExpression"], self.problems)? == "RegularExpression"
            }
            None => false,
        };
        let name = fields.require("name", self.problems).and_then(|place| {
            let name = place.text(1, 256, self.problems)?;
            if is_token(name) {
                return Some(name);
            }
            place.note(self.problems, "invalid", "must be letters, digits and !#$%&'*+-.^_`|~ only");
            None
        });
        let place = fields.require("value", self.problems)?;
        let value = place.text(1, if kind == Kind::Header { 4096 } else { 1024 }, self.problems)?;
        let value = if is_regex {
            ValueMatch::Regex(self.regex(&place, value)?)
        } else {
            if kind == Kind::Header && !could_be_header(value) {
                let message =
                    "no header has this value: control characters, and spaces at its ends, do not arrive";
                place.note(self.problems, "invalid", message);
            }
            ValueMatch::Exact(value.to_owned())
        };
        let name = if kind == Kind::Header { name?.to_ascii_lowercase() } else { name?.to_owned() };
        Some(Condition { name, value })
    }

    fn backend(&mut self, place: &Place<'_>) -> Option<(Backend, u32)> {
        let known = &["group", "kind", "name", "namespace", "port", "weight", "filters"];
        let fields = place.object(known, self.problems)?;
        self.refuse_filters(&fields);
        for (field, only) in [("group", ""), ("kind", "Service")] {
            if let Some(place) = fields.get(field)
                && place.text(0, 253, self.problems).is_some_and(|text| text != only)
            {
                let message =
                    format!("only backendRefs to Services are supported: leave {field} out, or {only:?}");
                place.note(self.problems, "not_supported", message);
            }
        }
        let name = fields.require("name", self.problems).and_then(|place| self.backend_name(&place));
        let namespace = fields.get("namespace").and_then(|place| namespace(&place, self.problems));
        let port = fields.get("port").and_then(|place| place.integer(1, 65_535, self.problems));
        let port = port.and_then(|port| u16::try_from(port).ok());
        let weight = match fields.get("weight") {
            Some(place) => place.integer(0, MAX_WEIGHT, self.problems)?,
            None => 1,
        };
        Some((Backend { name: name?, namespace, port }, weight))
    }

    /// The name becomes part of a cluster's name, which travels in a header.
    fn backend_name(&mut self, place: &Place<'_>) -> Option<String> {
        let name = place.text(1, 253, self.problems)?;
        if !name.bytes().all(|b| b.is_ascii_graphic()) {
            place.note(self.problems, "invalid", "must be visible ASCII without spaces");
            return None;
        }
        Some(name.to_owned())
    }
}

fn filter_type<'d>(place: &Place<'d>) -> &'d str {
    place.value.get("type").and_then(serde_json::Value::as_str).unwrap_or_default()
}

fn could_be_header(value: &str) -> bool {
    let is_control = |c: char| c.is_control() && c != '\t';
    value.trim_matches([' ', '\t']).len() == value.len() && !value.contains(is_control)
}
