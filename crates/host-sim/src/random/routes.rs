//! Random routes, with all features of a route.

use serde_json::{Value, json};
use tidegate_author::{self as author, Route};

use crate::rng::TestRng;

/// Names of geo rules.
pub const RULES: &[&str] = &["americas", "eu", "law", "shop", "zone"];
/// Values of headers and query parameters.
pub const VALUES: &[&str] = &["1", "2", "11", "1,2"];
const HOSTNAMES: &[&str] = &["a.example", "x.a.example", "b.example", "*.example", "*.a.example"];
const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/b", "/ab"];
const REGEXES: &[&str] = &["/a/.*", "/a", "(/[ab])+", "/[^/]*/b/?"];
const TEMPLATES: &[&str] = &["/{p}", "/a/{p}", "/{p}/b", "/a/{p}/c"];

pub fn route(rng: &mut TestRng, at: usize) -> Route {
    let hostnames = rng.some(HOSTNAMES, 3);
    let rules: Vec<_> = (0..1 + rng.below(3)).map(|_| rule(rng)).collect();
    let document = json!({
        "metadata": {"name": format!("r{at}")},
        "spec": {"hostnames": hostnames, "rules": rules},
    });
    let mut route = author::read(&document).expect("a route");
    for rule in &mut route.rules {
        if rng.percent(40) {
            rule.geo = rng.some(RULES, 2).into_iter().map(str::to_owned).collect();
        }
    }
    route
}

fn rule(rng: &mut TestRng) -> Value {
    let matches: Vec<_> = (0..rng.below(3)).map(|_| one_match(rng)).collect();
    let backends: Vec<_> = (0..rng.below(4))
        .map(|_| {
            let filters = filters(rng, false);
            json!({"name": rng.pick(&["b0", "b1", "b2"]), "weight": rng.below(4), "filters": filters})
        })
        .collect();
    let filters = filters(rng, backends.is_empty());
    let timeouts =
        if rng.percent(10) { json!({"request": "2s", "backendRequest": "1s"}) } else { Value::Null };
    let retry = if rng.percent(10) { json!({"attempts": 2, "codes": [503]}) } else { Value::Null };
    let (matches, backends) = (json!(matches), json!(backends));
    json!({"matches": matches, "backendRefs": backends, "filters": filters, "timeouts": timeouts, "retry": retry})
}

/// Filters that may be combined; a rule without backends may redirect.
fn filters(rng: &mut TestRng, may_redirect: bool) -> Vec<Value> {
    let edits = |rng: &mut TestRng| json!({"set": [{"name": "x", "value": rng.pick(VALUES)}], "add": [{"name": "y", "value": "1"}], "remove": ["z"]});
    let path = json!({"type": "ReplaceFullPath", "replaceFullPath": "/full"});
    let mut filters = Vec::new();
    if rng.percent(15) {
        filters.push(json!({"type": "RequestHeaderModifier", "requestHeaderModifier": edits(rng)}));
    }
    if rng.percent(15) {
        filters.push(json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": edits(rng)}));
    }
    if rng.percent(15) {
        let mirror = json!({"backendRef": {"name": rng.pick(&["m0", "m1"])}, "percent": 50});
        filters.push(json!({"type": "RequestMirror", "requestMirror": mirror}));
    }
    if rng.percent(25) {
        let cors =
            json!({"allowOrigins": ["https://a.example", "https://*.b.example"], "allowMethods": ["PUT"]});
        filters.push(json!({"type": "CORS", "cors": cors}));
    }
    if may_redirect && rng.percent(60) {
        let to = json!({"hostname": "b.example", "path": path, "port": 8080});
        filters.push(json!({"type": "RequestRedirect", "requestRedirect": to}));
    } else if rng.percent(15) {
        filters.push(json!({"type": "URLRewrite", "urlRewrite": {"hostname": "b.example", "path": path}}));
    }
    filters
}

fn one_match(rng: &mut TestRng) -> Value {
    let path = match rng.below(10) {
        0 => Value::Null,
        1 => json!({"type": "RegularExpression", "value": rng.pick(REGEXES)}),
        2 => json!({"type": "Template", "value": rng.pick(TEMPLATES)}),
        3..6 => json!({"type": "Exact", "value": rng.pick(PATHS)}),
        _ => json!({"type": "PathPrefix", "value": rng.pick(PATHS)}),
    };
    let method = if rng.percent(25) { json!(rng.pick(&["GET", "HEAD", "POST"])) } else { Value::Null };
    let headers = conditions(rng, &["x", "y"]);
    let query = conditions(rng, &["p", "q"]);
    json!({"path": path, "method": method, "headers": headers, "queryParams": query})
}

fn conditions(rng: &mut TestRng, names: &[&str]) -> Vec<Value> {
    if rng.percent(70) {
        return Vec::new();
    }
    let condition = |name: &&str, rng: &mut TestRng| match rng.percent(25) {
        true => json!({"type": "RegularExpression", "name": name, "value": "1+"}),
        false => json!({"name": name, "value": rng.pick(VALUES)}),
    };
    rng.some(names, 2).iter().map(|name| condition(name, rng)).collect()
}
