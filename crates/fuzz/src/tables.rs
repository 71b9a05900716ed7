//! Tables, as the admin service sends them and shared data holds them.

use std::sync::Arc;

use tidegate_host_sim::{Feed, TestRng, random};
use tidegate_policy::check::PerCheck;
use tidegate_policy::decide::{
    CountrySource, OnNoRoute, Routing, Settings, Tables, Unavailable, Verdict, decide,
};
use tidegate_policy::request::Facts;
use tidegate_policy::tables::{Table, TableDecoder, TableSet};
use tidegate_policy::version::Version;

const SETTINGS: Settings = Settings {
    routing: Routing::Tidegate,
    on_no_route: OnNoRoute::Deny,
    on_unavailable: PerCheck { ip: Unavailable::Deny, geo: Unavailable::Deny, route: Unavailable::Deny },
};

/// Decodes all but the first byte as the table that the first is the number of, in steps as the
/// filter does. Requests are decided by what loads.
pub fn run(bytes: &[u8]) -> bool {
    let Some((first, bytes)) = bytes.split_first() else { return false };
    let table = Table::ALL[usize::from(*first) % Table::COUNT];
    let mut set = TableSet::empty();
    let Ok(mut decoder) = TableDecoder::new(table, &Arc::new(bytes.to_vec())) else { return false };
    loop {
        match decoder.step(&mut set) {
            Ok(true) => break,
            Ok(false) => {}
            Err(_) => return false,
        }
    }
    use_them(set);
    true
}

fn use_them(set: TableSet) {
    let _ = set.entries();
    let tables = Tables::new(Version::default(), set);
    let headers: &[(&[u8], &[u8])] = &[(b"x", b"1"), (b"x", b"\xff"), (b"", b"")];
    for (client, host) in [("1.2.3.4", &b"a.example"[..]), ("2001:db8::1", b"b.a.example:80"), ("", b"\xff")]
    {
        for path in [&b"/"[..], b"/a/b?c=d", b"*", b"\xff"] {
            let client = client.parse().ok();
            let facts = Facts { client, method: b"GET", host, path, headers, ..Facts::default() };
            let decision = decide(&facts, CountrySource::Table, &tables, &SETTINGS, || 1_800_000_000);
            let route = match &decision.verdict {
                Verdict::Allow(found) => found.map(|found| found.route),
                Verdict::Deny(_) => None,
            };
            for limit in tables.limits.applying(route, client) {
                let _ = limit.gcra().take(u64::MAX, 0);
            }
        }
    }
}

/// Those of three random services.
pub fn samples() -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for seed in 1..4 {
        let mut feed = Feed::new();
        random::fill(&mut feed, &mut TestRng::new(seed), 1_800_000_000, 1_000);
        feed.cut_base();
        samples.extend(Table::ALL.map(|table| [&[table as u8][..], &feed.bytes(table)].concat()));
    }
    samples
}
