//! The host of a request: what its `Host` or `:authority` says (RFC 9110, 7.2).

use std::net::Ipv6Addr;

/// Longest hostname in bytes, as in HTTPRoute and DNS.
const MAX_HOSTNAME: usize = 253;

/// The host of a request, without its port.
pub struct RequestHost {
    /// The name in lower case, without a trailing dot.
    name: [u8; MAX_HOSTNAME],
    /// Bytes of the name; 0: an IPv6 address, which no route's hostname is.
    len: usize,
}

impl RequestHost {
    /// Reads `host` or `host:port`; `None` if it is neither, which RFC 9112, 3.2, has answered
    /// with 400. A host is labels of letters, digits, `-` and `_` with dots between, or an IPv6
    /// address in brackets; a port is up to 65535, or empty.
    ///
    /// RFC 3986 has more: percent-encoding and punctuation. No name in DNS has those, a backend
    /// may read them otherwise than the gate, and a comma is what Envoy joins several `Host`
    /// lines by.
    #[must_use]
    pub fn read(host: &[u8]) -> Option<Self> {
        let (name, port) = match host.strip_prefix(b"[") {
            Some(rest) => {
                let (address, port) = split(rest, b']');
                let _: Ipv6Addr = std::str::from_utf8(address).ok()?.parse().ok()?;
                let port = port?;
                (None, if port.is_empty() { None } else { Some(port.strip_prefix(b":")?) })
            }
            None => {
                let (name, port) = split(host, b':');
                (Some(name.strip_suffix(b".").unwrap_or(name)), port)
            }
        };
        if !port.is_none_or(is_port) {
            return None;
        }
        let mut host = Self { name: [0; MAX_HOSTNAME], len: 0 };
        if let Some(name) = name {
            let is_inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
            let is_label = |label: &[u8]| !label.is_empty() && label.iter().all(is_inside);
            if !name.split(|&byte| byte == b'.').all(is_label) {
                return None;
            }
            let copy = host.name.get_mut(..name.len())?;
            copy.copy_from_slice(name);
            copy.make_ascii_lowercase();
            host.len = name.len();
        }
        Some(host)
    }

    /// The name; empty of an address.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.name.get(..self.len).unwrap_or_default()
    }

    /// The name's labels, the last one first; none of an address.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let labels = self.name().rsplit(|&byte| byte == b'.');
        labels.filter(|label| !label.is_empty())
    }
}

/// The bytes before the first `at`, and those after it, if it is there.
fn split(bytes: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    let before = bytes.split(|&byte| byte == at).next().unwrap_or(bytes);
    (before, bytes.get(before.len().saturating_add(1)..))
}

fn is_port(text: &[u8]) -> bool {
    let more = |port: u32, byte: &u8| {
        let port = port.saturating_mul(10).saturating_add(char::from(*byte).to_digit(10)?);
        (port <= u32::from(u16::MAX)).then_some(port)
    };
    text.iter().try_fold(0, more).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(host: &[u8]) -> Option<Vec<String>> {
        let host = RequestHost::read(host)?;
        Some(host.labels().map(|label| String::from_utf8_lossy(label).into_owned()).collect())
    }

    #[test]
    fn a_host_has_a_name_or_is_an_address() {
        let expected = Some(vec!["example".to_owned(), "a".to_owned()]);
        for host in ["a.example", "A.Example", "a.example:8080", "a.example.", "a.example.:80", "a.example:"]
        {
            assert_eq!(labels(host.as_bytes()), expected, "{host}");
        }
        assert_eq!(labels(b"my_app:65535"), Some(vec!["my_app".to_owned()]));
        assert_eq!(labels(b"10.0.0.1:80").unwrap().len(), 4);
        assert_eq!(labels("a".repeat(253).as_bytes()).unwrap().len(), 1);
        for address in ["[::1]", "[::1]:80", "[2001:DB8::1]:", "[::ffff:1.2.3.4]"] {
            assert_eq!(labels(address.as_bytes()), Some(vec![]), "{address}");
        }
    }

    #[test]
    fn what_is_no_host_or_host_and_port_is_not_read() {
        let long = format!("{}.example", "a".repeat(250));
        for host in [
            "",
            ":",
            ":80",
            ".",
            "..",
            "a..example",
            ".example",
            "a.example..",
            "a:b",
            "a.example:abc",
            "a.example:80:80",
            "a.example:-1",
            "a.example:+80",
            "a.example: 80",
            "a.example:65536",
            "a.example:99999999999999999999",
            "a.example,b.example",
            "a.example, a.example",
            "a b",
            " a",
            "user@a.example",
            "user:pass@a.example:80",
            "http://a.example",
            "a.example/",
            "a.example?x",
            "a.example#x",
            "a.example\\",
            "a%2eexample",
            "%61.example",
            "*.example",
            "a;b",
            "b\u{fc}cher.example",
            "a\0",
            "::1",
            "2001:db8::1:443",
            "[::1",
            "::1]",
            "[]",
            "[::1]80",
            "[::1]x",
            "[::1]:x",
            "[::1]:65536",
            "[a.example]",
            "[1.2.3.4]",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "[[::1]]",
            "x[::1]",
            &long,
        ] {
            assert_eq!(labels(host.as_bytes()), None, "{host}");
        }
        assert_eq!(labels(b"\xff.example"), None);
    }
}
