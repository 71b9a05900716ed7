use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text.as_bytes(), |name| (name == "TOKEN").then(|| "secret".to_owned()))
}

#[test]
fn the_least_that_is_enough() {
    let config = parse(r#"{"admin": {"cluster": "admin", "token_env": "TOKEN"}}"#).unwrap();
    assert_eq!(config.admin.authority, "admin");
    assert_eq!(config.admin.token, "secret");
    assert_eq!(config.admin.timeout, Duration::from_secs(5));
    assert_eq!(config.cluster_template, "{name}");
    let on_unavailable = PerCheck::from_fn(|_| Unavailable::Deny);
    let settings = Settings { routing: Routing::Tidegate, on_no_route: OnNoRoute::Deny, on_unavailable };
    assert_eq!(config.settings, settings);
    assert_eq!(config.events, EventLimits::default());
    assert_eq!(config.sync_timeout, Duration::from_secs(1));
    let direct = DirectLimits { timeout: Duration::from_secs(1), budget: Duration::from_secs(3) };
    assert_eq!(config.direct, direct);
    assert_eq!(config.performance, Performance::Never);
    assert!(!config.descriptor_headers && !config.log_fields);
    assert_eq!((config.country_header, config.forwarded_for), (None, None));
}

#[test]
fn every_field_is_taken() {
    let config = parse(
        r#"{"admin": {"cluster": "a", "authority": "b", "token": "t", "timeout": "250ms"},
            "routing": "envoy", "on_no_route": "pass",
            "cluster_template": "outbound|{port}||{name}.{namespace}.svc.cluster.local",
            "on_unavailable": {"ip": "allow", "geo": "deny", "route": "allow"},
            "direct": {"timeout": "10ms", "budget": "0.5s500ms"},
            "performance_headers": "on_request",
            "descriptor_headers": true,
            "log_fields": true,
            "geo": {"country_header": "X-Country"},
            "events": {"buffer_bytes": 65536, "queue_bytes": 131072, "batch_events": 7, "sync_timeout": "20ms", "access_log": true}}"#,
    )
    .unwrap();
    assert_eq!(config.admin.authority, "b");
    assert_eq!(config.admin.timeout, Duration::from_millis(250));
    let on_unavailable =
        PerCheck { ip: Unavailable::Allow, geo: Unavailable::Deny, route: Unavailable::Allow };
    let settings = Settings { routing: Routing::Envoy, on_no_route: OnNoRoute::Pass, on_unavailable };
    assert_eq!(config.settings, settings);
    let direct = DirectLimits { timeout: Duration::from_millis(10), budget: Duration::from_secs(1) };
    assert_eq!(config.direct, direct);
    assert_eq!(config.performance, Performance::OnRequest);
    assert!(config.descriptor_headers && config.log_fields);
    assert_eq!(config.country_header.as_deref(), Some("x-country"));
    assert!(config.cluster_template.starts_with("outbound|{port}"));
    let events = EventLimits { buffer_bytes: 65536, queue_bytes: 131_072, batch_events: 7, access_log: true };
    assert_eq!((config.events, config.sync_timeout), (events, Duration::from_millis(20)));
}

#[test]
fn a_template_has_known_placeholders_and_no_other_braces() {
    let template = |template: &str| {
        parse(&format!(r#"{{"admin": {{"cluster": "a", "token": "t"}}, "cluster_template": "{template}"}}"#))
    };
    for good in ["fixed", "{name}", "{name}{port}", "a{namespace}b{name}c", "{port}|x"] {
        assert!(template(good).is_ok(), "{good}");
    }
    for bad in ["{", "}", "{}", "a}", "{name", "name}", "{name}}", "{{name}", "{Name}", "{name }", "}{name}"]
    {
        assert_eq!(template(bad).unwrap_err().pointer, "/cluster_template", "{bad}");
    }
}

#[test]
fn what_is_wrong_is_named_with_what_would_be_right() {
    let admin = r#""admin": {"cluster": "a", "token": "t"}"#;
    let cases = [
        ("", "", "not JSON"),
        ("[]", "", "object"),
        ("{}", "/admin", "missing"),
        (r#"{"admin": {"cluster": "a"}}"#, "/admin/token", "missing"),
        (r#"{"admin": {"token": "a"}}"#, "/admin/cluster", "missing"),
        (r#"{"admin": {"cluster": "a", "tokn": "t"}}"#, "/admin/tokn", "token_env"),
        (r#"{"admin": {"cluster": "a", "token": "t", "token_env": "TOKEN"}}"#, "/admin/token_env", "both"),
        (r#"{"admin": {"cluster": "a", "token_env": "OTHER"}}"#, "/admin/token_env", "environment_variables"),
        (r#"{"admin": {"cluster": "a", "token": "a b"}}"#, "/admin/token", "header"),
        (r#"{"admin": {"cluster": 5, "token": "t"}}"#, "/admin/cluster", "string"),
        (r#"{"admin": {"cluster": "a b", "token": "t"}}"#, "/admin/authority", "header"),
        (r#"{"admin": {"cluster": "a", "authority": "b\n", "token": "t"}}"#, "/admin/authority", "header"),
        (
            &format!(r#"{{"admin": {{"cluster": "{}", "token": "t"}}}}"#, "a".repeat(4097)),
            "/admin/cluster",
            "4096",
        ),
        (r#"{"admin": {"cluster": "a", "token": "t", "timeout": "5 s"}}"#, "/admin/timeout", "250ms"),
        (r#"{"admin": {"cluster": "a", "token": "t", "timeout": "61s"}}"#, "/admin/timeout", "60s"),
        (&format!(r#"{{{admin}, "routing": "istio"}}"#), "/routing", "tidegate, envoy"),
        (&format!(r#"{{{admin}, "on_no_route": true}}"#), "/on_no_route", "deny, pass"),
        (&format!(r#"{{{admin}, "cluster_template": "{{nam}}"}}"#), "/cluster_template", "{namespace}"),
        (&format!(r#"{{{admin}, "cluster_template": "a b"}}"#), "/cluster_template", "header"),
        (&format!(r#"{{{admin}, "events": {{"batch_events": 0}}}}"#), "/events/batch_events", "1 to 2000"),
        (&format!(r#"{{{admin}, "events": {{"sync_timeout": 1}}}}"#), "/events/sync_timeout", "string"),
        (&format!(r#"{{{admin}, "on_unavailable": "allow"}}"#), "/on_unavailable", "object"),
        (&format!(r#"{{{admin}, "on_unavailable": {{"ip": "pass"}}}}"#), "/on_unavailable/ip", "allow, deny"),
        (
            &format!(r#"{{{admin}, "on_unavailable": {{"routes": "deny"}}}}"#),
            "/on_unavailable/routes",
            "ip, geo, route",
        ),
        (&format!(r#"{{{admin}, "direct": {{"timeout": "9ms"}}}}"#), "/direct/timeout", "10ms to 60s"),
        (&format!(r#"{{{admin}, "direct": {{"budget": "999ms"}}}}"#), "/direct/budget", "direct.timeout"),
        (
            &format!(r#"{{{admin}, "performance_headers": true}}"#),
            "/performance_headers",
            "never, on_request, always",
        ),
        (&format!(r#"{{{admin}, "listener_scheme": "tls"}}"#), "/listener_scheme", "http or https"),
        (&format!(r#"{{{admin}, "descriptor_headers": "yes"}}"#), "/descriptor_headers", "true or false"),
        (&format!(r#"{{{admin}, "geo": {{"header": "x"}}}}"#), "/geo/header", "country_header"),
        (&format!(r#"{{{admin}, "geo": {{"country_header": ":path"}}}}"#), "/geo/country_header", "name"),
        (&format!(r#"{{{admin}, "geo": {{"country_header": "x country"}}}}"#), "/geo/country_header", "name"),
        (
            &format!(r#"{{{admin}, "geo": {{"country_header": "{}"}}}}"#, "x".repeat(65)),
            "/geo/country_header",
            "64",
        ),
        (
            &format!(r#"{{{admin}, "geo": {{"country_header": "X-Tidegate-Country"}}}}"#),
            "/geo/country_header",
            "x-tidegate-",
        ),
        (&format!(r#"{{{admin}, "forwarded_for": true}}"#), "/forwarded_for", "object"),
        (
            &format!(r#"{{{admin}, "forwarded_for": {{"parse": 1}}}}"#),
            "/forwarded_for/parse",
            "true or false",
        ),
        (
            &format!(r#"{{{admin}, "forwarded_for": {{"num_trusted_hops": 101}}}}"#),
            "/forwarded_for/num_trusted_hops",
            "0 to 100",
        ),
        (
            &format!(r#"{{{admin}, "forwarded_for": {{"num_trusted_hops": 1, "trusted_cidrs": ["::1"]}}}}"#),
            "/forwarded_for/trusted_cidrs",
            "both",
        ),
        (
            &format!(r#"{{{admin}, "forwarded_for": {{"trusted_cidrs": ["::1", "10.0.0.0/33"]}}}}"#),
            "/forwarded_for/trusted_cidrs",
            "list of 1 to 100 blocks",
        ),
        (
            &format!(r#"{{{admin}, "forwarded_for": {{"trusted_cidrs": []}}}}"#),
            "/forwarded_for/trusted_cidrs",
            "list of 1 to 100 blocks",
        ),
        (&format!(r#"{{{admin}, "a/b~": 1}}"#), "/a~1b~0", "known are admin"),
    ];
    for (text, pointer, says) in cases {
        let error = parse(text).unwrap_err();
        assert_eq!(error.pointer, pointer, "{text}: {error}");
        assert!(error.message.contains(says), "{text}: {error}");
    }
}

#[test]
fn a_budget_that_is_not_given_leaves_room_for_one_question() {
    let text = r#"{"admin": {"cluster": "a", "token": "t"}, "direct": {"timeout": "5s"}}"#;
    let limits = parse(text).unwrap().direct;
    assert_eq!(limits, DirectLimits { timeout: Duration::from_secs(5), budget: Duration::from_secs(5) });
}
