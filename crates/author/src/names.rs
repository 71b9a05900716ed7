//! The syntax of names: as the HTTPRoute CRD has it, but for hosts that are reached.

use std::net::Ipv4Addr;

/// A DNS-1123 label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`.
pub(super) fn is_label(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

/// A DNS-1123 subdomain: labels with dots between.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A host that is reached: a subdomain whose labels may also have underscores, as names of Compose's
/// services and of private zones do.
pub(super) fn is_host(text: &str) -> bool {
    is_subdomain(&text.replace('_', "x"))
}

/// The problem of a hostname, if it has one.
pub(super) fn hostname_problem(text: &str) -> Option<&'static str> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if is_subdomain(name) {
        return name.parse::<Ipv4Addr>().is_ok().then_some("must be a hostname, not an IP address");
    }
    Some(if text.contains(['$', '{', '<']) {
        "has a placeholder that nothing has replaced yet"
    } else if text.contains(':') {
        "must be a hostname without a port, and not an IP address"
    } else if text.bytes().any(|b| b.is_ascii_uppercase()) {
        "must be in lower case"
    } else if name.contains('*') {
        "a wildcard must be the first label and stand alone, as in *.example.com"
    } else if text.ends_with('.') {
        "must not end with a dot"
    } else {
        "must be labels of a-z, 0-9 and - with dots between, as in www.example.com"
    })
}

/// Whether the hostname `wide` stands for all that `narrow`, a hostname or the name of a
/// host, stands for.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    wide == narrow
        || wide.strip_prefix('*').is_some_and(|end| narrow.ends_with(end) && narrow.len() > end.len())
}

/// What two hostnames both stand for, which is one of them; `None` is any hostname. The
/// outer `None`: they have nothing in common.
pub(super) fn intersection<'n>(one: Option<&'n str>, other: Option<&'n str>) -> Option<Option<&'n str>> {
    match (one, other) {
        (None, name) | (name, None) => Some(name),
        (Some(one), Some(other)) if covers(one, other) => Some(Some(other)),
        (Some(one), Some(other)) => covers(other, one).then_some(Some(one)),
    }
}

/// A token of RFC 9110: header names, and by the CRD query parameters' names.
pub(super) fn is_token(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(inside)
}

/// The problem of the path of an Exact or PathPrefix match, if it has one.
pub(super) fn path_problem(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some("must begin with /".to_owned());
    }
    if let Some(part) = ["//", "/./", "/../"].into_iter().find(|part| path.contains(part)) {
        return Some(format!("must not contain {part}"));
    }
    if let Some(end) = ["/.", "/.."].into_iter().find(|end| path.ends_with(end)) {
        return Some(format!("must not end with {end}"));
    }
    if path.to_ascii_lowercase().contains("%2f") {
        return Some("must not contain %2f".to_owned());
    }
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
                if !(hex(bytes.next()) && hex(bytes.next())) {
                    return Some("after % there must be two hexadecimal digits".to_owned());
                }
            }
            b'?' => {
                return Some(
                    "must not contain ?: a path has no query here, matches have queryParams".to_owned(),
                );
            }
            b'#' => return Some("must not contain #: a fragment is never sent".to_owned()),
            b if b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&b) => {}
            b if b.is_ascii_graphic() => {
                return Some(format!("must not contain {}: write it as %{b:02X}", char::from(b)));
            }
            _ => return Some("must be percent-encoded where it is not visible ASCII".to_owned()),
        }
    }
    None
}
