//! Reads the document of an HTTPRoute into a [`Route`], by the rules of the CRD.

mod backends;
mod filters;
mod rule;
mod rule_reader;
mod times;

use std::collections::BTreeSet;

use serde_json::Value;

use super::names::{hostname_problem, is_subdomain};
use super::reader::{DocumentError, DocumentErrors, DocumentNode, Object};
use super::{Match, Parent, Route, Rule};
use tidegate_policy::route::action::Action;

pub use rule::MAX_ROUTE_AUTOMATA;
use rule_reader::{RuleReader, namespace};

/// The `apiVersion` of routes.
pub const API_VERSION: &str = "gateway.networking.k8s.io/v1";
/// An older one with the same schema, which clusters still serve.
const OLDER_API_VERSION: &str = "gateway.networking.k8s.io/v1beta1";
/// The group of a Gateway.
const GROUP: &str = "gateway.networking.k8s.io";
const MAX_HOSTNAMES: usize = 16;
const MAX_PARENTS: usize = 32;
const MAX_RULES: usize = 16;
/// The most matches of all rules of a route together.
const MAX_MATCHES: usize = 128;

/// The fields of `metav1.ObjectMeta`.
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
/// Unlike in Kubernetes, a backendRef's `port` may be left out: it is needed only if the
/// gateway's `cluster_template` has it, and by default that has only the name.
///
/// # Errors
/// All problems of the document, up to [`MAX_PROBLEMS`](super::MAX_PROBLEMS).
pub fn read(document: &Value) -> Result<Route, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    let route = route(&DocumentNode::root(document), &mut errors);
    errors.into_result(route)
}

fn route(document: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Route> {
    let fields = document.object(&["apiVersion", "kind", "metadata", "spec", "status"], errors)?;
    if let Some(version) = fields.get("apiVersion") {
        version.one_of(&[API_VERSION, OLDER_API_VERSION], errors);
    }
    if let Some(kind) = fields.get("kind") {
        kind.one_of(&["HTTPRoute"], errors);
    }
    let metadata = fields.require("metadata", errors).and_then(|node| node.object(METADATA, errors));
    let (name, namespace) = metadata.map_or((None, None), |fields| metadata_of(&fields, errors));
    let spec = fields.require("spec", errors)?;
    let known = &["hostnames", "parentRefs", "rules", "useDefaultGateways"];
    let spec = spec.object(known, errors)?;
    if let Some(node) = spec.get("useDefaultGateways") {
        node.note(errors, "not_supported", "useDefaultGateways is not supported: leave it out");
    }
    let own = namespace.as_deref().unwrap_or("default");
    let parents = spec.get("parentRefs").map(|list| {
        let list = list.list(MAX_PARENTS, errors);
        list.iter().filter_map(|parent| parent_ref(parent, own, errors)).collect()
    });
    let parents = parents.unwrap_or_default();
    let hostnames = spec.get("hostnames").map(|node| hostnames(&node, errors)).unwrap_or_default();
    let rules = rules(spec.get("rules"), errors);
    Some(Route { name: name?, namespace, created: None, parents, hostnames, rules })
}

fn metadata_of(metadata: &Object<'_>, errors: &mut DocumentErrors) -> (Option<String>, Option<String>) {
    let name = metadata.require("name", errors).and_then(|node| {
        let name = node.text(1, 253, errors)?;
        if !is_subdomain(name) {
            node.note(
                errors,
                "invalid",
                "must be labels of a-z, 0-9 and - with dots between, as in my-route",
            );
        }
        Some(name.to_owned())
    });
    let namespace = metadata.get("namespace").and_then(|node| namespace(&node, errors));
    (name, namespace)
}

/// Kinds of parents that have listeners.
const PARENTS: [&str; 2] = ["Gateway", "ListenerSet"];

/// `own`: the route's namespace.
fn parent_ref(parent: &DocumentNode<'_>, own: &str, errors: &mut DocumentErrors) -> Option<Parent> {
    let known = &["group", "kind", "name", "namespace", "port", "sectionName"];
    let fields = parent.object(known, errors)?;
    let name = fields.require("name", errors).and_then(|node| node.text(1, 253, errors));
    let group = fields.get("group").map_or(Some(GROUP), |node| node.text(0, 253, errors));
    let kind = fields.get("kind").map_or(Some("Gateway"), |node| node.text(1, 63, errors));
    if let (Some(group), Some(kind)) = (group, kind)
        && (group != GROUP || !PARENTS.contains(&kind))
    {
        let says = match kind {
            "Service" => {
                "a Service as the parent makes a route of a mesh, for requests between its workloads: \
                          the gate takes routes of a Gateway"
                    .to_owned()
            }
            _ => format!(
                "{group}/{kind}: a parent may be a Gateway or a ListenerSet of group {GROUP}, one of its listeners by sectionName"
            ),
        };
        let place = fields.get("kind").filter(|_| !PARENTS.contains(&kind)).or_else(|| fields.get("group"));
        place.as_ref().unwrap_or(parent).note(errors, "not_supported", says);
    }
    let section = fields.get("sectionName").map_or(Some(None), |node| {
        let name = node.text(1, 253, errors)?;
        if !is_subdomain(name) {
            let says = "must be a listener's name: labels of a-z, 0-9 and - with dots between, as in https";
            node.note(errors, "invalid", says);
        }
        Some(Some(name.to_owned()))
    });
    let namespace = fields.get("namespace").map_or(Some(own.to_owned()), |node| namespace(&node, errors));
    let port = fields.get("port").map_or(Some(None), |node| {
        let port = node.integer(1, 65_535, errors)?;
        u16::try_from(port).ok().map(Some)
    });
    Some(Parent { gateway: format!("{}/{}", namespace?, name?), section: section?, port: port? })
}

fn hostnames(list: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Vec<String> {
    let mut names = Vec::new();
    for node in list.list(MAX_HOSTNAMES, errors) {
        let Some(name) = node.text(1, 253, errors) else { continue };
        match hostname_problem(name) {
            Some(problem) => node.note(errors, "invalid", problem),
            None => names.push(name.to_owned()),
        }
    }
    names
}

/// A rule without backends that matches everything: the CRD's default for no rules.
fn default_rule() -> Rule {
    Rule {
        name: None,
        matches: vec![Match::default()],
        backends: Vec::new(),
        geo: Vec::new(),
        action: Action::default(),
        mirrors: Vec::new(),
    }
}

fn rules(list: Option<DocumentNode<'_>>, errors: &mut DocumentErrors) -> Vec<Rule> {
    let Some(list) = list else { return vec![default_rule()] };
    let places = list.list(MAX_RULES, errors);
    if list.value.as_array().is_some_and(Vec::is_empty) {
        list.note(errors, "invalid", "must have a rule, or be left out for one that takes everything");
    }
    let mut reader = RuleReader::new(errors);
    let read: Vec<_> = places.iter().filter_map(|node| Some((node, reader.rule(node)?))).collect();
    let mut names = BTreeSet::new();
    for (node, name) in read.iter().filter_map(|(node, rule)| Some((node, rule.name.as_ref()?))) {
        if !names.insert(name) {
            node.note(errors, "invalid", format!("another rule is called {name}, too"));
        }
    }
    let rules: Vec<_> = read.iter().map(|(_, rule)| rule.clone()).collect();
    let matches: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    if matches > MAX_MATCHES {
        let message = format!("{matches} matches in all rules, at most {MAX_MATCHES} are allowed");
        list.note(errors, "too_many", message);
    }
    rules
}
