//! Addresses and prefixes in one canonical form: v4-mapped v6 is v4, host bits
//! are zero, so that what means the same is the same value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A canonical prefix: an address or a CIDR block. `Ord` is (family, first
/// address, length), the order of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawPrefix", into = "RawPrefix")]
pub struct Prefix(Net);

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Net {
    V4(u32, u8),
    V6(u128, u8),
}

/// Why a text is not a prefix. The message says what would be right.
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
        match canonical(address) {
            IpAddr::V4(v4) => Self(Net::V4(v4.to_bits(), 32)),
            IpAddr::V6(v6) => Self(Net::V6(v6.to_bits(), 128)),
        }
    }

    /// The IPv4 block of `len` bits around `bits`; host bits are cleared. `None`
    /// when `len` is over 32.
    #[must_use]
    pub fn v4(bits: u32, len: u8) -> Option<Self> {
        let shift = 32u32.checked_sub(u32::from(len))?;
        let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
        Some(Self(Net::V4(bits & mask, len)))
    }

    /// The IPv6 block of `len` bits around `bits`; host bits are cleared, and a
    /// block inside `::ffff:0:0/96` becomes the IPv4 block that it maps. `None`
    /// when `len` is over 128.
    #[must_use]
    pub fn v6(bits: u128, len: u8) -> Option<Self> {
        let shift = 128u32.checked_sub(u32::from(len))?;
        if let (Some(v4), Some(v4_len)) = (Ipv6Addr::from_bits(bits).to_ipv4_mapped(), len.checked_sub(96)) {
            return Self::v4(v4.to_bits(), v4_len);
        }
        let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
        Some(Self(Net::V6(bits & mask, len)))
    }

    /// First address and length, when this is an IPv4 block.
    #[must_use]
    pub fn as_v4(&self) -> Option<(u32, u8)> {
        match self.0 {
            Net::V4(bits, len) => Some((bits, len)),
            Net::V6(..) => None,
        }
    }

    /// First address and length, when this is an IPv6 block.
    #[must_use]
    pub fn as_v6(&self) -> Option<(u128, u8)> {
        match self.0 {
            Net::V6(bits, len) => Some((bits, len)),
            Net::V4(..) => None,
        }
    }

    /// The number of leading bits that are fixed: 0 to 32 or 0 to 128.
    #[must_use]
    pub fn len(&self) -> u8 {
        match self.0 {
            Net::V4(_, len) | Net::V6(_, len) => len,
        }
    }

    /// Whether the prefix fixes no bit at all (`0.0.0.0/0`, `::/0`).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `address` lies in this block; v4-mapped v6 counts as v4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.0, canonical(address)) {
            (Net::V4(_, len), IpAddr::V4(v4)) => Self::v4(v4.to_bits(), len) == Some(*self),
            (Net::V6(_, len), IpAddr::V6(v6)) => Self::v6(v6.to_bits(), len) == Some(*self),
            _ => false,
        }
    }

    /// The canonical bytes of the prefix, for digests: family, length, address
    /// in network order.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 18] {
        let mut bytes = [0u8; 18];
        let (family, len, address) = match self.0 {
            Net::V4(bits, len) => (4u8, len, u128::from(bits)),
            Net::V6(bits, len) => (6u8, len, bits),
        };
        let (head, tail) = bytes.split_at_mut(2);
        head.copy_from_slice(&[family, len]);
        tail.copy_from_slice(&address.to_be_bytes());
        bytes
    }
}

/// `address` with v4-mapped v6 folded into v4.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The client's address out of Envoy's `source.address` attribute: `1.2.3.4:567`,
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
        let shortened = || text.chars().take(60).collect::<String>();
        let (address, len) = match text.split_once('/') {
            None => (text, None),
            Some((address, len)) => (address, Some(len)),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address(shortened()))?;
        let Some(len) = len else { return Ok(Self::host(address)) };
        let max = if address.is_ipv4() { 32 } else { 128 };
        let bad_length = || PrefixError::Length { text: shortened(), max };
        if len.is_empty() || len.len() > 3 || !len.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad_length());
        }
        let len: u8 = len.parse().map_err(|_| bad_length())?;
        match address {
            IpAddr::V4(v4) => Self::v4(v4.to_bits(), len),
            IpAddr::V6(v6) => Self::v6(v6.to_bits(), len),
        }
        .ok_or_else(bad_length)
    }
}

impl fmt::Display for Prefix {
    /// `203.0.113.7` for one address, `203.0.113.0/24` for a block.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Net::V4(bits, 32) => write!(f, "{}", Ipv4Addr::from_bits(bits)),
            Net::V4(bits, len) => write!(f, "{}/{len}", Ipv4Addr::from_bits(bits)),
            Net::V6(bits, 128) => write!(f, "{}", Ipv6Addr::from_bits(bits)),
            Net::V6(bits, len) => write!(f, "{}/{len}", Ipv6Addr::from_bits(bits)),
        }
    }
}

/// The form on the wire: family by variant, so an IPv4 entry costs six bytes.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum RawPrefix {
    V4([u8; 4], u8),
    V6([u8; 16], u8),
}

impl From<Prefix> for RawPrefix {
    fn from(prefix: Prefix) -> Self {
        match prefix.0 {
            Net::V4(bits, len) => Self::V4(bits.to_be_bytes(), len),
            Net::V6(bits, len) => Self::V6(bits.to_be_bytes(), len),
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
