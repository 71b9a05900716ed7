//! Random routes, with all features of a route.

use serde_json::{Value, json};
use tidegate_author::{self as author, Route};

use crate::dice::Dice;

/// Names of geo rules.
pub const RULES: &[&str] = &["americas", "eu", "law", "shop", "zone"];
/// Values of headers and query parameters.
pub const VALUES: &[&str] = &["1", "2", "11", "1,2"];
const HOSTNAMES: &[&str] = &["a.example", "x.a.example", "b.example", "*.example", "*.a.example"];
const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/b", "/ab"];
const REGEXES: &[&str] = &["/a/.*", "/a", "(/[ab])+", "/[^/]*/b/?"];
const TEMPLATES: &[&str] = &["/{p}", "/a/{p}", "/{p}/b", "/a/{p}/c"];

pub fn route(dice: &mut Dice, at: usize) -> Route {
    let hostnames = dice.some(HOSTNAMES, 3);
    let rules: Vec<_> = (0..1 + dice.below(3)).map(|_| rule(dice)).collect();
    let document = json!({
        "metadata": {"name": format!("r{at}")},
        "spec": {"hostnames": hostnames, "rules": rules},
    });
    let mut route = author::read(&document).expect("a route");
    for rule in &mut route.rules {
        if dice.percent(40) {
            rule.geo = dice.some(RULES, 2).into_iter().map(str::to_owned).collect();
        }
    }
    route
}

fn rule(dice: &mut Dice) -> Value {
    let matches: Vec<_> = (0..dice.below(3)).map(|_| one_match(dice)).collect();
    let backends: Vec<_> = (0..dice.below(4))
        .map(|_| {
            let filters = filters(dice, false);
            json!({"name": dice.pick(&["b0", "b1", "b2"]), "weight": dice.below(4), "filters": filters})
        })
        .collect();
    let filters = filters(dice, backends.is_empty());
    let timeouts =
        if dice.percent(10) { json!({"request": "2s", "backendRequest": "1s"}) } else { Value::Null };
    let retry = if dice.percent(10) { json!({"attempts": 2, "codes": [503]}) } else { Value::Null };
    let (matches, backends) = (json!(matches), json!(backends));
    json!({"matches": matches, "backendRefs": backends, "filters": filters, "timeouts": timeouts, "retry": retry})
}

/// Filters that may be combined; a rule without backends may redirect.
fn filters(dice: &mut Dice, may_redirect: bool) -> Vec<Value> {
    let edits = |dice: &mut Dice| json!({"set": [{"name": "x", "value": dice.pick(VALUES)}], "add": [{"name": "y", "value": "1"}], "remove": ["z"]});
    let path = json!({"type": "ReplaceFullPath", "replaceFullPath": "/full"});
    let mut filters = Vec::new();
    if dice.percent(15) {
        filters.push(json!({"type": "RequestHeaderModifier", "requestHeaderModifier": edits(dice)}));
    }
    if dice.percent(15) {
        filters.push(json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": edits(dice)}));
    }
    if dice.percent(15) {
        let mirror = json!({"backendRef": {"name": dice.pick(&["m0", "m1"])}, "percent": 50});
        filters.push(json!({"type": "RequestMirror", "requestMirror": mirror}));
    }
    if dice.percent(25) {
        let cors =
            json!({"allowOrigins": ["https://a.example", "https://*.b.example"], "allowMethods": ["PUT"]});
        filters.push(json!({"type": "CORS", "cors": cors}));
    }
    if may_redirect && dice.percent(60) {
        let to = json!({"hostname": "b.example", "path": path, "port": 8080});
        filters.push(json!({"type": "RequestRedirect", "requestRedirect": to}));
    } else if dice.percent(15) {
        filters.push(json!({"type": "URLRewrite", "urlRewrite": {"hostname": "b.example", "path": path}}));
    }
    filters
}

fn one_match(dice: &mut Dice) -> Value {
    let path = match dice.below(10) {
        0 => Value::Null,
        1 => json!({"type": "RegularExpression", "value": dice.pick(REGEXES)}),
        2 => json!({"type": "Template", "value": dice.pick(TEMPLATES)}),
        3..6 => json!({"type": "Exact", "value": dice.pick(PATHS)}),
        _ => json!({"type": "PathPrefix", "value": dice.pick(PATHS)}),
    };
    let method = if dice.percent(25) { json!(dice.pick(&["GET", "HEAD", "POST"])) } else { Value::Null };
    let headers = conditions(dice, &["x", "y"]);
    let query = conditions(dice, &["p", "q"]);
    json!({"path": path, "method": method, "headers": headers, "queryParams": query})
}

fn conditions(dice: &mut Dice, names: &[&str]) -> Vec<Value> {
    if dice.percent(70) {
        return Vec::new();
    }
    let condition = |name: &&str, dice: &mut Dice| match dice.percent(25) {
        true => json!({"type": "RegularExpression", "name": name, "value": "1+"}),
        false => json!({"name": name, "value": dice.pick(VALUES)}),
    };
    dice.some(names, 2).iter().map(|name| condition(name, dice)).collect()
}
