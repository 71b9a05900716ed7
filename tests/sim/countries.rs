//! The country table's way into every VM, over the simulated host: as large as the
//! whole world's, a step at a time, and never together with rules of another day.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{Fault, Feed, Request, Root, Sim, Worker};
use tidegate_policy::geo::{Country, CountryRange, GeoAction, GeoMode, GeoRule, UnknownCountry};

const CONFIG: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}}"#;
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// Ranges of the world's tables, about.
const V4: u32 = 400_000;
const V6: u32 = 280_000;

struct Testbed {
    sim: Sim,
    feed: Feed,
    gates: Vec<(Worker, Root)>,
}

impl Testbed {
    fn new(workers: usize) -> Self {
        let mut sim = Sim::new(module);
        let gate = |sim: &mut Sim| {
            let worker = sim.worker();
            let (root, accepted) = sim.root(worker, "tidegate", CONFIG);
            assert!(accepted, "{:?}", sim.errors());
            (worker, root)
        };
        let gates = (0..workers).map(|_| gate(&mut sim)).collect();
        let mut testbed = Self { sim, feed: Feed::new(), gates };
        testbed.run(SECOND);
        testbed
    }

    fn run(&mut self, time: Duration) {
        self.feed.run(&mut self.sim, time);
    }

    fn get(&mut self, gate: usize, client: &str) -> (u16, String) {
        let (worker, root) = self.gates[gate];
        let response = self.sim.request(worker, root, Request::get("/x", client));
        (response.status, response.details)
    }

    fn all(&mut self, client: &str) -> Vec<u16> {
        (0..self.gates.len()).map(|gate| self.get(gate, client).0).collect()
    }
}

fn country(code: &str) -> Country {
    code.parse().unwrap()
}

/// Ranges of alternating countries over both families, as many as the world has.
/// All of 10.0.0.0/8 and 2001:db8::/32 are in `here`.
fn world(here: &str) -> impl Iterator<Item = CountryRange> {
    let here = country(here);
    let codes = ["AA", "BB", "CC"].map(country);
    let range = move |first: IpAddr, last: IpAddr, at: usize, home: bool| CountryRange {
        first,
        last,
        country: if home { here } else { codes[at % codes.len()] },
    };
    let v4 = (0..V4).map(move |i| {
        let first = i << 12;
        let addresses = (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(first | 0xfff));
        range(addresses.0.into(), addresses.1.into(), i as usize, first >> 24 == 10)
    });
    let v6 = (0..V6).map(move |i| {
        let first = (0x2001_0000_0000_0000_u128 + (u128::from(i) << 26)) << 64;
        let last = first | ((1 << 90) - 1);
        let home = first >> 96 == 0x2001_0db8;
        range(Ipv6Addr::from_bits(first).into(), Ipv6Addr::from_bits(last).into(), i as usize, home)
    });
    v4.chain(v6)
}

fn deny(code: &str) -> GeoRule {
    GeoRule {
        name: "embargo".into(),
        global: true,
        mode: GeoMode::Deny,
        countries: vec![country(code)],
        unknown: UnknownCountry::Allow,
        action: GeoAction::Forbidden,
        shadow: false,
    }
}

#[test]
fn a_table_of_the_whole_world_loads_in_steps_and_never_with_other_rules() {
    let mut testbed = Testbed::new(2);
    // Here is DE, and FR may not enter.
    testbed.feed.set_countries(world("DE"));
    testbed.feed.set_geo([deny("FR")]);
    testbed.run(5 * SECOND);
    assert_eq!(testbed.all("10.0.0.2"), [200; 2]);
    assert_eq!(testbed.all("2001:db8::1"), [200; 2]);
    // Here is FR, and DE may not enter: half of it would stop everybody here.
    testbed.feed.set_countries(world("FR"));
    testbed.feed.set_geo([deny("DE")]);
    testbed.feed.ban("9.9.9.9");
    let mut rounds = 0;
    let mut left: Vec<usize> = (0..2).collect();
    while !left.is_empty() {
        for gate in 0..2 {
            assert_eq!(testbed.get(gate, "10.0.0.2"), (200, "via_upstream".into()), "half of two worlds");
            assert_eq!(testbed.get(gate, "2001:db8::1").0, 200);
        }
        left.retain(|gate| testbed.get(*gate, "9.9.9.9").0 == 200);
        rounds += 1;
        assert!(rounds < 5_000, "never loads");
        // A callback at a time, as a worker gets to its requests between two.
        if !testbed.sim.deliver() && !testbed.feed.answer_all(&mut testbed.sim) {
            testbed.sim.advance(MS);
        }
    }
    // 166 steps of the check alone, 32 of them in a callback at most.
    assert!(rounds > 10, "{rounds}");
    testbed.feed.set_geo([deny("FR")]);
    testbed.run(SECOND);
    for client in ["10.0.0.2", "2001:db8::1"] {
        assert_eq!(testbed.get(0, client), (403, "geo_denied".into()), "the new world is in force");
    }
    assert!(testbed.sim.errors().is_empty(), "{:?}", testbed.sim.errors());
}

#[test]
fn what_did_not_change_is_neither_fetched_nor_read_again() {
    let mut testbed = Testbed::new(3);
    testbed.feed.set_countries(world("DE"));
    testbed.feed.set_geo([deny("DE")]);
    testbed.run(5 * SECOND);
    assert_eq!(testbed.all("10.0.0.2"), [403; 3]);
    let pages = testbed.feed.served["page"];
    // Who reads a piece of it again cannot use it, and enforces nothing new.
    for side in ["countries/0/0", "countries/1/0"] {
        testbed.sim.overwrite(side, |value| value.iter_mut().for_each(|byte| *byte = !*byte));
    }
    for ban in ["9.9.9.1", "9.9.9.2", "9.9.9.3"] {
        testbed.feed.ban(ban);
        testbed.feed.serve(&mut testbed.sim);
        assert_eq!(testbed.all(ban), [403; 3], "at once");
    }
    assert_eq!(testbed.feed.served["page"], pages);
    assert_eq!(testbed.all("10.0.0.2"), [403; 3], "and the countries are still known");
    // A new table is read, of course, and mends what lay there.
    testbed.feed.set_countries(world("FR"));
    testbed.run(5 * SECOND);
    assert_eq!(testbed.all("10.0.0.2"), [200; 3]);
}

#[test]
fn a_table_that_is_spoilt_on_its_way_leaves_the_one_before_in_force() {
    let mut testbed = Testbed::new(2);
    testbed.feed.set_countries(world("DE"));
    testbed.feed.set_geo([deny("DE")]);
    testbed.run(5 * SECOND);
    for (fault, here, before, after) in [(Fault::Page, "FR", 403, 200), (Fault::Gone, "DE", 200, 403)] {
        testbed.feed.faults.push_back(fault);
        testbed.feed.set_countries(world(here));
        while !testbed.feed.faults.is_empty() {
            assert_eq!(testbed.all("2001:db8::1"), [before; 2]);
            if !testbed.sim.deliver() && !testbed.feed.answer_all(&mut testbed.sim) {
                testbed.sim.advance(MS);
            }
        }
        testbed.sim.deliver();
        assert_eq!(testbed.all("2001:db8::1"), [before; 2], "{fault:?} changes nothing");
        testbed.run(8 * SECOND);
        assert_eq!(testbed.all("2001:db8::1"), [after; 2], "and it is asked for again");
    }
}
