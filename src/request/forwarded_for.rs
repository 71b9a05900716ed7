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
/// entry comes before the client's, if that is there at all; entries that the client itself wrote are to
/// the left of its address. `read_by_envoy`: Envoy has the client's address from the header.
///
/// An Envoy that appends the peer's address, as the shipped configuration has it, has written the client's
/// at the right where it took the peer for the client. What that peer wrote before it is what Envoy passed
/// over, if it believes the peer; what `hops` do not say of that is guessed by the address, for a stranger
/// may write anything.
pub fn is_unreadable(
    hops: Option<&TrustedHops>,
    client: Option<IpAddr>,
    read_by_envoy: bool,
    entries: &mut dyn Iterator<Item = &[u8]>,
) -> bool {
    let mut is_appended = !read_by_envoy;
    for entry in entries.map(bare) {
        match entry {
            Some(address) if Some(address) == client && !may_be_hop(hops, address, is_appended) => {
                return false;
            }
            Some(_) => is_appended = false,
            None => return true,
        }
    }
    false
}

/// Whether an address that Envoy takes for the client's may be a hop's. `is_appended`: it is the peer's.
fn may_be_hop(hops: Option<&TrustedHops>, address: IpAddr, is_appended: bool) -> bool {
    match hops {
        Some(TrustedHops::Blocks(blocks)) => blocks.iter().any(|block| block.contains(address)),
        Some(TrustedHops::Count(_)) => is_appended,
        // This machine is nobody's client.
        None => address.is_loopback() || is_appended && is_private(address),
    }
}

/// Whether an address is of no public network, as those of proxies mostly are.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let is_shared = address.octets().first_chunk().is_some_and(|[a, b]| *a == 100 && b & 0xc0 == 64);
            address.is_private() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
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
        for (client, read_by_envoy, value, unreadable) in [
            ("1.2.3.4", true, "1.2.3.4", false),
            ("1.2.3.4", true, "junk, 1.2.3.4,192.0.2.2", false),
            ("1.2.3.4", true, "2001:db8::1 , ::ffff:1.2.3.4", false),
            ("10.2.3.4", true, "junk, 10.2.3.4", false),
            ("127.0.0.1", false, "1.2.3.4:80,192.0.2.2", true),
            ("127.0.0.1", false, "1.2.3.4:80", true),
            ("127.0.0.1", false, "1.2.3.4, unknown", true),
            ("127.0.0.1", false, "", true),
            // Envoy appended its peer.
            ("127.0.0.1", false, "1.2.3.4:80,127.0.0.1", true),
            ("127.0.0.1", true, "1.2.3.4:80,127.0.0.1,127.0.0.1", true),
            ("127.0.0.1", false, "1.2.3.4, unknown,127.0.0.1", true),
            ("10.0.0.7", false, "[2001:db8::1]:80,10.0.0.7", true),
            ("100.64.0.7", false, "_hidden,100.64.0.7", true),
            ("fd00::7", false, "1.2.3.4:80,fd00::7", true),
            ("fe80::7", false, "1.2.3.4:80,fe80::7", true),
            ("127.0.0.1", false, "127.0.0.1", false),
            // A stranger may write what it likes.
            ("203.0.113.7", false, "1.2.3.4:80,203.0.113.7", false),
            ("100.128.0.7", false, "unknown,100.128.0.7", false),
        ] {
            let mut entries = entries([value.as_bytes()].into_iter());
            let said = is_unreadable(None, Some(address(client)), read_by_envoy, &mut entries);
            assert_eq!(said, unreadable, "{client}: {value}");
        }
        // Where the hops are known, they say who is believed.
        let blocks = r#"{"admin": {"cluster": "a", "token": "t"},
            "forwarded_for": {"parse": true, "trusted_cidrs": ["203.0.113.0/24"]}}"#;
        let blocks = Config::parse(blocks.as_bytes(), |_| None).unwrap().forwarded_for.unwrap();
        for (hops, client, unreadable) in [
            (&blocks, "203.0.113.7", true),
            (&blocks, "127.0.0.9", false),
            (&TrustedHops::Count(1), "198.51.100.7", true),
        ] {
            let line = format!("unknown,{client}");
            let said = is_unreadable(
                Some(hops),
                Some(address(client)),
                false,
                &mut entries([line.as_bytes()].into_iter()),
            );
            assert_eq!(said, unreadable, "{client}");
        }
        let two = [&b"1.2.3.4:80"[..], b"192.0.2.2"];
        assert!(is_unreadable(None, None, false, &mut entries(two.into_iter())));
        assert!(!is_unreadable(None, None, false, &mut entries([].into_iter())));
    }
}
