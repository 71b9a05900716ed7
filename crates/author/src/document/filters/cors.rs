//! `CORS`.

use super::super::super::names::{hostname_problem, is_token};
use super::super::super::reader::{DocumentNode, Object};
use super::super::rule_reader::RuleReader;
use tidegate_policy::route::Method;
use tidegate_policy::route::action::{Cors, MAX_CORS, without_well_known_port};

/// Default of `maxAge`: seconds for which a browser keeps the response to a preflight.
const MAX_AGE: u32 = 5;
const ANY: &str = "*";

impl RuleReader<'_> {
    pub(super) fn cors(&mut self, node: &DocumentNode<'_>) -> Option<Cors> {
        let known =
            &["allowOrigins", "allowCredentials", "allowMethods", "allowHeaders", "exposeHeaders", "maxAge"];
        let fields = node.object(known, self.errors)?;
        let credentials = fields.get("allowCredentials").and_then(|node| node.boolean(self.errors));
        let max_age = fields.get("maxAge");
        let max_age =
            max_age.map_or(Some(MAX_AGE), |node| node.integer(1, i32::MAX.unsigned_abs(), self.errors));
        Some(Cors {
            origins: self.members(&fields, "allowOrigins", MAX_CORS, origin),
            credentials: credentials.unwrap_or_default(),
            methods: self.members(&fields, "allowMethods", 9, method),
            headers: self.members(&fields, "allowHeaders", MAX_CORS, header),
            expose: self.members(&fields, "exposeHeaders", MAX_CORS, header),
            max_age: max_age?,
        })
    }

    /// The members of a list; `*` must be the only one.
    fn members(
        &mut self,
        fields: &Object<'_>,
        field: &str,
        max: usize,
        read: fn(&str) -> Result<String, &'static str>,
    ) -> Vec<String> {
        let Some(list) = fields.get(field) else { return Vec::new() };
        let mut members = Vec::new();
        for node in list.list(max, self.errors) {
            let Some(text) = node.text(1, 256, self.errors) else { continue };
            match if text == ANY { Ok(ANY.to_owned()) } else { read(text) } {
                Ok(member) if members.contains(&member) => {}
                Ok(member) => members.push(member),
                Err(problem) => node.note(self.errors, "invalid", problem),
            }
        }
        // The CRD has this rule for all lists but `exposeHeaders`.
        if field != "exposeHeaders" && members.len() > 1 && members.iter().any(|member| member == ANY) {
            list.note(self.errors, "conflict", "`*` stands for all: give it alone");
        }
        members
    }
}

/// An origin in lower case, without its scheme's well-known port.
fn origin(text: &str) -> Result<String, &'static str> {
    let says =
        "must be http:// or https:// and a host, perhaps with a port, as in https://*.example.com:8443";
    let text = text.to_ascii_lowercase();
    let (_, node) = ["http", "https"]
        .iter()
        .find_map(|scheme| Some((scheme, text.strip_prefix(scheme)?.strip_prefix("://")?)))
        .ok_or(says)?;
    let (host, port) = node.split_once(':').map_or((node, None), |(host, port)| (host, Some(port)));
    if port.is_some_and(|port| port.starts_with('+') || port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err("the port must be from 1 to 65535");
    }
    let is_address = host.parse::<std::net::Ipv4Addr>().is_ok();
    if host != ANY && !is_address && hostname_problem(host).is_some() {
        return Err(says);
    }
    let len = without_well_known_port(text.as_bytes()).len();
    Ok(text.get(..len).unwrap_or(&text).to_owned())
}

fn method(text: &str) -> Result<String, &'static str> {
    match Method::from_name(text.as_bytes()) {
        Some(_) => Ok(text.to_owned()),
        None => Err("must be GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH or *"),
    }
}

fn header(text: &str) -> Result<String, &'static str> {
    if is_token(text) { Ok(text.to_owned()) } else { Err("must be letters, digits and !#$%&'*+-.^_`|~ only") }
}
