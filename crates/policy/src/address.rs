//! Addresses and prefixes in one canonical form: v4-mapped v6 is v4, and host bits
//! are zero, so that equal prefixes are equal values.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, IpSubnets, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};
use serde::{Deserialize, Serialize};

/// A canonical prefix: an address or a CIDR block. `Ord` is (family, first
/// address, length), the order of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawPrefix", into = "RawPrefix")]
pub struct Prefix(IpNet);

/// Why a text is not a prefix. The message gives the right form.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrefixError {
    /// Neither an IPv4 nor an IPv6 address before the `/`.
    #[error(
        "`{0}` is not an IP address or CIDR block: write it like 203.0.113.7, 203.0.113.0/24 or 2001:db8::/64"
    )]
    Address(String),
    /// The part after `/` is no number in range.
    #[error("`{text}` has no valid prefix length: 0 to {max} for this kind of address")]
    Length {
        /// What was given, shortened.
        text: String,
        /// 32 for IPv4, 128 for IPv6.
        max: u8,
    },
}

impl Prefix {
    /// The prefix of exactly one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self(canonical(address).into())
    }

    /// The IPv4 block of `len` bits around `bits`; host bits are cleared. `None`
    /// when `len` is over 32.
    #[must_use]
    pub fn v4(bits: u32, len: u8) -> Option<Self> {
        Ipv4Net::new(Ipv4Addr::from_bits(bits), len).ok().map(|net| Self::of(net.into()))
    }

    /// The IPv6 block of `len` bits around `bits`; host bits are cleared, and a
    /// block inside `::ffff:0:0/96` becomes the IPv4 block that it maps. `None`
    /// when `len` is over 128.
    #[must_use]
    pub fn v6(bits: u128, len: u8) -> Option<Self> {
        Ipv6Net::new(Ipv6Addr::from_bits(bits), len).ok().map(|net| Self::of(net.into()))
    }

    /// The fewest blocks that have the addresses from `first` to `last` and no others. `None` when
    /// `first` is higher, or of another family.
    pub fn range(first: IpAddr, last: IpAddr) -> Option<impl Iterator<Item = Self>> {
        let blocks: IpSubnets = match (canonical(first), canonical(last)) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => Ipv4Subnets::new(first, last, 0).into(),
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => Ipv6Subnets::new(first, last, 0).into(),
            _ => return None,
        };
        Some(blocks.map(Self::of))
    }

    /// The canonical form of a block.
    fn of(net: IpNet) -> Self {
        let mapped = match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => net.addr().to_ipv4_mapped().zip(net.prefix_len().checked_sub(96)),
        };
        let mapped = mapped.and_then(|(address, len)| Ipv4Net::new(address, len).ok());
        Self(mapped.map_or(net, IpNet::V4).trunc())
    }

    /// First address and length, when this is an IPv4 block.
    #[must_use]
    pub fn as_v4(&self) -> Option<(u32, u8)> {
        match self.0 {
            IpNet::V4(net) => Some((net.addr().to_bits(), net.prefix_len())),
            IpNet::V6(_) => None,
        }
    }

    /// First address and length, when this is an IPv6 block.
    #[must_use]
    pub fn as_v6(&self) -> Option<(u128, u8)> {
        match self.0 {
            IpNet::V6(net) => Some((net.addr().to_bits(), net.prefix_len())),
            IpNet::V4(_) => None,
        }
    }

    /// The first and the last address.
    #[must_use]
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        (self.0.network(), self.0.broadcast())
    }

    /// The number of leading bits that are fixed: 0 to 32 or 0 to 128.
    #[must_use]
    pub fn len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether the prefix fixes no bit at all (`0.0.0.0/0`, `::/0`).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `address` lies in this block; v4-mapped v6 counts as v4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&canonical(address))
    }

    /// The canonical bytes of the prefix, for digests: family, length, address
    /// in network order.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 18] {
        let mut bytes = [0u8; 18];
        let (family, address) = match self.0 {
            IpNet::V4(net) => (4, u128::from(net.addr().to_bits())),
            IpNet::V6(net) => (6, net.addr().to_bits()),
        };
        let (head, tail) = bytes.split_at_mut(2);
        head.copy_from_slice(&[family, self.len()]);
        tail.copy_from_slice(&address.to_be_bytes());
        bytes
    }
}

/// `address` with v4-mapped v6 folded into v4.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The client's address from Envoy's `source.address` attribute: `1.2.3.4:567`,
/// `[2001:db8::1]:567`, or a bare address. `None` for anything else (a pipe, an
/// internal listener).
#[must_use]
pub fn client_address(source_address: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(source_address).ok()?;
    let address = match text.parse::<SocketAddr>() {
        Ok(with_port) => with_port.ip(),
        Err(_) => text.parse::<IpAddr>().ok()?,
    };
    Some(canonical(address))
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads an address or CIDR block. Host bits are cleared (`10.0.0.9/8` is
    /// `10.0.0.0/8`), blanks around it are not accepted.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, has_length) = match text.split_once('/') {
            None => (text, false),
            Some((address, _)) => (address, true),
        };
        let shortened = || text.chars().take(60).collect::<String>();
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address(shortened()))?;
        if !has_length {
            return Ok(Self::host(address));
        }
        let max = if address.is_ipv4() { 32 } else { 128 };
        text.parse().map(Self::of).map_err(|_| PrefixError::Length { text: shortened(), max })
    }
}

impl fmt::Display for Prefix {
    /// `203.0.113.7` for one address, `203.0.113.0/24` for a block.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() == self.0.max_prefix_len() {
            true => self.0.addr().fmt(f),
            false => self.0.fmt(f),
        }
    }
}

/// The encoded form. The variant is the family, so an IPv4 entry takes six bytes.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum RawPrefix {
    V4([u8; 4], u8),
    V6([u8; 16], u8),
}

impl From<Prefix> for RawPrefix {
    fn from(prefix: Prefix) -> Self {
        match prefix.0 {
            IpNet::V4(net) => Self::V4(net.addr().octets(), net.prefix_len()),
            IpNet::V6(net) => Self::V6(net.addr().octets(), net.prefix_len()),
        }
    }
}

impl TryFrom<RawPrefix> for Prefix {
    type Error = &'static str;

    fn try_from(raw: RawPrefix) -> Result<Self, Self::Error> {
        match raw {
            RawPrefix::V4(bytes, len) => Self::v4(u32::from_be_bytes(bytes), len),
            RawPrefix::V6(bytes, len) => Self::v6(u128::from_be_bytes(bytes), len),
        }
        .ok_or("prefix length out of range")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn equal_meaning_is_the_same_value() {
        for text in ["9.9.9.9", "9.9.9.9/32", "::ffff:9.9.9.9", "::ffff:9.9.9.9/128"] {
            assert_eq!(p(text), p("9.9.9.9"), "{text}");
        }
        assert_eq!(p("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(p("::ffff:10.1.2.3/104"), p("10.0.0.0/8"));
        assert_eq!(p("::ffff:0:0/96"), p("0.0.0.0/0"));
        assert_eq!(p("2001:DB8::1/64").to_string(), "2001:db8::/64");
    }

    #[test]
    fn what_is_no_prefix_is_refused_with_what_would_be_right() {
        for text in ["", "999.1.1.1", "1.2.3", "1.2.3.4 ", "fe80::1%eth0", "example.org", "[::1]"] {
            assert!(matches!(text.parse::<Prefix>(), Err(PrefixError::Address(_))), "{text}");
        }
        for text in
            ["1.2.3.4/33", "1.2.3.4/", "1.2.3.4/+8", "1.2.3.4/-1", "::1/129", "::1/0064", "1.2.3.4/8/8"]
        {
            assert!(matches!(text.parse::<Prefix>(), Err(PrefixError::Length { .. })), "{text}");
        }
        let message = "1.2.3.4/33".parse::<Prefix>().unwrap_err().to_string();
        assert!(message.contains("0 to 32"), "{message}");
    }

    #[test]
    fn contains_keeps_to_the_family() {
        assert!(p("0.0.0.0/0").contains("::ffff:1.2.3.4".parse().unwrap()));
        assert!(!p("::/0").contains("1.2.3.4".parse().unwrap()));
        assert!(p("2001:db8::/64").contains("2001:db8::ff".parse().unwrap()));
        assert!(!p("2001:db8::/64").contains("2001:db8:0:1::".parse().unwrap()));
    }

    #[test]
    fn envoys_forms_of_a_source_address() {
        let cases: [(&[u8], Option<&str>); 8] = [
            (b"1.2.3.4:0", Some("1.2.3.4")),
            (b"[2001:db8::1]:0", Some("2001:db8::1")),
            (b"[::ffff:1.2.3.4]:80", Some("1.2.3.4")),
            (b"2001:db8::1", Some("2001:db8::1")),
            (b"1.2.3.4", Some("1.2.3.4")),
            (b"/run/envoy.sock", None),
            (b"", None),
            (b"\xff\xfe", None),
        ];
        for (given, want) in cases {
            assert_eq!(client_address(given), want.map(|w| w.parse().unwrap()));
        }
    }
}
