//! By which listener a request came: what a trusted hop says, else what the connection is,
//! in the tables and asked directly.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::root_context::module;
use tidegate_host_sim::{CONFIG, Feed, Request, Response, Testbed};
use tidegate_policy::flags::{Flag, FlagState, Flags};

const SECOND: Duration = Duration::from_secs(1);
/// A client that is known by `X-Forwarded-For`, one that connects itself, and this machine.
const FORWARDED: &str = "192.0.2.1:0";
const DIRECT: &str = "192.0.2.1:40000";
const LOCAL: &str = "127.0.0.1:40000";

fn held(name: &str, parents: Value, rule: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"parentRefs": parents, "rules": [rule]}})
}

fn testbed(flags: Flags, config: &str) -> Testbed {
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}});
    let alone = json!({"matches": [{"path": {"value": "/alt"}}], "backendRefs": [{"name": "alt"}]});
    let mut feed = Feed::new();
    feed.set_flags(flags);
    feed.set_routes(&[
        held("redirect", json!([{"name": "g", "sectionName": "http"}]), json!({"filters": [redirect]})),
        held(
            "shop",
            json!([{"name": "g", "sectionName": "https"}]),
            json!({"backendRefs": [{"name": "shop"}]}),
        ),
        held("alt", json!([{"name": "g", "sectionName": "http", "port": 8080}]), alone),
    ]);
    let mut testbed = Testbed::new(module, 1, config, feed);
    testbed.run(SECOND);
    testbed
}

fn request(source: &str, forwarded_proto: &str, path: &str) -> Request {
    let lines = [
        (":method", "GET"),
        // What a client of HTTP/2 may say as it likes.
        (":scheme", "https"),
        (":authority", "shop.example"),
        (":path", path),
        ("x-forwarded-proto", forwarded_proto),
    ];
    Request::of(lines.map(|(name, value)| (name.into(), value.into())).into(), source)
}

/// Who answers: `redirect`, or the cluster.
fn by(response: &Response) -> String {
    response.cluster.clone().unwrap_or_else(|| response.details.clone())
}

#[test]
fn the_scheme_is_a_trusted_hops_word_or_the_connections() {
    for flags in [Flags::all_on(), Flags::default().with(Flag::AsyncRecording, FlagState::On)] {
        let mut testbed = testbed(flags, CONFIG);
        for (source, said, wanted) in [
            (FORWARDED, "https", "shop"),
            (LOCAL, "https", "shop"),
            (DIRECT, "https", "redirect"),
            (FORWARDED, "http", "redirect"),
            (FORWARDED, "wss", "redirect"),
        ] {
            let plain = request(source, said, "/alt");
            assert_eq!(by(&testbed.request(0, plain)), wanted, "{source} {said}");
        }
        for (source, said, wanted) in
            [(DIRECT, "http", "shop"), (FORWARDED, "wss", "shop"), (FORWARDED, "http", "redirect")]
        {
            let over_tls = request(source, said, "/alt").over_http3();
            assert_eq!(by(&testbed.request(0, over_tls)), wanted, "TLS {source} {said}");
        }
        for (port, wanted) in [(8080, "alt"), (8081, "redirect")] {
            let at_port = request(DIRECT, "http", "/alt").at_port(port);
            assert_eq!(by(&testbed.request(0, at_port)), wanted, "{port}");
        }
        testbed.check();
    }
}

#[test]
fn what_is_configured_counts_before_both() {
    let more = r#", "listener_scheme": "https", "listener_port": 8080}"#;
    let config = [CONFIG.trim_end().strip_suffix('}').unwrap(), more].concat();
    let mut testbed = testbed(Flags::all_on(), &config);
    let plain = request(FORWARDED, "http", "/alt").at_port(80);
    assert_eq!(by(&testbed.request(0, plain)), "shop");
    testbed.check();
}
