//! An HTTPRoute in words, for the list of routes.

use maud::{Markup, html};
use serde_json::Value;

use crate::show::text::{in_table, visible};

/// Matches, and backends, of a route that the list shows.
const SHOWN: usize = 4;
/// The group of references to backends and geo rules of the API.
const OWN_GROUP: &str = "tidegate.dev";

/// An HTTPRoute as the API answers it.
pub struct RouteDocument<'d>(pub &'d Value);

/// A backend that a route names.
#[derive(Debug, PartialEq, Eq)]
pub struct BackendName<'d> {
    /// Its name.
    pub name: &'d str,
    /// Its part of the requests.
    pub weight: u64,
}

impl<'d> RouteDocument<'d> {
    /// The route's id.
    pub fn id(&self) -> String {
        let of = |field: &str| self.0["metadata"][field].as_str();
        let name = of("name").unwrap_or_default();
        match of("namespace") {
            Some(namespace) if namespace != "default" => format!("{namespace}/{name}"),
            _ => name.to_owned(),
        }
    }

    /// Its hostnames; none: every host.
    pub fn hostnames(&self) -> Vec<&'d str> {
        items(&self.0["spec"]["hostnames"]).iter().filter_map(Value::as_str).collect()
    }

    /// Names of the geo rules that its requests must pass.
    pub fn geo_rules(&self) -> Vec<&'d str> {
        let named = |filter: &'d Value| {
            let to = &filter["extensionRef"];
            (to["kind"] == "GeoRule" && to["group"] == OWN_GROUP).then(|| to["name"].as_str()).flatten()
        };
        let mut names: Vec<&str> =
            self.rules().iter().flat_map(|rule| items(&rule["filters"])).filter_map(named).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The backends that it names, each once for each weight.
    pub fn backends(&self) -> Vec<BackendName<'d>> {
        let mut found: Vec<BackendName<'d>> = Vec::new();
        for to in self.rules().iter().flat_map(|rule| items(&rule["backendRefs"])) {
            let name = to["name"].as_str().unwrap_or_default();
            let backend = BackendName { name, weight: to["weight"].as_u64().unwrap_or(1) };
            if !found.contains(&backend) {
                found.push(backend);
            }
        }
        found
    }

    /// Whether one of its rules answers with a redirect.
    pub fn redirects(&self) -> bool {
        let mut filters = self.rules().iter().flat_map(|rule| items(&rule["filters"]));
        filters.any(|filter| filter["type"] == "RequestRedirect")
    }

    /// What it matches, in words.
    pub fn matches(&self) -> Markup {
        let anything = [Value::Null];
        let matches: Vec<&Value> = self
            .rules()
            .iter()
            .flat_map(|rule| match items(&rule["matches"]) {
                [] => &anything[..],
                matches => matches,
            })
            .collect();
        html! {
            @for one in matches.iter().take(SHOWN) { div { (words(one)) } }
            @if matches.len() > SHOWN { div.quiet { "and " (matches.len() - SHOWN) " more" } }
        }
    }

    fn rules(&self) -> &'d [Value] {
        items(&self.0["spec"]["rules"])
    }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// A match in words: `GET /shop and below, header x-version: 2`.
fn words(one: &Value) -> Markup {
    let path = one["path"]["value"].as_str().unwrap_or("/");
    let kind = one["path"]["type"].as_str().unwrap_or("PathPrefix");
    html! {
        @if let Some(method) = one["method"].as_str() { code { (visible(method)) } " " }
        @match (kind, path) {
            ("PathPrefix", "/") => "every path",
            ("PathPrefix", _) => { code { (in_table(path)) } " and below" }
            ("RegularExpression", _) => { "paths like " code { (in_table(path)) } }
            _ => code { (in_table(path)) },
        }
        @for (noun, field) in [("header", "headers"), ("query", "queryParams")] {
            @for condition in items(&one[field]) { ", " (noun) " " code { (in_table(&condition_in_words(condition))) } }
        }
    }
}

fn condition_in_words(condition: &Value) -> String {
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    let sign = if text("type") == "RegularExpression" { " ~ " } else { ": " };
    format!("{}{sign}{}", text("name"), text("value"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_route_is_told_in_words() {
        let document = json!({
            "metadata": {"name": "shop", "namespace": "team-a"},
            "spec": {"hostnames": ["a.example", null], "rules": [
                {"matches": [
                    {"path": {"value": "/<b>"}, "method": "GET", "headers": [{"name": "x", "value": "2"}]},
                    {"path": {"type": "RegularExpression", "value": "/x.*"}},
                    {"path": {"type": "Exact", "value": "/e"},
                     "queryParams": [{"name": "q", "value": "a+", "type": "RegularExpression"}]},
                    {"path": {"type": "PathPrefix", "value": "/"}},
                    {},
                 ],
                 "filters": [{"type": "ExtensionRef", "extensionRef":
                    {"group": "tidegate.dev", "kind": "GeoRule", "name": "eu"}}, {"type": "RequestRedirect"}],
                 "backendRefs": [{"name": "a"}, {"name": "b", "weight": 3}]},
                {"matches": null, "backendRefs": [{"name": "a"}]},
            ]},
        });
        let route = RouteDocument(&document);
        assert_eq!((route.id().as_str(), route.hostnames()), ("team-a/shop", vec!["a.example"]));
        assert_eq!((route.geo_rules(), route.redirects()), (vec!["eu"], true));
        let backends: Vec<_> =
            route.backends().iter().map(|backend| (backend.name, backend.weight)).collect();
        assert_eq!(backends, [("a", 1), ("b", 3)]);
        let text = route.matches().into_string();
        let text = text.replace("<bdi class=\"foreign\">", "").replace("</bdi>", "");
        assert_eq!(
            text,
            "<div><code>GET</code> <code>/&lt;b&gt;</code> and below, header <code>x: 2</code></div>\
             <div>paths like <code>/x.*</code></div>\
             <div><code>/e</code>, query <code>q ~ a+</code></div>\
             <div>every path</div><div class=\"quiet\">and 2 more</div>"
        );
    }

    #[test]
    fn what_is_no_route_is_shown_as_nothing() {
        let document = json!({"spec": {"rules": 5}});
        let route = RouteDocument(&document);
        assert_eq!(route.id(), "");
        assert_eq!((route.backends(), route.geo_rules()), (vec![], vec![]));
        assert_eq!(route.matches().into_string(), "");
    }
}
