//! URLs that the service connects to, and names of files that it reads, as documents have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::backend::private;
use super::names::is_host;

/// Longest URL, in characters.
pub const MAX_URL: usize = 2_048;
/// Longest name of a file, in characters.
pub const MAX_FILE: usize = 255;
/// What the name of a file must be, in words.
pub const FILE_FORM: &str = "must be the name of a file in the directory of `tidegate serve --source-files`: a-z, A-Z, 0-9, `.`, \
     `_` and `-`, not beginning with `.`";

/// What a URL may reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// It may be without TLS.
    pub allow_insecure: bool,
    /// It may be at an address outside of the public internet.
    pub allow_private: bool,
}

/// Whether this is the name of a file without a directory, and not a hidden one.
#[must_use]
pub fn is_file_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.bytes().all(is_plain) && !text.starts_with('.')
}

/// What is wrong with a URL: the code and the message of its error. Its host is looked at once more by whoever connects to
/// it. `in_the_clear`: why TLS is wanted, in words.
#[must_use]
pub fn url_problem(url: &str, reach: Reach, in_the_clear: &str) -> Option<(&'static str, String)> {
    let invalid = |message: &str| Some(("invalid", message.to_owned()));
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return invalid("must have no blanks and only ASCII: write others percent-encoded");
    }
    let (is_secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return invalid("must begin with https:// (or http://)"),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return invalid("must have no name or password: a document is no place for secrets");
    }
    if url.contains('#') {
        return invalid("must have no fragment (#...)");
    }
    let Some(host) = host(authority) else {
        return invalid("must have a host and, if need be, a port: https://lists.example.com/drop.txt");
    };
    let is_loopback = match &host {
        UrlHost::Address(address) => address.is_loopback(),
        UrlHost::Name(name) => name == "localhost" || name.ends_with(".localhost"),
    };
    if !is_secure && !is_loopback && !reach.allow_insecure {
        let message = format!("{in_the_clear}: write https://, or \"allow_insecure\": true");
        return Some(("invalid", message));
    }
    let is_private = match &host {
        UrlHost::Address(address) => private::is_ip(*address),
        UrlHost::Name(name) => private::is_name(name),
    };
    if is_private && !reach.allow_private {
        let message = "its host is not of the public internet: write \"allow_private\": true if the service may connect \
                       there";
        return Some(("private_address", message.to_owned()));
    }
    None
}

enum UrlHost {
    Address(IpAddr),
    Name(String),
}

fn host(authority: &str) -> Option<UrlHost> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (UrlHost::Address(address.into()), port.strip_prefix(':').or(port.is_empty().then_some("443"))?)
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
            let host = host.to_ascii_lowercase();
            match host.parse::<Ipv4Addr>() {
                Ok(address) => (UrlHost::Address(address.into()), port),
                // A number in another form would be an address all the same.
                Err(_) if host.split('.').next_back()?.starts_with(|c: char| c.is_ascii_digit()) => {
                    return None;
                }
                Err(_) if is_host(&host) => (UrlHost::Name(host), port),
                Err(_) => return None,
            }
        }
    };
    port.parse::<u16>().ok().filter(|port| *port > 0).map(|_| host)
}
