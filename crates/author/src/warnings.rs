//! Warnings about a route that is valid, but probably not what its author meant. They
//! look at the document alone; the admin service adds warnings about backends.

use super::{MirrorRef, ObjectRef, PathMatch, Route, Rule};
use tidegate_policy::route::action::{Action, PathEdit};

/// The warnings about a route, each a sentence with the place in the document.
#[must_use]
pub fn warnings(route: &Route) -> Vec<String> {
    let mut found = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        let place = format!("/spec/rules/{index}");
        strangers(rule, &place, &mut found);
        never_seen(rule, &place, &mut found);
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

/// Warns of references to kinds that Tidegate cannot resolve.
fn strangers(rule: &Rule, place: &str, found: &mut Vec<String>) {
    for (index, reference) in rule.backends.iter().enumerate() {
        if let ObjectRef::Foreign(what) = &reference.to {
            found.push(format!(
                "{place}/backendRefs/{index}: `{what}` is neither a Service nor a Backend of group tidegate.dev: \
                 its share of the requests gets 500 no_backend"
            ));
        }
    }
    let of_backends = rule.backends.iter().flat_map(|reference| &reference.mirrors);
    for MirrorRef { to, .. } in rule.mirrors.iter().chain(of_backends) {
        if let ObjectRef::Foreign(what) = to {
            found.push(format!(
                "{place}: nothing is mirrored to `{what}`, which is no Service and no Backend"
            ));
        }
    }
}

/// Warns of paths that no request has after Envoy has normalised its path.
fn never_seen(rule: &Rule, place: &str, found: &mut Vec<String>) {
    for (index, wanted) in rule.matches.iter().enumerate() {
        let path = match &wanted.path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
            PathMatch::Template(template) => template.pattern(),
            // The text of an expression does not show what else it matches.
            PathMatch::Regex(_) => continue,
        };
        if let Some((escape, stands_for)) = needlessly_encoded(path) {
            found.push(format!(
                "{place}/matches/{index}/path/value: Envoy decodes `{escape}` before paths are compared \
                 (normalize_path), so that no request matches: write `{stands_for}`"
            ));
        }
    }
}

/// The first character of a path that is percent-encoded and need not be (RFC 3986, 2.3):
/// as it is written, and decoded.
fn needlessly_encoded(path: &str) -> Option<(String, char)> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let character = |high, low| char::from_u32(hex(high)? << 4 | hex(low)?);
    path.as_bytes().windows(3).find_map(|three| {
        let &[b'%', high, low] = three else { return None };
        let stands_for = character(high, low)?;
        let is_unreserved = stands_for.is_ascii_alphanumeric() || "-._~".contains(stands_for);
        is_unreserved.then(|| (format!("%{}{}", char::from(high), char::from(low)), stands_for))
    })
}

/// Whether every redirect of this action leads to the same rule again. False if it has a
/// scheme or port, which may lead to another listener.
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

/// Whether the rule matches the new path, whatever the old one was.
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
    use crate::read;

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
    fn a_path_that_no_request_has_is_told() {
        let of = |kind: &str, value: &str| {
            said(&[], &json!({"matches": [{}, {"path": {"type": kind, "value": value}}]}))
        };
        for (kind, value, escape, stands_for) in [
            ("Exact", "/ex/%41", "%41", "A"),
            ("PathPrefix", "/a%2db/%20", "%2d", "-"),
            ("PathPrefix", "/%C3%a9/%7e", "%7e", "~"),
            ("Template", "/{name}/%5F", "%5F", "_"),
        ] {
            let said = of(kind, value);
            let [said] = said.as_slice() else { panic!("{value}: {said:?}") };
            assert!(said.starts_with("/spec/rules/0/matches/1/path/value: "), "{said}");
            assert!(said.contains(&format!("`{escape}`")) && said.ends_with(&format!("`{stands_for}`")));
        }
        for (kind, value) in [
            ("Exact", "/ex/A"),
            ("Exact", "/%20%C3%A9%2541"),
            ("Template", "/{name}/%7B"),
            ("RegularExpression", "/(%41|A)"),
        ] {
            assert_eq!(of(kind, value), [""; 0], "{value}");
        }
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
