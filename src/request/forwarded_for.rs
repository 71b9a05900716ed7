//! `X-Forwarded-For`, where Envoy passed over it: Envoy reads bare addresses only (`getLastAddressFromXFF`
//! and `getLastNonTrustedAddressFromXFF` in `source/common/http/utility.cc`), and takes the address of the
//! hop before for the client's when a trusted one wrote another form.

use std::net::IpAddr;

use tidegate_policy::address::{canonical, client_address};

use crate::config::TrustedHops;

/// The name of the header.
pub const HEADER: &[u8] = b"x-forwarded-for";

/// The client's address, from the entry of a trusted hop that Envoy passed over: with a port
/// (`192.0.2.1:80`, `[2001:db8::1]:80`) or in brackets. `None`: there is none, and `envoys` address stands.
///
/// `entries` are those of the header, from the right. Whoever is not trusted has written to the left of
/// what trusted hops wrote.
pub fn client(
    hops: &TrustedHops,
    envoys: Option<IpAddr>,
    entries: &mut dyn Iterator<Item = &[u8]>,
) -> Option<IpAddr> {
    match hops {
        TrustedHops::Count(hops) => {
            entries.nth(*hops).filter(|entry| bare(entry).is_none()).and_then(any_form)
        }
        TrustedHops::Blocks(blocks) => {
            let is_trusted = |address| blocks.iter().any(|block| block.contains(address));
            // Another client was read by Envoy, or is a peer that Envoy does not believe.
            if is_trusted(envoys?) { beyond_trusted(entries, &is_trusted) } else { None }
        }
    }
}

/// The first address from the right that is not trusted, else the last before an entry that is none: if
/// Envoy could not read all that are trusted.
fn beyond_trusted(
    entries: &mut dyn Iterator<Item = &[u8]>,
    is_trusted: &dyn Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let (mut found, mut is_last, mut passed_over) = (None, true, false);
    for entry in entries {
        // As Envoy does.
        if entry.is_empty() {
            continue;
        }
        let read = bare(entry);
        passed_over |= read.is_none();
        let Some(address) = read.or_else(|| any_form(entry)) else { break };
        if passed_over {
            found = Some(address);
        }
        // Envoy appends its peer: of a loopback peer its own address, which nobody need trust.
        let may_be_envoys = std::mem::take(&mut is_last) && read.is_some();
        if !may_be_envoys && !is_trusted(address) {
            break;
        }
    }
    found
}

/// Whether Envoy ignored the header and took the peer's address, because an entry has a port or is no
/// address: then a banned client behind the proxy that wrote it passes. Read from the right, such an
/// entry comes before the client's, if that is there at all. (Entries that the client itself wrote are to
/// the left of its address, and Envoy appends one of its own at the right.)
pub fn is_unreadable(client: Option<IpAddr>, entries: &mut dyn Iterator<Item = &[u8]>) -> bool {
    for entry in entries.map(bare) {
        match entry {
            Some(address) if Some(address) == client => return false,
            Some(_) => {}
            None => return true,
        }
    }
    false
}

/// The entries of the header's lines, from the right.
pub fn entries<'v>(lines: impl DoubleEndedIterator<Item = &'v [u8]>) -> impl Iterator<Item = &'v [u8]> {
    lines.rev().flat_map(|line| line.rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// An entry that Envoy can read.
fn bare(entry: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(entry).ok()?.parse().ok().map(canonical)
}

/// An address that may be in brackets and have a port.
fn any_form(entry: &[u8]) -> Option<IpAddr> {
    match entry.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) {
        Some(inner) => client_address(inner),
        None => client_address(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What is read of one line, where Envoy says that the client is `envoys`.
    fn read(hops: &TrustedHops, envoys: &str, line: &[u8]) -> Option<String> {
        let read = client(hops, Some(address(envoys)), &mut entries([line].into_iter()));
        read.map(|address| address.to_string())
    }

    #[test]
    fn a_trusted_hops_entry_is_read_without_port_and_brackets() {
        let trusted = r#"{"admin": {"cluster": "a", "token": "t"},
            "forwarded_for": {"parse": true, "trusted_cidrs": ["10.0.0.0/8", "fd00::/8"]}}"#;
        let trusted = Config::parse(trusted.as_bytes(), |_| None).unwrap().forwarded_for.unwrap();
        let cases: &[(&str, &[u8], Option<&str>)] = &[
            ("10.0.0.1", b"192.0.2.1:80", Some("192.0.2.1")),
            ("10.0.0.1", b"[2001:db8::1]:80", Some("2001:db8::1")),
            ("fd00::1", b" [2001:DB8::1] ", Some("2001:db8::1")),
            ("10.0.0.1", b"[::ffff:192.0.2.1]:80", Some("192.0.2.1")),
            // What the client wrote is to the left of what the hop wrote.
            ("10.0.0.1", b"198.51.100.1:1, 192.0.2.1:80", Some("192.0.2.1")),
            ("10.0.0.1", b"198.51.100.1, 10.0.0.1, 192.0.2.1:80", Some("192.0.2.1")),
            // Envoy appended its peer, or of a loopback peer itself, or passed an empty entry over.
            ("10.0.0.1", b"198.51.100.1:1,192.0.2.1:80,10.0.0.1", Some("192.0.2.1")),
            ("10.0.0.1", b"198.51.100.1:1,192.0.2.1:80,10.0.0.1,203.0.113.1", Some("192.0.2.1")),
            ("10.0.0.1", b"192.0.2.1:80,", Some("192.0.2.1")),
            // Several hops, of which some write ports.
            ("10.0.0.1", b"198.51.100.1:1,192.0.2.1:80,10.0.0.3:80,10.0.0.2", Some("192.0.2.1")),
            ("10.0.0.1", b"198.51.100.1:1,192.0.2.1,10.0.0.3:80", Some("192.0.2.1")),
            ("10.0.0.1", b"unknown,10.0.0.3:80", Some("10.0.0.3")),
            ("10.0.0.1", b"10.0.0.3:80", Some("10.0.0.3")),
            // Envoy read it, or its peer is a stranger, who may write anything.
            ("192.0.2.1", b"198.51.100.1:1, 192.0.2.1", None),
            ("192.0.2.1", b"198.51.100.1:1", None),
            ("192.0.2.1", b"198.51.100.1:1,10.0.0.1", None),
            ("10.0.0.1", b"10.0.0.2,10.0.0.3", None),
            ("10.0.0.1", b"198.51.100.1:1,192.0.2.1,10.0.0.1", None),
            // Nobody's address.
            ("10.0.0.1", b"", None),
            ("10.0.0.1", b",", None),
            ("10.0.0.1", b"192.0.2.1:80,unknown", None),
            ("10.0.0.1", b"192.0.2.1:65536", None),
            ("10.0.0.1", b"192.0.2.1:", None),
            ("10.0.0.1", b"[192.0.2.1", None),
            ("10.0.0.1", b"[]", None),
            ("10.0.0.1", b"[\xff]:80", None),
            ("10.0.0.1", b"\xff\xfe:80", None),
            ("10.0.0.1", b"\"[2001:db8::1]:80\"", None),
        ];
        for (envoys, line, wanted) in cases {
            let said = read(&trusted, envoys, line);
            assert_eq!(said.as_deref(), *wanted, "{envoys} {}", String::from_utf8_lossy(line));
        }
        let lines = [&b"198.51.100.1:1"[..], b"192.0.2.1:80", b"10.0.0.1"];
        assert_eq!(
            client(&trusted, Some(address("10.0.0.1")), &mut entries(lines.into_iter())),
            Some(address("192.0.2.1"))
        );
        assert_eq!(
            client(&trusted, None, &mut entries(lines.into_iter())),
            None,
            "a pipe is no trusted peer"
        );
    }

    #[test]
    fn of_counted_hops_one_entry_counts() {
        let cases: &[(usize, &[u8], Option<&str>)] = &[
            (0, b"198.51.100.1:1,192.0.2.1:80", Some("192.0.2.1")),
            (0, b"198.51.100.1:1,192.0.2.1", None),
            (1, b"198.51.100.1:1,192.0.2.1:80,10.0.0.1", Some("192.0.2.1")),
            (1, b"198.51.100.1:1,192.0.2.1,10.0.0.1:80", None),
            (1, b"192.0.2.1:80", None),
            (1, b"198.51.100.1:1,,10.0.0.1", None),
            (2, b"[2001:db8::1]:80,anything,10.0.0.1", Some("2001:db8::1")),
            (9, b"", None),
        ];
        for (hops, line, wanted) in cases {
            let said = read(&TrustedHops::Count(*hops), "10.0.0.1", line);
            assert_eq!(said.as_deref(), *wanted, "{hops} {}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn an_unreadable_header_is_seen() {
        for (client, value, unreadable) in [
            ("1.2.3.4", "1.2.3.4", false),
            ("1.2.3.4", "junk, 1.2.3.4,192.0.2.2", false),
            ("1.2.3.4", "2001:db8::1 , ::ffff:1.2.3.4", false),
            ("127.0.0.1", "1.2.3.4:80,192.0.2.2", true),
            ("127.0.0.1", "1.2.3.4:80", true),
            ("127.0.0.1", "1.2.3.4, unknown", true),
            ("127.0.0.1", "", true),
        ] {
            let mut entries = entries([value.as_bytes()].into_iter());
            assert_eq!(is_unreadable(Some(address(client)), &mut entries), unreadable, "{value}");
        }
        let two = [&b"1.2.3.4:80"[..], b"192.0.2.2"];
        assert!(is_unreadable(None, &mut entries(two.into_iter())));
        assert!(!is_unreadable(None, &mut entries([].into_iter())));
    }
}
