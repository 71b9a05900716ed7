//! Reads the document of a backend into a [`Target`].
//!
//! ```json
//! {"address": "api.example.com:443", "tls": {"enabled": true, "sni": "api.example.com", "trust": "internal"},
//!  "allow_private": false}
//! {"address": "my_app:50051", "protocol": "h2c"}
//! ```

pub(super) mod private;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::names::{hostname_problem, is_host};
use super::reader::{DocumentError, DocumentErrors, DocumentNode, Object};
use tidegate_policy::address::canonical;
use tidegate_policy::route::{Target, TargetTls};

const FIELDS: &[&str] = &["name", "address", "protocol", "appProtocol", "tls", "allow_private"];
/// Longest address, in characters: the longest DNS name, a colon and a port.
const MAX_ADDRESS: usize = 253 + 1 + 5;
/// Longest `trust`, in characters: it becomes part of a cluster's name.
const MAX_TRUST: usize = 63;

/// Reads the backend of this name. `address` is required: `host:port`, the host a
/// DNS name, an IPv4 address, or an IPv6 address in brackets. Without `tls` requests are
/// sent without TLS; in `tls`, `enabled` is true by default, and `sni` is the host by
/// default, unless that is an address. A `name` in the document must be this one. `protocol` is `http`
/// (HTTP/1.1) by default, or `h2c`; `appProtocol` says the same as the port of a Service does.
///
/// An address outside of the public internet, or a name that always means such an address,
/// needs `"allow_private": true`, else it is a `private_address`. The addresses of other
/// names are not checked: only Envoy resolves them.
///
/// # Errors
/// All problems of the document, up to [`MAX_PROBLEMS`](super::MAX_PROBLEMS).
/// A problem with `name` itself has the pointer `/name`.
pub fn read_backend(name: &str, document: &Value) -> Result<Target, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    if !is_host(name) {
        let message =
            "a backend's name must be labels of a-z, 0-9, - and _ with dots between, as in orders-v2";
        errors.note("/name", "invalid", message);
    }
    let target = target(name, &DocumentNode::root(document), &mut errors);
    errors.into_result(target)
}

fn target(name: &str, document: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Target> {
    let fields = document.object(FIELDS, errors)?;
    fields.check_name("the backend is called", name, errors);
    let allow_private = fields.get("allow_private").map_or(Some(false), |node| node.boolean(errors));
    let node = fields.require("address", errors);
    let address = node.as_ref().and_then(|node| address(node, errors));
    if let (Some(node), Some((host, _)), Some(false)) = (&node, &address, allow_private)
        && let Some(what) = host.private()
    {
        let message = format!(
            "{what} is not an address of the public internet: write \"allow_private\": true if gateways may connect there"
        );
        node.note(errors, "private_address", message);
    }
    let host = address.as_ref().map(|(host, _)| host);
    let tls = fields.get("tls").map_or(Some(None), |node| tls(&node, host, errors));
    let h2c = speaks_h2c(&fields, matches!(tls, Some(Some(_))), errors);
    let (host, port) = address?;
    Some(Target { host: host.text(), port, h2c: h2c?, tls: tls? })
}

/// Whether it speaks HTTP/2 without TLS. `None`: what says so has a problem.
fn speaks_h2c(fields: &Object<'_>, has_tls: bool, errors: &mut DocumentErrors) -> Option<bool> {
    let (node, names) = match (fields.get("protocol"), fields.get("appProtocol")) {
        (None, None) => return Some(false),
        (Some(_), Some(node)) => {
            node.note(errors, "conflict", "says what protocol says: give one of them");
            return None;
        }
        (Some(node), None) => (node, &["h2c", "http"][..]),
        (None, Some(node)) => (node, &["kubernetes.io/h2c", "kubernetes.io/ws", "http"][..]),
    };
    let is_h2c = node.one_of(names, errors)?.ends_with("h2c");
    if is_h2c && has_tls {
        node.note(errors, "conflict", "h2c is HTTP/2 without TLS: leave out this or tls");
    }
    Some(is_h2c)
}

/// An upstream's host.
enum Host {
    Name(String),
    Ip(IpAddr),
}

impl Host {
    fn text(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Ip(ip) => ip.to_string(),
        }
    }

    /// What kind of host it is, if it cannot be reached over the public internet.
    fn private(&self) -> Option<String> {
        match self {
            Self::Name(name) => private::is_name(name).then(|| name.clone()),
            Self::Ip(ip) => private::is_ip(*ip).then(|| ip.to_string()),
        }
    }
}

fn address(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<(Host, u16)> {
    let text = node.text(1, MAX_ADDRESS, errors)?;
    match split(text).and_then(|(host, port)| Ok((read_host(host)?, read_port(port)?))) {
        Ok(address) => Some(address),
        Err(problem) => {
            node.note(errors, "invalid", problem);
            None
        }
    }
}

/// Host and port of an address; an IPv6 host keeps its brackets.
fn split(text: &str) -> Result<(&str, &str), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("must be host:port, as in api.example.com:443")?;
    let is_v6 = host.contains(':');
    match is_v6 && !(host.starts_with('[') && host.ends_with(']')) {
        true => Err("an IPv6 address must be in brackets, with a port behind: [2001:db8::1]:443"),
        false => Ok((host, port)),
    }
}

fn read_port(text: &str) -> Result<u16, &'static str> {
    let number = Some(text).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let port = number.and_then(|text| text.parse().ok()).filter(|port| *port > 0);
    port.ok_or("the port must be a number from 1 to 65535")
}

fn read_host(text: &str) -> Result<Host, &'static str> {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let ip: Ipv6Addr = inner.parse().map_err(|_| "within brackets there must be an IPv6 address")?;
        return Ok(Host::Ip(canonical(ip.into())));
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let name = text.to_ascii_lowercase();
    // Resolvers read 127.1, 0x7f.1 and 2130706433 as addresses.
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if !last.is_empty() && (hex || last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("the host ends in a number and is no IPv4 address of four decimal numbers");
    }
    match is_host(&name) {
        true => Ok(Host::Name(name)),
        false => Err("the host must be a DNS name (labels of a-z, 0-9, - and _ with dots between), \
                      an IPv4 address, or an IPv6 address in brackets"),
    }
}

/// The value of `tls`. The outer `None`: it has a problem.
fn tls(
    node: &DocumentNode<'_>,
    host: Option<&Host>,
    errors: &mut DocumentErrors,
) -> Option<Option<TargetTls>> {
    let fields = node.object(&["enabled", "sni", "trust"], errors)?;
    let enabled = fields.get("enabled").map_or(Some(true), |node| node.boolean(errors));
    let sni = match (fields.get("sni"), host) {
        (Some(node), _) => sni(&node, errors),
        (None, Some(Host::Name(name))) => Some(name.clone()),
        // The certificate must have a name to be verified.
        (None, Some(Host::Ip(_))) if enabled == Some(true) => {
            fields.require("sni", errors);
            None
        }
        (None, _) => Some(String::new()),
    };
    let trust = fields.get("trust").map_or(Some(None), |node| trust(&node, errors).map(Some));
    let tls = TargetTls { sni: sni?, trust: trust? };
    Some(enabled?.then_some(tls))
}

fn sni(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    let name = node.text(1, 253, errors)?.to_ascii_lowercase();
    let problem = match name.starts_with("*.") {
        true => Some("must be one name: a certificate may have a wildcard, what is asked for may not"),
        false if name.contains('_') && is_host(&name) => None,
        false => hostname_problem(&name),
    };
    if let Some(problem) = problem {
        node.note(errors, "invalid", problem);
        return None;
    }
    Some(name)
}

fn trust(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    let name = node.text(1, MAX_TRUST, errors)?;
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        let message =
            "must be of a-z, 0-9 and -: Envoy's cluster tidegate-dynamic-tls-NAME has the certificates";
        node.note(errors, "invalid", message);
        return None;
    }
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(document: &Value) -> Target {
        read_backend("b", document).unwrap_or_else(|errors| panic!("{document}: {errors:?}"))
    }

    fn refused(document: &Value) -> Vec<(String, &'static str)> {
        let errors = read_backend("b", document).expect_err("must be refused");
        errors.into_iter().map(|problem| (problem.pointer, problem.code)).collect()
    }

    fn address(address: &str) -> Value {
        json!({"address": address, "allow_private": true})
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let cases = [
            ("api.example.com:443", "api.example.com", 443),
            ("API.Example.com:1", "api.example.com", 1),
            ("backend:65535", "backend", 65_535),
            ("my_app:8080", "my_app", 8080),
            ("My_App_1.project_default:80", "my_app_1.project_default", 80),
            ("192.0.2.1:8080", "192.0.2.1", 8080),
            ("[2001:DB8::1]:80", "2001:db8::1", 80),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1", 80),
        ];
        for (text, host, port) in cases {
            assert_eq!(
                read(&address(text)),
                Target { host: host.into(), port, h2c: false, tls: None },
                "{text}"
            );
        }
        let no_addresses = [
            "api.example.com",
            "api.example.com:",
            ":80",
            "a:0",
            "a:65536",
            "a:+80",
            "a:http",
            "a b:80",
            "a.:80",
            "*.example.com:80",
            "http://a:80",
            "2001:db8::1:80",
            "[2001:db8::1]",
            "[192.0.2.1]:80",
            "[::1%eth0]:80",
            "a/b:80",
            "user@a:80",
        ];
        for text in no_addresses {
            assert_eq!(refused(&address(text)), [("/address".to_owned(), "invalid")], "{text}");
        }
    }

    #[test]
    fn what_a_resolver_may_read_as_an_address_is_no_name() {
        for text in
            ["127.1:80", "2130706433:80", "0x7f.0.0.1:80", "0177.0.0.1:80", "1.2.3.4.5:80", "a.0x1:80"]
        {
            assert_eq!(refused(&address(text)), [("/address".to_owned(), "invalid")], "{text}");
        }
        assert_eq!(read(&address("1.2.3.4.example:80")).host, "1.2.3.4.example");
    }

    #[test]
    fn private_addresses_are_refused_unless_they_are_allowed() {
        for text in ["10.0.0.1:80", "[fd00::1]:80", "[::ffff:127.0.0.1]:80", "localhost:80", "LOCALHOST:80"] {
            assert_eq!(
                refused(&json!({"address": text})),
                [("/address".to_owned(), "private_address")],
                "{text}"
            );
            read(&address(text));
        }
        read(&json!({"address": "198.51.100.7:80"}));
        read(&json!({"address": "10.example.com:80"}));
    }

    #[test]
    fn a_protocol_is_said_in_either_way() {
        let h2c = |field: &str, protocol: &str| read(&json!({"address": "a.test:80", field: protocol})).h2c;
        assert!(h2c("protocol", "h2c") && h2c("appProtocol", "kubernetes.io/h2c"));
        for (field, protocol) in
            [("protocol", "http"), ("appProtocol", "http"), ("appProtocol", "kubernetes.io/ws")]
        {
            assert!(!h2c(field, protocol), "{field} {protocol}");
        }
        for (fields, pointer, code) in [
            (json!({"protocol": "h2"}), "/protocol", "invalid"),
            (json!({"appProtocol": "kubernetes.io/wss"}), "/appProtocol", "invalid"),
            (json!({"protocol": "h2c", "appProtocol": "kubernetes.io/h2c"}), "/appProtocol", "conflict"),
            (json!({"protocol": "h2c", "tls": {}}), "/protocol", "conflict"),
        ] {
            let mut document = fields.clone();
            document["address"] = json!("a.test:443");
            assert_eq!(refused(&document), [(pointer.to_owned(), code)], "{fields}");
        }
        assert!(read(&json!({"address": "a.test:80", "protocol": "h2c", "tls": {"enabled": false}})).h2c);
    }

    #[test]
    fn tls_names_whom_it_means() {
        let tls = |address: &str, tls: Value| read(&json!({"address": address, "tls": tls})).tls;
        let named = |sni: &str, trust: Option<&str>| {
            Some(TargetTls { sni: sni.to_owned(), trust: trust.map(str::to_owned) })
        };
        assert_eq!(tls("Example.com:443", json!({})), named("example.com", None));
        assert_eq!(tls("example.com:443", json!({"sni": "A.test"})), named("a.test", None));
        assert_eq!(tls("my_app:443", json!({})), named("my_app", None));
        assert_eq!(tls("198.51.100.7:443", json!({"sni": "my_app"})), named("my_app", None));
        assert_eq!(
            tls("198.51.100.7:443", json!({"sni": "a.test", "trust": "own-1"})),
            named("a.test", Some("own-1"))
        );
        assert_eq!(tls("198.51.100.7:443", json!({"enabled": false})), None);
        assert_eq!(tls("example.com:443", json!({"enabled": false, "trust": "own"})), None);
        let refused = |address: &str, tls: Value| refused(&json!({"address": address, "tls": tls}));
        for (address, tls, pointer, code) in [
            ("198.51.100.7:443", json!({}), "/tls/sni", "required"),
            ("a.test:443", json!({"sni": "198.51.100.7"}), "/tls/sni", "invalid"),
            ("a.test:443", json!({"sni": "*.a.test"}), "/tls/sni", "invalid"),
            ("a.test:443", json!({"trust": "Own"}), "/tls/trust", "invalid"),
            ("a.test:443", json!({"trust": ""}), "/tls/trust", "invalid"),
            ("a.test:443", json!({"trust": "a".repeat(64)}), "/tls/trust", "too_long"),
            ("a.test:443", json!({"enabled": "yes"}), "/tls/enabled", "wrong_type"),
            ("a.test:443", json!({"verify": false}), "/tls/verify", "unknown_field"),
            ("a.test:443", json!(true), "/tls", "wrong_type"),
        ] {
            assert_eq!(refused(address, tls.clone()), [(pointer.to_owned(), code)], "{address} {tls}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (document, pointer, code) in [
            (json!({}), "/address", "required"),
            (json!([]), "", "wrong_type"),
            (json!({"address": 80}), "/address", "wrong_type"),
            (json!({"address": "a:80", "allow_private": 1}), "/allow_private", "wrong_type"),
            (json!({"address": "a:80", "port": 80}), "/port", "unknown_field"),
            (json!({"address": "a:80", "name": "c"}), "/name", "invalid"),
        ] {
            assert_eq!(refused(&document), [(pointer.to_owned(), code)], "{document}");
        }
        let errors = read_backend("Not_A_Name", &json!({"address": "a:80"})).unwrap_err();
        assert_eq!((errors[0].pointer.as_str(), errors.len()), ("/name", 1));
    }
}
