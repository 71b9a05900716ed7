use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_author::read_auto_ban;
use tidegate_policy::wire::event::TrafficEvent;

use super::hits::Hit;
use super::rule_counters::LATE_MS;
use super::*;

/// Now, as a multiple of all windows here.
const NOW: i64 = 1_796_040_000_000;

fn rule(fields: &Value) -> Arc<AutoBan> {
    let mut document =
        json!({"match": {"status": "4xx"}, "threshold": 3, "window": "20s", "ban": {"ttl": "1h"}});
    for (field, value) in fields.as_object().unwrap() {
        document[field] = value.clone();
    }
    Arc::new(read_auto_ban("r", &document).unwrap())
}

fn event(client: &str, time_ms: i64, status: u16) -> TrafficEvent {
    TrafficEvent {
        client: Some(client.parse().unwrap()),
        time_ms: time_ms as u64,
        status: Some(status),
        ..TrafficEvent::default()
    }
}

fn bans(rules: &[Arc<AutoBan>]) -> AutoBans {
    let bans = AutoBans::default();
    bans.set_rules(rules.to_vec());
    bans
}

/// Counts `events` at `now`, and returns who has reached a threshold.
fn count(bans: &AutoBans, events: &[TrafficEvent], now: i64) -> Vec<(String, u64, Option<u64>)> {
    let mut hits = NewHits::new(bans.rules());
    events.iter().for_each(|event| hits.note(event));
    bans.count(&hits, now);
    let reached = locked(&bans.counting).waiting.drain(..).collect::<Vec<_>>();
    reached.into_iter().map(|of| (of.prefix.to_string(), of.bad, of.all)).collect()
}

#[test]
fn who_reaches_the_threshold_is_named_once_and_counted_anew() {
    let bans = bans(&[rule(&json!({}))]);
    let bad = |client| event(client, NOW, 404);
    let (one, other) = (bad("192.0.2.1"), bad("::ffff:192.0.2.2"));
    assert_eq!(count(&bans, &[one.clone(), one.clone(), other.clone(), other.clone()], NOW), []);
    assert_eq!(count(&bans, &[event("192.0.2.1", NOW, 200)], NOW), []);
    assert_eq!(count(&bans, std::slice::from_ref(&other), NOW), [("192.0.2.2".to_owned(), 3, None)]);
    assert_eq!(count(&bans, &[other.clone(), other.clone()], NOW), []);
    bans.forget(&"192.0.2.2".parse().unwrap());
    assert_eq!(count(&bans, &[other.clone(), other.clone()], NOW), []);
    assert_eq!(count(&bans, &[other], NOW), [("192.0.2.2".to_owned(), 3, None)]);
}

#[test]
fn a_window_slides_by_its_twentieths() {
    let bans = bans(&[rule(&json!({}))]);
    let at = |ms: i64| event("192.0.2.1", NOW + ms, 404);
    // A twentieth is a second: the first is 20 behind the third.
    assert_eq!(count(&bans, &[at(999), at(1_000), at(20_000)], NOW + 20_000), []);
    assert_eq!(count(&bans, &[at(20_999)], NOW + 20_999), [("192.0.2.1".to_owned(), 3, None)]);
    assert_eq!(count(&bans, &[at(21_000), at(22_000), at(41_000)], NOW + 41_000), []);
    assert_eq!(count(&bans, &[at(41_999)], NOW + 42_000), [("192.0.2.1".to_owned(), 3, None)]);
}

#[test]
fn events_that_come_late_or_early_are_taken_as_the_clock_says() {
    let bans = bans(&[rule(&json!({}))]);
    let at = |ms: i64| event("192.0.2.1", NOW + ms, 404);
    // A gateway whose clock is a day ahead: now.
    assert_eq!(count(&bans, &[at(86_400_000), at(86_400_000)], NOW), []);
    assert_eq!(count(&bans, &[at(0)], NOW).len(), 1);
    // Within the window and a minute they count, in whatever order.
    assert_eq!(count(&bans, &[at(-80_000), at(-70_000), at(-80_000)], NOW).len(), 1);
    assert_eq!(count(&bans, &vec![at(-20_000 - LATE_MS - 1); 3], NOW), []);
    // Behind what was counted of the same key already.
    assert_eq!(count(&bans, &[at(0), at(-20_000), at(-20_000), at(-19_000)], NOW), []);
    assert_eq!(bans.totals().late, 5);
    // The clock was set back by an hour.
    let back = NOW - 3_600_000;
    assert_eq!(count(&bans, &[at(-3_600_000), at(-3_600_000)], back), []);
    assert_eq!(count(&bans, &[at(-3_600_000)], back).len(), 1);
}

#[test]
fn a_share_needs_over_so_many_percent_of_all_requests() {
    let bans = bans(&[rule(&json!({"share": 50}))]);
    let (good, bad) = (event("192.0.2.1", NOW, 200), event("192.0.2.1", NOW, 404));
    let mut events = vec![good; 3];
    events.extend(vec![bad.clone(); 3]);
    assert_eq!(count(&bans, &events, NOW), [], "three of six are not over a half");
    assert_eq!(count(&bans, &[bad], NOW), [("192.0.2.1".to_owned(), 4, Some(7))]);
}

#[test]
fn each_condition_must_hold() {
    let login = TrafficEvent {
        method: Some(b"POST".to_vec()),
        route: Some("login".to_owned()),
        template: Some("/login/{who}".to_owned()),
        reason: Some("rate_limited".to_owned()),
        ..event("192.0.2.1", NOW, 429)
    };
    let is_counted = |matches: Value, event: &TrafficEvent| {
        let bans = bans(&[rule(&json!({"match": matches, "threshold": 1}))]);
        !count(&bans, std::slice::from_ref(event), NOW).is_empty()
    };
    let all = json!({"status": ["5xx", 429], "method": ["POST"], "route": "login", "template": "/login/{who}",
        "reason": "rate_limited"});
    assert!(is_counted(all.clone(), &login));
    for other in [
        json!({"status": 428}),
        json!({"status": "5xx"}),
        json!({"method": "post"}),
        json!({"route": "logout"}),
        json!({"template": "/login"}),
        json!({"reason": "no_route"}),
    ] {
        let mut matches = all.clone();
        let (field, value) = other.as_object().unwrap().iter().next().unwrap();
        matches[field] = value.clone();
        assert!(!is_counted(matches, &login), "{other}");
        assert!(!is_counted(other, &login));
    }
    assert!(!is_counted(json!({"status": "4xx"}), &TrafficEvent { status: None, ..login.clone() }));
    assert!(!is_counted(json!({"status": "4xx"}), &TrafficEvent { client: None, ..login.clone() }));
    // What a ban keeps away counts only where that is asked for.
    let banned = TrafficEvent { reason: Some("ip_banned".to_owned()), status: Some(403), ..login };
    assert!(!is_counted(json!({"status": "4xx"}), &banned));
    assert!(is_counted(json!({"reason": "ip_banned"}), &banned));
}

#[test]
fn ipv6_is_counted_by_address_or_by_its_64_bits() {
    let events = ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"].map(|client| event(client, NOW, 404));
    assert_eq!(count(&bans(&[rule(&json!({"key": "ip"}))]), &events, NOW), []);
    let network = bans(&[rule(&json!({"key": "/64"}))]);
    assert_eq!(count(&network, &events, NOW), [("2001:db8::/64".to_owned(), 3, None)]);
    count(&network, &events[..2], NOW);
    network.forget(&"2001:db8::/64".parse().unwrap());
    assert_eq!(count(&network, &events[..2], NOW), []);
}

#[test]
fn there_are_never_more_counters_than_room() {
    let bans = bans(&[rule(&json!({"threshold": 2}))]);
    let address = |n: usize| IpAddr::from((n as u32 + (10 << 24)).to_be_bytes());
    let bad = |n: usize| TrafficEvent { client: Some(address(n)), ..event("::1", NOW, 404) };
    let all: Vec<_> = (0..3 * MAX_COUNTERS).map(bad).collect();
    let (first, rest) = (&all[..1_000], &all[1_000..]);
    assert_eq!(count(&bans, first, NOW), []);
    for some in rest.chunks(1_000) {
        assert_eq!(count(&bans, some, NOW), []);
        assert!(bans.totals().counters <= MAX_COUNTERS);
    }
    assert!(bans.totals().dropped >= 2 * MAX_COUNTERS as u64 - 1_000, "{:?}", bans.totals());
    assert!(bans.states()[0].1.is_full);
    assert_eq!(count(&bans, &[bad(0)], NOW), [], "the first was dropped");
    let last = 3 * MAX_COUNTERS - 1;
    assert_eq!(count(&bans, &[bad(last)], NOW).len(), 1, "and the last was not");
}

#[test]
fn a_rule_that_stays_keeps_its_counters_and_a_changed_one_begins_anew() {
    let (first, changed) = (rule(&json!({})), rule(&json!({"max_bans": 7})));
    let other = Arc::new(AutoBan { name: "other".into(), ..(*first).clone() });
    let bans = bans(std::slice::from_ref(&first));
    let bad = event("192.0.2.1", NOW, 404);
    count(&bans, &[bad.clone(), bad.clone()], NOW);
    bans.set_rules(vec![other.clone(), first]);
    assert_eq!(count(&bans, std::slice::from_ref(&bad), NOW).len(), 1);
    let mut hits = NewHits::new(bans.rules());
    (0..3).for_each(|_| hits.note(&bad));
    bans.set_rules(vec![other, changed.clone()]);
    bans.count(&hits, NOW);
    let counters: Vec<_> = bans.states().iter().map(|(_, state)| state.counters).collect();
    assert_eq!(
        counters,
        [1, 0],
        "the other's third reached it; the changed one has not counted what the old one noted"
    );
    bans.note(&changed, RuleOutcome::HeldBack, 2);
    let states = bans.states();
    assert!(states[1].1.holds_back && !states[0].1.holds_back);
    assert_eq!(bans.totals().outcomes[RuleOutcome::HeldBack as usize], 2);
}

/// The same, from all events that came.
#[derive(Default)]
struct Oracle {
    /// Part and whether it is bad, of each key, since it was named last.
    events: HashMap<IpAddr, Vec<(i64, bool)>>,
}

impl Oracle {
    fn reaches(&mut self, rule: &AutoBan, hit: &Hit, now: i64) -> bool {
        let window = i64::from(rule.window_s) * 1_000;
        let part = |ms: i64| ms.div_euclid(window / 20);
        let time = hit.time_ms.min(now);
        let events = self.events.entry(hit.key).or_default();
        let newest = events.iter().map(|(part, _)| *part).max().unwrap_or(i64::MIN);
        if now - time > window + LATE_MS || part(time) <= newest.saturating_sub(20) {
            return false;
        }
        events.push((part(time), hit.is_bad));
        let newest = newest.max(part(time));
        let in_window = events.iter().filter(|(part, _)| *part > newest - 20);
        let (all, bad) = (in_window.clone().count(), in_window.filter(|(_, bad)| *bad).count());
        let over = rule.share.is_none_or(|share| bad * 100 > all * share as usize);
        let reaches = hit.is_bad && bad >= rule.threshold as usize && over;
        if reaches {
            events.clear();
        }
        reaches
    }
}

proptest! {
    #[test]
    fn counters_say_what_all_events_say(
        threshold in 1u32..5,
        share in proptest::option::of(1u32..100),
        window in 1u32..30,
        steps in proptest::collection::vec((0u8..3, 0i64..2_000, -90_000i64..5_000, any::<bool>()), 1..200),
        near in any::<bool>(),
    ) {
        let fields = json!({"threshold": threshold, "share": share, "window": format!("{window}s")});
        let rule = rule(&fields);
        let bans = bans(std::slice::from_ref(&rule));
        let (mut oracle, mut now) = (Oracle::default(), NOW);
        for (client, passed, late, is_bad) in steps {
            now += passed;
            // Most come in order.
            let time_ms = now + if near { late / 30 } else { late };
            let key = IpAddr::from([192, 0, 2, client]);
            let event = event(&key.to_string(), time_ms, if is_bad { 404 } else { 200 });
            let reached = count(&bans, &[event], now);
            // Without a share the good ones are not counted.
            let is_noted = is_bad || share.is_some();
            let wanted = is_noted && oracle.reaches(&rule, &Hit { key, time_ms, is_bad }, now);
            prop_assert_eq!(!reached.is_empty(), wanted);
        }
    }
}
