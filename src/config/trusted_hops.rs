//! Who may say in `X-Forwarded-For` who the client is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::fields::{ConfigError, Fields};

/// Which entries of `X-Forwarded-For` were written by trusted hops, as Envoy is configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrustedHops {
    /// So many are to the right of the client's (`xff_num_trusted_hops`).
    Count(usize),
    /// Those for clients in these blocks (`xff_trusted_cidrs`).
    Blocks(Vec<Block>),
}

/// A block of addresses, with IPv4 as IPv6 that maps it. (`Prefix` of the policy would make the `.wasm`
/// longer.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    first: u128,
    mask: u128,
}

/// Trusted hops and blocks of them, at most.
const MAX_HOPS: usize = 100;
const COUNT: &str = "num_trusted_hops";
const BLOCKS: &str = "trusted_cidrs";

/// The field `forwarded_for`; `None`: what Envoy says of the client stands.
///
/// # Errors
/// Names the first field that is unknown or wrong.
pub fn read(top: &Fields<'_>) -> Result<Option<TrustedHops>, ConfigError> {
    let Some(value) = top.get("forwarded_for") else { return Ok(None) };
    let fields = Fields::of(value, "/forwarded_for", &["parse", COUNT, BLOCKS])?;
    let count = fields.number(COUNT, 0, MAX_HOPS)?;
    let hops = match (count, fields.get(BLOCKS)) {
        (Some(_), Some(_)) => {
            return Err(
                fields.wrong(BLOCKS, "and num_trusted_hops are both given: give the one that Envoy has")
            );
        }
        (Some(count), None) => TrustedHops::Count(count),
        (None, Some(list)) => TrustedHops::Blocks(blocks(list).ok_or_else(|| {
            fields.wrong(BLOCKS, "must be a list of 1 to 100 blocks, like [\"10.0.0.0/8\"]")
        })?),
        // Whom `envoy/envoy.yaml` trusts.
        (None, None) => TrustedHops::Blocks(vec![
            Block::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 96 + 8),
            Block::new(Ipv6Addr::LOCALHOST, 128),
        ]),
    };
    Ok(fields.flag("parse")?.unwrap_or(false).then_some(hops))
}

fn blocks(list: &Value) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    for value in list.as_array()? {
        blocks.push(Block::parse(value.as_str()?)?);
    }
    (1..=MAX_HOPS).contains(&blocks.len()).then_some(blocks)
}

impl Block {
    /// The block of `len` bits around an address.
    fn new(address: Ipv6Addr, len: u32) -> Self {
        let mask = u128::MAX.checked_shl(128u32.saturating_sub(len)).unwrap_or(0);
        Self { first: address.to_bits() & mask, mask }
    }

    /// An address or a CIDR block.
    fn parse(text: &str) -> Option<Self> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(u32::from(len.parse::<u8>().ok()?))),
            None => (text, None),
        };
        let (address, unused) = match address.parse().ok()? {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), 96),
            IpAddr::V6(address) => (address, 0),
        };
        let len = len.map_or(128, |len| len.saturating_add(unused));
        (len <= 128).then(|| Self::new(address, len))
    }

    /// Whether `address` lies in this block; v4-mapped v6 counts as v4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        address.to_bits() & self.mask == self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Option<TrustedHops> {
        let value = format!("{{\"forwarded_for\": {{{fields}}}}}").parse().unwrap();
        super::read(&Fields::of(&value, "", &["forwarded_for"]).unwrap()).unwrap()
    }

    fn trusted(hops: &TrustedHops, address: &str) -> bool {
        let TrustedHops::Blocks(blocks) = hops else { panic!("{hops:?}") };
        blocks.iter().any(|block| block.contains(address.parse().unwrap()))
    }

    #[test]
    fn hops_are_counted_or_in_blocks() {
        assert_eq!(read(r#""parse": true, "num_trusted_hops": 2"#), Some(TrustedHops::Count(2)));
        let off = [r#""parse": false, "num_trusted_hops": 2"#, r#""trusted_cidrs": ["::1"]"#, ""];
        assert_eq!(off.map(read), [None, None, None]);
        let loopback = read(r#""parse": true"#).unwrap();
        for (address, is) in [("127.9.9.9", true), ("::1", true), ("::2", false), ("126.255.255.255", false)]
        {
            assert_eq!(trusted(&loopback, address), is, "{address}");
        }
        let own =
            read(r#""parse": true, "trusted_cidrs": ["10.1.2.3/8", "192.0.2.1", "2001:db8::/32"]"#).unwrap();
        for (address, is) in [
            ("10.255.255.255", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.0", false),
            ("192.0.2.1", true),
            ("192.0.2.0", false),
            ("2001:db8:ffff::", true),
            ("2001:db9::", false),
            ("::10.0.0.1", false),
        ] {
            assert_eq!(trusted(&own, address), is, "{address}");
        }
        let all = read(r#""parse": true, "trusted_cidrs": ["0.0.0.0/0"]"#).unwrap();
        assert!(trusted(&all, "192.0.2.1") && !trusted(&all, "2001:db8::1"));
        let all = read(r#""parse": true, "trusted_cidrs": ["::/0"]"#).unwrap();
        assert!(trusted(&all, "2001:db8::1"));
    }

    #[test]
    fn what_is_no_block_is_none() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0/8", "10.0.0.0/x", "proxy", "::1/8/8"] {
            assert_eq!(Block::parse(text), None, "{text}");
        }
    }
}
