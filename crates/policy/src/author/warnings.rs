//! What a document asks for, is carried out, and is likely not what was meant. Of
//! the document alone: what is known of backends is the admin service's to add.

use super::{MirrorRef, PathMatch, Referent, Route, Rule};
use crate::route::action::{Action, PathEdit};

/// What there is to say of a route, each as a sentence with its place.
#[must_use]
pub fn warnings(route: &Route) -> Vec<String> {
    let mut found = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        let place = format!("/spec/rules/{index}");
        strangers(rule, &place, &mut found);
        let of_backends = rule.backends.iter().map(|reference| &reference.action);
        for action in std::iter::once(&rule.action).chain(of_backends) {
            if goes_nowhere_else(action, rule, route) {
                found.push(format!(
                    "{place}: the redirect leads to the same rule again, where a client goes round in circles"
                ));
            }
        }
    }
    found
}

/// References of kinds that nobody here can resolve.
fn strangers(rule: &Rule, place: &str, found: &mut Vec<String>) {
    for (index, reference) in rule.backends.iter().enumerate() {
        if let Referent::Foreign(what) = &reference.to {
            found.push(format!(
                "{place}/backendRefs/{index}: `{what}` is neither a Service nor a Backend of group tidegate.dev: \
                 its share of the requests gets 500 no_backend"
            ));
        }
    }
    let of_backends = rule.backends.iter().flat_map(|reference| &reference.mirrors);
    for MirrorRef { to, .. } in rule.mirrors.iter().chain(of_backends) {
        if let Referent::Foreign(what) = to {
            found.push(format!(
                "{place}: nothing is mirrored to `{what}`, which is no Service and no Backend"
            ));
        }
    }
}

/// Whether every redirect of this action is a request for the same rule. A scheme
/// or port may lead to another listener; what a client does there is not known.
fn goes_nowhere_else(action: &Action, rule: &Rule, route: &Route) -> bool {
    let Some(redirect) = &action.redirect else { return false };
    if redirect.https.is_some() || redirect.port.is_some() {
        return false;
    }
    let same_host = match &redirect.hostname {
        None => true,
        Some(name) => route.hostnames.is_empty() || route.hostnames.contains(name),
    };
    same_host && redirect.path.as_ref().is_none_or(|path| stays(path, rule))
}

/// Whether the new path is one that the rule takes, whatever the old one was.
fn stays(edit: &PathEdit, rule: &Rule) -> bool {
    let bare = |path: &str| path.trim_end_matches('/').to_owned();
    let is_below = |path: &str, prefix: &str| {
        let (path, prefix) = (bare(path), bare(prefix));
        path.strip_prefix(&prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match edit {
        PathEdit::Full(path) => {
            !rule.matches.is_empty()
                && rule.matches.iter().all(|wanted| match &wanted.path {
                    PathMatch::Exact(own) => own == path,
                    PathMatch::Prefix(prefix) => is_below(path, prefix),
                    PathMatch::Regex(_) | PathMatch::Template(_) => false,
                })
        }
        PathEdit::Prefix { matched, with } => is_below(with, matched),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::author::read;

    fn said(hostnames: &[&str], rule: &Value) -> Vec<String> {
        let spec = json!({"hostnames": hostnames, "rules": [rule]});
        warnings(&read(&json!({"metadata": {"name": "r"}, "spec": spec})).unwrap())
    }

    fn loops(hostnames: &[&str], path: &str, redirect: &Value) -> bool {
        let filter = json!({"type": "RequestRedirect", "requestRedirect": redirect});
        let rule = json!({"matches": [{"path": {"value": path}}], "filters": [filter]});
        !said(hostnames, &rule).is_empty()
    }

    #[test]
    fn a_redirect_that_leads_back_is_told() {
        let prefix = |with: &str| json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": with}});
        let full = |path: &str| json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": path}});
        assert!(loops(&[], "/a", &json!({})));
        assert!(loops(&["a.example"], "/a", &json!({"hostname": "a.example"})));
        assert!(loops(&[], "/a", &json!({"hostname": "b.example"})), "it takes that host too");
        assert!(loops(&[], "/a", &prefix("/a")) && loops(&[], "/a", &prefix("/a/b")));
        assert!(loops(&[], "/", &full("/x")));
        assert!(!loops(&["a.example"], "/a", &json!({"hostname": "b.example"})));
        assert!(!loops(&[], "/a", &json!({"scheme": "https"})) && !loops(&[], "/a", &json!({"port": 8080})));
        assert!(!loops(&[], "/a", &prefix("/ab")) && !loops(&[], "/a", &full("/b")));
    }

    #[test]
    fn what_nobody_can_resolve_is_told() {
        let stranger = json!({"kind": "ServiceImport", "group": "multicluster.x-k8s.io", "name": "far"});
        let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": stranger}});
        let rule = json!({"backendRefs": [{"name": "b"}, stranger], "filters": [mirror]});
        let said = said(&[], &rule);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with("/spec/rules/0/backendRefs/1: `multicluster.x-k8s.io/ServiceImport far`")
        );
    }
}
