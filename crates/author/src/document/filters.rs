//! The filters of a rule or of a backendRef.

mod cors;
mod headers;
mod paths;

use std::collections::BTreeSet;

use super::super::geo;
use super::super::reader::{DocumentNode, Object};
use super::super::{Match, MirrorRef, PathMatch};
use super::rule_reader::{FilterOwner, GROUP, RuleReader};
use tidegate_policy::route::action::{Action, MAX_MIRRORS};

const MAX_FILTERS: usize = 16;
/// The kind that an `ExtensionRef` can name. The Gateway API provides `ExtensionRef` for what it
/// does not have itself; an annotation would hold for a route and not a rule, and its spelling
/// would not be checked.
const GEO_RULE: &str = "GeoRule";

/// A filter's type, and the field that has its settings.
const TYPES: [(&str, &str); 8] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
    ("ExternalAuth", "externalAuth"),
    ("ExtensionRef", "extensionRef"),
];
const FIELDS: &[&str] = &[
    "type",
    "requestHeaderModifier",
    "responseHeaderModifier",
    "requestMirror",
    "requestRedirect",
    "urlRewrite",
    "cors",
    "externalAuth",
    "extensionRef",
];
/// The types that a list may have more than once.
const REPEATABLE: [&str; 2] = ["RequestMirror", "ExtensionRef"];

/// A list of filters, read.
#[derive(Default)]
pub(super) struct Filters {
    pub action: Action,
    pub mirrors: Vec<MirrorRef>,
    /// Names of geo rules, each once.
    pub geo: Vec<String>,
}

impl RuleReader<'_> {
    pub(super) fn filters(
        &mut self,
        list: Option<DocumentNode<'_>>,
        owner: FilterOwner,
        matches: &[Match],
    ) -> Filters {
        let mut filters = Filters::default();
        let mut seen = BTreeSet::new();
        for node in list.map(|list| list.list(MAX_FILTERS, self.errors)).unwrap_or_default() {
            let Some((kind, fields)) = self.filter_type(&node) else { continue };
            if !seen.insert(kind) && !REPEATABLE.contains(&kind) {
                node.note(self.errors, "conflict", format!("there is a {kind} already: only one may be"));
                continue;
            }
            self.filter(kind, &node, &fields, owner, matches, &mut filters);
        }
        filters
    }

    /// A filter's type and its fields: the settings of its type and no others.
    fn filter_type<'d>(&mut self, node: &DocumentNode<'d>) -> Option<(&'static str, Object<'d>)> {
        let fields = node.object(FIELDS, self.errors)?;
        let kind = fields.require("type", self.errors)?.one_of(&TYPES.map(|(kind, _)| kind), self.errors)?;
        for (other, field) in TYPES {
            if other != kind
                && let Some(node) = fields.get(field)
            {
                node.note(
                    self.errors,
                    "conflict",
                    format!("a filter of type {kind} does not have this field"),
                );
            }
        }
        Some((kind, fields))
    }

    fn filter(
        &mut self,
        kind: &'static str,
        node: &DocumentNode<'_>,
        fields: &Object<'_>,
        owner: FilterOwner,
        matches: &[Match],
        into: &mut Filters,
    ) {
        let field = TYPES.iter().find(|(name, _)| *name == kind).map_or("type", |(_, field)| field);
        if kind == "ExternalAuth" {
            let says = "ExternalAuth is not supported: Envoy's own ext_authz filter, before or after the gate, does that";
            return node.note(self.errors, "not_supported", says);
        }
        let Some(settings) = fields.require(field, self.errors) else { return };
        let action = &mut into.action;
        match kind {
            "RequestHeaderModifier" => action.request = self.header_edits(&settings),
            "ResponseHeaderModifier" => action.response = self.header_edits(&settings),
            "RequestMirror" => self.mirror(&settings, &mut into.mirrors),
            "RequestRedirect" => action.redirect = self.redirect(&settings, matches),
            "URLRewrite" => action.rewrite = self.rewrite(&settings, matches),
            "CORS" => action.cors = self.cors(&settings),
            _ if owner == FilterOwner::Backend => {
                node.note(
                    self.errors,
                    "not_supported",
                    "an ExtensionRef belongs to a rule, not to a backendRef",
                );
            }
            _ => {
                let name = self.geo_rule(&settings).filter(|name| !into.geo.contains(name));
                into.geo.extend(name);
            }
        }
        if into.action.redirect.is_some() && into.action.rewrite.is_some() {
            let says = "RequestRedirect and URLRewrite exclude each other: leave one of them out";
            node.note(self.errors, "conflict", says);
        }
    }

    fn mirror(&mut self, node: &DocumentNode<'_>, mirrors: &mut Vec<MirrorRef>) {
        let Some(fields) = node.object(&["backendRef", "percent", "fraction"], self.errors) else {
            return;
        };
        let to = fields.require("backendRef", self.errors).and_then(|node| self.mirrored(&node));
        let percent = fields.get("percent");
        let (numerator, denominator) = match (&percent, fields.get("fraction")) {
            (Some(_), Some(node)) => {
                return node.note(self.errors, "conflict", "percent is given, too: leave one of them out");
            }
            (Some(node), None) => (node.integer(0, 100, self.errors), Some(100)),
            (None, Some(node)) => self.fraction(&node),
            (None, None) => (Some(1), Some(1)),
        };
        let (Some(to), Some(numerator), Some(denominator)) = (to, numerator, denominator) else {
            return;
        };
        if mirrors.len() >= MAX_MIRRORS {
            let says = format!("at most {MAX_MIRRORS} mirrors are allowed");
            return node.note(self.errors, "too_many", says);
        }
        mirrors.push(MirrorRef { to, numerator, denominator });
    }

    fn fraction(&mut self, node: &DocumentNode<'_>) -> (Option<u32>, Option<u32>) {
        let Some(fields) = node.object(&["numerator", "denominator"], self.errors) else {
            return (None, None);
        };
        let max = u32::MAX >> 1;
        let denominator = match fields.get("denominator") {
            Some(node) => node.integer(1, max, self.errors),
            None => Some(100),
        };
        let numerator = fields.require("numerator", self.errors);
        let numerator = numerator.and_then(|node| node.integer(0, denominator.unwrap_or(max), self.errors));
        (numerator, denominator)
    }

    /// The geo rule that an `ExtensionRef` names.
    fn geo_rule(&mut self, node: &DocumentNode<'_>) -> Option<String> {
        let fields = node.object(&["group", "kind", "name"], self.errors)?;
        for (field, only) in [("group", GROUP), ("kind", GEO_RULE)] {
            if let Some(node) = fields.require(field, self.errors)
                && node.text(0, 253, self.errors).is_some_and(|text| text != only)
            {
                let message =
                    format!("the only extension is kind {GEO_RULE} of group {GROUP}: must be {only}");
                node.note(self.errors, "not_supported", message);
            }
        }
        let node = fields.require("name", self.errors)?;
        let name = node.text(1, 253, self.errors)?;
        if let Some(problem) = geo::name_problem(name) {
            node.note(self.errors, "invalid", problem);
        }
        Some(name.to_owned())
    }
}

/// The prefix that `ReplacePrefixMatch` replaces: the rule must have one match, of a
/// prefix.
fn only_prefix(matches: &[Match]) -> Option<&str> {
    match matches {
        [Match { path: PathMatch::Prefix(prefix), .. }] => Some(prefix),
        _ => None,
    }
}
