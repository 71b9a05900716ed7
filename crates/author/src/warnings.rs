//! Warnings about a route that is valid, but probably not what its author meant. They
//! look at the document and its listeners; the admin service adds warnings about others.

use super::{Condition, Listeners, Match, MirrorRef, ObjectRef, PathMatch, Route, Rule, ValueMatch};
use tidegate_policy::route::Method;
use tidegate_policy::route::action::{PathEdit, Redirect};

/// The warnings about a route, each a sentence with the place in the document.
#[must_use]
pub fn warnings(route: &Route, listeners: &Listeners) -> Vec<String> {
    let mut found = route.idle_parents(listeners);
    for (index, rule) in route.rules.iter().enumerate() {
        let place = format!("/spec/rules/{index}");
        strangers(rule, &place, &mut found);
        never_seen(rule, &place, &mut found);
        never_decoded(rule, &place, &mut found);
        never_reached(route, index, &mut found);
        found.extend(without_preflight(rule, route).map(|why| format!("{place}{why}")));
        let of_backends = rule.backends.iter().map(|reference| &reference.action);
        for action in std::iter::once(&rule.action).chain(of_backends) {
            let Some(redirect) = &action.redirect else { continue };
            if leads_back(redirect, rule, route, listeners) {
                let (who, how) = match redirect.https {
                    None => ("a client", ""),
                    Some(true) => ("a client that uses https", ": hold the route to http by sectionName"),
                    Some(false) => ("a client that uses http", ": hold the route to https by sectionName"),
                };
                found.push(format!(
                    "{place}: the redirect leads to the same rule again, where {who} goes round in circles{how}"
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

/// Warns of queries that are written as in a URL: they are compared decoded.
fn never_decoded(rule: &Rule, place: &str, found: &mut Vec<String>) {
    for (index, wanted) in rule.matches.iter().enumerate() {
        for Condition { name, value } in &wanted.query {
            let ValueMatch::Exact(value) = value else { continue };
            let is_escape =
                |three: &[u8]| matches!(three, [b'%', a, b] if [a, b].iter().all(|d| d.is_ascii_hexdigit()));
            let says = if [name, value].iter().any(|text| text.as_bytes().windows(3).any(is_escape)) {
                "a character, and not its percent-encoding"
            } else if value.contains('+') {
                "a space where one is meant: `+` is one that requests encode, as %2B"
            } else {
                continue;
            };
            found.push(format!(
                "{place}/matches/{index}/queryParams: `{name}` and `{value}` are compared with what the query \
                 says decoded: write {says}"
            ));
        }
    }
}

/// Warns of matches that get no request: of a method that has no path, and those that an earlier
/// rule has, too.
fn never_reached(route: &Route, rule: usize, found: &mut Vec<String>) {
    let (earlier, later) = route.rules.split_at(rule);
    let matches = later.first().map_or(&[][..], |rule| &rule.matches);
    for (index, wanted) in matches.iter().enumerate() {
        let place = format!("/spec/rules/{rule}/matches/{index}");
        if wanted.method == Some(Method::Connect) {
            found.push(format!("{place}/method: CONNECT has no path, so that no request matches"));
        }
        if let Some(first) =
            earlier.iter().position(|rule| rule.matches.iter().any(|it| are_same(it, wanted)))
        {
            found.push(format!(
                "{place}: rule {first} has the same match and comes first: no request gets here"
            ));
        }
    }
}

fn are_same(one: &Match, other: &Match) -> bool {
    let same_path = match (&one.path, &other.path) {
        (PathMatch::Prefix(one), PathMatch::Prefix(other)) => bare(one) == bare(other),
        (one, other) => one == other,
    };
    same_path && (one.method, &one.headers, &one.query) == (other.method, &other.headers, &other.query)
}

/// The first match of a rule with CORS whose preflight requests no rule with CORS takes, and why.
fn without_preflight(rule: &Rule, route: &Route) -> Option<String> {
    let has_cors = |rule: &&Rule| {
        let of_backends = rule.backends.iter().map(|reference| &reference.action);
        std::iter::once(&rule.action).chain(of_backends).any(|action| action.cors.is_some())
    };
    has_cors(&rule).then_some(())?;
    let answers = |wanted: &Match| {
        let takes = |it: &&Match| {
            keeps_preflights_out(it).is_none()
                && covers(&it.path, &wanted.path)
                && it.query.iter().all(|condition| wanted.query.contains(condition))
        };
        route.rules.iter().filter(has_cors).flat_map(|rule| &rule.matches).any(|it| takes(&it))
    };
    rule.matches.iter().enumerate().filter(|(_, wanted)| !answers(wanted)).find_map(|(index, wanted)| {
        let why = keeps_preflights_out(wanted)?;
        Some(format!(
            "/matches/{index}: no preflight request matches, so that browsers let pages make simple requests \
             only: {why}"
        ))
    })
}

/// Why a match takes no preflight request, and what would be right.
fn keeps_preflights_out(wanted: &Match) -> Option<String> {
    if let Some(method) = wanted.method.filter(|method| *method != Method::Options) {
        let method = method.name();
        return Some(format!(
            "their method is OPTIONS, not {method}: leave method out, or add a match of OPTIONS"
        ));
    }
    let strange = wanted.headers.iter().find(|condition| !is_of_preflights(&condition.name))?;
    let name = &strange.name;
    Some(format!("browsers send them without `{name}`: add a match of OPTIONS that does not ask for it"))
}

/// Whether browsers, or proxies on the way, set this header on preflight requests (Fetch,
/// "CORS-preflight fetch").
fn is_of_preflights(name: &str) -> bool {
    const SENT: [&str; 12] = [
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "forwarded",
        "host",
        "origin",
        "pragma",
        "referer",
        "user-agent",
        "via",
        "x-real-ip",
    ];
    SENT.contains(&name)
        || ["access-control-request-", "sec-", "x-forwarded-"].iter().any(|prefix| name.starts_with(prefix))
}

/// Whether the first takes every path that the second does, as far as that is plain to see.
fn covers(wide: &PathMatch, narrow: &PathMatch) -> bool {
    match (wide, narrow) {
        (PathMatch::Prefix(prefix), PathMatch::Exact(path) | PathMatch::Prefix(path)) => {
            is_below(path, prefix)
        }
        (PathMatch::Prefix(prefix), PathMatch::Template(template)) => is_below(template.pattern(), prefix),
        (PathMatch::Prefix(prefix), PathMatch::Regex(_)) => bare(prefix).is_empty(),
        (wide, narrow) => wide == narrow,
    }
}

/// A prefix without its trailing `/`, which does not count.
fn bare(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

fn is_below(path: &str, prefix: &str) -> bool {
    bare(path).strip_prefix(bare(prefix)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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

/// Whether the redirect always leads to the same rule again; one with a scheme leads the
/// clients there that use it already. False if it has another port than its scheme has, which
/// may lead to another listener.
fn leads_back(redirect: &Redirect, rule: &Rule, route: &Route, listeners: &Listeners) -> bool {
    let well_known = |https: bool| if https { 443 } else { 80 };
    let comes_back =
        |https| route.holds(listeners).by.iter().any(|listener| listener.admits(https, well_known(https)));
    let is_usual = |port| redirect.https.is_some_and(|https| port == well_known(https));
    if !redirect.port.is_none_or(is_usual) || !redirect.https.is_none_or(comes_back) {
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
    use crate::{Listener, read};

    fn said(hostnames: &[&str], rule: &Value) -> Vec<String> {
        said_on(json!([]), hostnames, rule)
    }

    fn said_on(parents: Value, hostnames: &[&str], rule: &Value) -> Vec<String> {
        let spec = json!({"parentRefs": parents, "hostnames": hostnames, "rules": [rule]});
        let listener = |https| Listener { https: Some(https), ..Listener::default() };
        let listeners = [("http".to_owned(), listener(false)), ("https".to_owned(), listener(true))];
        warnings(&read(&json!({"metadata": {"name": "r"}, "spec": spec})).unwrap(), &listeners.into())
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
        assert!(!loops(&[], "/a", &json!({"port": 8080})));
        assert!(!loops(&["a.example"], "/a", &json!({"scheme": "https", "hostname": "b.example"})));
        assert!(!loops(&[], "/a", &prefix("/ab")) && !loops(&[], "/a", &full("/b")));
    }

    #[test]
    fn a_redirect_to_https_is_for_http_alone() {
        let filter = json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}});
        let rule = json!({"filters": [filter]});
        assert!(loops(&[], "/", &json!({"scheme": "https", "port": 443})));
        assert!(!loops(&[], "/", &json!({"scheme": "https", "port": 8443})));
        let on = |section: &str| said_on(json!([{"name": "g", "sectionName": section}]), &[], &rule);
        assert_eq!(on("http"), [""; 0]);
        for said in [on("https"), said(&[], &rule)] {
            assert!(said[0].contains("uses https") && said[0].contains("sectionName"), "{said:?}");
        }
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
    fn a_query_that_is_written_encoded_is_told() {
        let of = |name: &str, value: &str| {
            said(&[], &json!({"matches": [{"queryParams": [{"name": name, "value": value}]}]})).concat()
        };
        assert!(of("q", "a%20b").ends_with("not its percent-encoding"), "{}", of("q", "a%20b"));
        assert!(of("q%5B%5D", "a").ends_with("not its percent-encoding"));
        assert!(of("q", "a+b").starts_with("/spec/rules/0/matches/0/queryParams: `q` and `a+b` "));
        for value in ["a b", "50%", "%zz", "\u{e9}&="] {
            assert_eq!(of("q", value), "", "{value}");
        }
    }

    #[test]
    fn a_match_that_gets_no_request_is_told() {
        let rule = |matches: Value| json!({"matches": matches, "backendRefs": [{"name": "b"}]});
        let of = |rules: Value| {
            let route = json!({"metadata": {"name": "r"}, "spec": {"rules": rules}});
            warnings(&read(&route).unwrap(), &Listeners::new()).concat()
        };
        let prefix = |path: &str, method: &str| json!({"path": {"value": path}, "method": method});
        let lost = of(json!([
            rule(json!([prefix("/a", "GET")])),
            rule(json!([prefix("/b", "GET"), prefix("/a/", "GET")]))
        ]));
        assert!(lost.starts_with("/spec/rules/1/matches/1: rule 0 has the same match"), "{lost}");
        assert_eq!(
            of(json!([
                rule(json!([prefix("/a", "GET"), prefix("/a", "GET")])),
                rule(json!([prefix("/a", "PUT")]))
            ])),
            ""
        );
        assert!(of(json!([rule(json!([prefix("/a", "CONNECT")]))])).contains("/matches/0/method: CONNECT"));
    }

    #[test]
    fn cors_whose_preflight_requests_go_elsewhere_is_told() {
        let cors = || json!([{"type": "CORS", "cors": {"allowOrigins": ["*"]}}]);
        let rule =
            |wanted: Value| json!({"matches": [wanted], "filters": cors(), "backendRefs": [{"name": "b"}]});
        let of = |rules: &[Value]| {
            let route = json!({"metadata": {"name": "r"}, "spec": {"rules": rules}});
            warnings(&read(&route).unwrap(), &Listeners::new())
        };
        let get = || json!({"path": {"value": "/a"}, "method": "GET"});
        let said = of(&[rule(get())]);
        let [method] = said.as_slice() else { panic!("{said:?}") };
        assert!(method.starts_with("/spec/rules/0/matches/0: no preflight request matches"), "{method}");
        assert!(method.contains("OPTIONS, not GET"), "{method}");
        let with = |name: &str| rule(json!({"headers": [{"name": name, "value": "v"}]}));
        assert!(of(&[with("X-Tenant")]).concat().contains("without `x-tenant`"));
        assert_eq!(of(&[with("Origin")]), [""; 0]);
        let mut of_backend = json!({"matches": [get()], "backendRefs": [{"name": "b", "filters": cors()}]});
        assert_eq!(of(&[of_backend.take()]).len(), 1);
        for answers in [
            json!({"path": {"value": "/a"}}),
            json!({"path": {"value": "/a"}, "method": "OPTIONS"}),
            json!({"path": {"value": "/"}, "method": "OPTIONS"}),
        ] {
            assert_eq!(of(&[rule(get()), rule(answers)]), [""; 0]);
        }
        let elsewhere = json!({"path": {"value": "/b"}, "method": "OPTIONS"});
        let plain = json!({"matches": [{"path": {"value": "/a"}}], "backendRefs": [{"name": "b"}]});
        assert_eq!(of(&[rule(get()), rule(elsewhere), plain]).len(), 1);
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
