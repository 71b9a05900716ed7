//! Scenarios of entries in shadow: bans and geo rules that deny nobody, and say whom they would deny. (A cache in
//! shadow is another thing: `shadow.rs`.)

use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{CONFIG, Feed, Request, Testbed};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::geo::{CountryRange, GeoAction, GeoMode, GeoRule, UnknownCountry};

const SECOND: Duration = Duration::from_secs(1);

fn rule(name: &str, shadow: bool) -> GeoRule {
    GeoRule {
        name: name.to_owned(),
        global: true,
        mode: GeoMode::Deny,
        countries: vec!["FR".parse().unwrap()],
        unknown: UnknownCountry::Allow,
        action: GeoAction::Forbidden,
        shadow,
    }
}

#[test]
fn an_entry_in_shadow_denies_nobody_and_says_whom_it_would_deny() {
    for flags in [Flags::all_on(), Flags::default().with(Flag::AsyncRecording, FlagState::On)] {
        let mut feed = Feed::new();
        feed.set_flags(flags);
        let [first, last] = ["10.2.0.0", "10.2.255.255"].map(|text| text.parse().unwrap());
        let france = CountryRange { first, last, country: "FR".parse().unwrap() };
        feed.set_countries([france].into_iter());
        feed.set_geo([rule("law", true)]);
        feed.ban("10.0.0.9");
        feed.allow(&[("10.0.0.7", None)]);
        feed.ban_in_shadow(&[("10.0.0.0/24", None), ("10.2.0.1", Some(1))]);
        let mut testbed = Testbed::new(module, 1, CONFIG, feed);
        testbed.run(SECOND);
        let cases = [
            ("10.0.0.1", 200, Some(("ip_banned", "10.0.0.0/24"))),
            ("10.2.0.1", 200, Some(("geo_denied", "law"))),
            ("10.0.0.7", 200, None),
            ("10.0.0.9", 403, None),
            ("10.3.0.1", 200, None),
        ];
        for (client, status, _) in cases {
            assert_eq!(testbed.request(0, Request::get("/x", client)).status, status, "{client}");
        }
        testbed.run(SECOND);
        let events = testbed.events();
        let told = |event: &tidegate_policy::wire::event::TrafficEvent| {
            (event.would_deny.clone().unwrap_or_default(), event.would_deny_rule.clone().unwrap_or_default())
        };
        for (event, (client, _, wanted)) in events.iter().zip(cases) {
            let (reason, entry) = wanted.unwrap_or_default();
            assert_eq!(told(event), (reason.to_owned(), entry.to_owned()), "{client}");
        }
        let count = |testbed: &Testbed, reason| testbed.metric(&format!("tidegate.would_deny.{reason}"));
        assert_eq!(["ip_banned", "geo_denied"].map(|reason| count(&testbed, reason)), [1, 1]);

        // Enforced, the same entries deny.
        testbed.feed.ban_in_shadow(&[]);
        testbed.feed.ban("10.0.0.0/24");
        testbed.feed.set_geo([rule("law", false)]);
        testbed.run(SECOND);
        for client in ["10.0.0.1", "10.2.0.1"] {
            assert_eq!(testbed.request(0, Request::get("/x", client)).status, 403, "{client}");
        }
        assert_eq!(["ip_banned", "geo_denied"].map(|reason| count(&testbed, reason)), [1, 1]);
        testbed.check();
    }
}
