//! From a document to a [`Route`], by the rules of the CRD.

mod backends;
mod filters;
mod rule;
mod times;

use std::collections::BTreeSet;

use serde_json::Value;

use super::names::{hostname_problem, is_label, is_subdomain};
use super::reader::{Object, Place, Problem, Problems};
use super::{Match, PathMatch, Route, Rule};
use tidegate_policy::route::action::Action;

pub use rule::MAX_ROUTE_AUTOMATA;

const API_VERSION: &str = "gateway.networking.k8s.io/v1";
const MAX_HOSTNAMES: usize = 16;
const MAX_PARENTS: usize = 32;
const MAX_RULES: usize = 16;
/// Matches of all rules of a route together.
const MAX_MATCHES: usize = 128;

/// What `metav1.ObjectMeta` has.
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Reads a document. `apiVersion` and `kind` may be left out. A null is an
/// absent field.
///
/// A backendRef's `port` may be left out, other than in Kubernetes: whether one
/// is needed depends on how the gateway makes a cluster's name of a backendRef,
/// and by default it takes the name alone.
///
/// # Errors
/// All problems of the document, up to [`MAX_PROBLEMS`](super::MAX_PROBLEMS).
pub fn read(document: &Value) -> Result<Route, Vec<Problem>> {
    let mut problems = Problems::default();
    let route = route(&Place::root(document), &mut problems);
    problems.into_result(route)
}

fn route(document: &Place<'_>, problems: &mut Problems) -> Option<Route> {
    let fields = document.object(&["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    if let Some(version) = fields.get("apiVersion") {
        version.one_of(&[API_VERSION], problems);
    }
    if let Some(kind) = fields.get("kind") {
        kind.one_of(&["HTTPRoute"], problems);
    }
    let metadata = fields.require("metadata", problems).and_then(|place| place.object(METADATA, problems));
    let (name, namespace) = metadata.map_or((None, None), |fields| metadata_of(&fields, problems));
    let spec = fields.require("spec", problems)?;
    let known = &["hostnames", "parentRefs", "rules", "useDefaultGateways"];
    let spec = spec.object(known, problems)?;
    if let Some(place) = spec.get("useDefaultGateways") {
        place.note(problems, "not_supported", "useDefaultGateways is not supported: leave it out");
    }
    if let Some(parents) = spec.get("parentRefs") {
        parents.list(MAX_PARENTS, problems).iter().for_each(|parent| parent_ref(parent, problems));
    }
    let hostnames = spec.get("hostnames").map(|place| hostnames(&place, problems)).unwrap_or_default();
    let rules = rules(spec.get("rules"), problems);
    Some(Route { name: name?, namespace, created: None, hostnames, rules })
}

fn metadata_of(metadata: &Object<'_>, problems: &mut Problems) -> (Option<String>, Option<String>) {
    let name = metadata.require("name", problems).and_then(|place| {
        let name = place.text(1, 253, problems)?;
        if !is_subdomain(name) {
            place.note(
                problems,
                "invalid",
                "must be labels of a-z, 0-9 and - with dots between, as in my-route",
            );
        }
        Some(name.to_owned())
    });
    let namespace = metadata.get("namespace").and_then(|place| namespace(&place, problems));
    (name, namespace)
}

fn namespace(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let name = place.text(1, 63, problems)?;
    if !is_label(name) {
        place.note(
            problems,
            "invalid",
            "must be of a-z, 0-9 and -, and begin and end with a letter or digit",
        );
    }
    Some(name.to_owned())
}

fn parent_ref(parent: &Place<'_>, problems: &mut Problems) {
    let known = &["group", "kind", "name", "namespace", "port", "sectionName"];
    let Some(fields) = parent.object(known, problems) else { return };
    if let Some(name) = fields.require("name", problems) {
        name.text(1, 253, problems);
    }
    for (field, max) in [("group", 253), ("kind", 63), ("sectionName", 253)] {
        if let Some(place) = fields.get(field) {
            place.text(0, max, problems);
        }
    }
    if let Some(place) = fields.get("namespace") {
        namespace(&place, problems);
    }
    if let Some(place) = fields.get("port") {
        place.integer(1, 65_535, problems);
    }
}

fn hostnames(list: &Place<'_>, problems: &mut Problems) -> Vec<String> {
    let mut names = Vec::new();
    for place in list.list(MAX_HOSTNAMES, problems) {
        let Some(name) = place.text(1, 253, problems) else { continue };
        match hostname_problem(name) {
            Some(problem) => place.note(problems, "invalid", problem),
            None => names.push(name.to_owned()),
        }
    }
    names
}

/// A rule without backends that takes everything: what the CRD fills in when
/// there are no rules.
fn default_rule() -> Rule {
    Rule {
        name: None,
        matches: vec![default_match()],
        backends: Vec::new(),
        geo: Vec::new(),
        action: Action::default(),
        mirrors: Vec::new(),
    }
}

fn default_match() -> Match {
    Match { path: PathMatch::Prefix("/".to_owned()), method: None, headers: Vec::new(), query: Vec::new() }
}

fn rules(list: Option<Place<'_>>, problems: &mut Problems) -> Vec<Rule> {
    let Some(list) = list else { return vec![default_rule()] };
    let places = list.list(MAX_RULES, problems);
    if list.value.as_array().is_some_and(Vec::is_empty) {
        list.note(problems, "invalid", "must have a rule, or be left out for one that takes everything");
    }
    let mut reader = rule::Reader::new(problems);
    let read: Vec<_> = places.iter().filter_map(|place| Some((place, reader.rule(place)?))).collect();
    let mut names = BTreeSet::new();
    for (place, name) in read.iter().filter_map(|(place, rule)| Some((place, rule.name.as_ref()?))) {
        if !names.insert(name) {
            place.note(problems, "invalid", format!("another rule is called {name}, too"));
        }
    }
    let rules: Vec<_> = read.iter().map(|(_, rule)| rule.clone()).collect();
    let matches: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    if matches > MAX_MATCHES {
        let message = format!("{matches} matches in all rules, at most {MAX_MATCHES} are allowed");
        list.note(problems, "too_many", message);
    }
    rules
}
