//! Hosts that cannot be reached over the public internet. Not everybody who may write
//! backends may also reach the gateway's own network, and the metadata services of clouds
//! return credentials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names that mean the machine itself (RFC 6761), or a cloud's metadata service.
/// The numbered ones are of Red Hat's file of hosts, those with `ip6` of Debian's.
const NAMES: [&str; 12] = [
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
];

/// Whether a name, in lower case, always means such a host.
pub fn is_name(name: &str) -> bool {
    NAMES.contains(&name) || name.ends_with(".localhost")
}

/// Whether an address is private, loopback, link-local (clouds' metadata services),
/// shared (RFC 6598), multicast, unspecified, reserved, or stands for one that is.
pub fn is_ip(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_v4(ip),
        IpAddr::V6(ip) => is_v6(ip),
    }
}

fn is_v4(ip: Ipv4Addr) -> bool {
    match ip.octets() {
        // This network; IETF protocol assignments; benchmarks; multicast and reserved.
        [0, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] | [224..=255, ..] => true,
        // Shared address space.
        [100, 64..=127, ..] => true,
        // Azure's wire server: in a public range, but only reachable within Azure.
        [168, 63, 129, 16] => true,
        _ => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
    }
}

fn is_v6(ip: Ipv6Addr) -> bool {
    match ip.segments() {
        // Unspecified, loopback, and IPv4 in IPv6: compatible, mapped.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => matches!((high, low), (0, 0 | 1)) || is_v4(v4(high, low)),
        // IPv4-translated (SIIT, RFC 2765); NAT64.
        [0, 0, 0, 0, 0xffff, 0, high, low] => is_v4(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_v4(v4(high, low)),
        [0x64, 0xff9b, 1, ..] => true,
        // 6to4; Teredo.
        [0x2002, high, low, ..] => is_v4(v4(high, low)),
        [0x2001, 0, ..] => true,
        // Unique local; link-local and site-local; multicast.
        [0xfc00..=0xfdff | 0xfe80..=0xffff, ..] => true,
        _ => false,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_of_the_public_internet_is_known() {
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "::ffff:0:a9fe:a9fe",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2001::1",
            "2002:a00:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ];
        for text in private {
            assert!(is_ip(text.parse().unwrap()), "{text}");
        }
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.1",
            "168.63.129.17",
            "169.253.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "::ffff:0:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
            "2001:4860::8888",
            "fbff::1",
        ];
        for text in public {
            assert!(!is_ip(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn names_of_the_machine_itself_are_known() {
        let own = [
            "localhost",
            "localhost4",
            "localhost6",
            "localhost6.localdomain6",
            "ip6-localhost",
            "ip6-loopback",
            "a.localhost",
            "a.b.localhost",
            "metadata.google.internal",
        ];
        for name in own {
            assert!(is_name(name), "{name}");
        }
        for name in ["localhost.example.com", "mylocalhost", "localhost7", "example.com", "internal"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
