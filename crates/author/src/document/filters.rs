//! The filters of a rule or of a backendRef.

mod cors;
mod headers;
mod paths;

use std::collections::BTreeSet;

use super::super::geo;
use super::super::reader::{Object, Place};
use super::super::{Match, MirrorRef, PathMatch};
use super::backends::GROUP;
use super::rule::Reader;
use tidegate_policy::route::action::{Action, MAX_MIRRORS};

const MAX_FILTERS: usize = 16;
/// What an `ExtensionRef` can name.
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
/// Those that a list may have more than one of.
const REPEATABLE: [&str; 2] = ["RequestMirror", "ExtensionRef"];

/// Whose filters they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Rule,
    Backend,
}

/// What a list of filters comes to.
#[derive(Default)]
pub(super) struct Filters {
    pub action: Action,
    pub mirrors: Vec<MirrorRef>,
    /// Names of geo rules, each once.
    pub geo: Vec<String>,
}

impl Reader<'_> {
    pub(super) fn filters(&mut self, list: Option<Place<'_>>, holder: Holder, matches: &[Match]) -> Filters {
        let mut filters = Filters::default();
        let mut seen = BTreeSet::new();
        for place in list.map(|list| list.list(MAX_FILTERS, self.problems)).unwrap_or_default() {
            let Some((kind, fields)) = self.filter_type(&place) else { continue };
            if !seen.insert(kind) && !REPEATABLE.contains(&kind) {
                place.note(self.problems, "conflict", format!("there is a {kind} already: only one may be"));
                continue;
            }
            self.filter(kind, &place, &fields, holder, matches, &mut filters);
        }
        filters
    }

    /// Its type and its fields, of which there is that of its type and no other.
    fn filter_type<'d>(&mut self, place: &Place<'d>) -> Option<(&'static str, Object<'d>)> {
        let fields = place.object(FIELDS, self.problems)?;
        let kind =
            fields.require("type", self.problems)?.one_of(&TYPES.map(|(kind, _)| kind), self.problems)?;
        for (other, field) in TYPES {
            if other != kind
                && let Some(place) = fields.get(field)
            {
                place.note(
                    self.problems,
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
        place: &Place<'_>,
        fields: &Object<'_>,
        holder: Holder,
        matches: &[Match],
        into: &mut Filters,
    ) {
        let field = TYPES.iter().find(|(name, _)| *name == kind).map_or("type", |(_, field)| field);
        if kind == "ExternalAuth" {
            let says = "ExternalAuth is not supported: Envoy's own ext_authz filter, before or after the gate, does that";
            return place.note(self.problems, "not_supported", says);
        }
        let Some(settings) = fields.require(field, self.problems) else { return };
        let action = &mut into.action;
        match kind {
            "RequestHeaderModifier" => action.request = self.header_edits(&settings),
            "ResponseHeaderModifier" => action.response = self.header_edits(&settings),
            "RequestMirror" => self.mirror(&settings, &mut into.mirrors),
            "RequestRedirect" => action.redirect = self.redirect(&settings, matches),
            "URLRewrite" => action.rewrite = self.rewrite(&settings, matches),
            "CORS" => action.cors = self.cors(&settings),
            _ if holder == Holder::Backend => {
                place.note(
                    self.problems,
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
            place.note(self.problems, "conflict", says);
        }
    }

    fn mirror(&mut self, place: &Place<'_>, mirrors: &mut Vec<MirrorRef>) {
        let Some(fields) = place.object(&["backendRef", "percent", "fraction"], self.problems) else {
            return;
        };
        let to = fields.require("backendRef", self.problems).and_then(|place| self.mirrored(&place));
        let percent = fields.get("percent");
        let (numerator, denominator) = match (&percent, fields.get("fraction")) {
            (Some(_), Some(place)) => {
                return place.note(self.problems, "conflict", "percent is given, too: leave one of them out");
            }
            (Some(place), None) => (place.integer(0, 100, self.problems), Some(100)),
            (None, Some(place)) => self.fraction(&place),
            (None, None) => (Some(1), Some(1)),
        };
        let (Some(to), Some(numerator), Some(denominator)) = (to, numerator, denominator) else {
            return;
        };
        if mirrors.len() >= MAX_MIRRORS {
            let says = format!("at most {MAX_MIRRORS} mirrors are allowed");
            return place.note(self.problems, "too_many", says);
        }
        mirrors.push(MirrorRef { to, numerator, denominator });
    }

    fn fraction(&mut self, place: &Place<'_>) -> (Option<u32>, Option<u32>) {
        let Some(fields) = place.object(&["numerator", "denominator"], self.problems) else {
            return (None, None);
        };
        let max = u32::MAX >> 1;
        let denominator = match fields.get("denominator") {
            Some(place) => place.integer(1, max, self.problems),
            None => Some(100),
        };
        let numerator = fields.require("numerator", self.problems);
        let numerator =
            numerator.and_then(|place| place.integer(0, denominator.unwrap_or(max), self.problems));
        (numerator, denominator)
    }

    /// The geo rule that an `ExtensionRef` names.
    fn geo_rule(&mut self, place: &Place<'_>) -> Option<String> {
        let fields = place.object(&["group", "kind", "name"], self.problems)?;
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
}

/// The prefix that `ReplacePrefixMatch` replaces: the rule's only match must be
/// one on a prefix.
fn only_prefix(matches: &[Match]) -> Option<&str> {
    match matches {
        [Match { path: PathMatch::Prefix(prefix), .. }] => Some(prefix),
        _ => None,
    }
}
