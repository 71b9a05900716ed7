//! Networks that no list of the internet is right about: they mean something else everywhere.

use tidegate_policy::address::Prefix;

/// Private, shared, link-local, loopback, unspecified, multicast and reserved networks.
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

/// All of them.
pub(super) fn not_public() -> impl Iterator<Item = Prefix> {
    NOT_PUBLIC.into_iter().filter_map(|block| block.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_block() {
        assert_eq!(not_public().count(), NOT_PUBLIC.len());
    }
}
