//! Which limits hold for which requests, and under which key values.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::address::Prefix;
use crate::codec::FormatError;
use crate::request::Facts;

fn limit(name: &str, key: LimitKey) -> Limit {
    Limit { name: name.to_owned(), rate: 100, per_s: 60, burst: 100, ..Limit::new(key) }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn names<'l>(limits: impl Iterator<Item = &'l Limit>) -> Vec<&'l str> {
    limits.map(|limit| limit.name.as_str()).collect()
}

#[test]
fn a_limit_holds_where_route_and_client_are_its_own() {
    let block: Prefix = "10.0.0.0/8".parse().unwrap();
    let route = Limit { routes: vec!["b".into(), "a".into()], ..limit("r", LimitKey::Ip) };
    let cidr = Limit { cidrs: vec![block], ..limit("c", LimitKey::Ip) };
    let both = Limit { routes: vec!["a".into()], cidrs: vec![block], ..limit("b", LimitKey::Ip) };
    let limits = Limits::new([route, cidr, both, limit("all", LimitKey::Ip)]);
    let applying = |route, client: Option<&str>| names(limits.applying(route, client.map(address)));
    assert_eq!(applying(None, None), ["all"]);
    assert_eq!(applying(Some("a"), None), ["all", "r"]);
    assert_eq!(applying(Some("c"), Some("10.1.1.1")), ["all", "c"]);
    assert_eq!(applying(Some("a"), Some("::ffff:10.1.1.1")), ["all", "b", "c", "r"]);
    assert_eq!(applying(Some("b"), Some("11.1.1.1")), ["all", "r"]);
    assert!(Limits::default().applying(Some("a"), None).next().is_none());
}

#[test]
fn a_request_counts_as_what_the_key_says() {
    let lines: &'static [(&[u8], &[u8])] =
        &[(b"x-key", b" a"), (b"x-other", b"z"), (b"x-key", b"b "), (b"x-empty", b" "), (b"x-key", b"")];
    let from = |client: &str| Facts { client: client.parse().ok(), headers: lines, ..Facts::default() };
    let (v6, v4, pipe) = (from("2001:db8:1:2:3::4"), from("::ffff:1.2.3.4"), from(""));
    let of = |key, v6_prefix, facts| KeyValue::of(&Limit { v6_prefix, ..limit("l", key) }, facts, Some("r"));
    let client = |text: &str| Some(KeyValue::Client(text.parse().unwrap()));
    let header = |name: &str| LimitKey::Header(name.to_owned());
    assert_eq!(of(LimitKey::Ip, 64, &v6), client("2001:db8:1:2::/64"));
    assert_eq!(of(LimitKey::Ip, 48, &v6), client("2001:db8:1::/48"));
    assert_eq!(of(LimitKey::Ip, 128, &v6), client("2001:db8:1:2:3::4"));
    assert_eq!(of(LimitKey::Ip, 64, &v4), client("1.2.3.4"));
    assert_eq!(of(LimitKey::Ip, 64, &pipe), None);
    assert_eq!(of(header("x-key"), 64, &v6), Some(KeyValue::Header(Cow::Borrowed(b"a,b"))));
    assert_eq!(of(header("x-other"), 64, &pipe), Some(KeyValue::Header(Cow::Borrowed(b"z"))));
    for absent in ["x-empty", "x-absent"] {
        assert_eq!(of(header(absent), 64, &v6), client("2001:db8:1:2::/64"), "{absent}");
        assert_eq!(of(header(absent), 64, &pipe), None, "{absent}");
    }
    assert_eq!(of(LimitKey::Route, 64, &pipe), Some(KeyValue::Route("r")));
    assert_eq!(KeyValue::of(&limit("l", LimitKey::Route), &pipe, None), None);
    assert_eq!(of(LimitKey::Global, 64, &pipe), Some(KeyValue::Global));
}

#[test]
fn nobody_is_taken_for_somebody_else() {
    let block = |text: &str| KeyValue::Client(text.parse().unwrap());
    let header = |value: &'static [u8]| KeyValue::Header(Cow::Borrowed(value));
    let values = [
        block("1.2.3.4"),
        block("1.2.3.0/24"),
        block("2001:db8::/64"),
        block("2001:db8::/65"),
        header(b"1.2.3.4"),
        header(b"a"),
        header(b"a,b"),
        KeyValue::Route("a"),
        KeyValue::Route("b"),
        KeyValue::Global,
    ];
    let one = limit("a", LimitKey::Ip);
    let limits = [
        one.clone(),
        Limit { name: "ab".into(), ..one.clone() },
        Limit { rate: 101, ..one.clone() },
        Limit { per_s: 61, ..one.clone() },
        Limit { burst: 101, ..one.clone() },
        Limit { shadow: true, ..one.clone() },
    ];
    let mut seen = HashSet::new();
    for limit in &limits {
        for value in &values {
            for seed in [[0; 16], [1; 16]] {
                let location = KeyLocation::of(limit, value, &seed);
                assert!(seen.insert(location.hash), "{limit:?} {value:?}");
                let is_own = matches!(value, KeyValue::Route(_) | KeyValue::Global);
                assert_eq!(location.bucket >= CLIENT_BUCKETS, is_own);
                assert!(location.bucket < BUCKETS);
                assert_eq!(KeyLocation::of(limit, value, &seed), location);
            }
        }
    }
    let told = Limit { headers: true, v6_prefix: 48, cidrs: vec!["::/0".parse().unwrap()], ..one.clone() };
    let (one, told) =
        (KeyLocation::of(&one, &values[0], &[0; 16]), KeyLocation::of(&told, &values[0], &[0; 16]));
    assert_eq!(one, told, "what is not a limit's terms does not make it begin anew");
}

#[test]
fn keys_spread_over_all_buckets() {
    let limit = limit("a", LimitKey::Ip);
    let mut per_bucket = BTreeMap::<u16, u32>::new();
    for bits in 0..65_536u32 {
        let client = KeyValue::Client(Prefix::v4(bits, 32).unwrap());
        *per_bucket.entry(KeyLocation::of(&limit, &client, &[7; 16]).bucket).or_default() += 1;
    }
    assert_eq!(per_bucket.len(), usize::from(CLIENT_BUCKETS));
    let most = per_bucket.values().max().unwrap();
    assert!(*most < 48, "16 on average, {most} at most");
}

#[test]
fn the_largest_table_fits_and_one_limit_more_does_not() {
    let routes: Vec<String> = (0..MAX_MATCHES).map(|i| format!("{i:0317}")).collect();
    let block = |i: u128| Prefix::v6(i << 64, 128).unwrap();
    let cidrs: Vec<Prefix> = (1..=MAX_MATCHES as u128).map(block).collect();
    let largest = |i: usize| Limit {
        name: format!("{i:0317}"),
        key: LimitKey::Header("h".repeat(317)),
        routes: routes.clone(),
        cidrs: cidrs.clone(),
        rate: MAX_RATE,
        burst: MAX_RATE,
        ..Limit::new(LimitKey::Ip)
    };
    let full = Limits::new((0..MAX_LIMITS).map(largest));
    assert_eq!(Limits::from_bytes(&full.to_bytes().unwrap()), Ok(full));
    let over = Limits::new((0..=MAX_LIMITS).map(largest));
    assert!(Limits::from_bytes(&over.to_bytes().unwrap()).is_err());
}

#[test]
fn bytes_that_are_out_of_order_or_out_of_range_are_refused() {
    let good = limit("a", LimitKey::Header("x".into()));
    let as_bytes = |limits: &[Limit]| Limits { limits: limits.to_vec() }.to_bytes().unwrap();
    assert!(Limits::from_bytes(&as_bytes(std::slice::from_ref(&good))).is_ok());
    let routes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let bad = [
        Limit { name: String::new(), ..good.clone() },
        Limit { name: "a\"b".into(), ..good.clone() },
        Limit { name: "a".repeat(318), ..good.clone() },
        Limit { key: LimitKey::Header("X".into()), ..good.clone() },
        Limit { key: LimitKey::Header(String::new()), ..good.clone() },
        Limit { routes: routes(&["b", "a"]), ..good.clone() },
        Limit { routes: routes(&["a", "a"]), ..good.clone() },
        Limit { routes: routes(&[""]), ..good.clone() },
        Limit { routes: vec!["a".into(); MAX_MATCHES + 1], ..good.clone() },
        Limit { rate: 0, ..good.clone() },
        Limit { rate: MAX_RATE + 1, ..good.clone() },
        Limit { burst: 0, ..good.clone() },
        Limit { burst: MAX_RATE + 1, ..good.clone() },
        Limit { per_s: 0, ..good.clone() },
        Limit { per_s: MAX_PER_S + 1, ..good.clone() },
        Limit { v6_prefix: 0, ..good.clone() },
        Limit { v6_prefix: 129, ..good.clone() },
        Limit { rate: 1, per_s: MAX_PER_S, burst: MAX_RATE, ..good.clone() },
    ];
    for bad in bad {
        assert!(
            matches!(
                Limits::from_bytes(&as_bytes(std::slice::from_ref(&bad))),
                Err(FormatError::Malformed(_))
            ),
            "{bad:?}"
        );
    }
    for pair in [["b", "a"], ["a", "a"]] {
        let pair = pair.map(|name| Limit { name: name.to_owned(), ..good.clone() });
        assert!(Limits::from_bytes(&as_bytes(&pair)).is_err());
    }
}

fn any_limit() -> impl Strategy<Value = Limit> {
    let key = prop_oneof![
        Just(LimitKey::Ip),
        Just(LimitKey::Route),
        Just(LimitKey::Global),
        "[a-z-]{1,5}".prop_map(LimitKey::Header)
    ];
    let block = (any::<u128>(), 0u8..=128).prop_map(|(bits, len)| Prefix::v6(bits, len).unwrap());
    let terms = (1..=MAX_RATE, 1..=MAX_PER_S, 1u32..1000, 1u8..=128);
    ("[a-c]{1,3}", key, vec("[a-c]", 0..4), vec(block, 0..4), terms, any::<[bool; 3]>()).prop_map(
        |(name, key, routes, cidrs, (rate, per_s, burst, v6_prefix), [shadow, headers, count_preflights])| {
            Limit {
                name,
                key,
                routes,
                cidrs,
                rate,
                per_s,
                burst,
                shadow,
                headers,
                v6_prefix,
                count_preflights,
            }
        },
    )
}

proptest! {
    #[test]
    fn limits_come_back_as_they_went(limits in vec(any_limit(), 0..10)) {
        let limits = Limits::new(limits);
        prop_assert_eq!(Limits::from_bytes(&limits.to_bytes().unwrap()), Ok(limits));
    }

    #[test]
    fn changed_bytes_are_limits_or_an_error(
        limits in vec(any_limit(), 1..4),
        at: prop::sample::Index,
        to: u8,
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = Limits::new(limits).to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(limits) = Limits::from_bytes(&bytes) {
            prop_assert!(limits.limits().iter().all(Limit::is_valid));
        }
    }

    #[test]
    fn any_bytes_are_limits_or_an_error(mut bytes: Vec<u8>) {
        if let Some(first) = bytes.first_mut() {
            *first = LIMITS_FORMAT;
        }
        let _ = Limits::from_bytes(&bytes);
    }
}
