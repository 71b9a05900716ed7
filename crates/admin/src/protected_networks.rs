//! Networks that nobody bans by mistake: loopback, where gateways connect from, and what the operator
//! adds. A ban of them by the API needs `force`; one by SQL is the operator's own word.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tidegate_policy::address::Prefix;

use crate::gateways::Gateways;

/// The protected networks of one service.
#[derive(Clone, Debug, Default)]
pub struct ProtectedNetworks {
    /// What the operator adds.
    added: Arc<[Prefix]>,
}

/// A protected network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProtectedNetwork {
    /// Its block.
    pub block: Prefix,
    /// Why it is protected.
    pub why: Protection,
}

/// Why a network is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Protection {
    /// It is this machine.
    Loopback,
    /// The gateway of this node connects from there.
    Gateway(String),
    /// The operator said so.
    Added,
}

impl fmt::Display for ProtectedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { block, why } = self;
        match why {
            Protection::Loopback => write!(f, "{block} (loopback)"),
            Protection::Gateway(node) => write!(f, "{block} (the gateway {node} connects from there)"),
            Protection::Added => write!(f, "{block} (--protect)"),
        }
    }
}

impl ProtectedNetwork {
    /// Whether it has an address in common with `prefix`.
    #[must_use]
    pub fn overlaps(&self, prefix: &Prefix) -> bool {
        overlap(&self.block, prefix)
    }
}

impl ProtectedNetworks {
    /// Those that are always protected, and `added`.
    #[must_use]
    pub fn new(added: &[Prefix]) -> Self {
        Self { added: added.into() }
    }

    /// All of them, with the addresses of the `gateways` that are connected now.
    #[must_use]
    pub fn list(&self, gateways: &Gateways) -> Vec<ProtectedNetwork> {
        let loopback =
            [Prefix::v4(Ipv4Addr::LOCALHOST.to_bits(), 8), Prefix::v6(Ipv6Addr::LOCALHOST.to_bits(), 128)];
        let loopback = loopback.into_iter().flatten().map(|block| (block, Protection::Loopback));
        let added = self.added.iter().map(|block| (*block, Protection::Added));
        let connected = gateways.addresses().into_iter().filter(|(address, _)| !address.is_loopback());
        let connected = connected.map(|(address, node)| (Prefix::host(address), Protection::Gateway(node)));
        loopback.chain(added).chain(connected).map(|(block, why)| ProtectedNetwork { block, why }).collect()
    }

    /// The first of them that has an address in common with `prefix`.
    #[must_use]
    pub fn overlapping(&self, prefix: &Prefix, gateways: &Gateways) -> Option<ProtectedNetwork> {
        self.list(gateways).into_iter().find(|protected| protected.overlaps(prefix))
    }
}

/// What is not of the public internet: private, shared, link-local, loopback, unspecified, multicast and reserved
/// networks (RFC 6890). They mean something else everywhere, so no list and no rule is right about them.
const NOT_PUBLIC: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",
    "64:ff9b::/96",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// All networks that are not of the public internet.
pub fn not_public() -> impl Iterator<Item = Prefix> {
    NOT_PUBLIC.into_iter().filter_map(|block| block.parse().ok())
}

/// Whether `prefix` has an address that is not of the public internet.
#[must_use]
pub fn is_not_public(prefix: &Prefix) -> bool {
    not_public().any(|block| overlap(&block, prefix))
}

/// Whether two blocks have an address in common: then one contains the other's first.
fn overlap(one: &Prefix, other: &Prefix) -> bool {
    let first = |block: &Prefix| -> IpAddr { block.ends().0 };
    one.contains(first(other)) || other.contains(first(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_known() {
        assert_eq!(not_public().count(), NOT_PUBLIC.len(), "each is a block");
        let is_not_public = |text: &str| is_not_public(&text.parse().unwrap());
        for text in [
            "10.1.2.3",
            "172.31.0.0/16",
            "192.168.0.1",
            "100.127.0.1",
            "169.254.0.1",
            "fd00::/64",
            "fe80::1",
            "224.0.0.1",
            "0.0.0.0/0",
        ] {
            assert!(is_not_public(text), "{text}");
        }
        for text in ["11.0.0.1", "172.32.0.1", "192.169.0.1", "100.128.0.1", "2001:db8::/32", "ec00::1"] {
            assert!(!is_not_public(text), "{text}");
        }
    }

    #[test]
    fn what_has_an_address_of_a_protected_network_is_found() {
        let added: Prefix = "198.51.100.0/24".parse().unwrap();
        let protected = ProtectedNetworks::new(&[added]);
        let found = |text: &str| {
            let found = protected.overlapping(&text.parse().unwrap(), &Gateways::new())?;
            Some(found.block.to_string())
        };
        assert_eq!(found("127.0.0.1").as_deref(), Some("127.0.0.0/8"));
        assert_eq!(found("::ffff:127.9.9.9").as_deref(), Some("127.0.0.0/8"));
        assert_eq!(found("0.0.0.0/0").as_deref(), Some("127.0.0.0/8"), "it contains one");
        assert_eq!(found("::/0").as_deref(), Some("::1"));
        assert_eq!(found("198.51.100.7").as_deref(), Some("198.51.100.0/24"));
        assert_eq!(found("198.51.0.0/16").as_deref(), Some("198.51.100.0/24"));
        for free in ["10.0.0.1", "198.51.101.0/24", "2001:db8::/32", "::2"] {
            assert_eq!(found(free), None, "{free}");
        }
    }
}
