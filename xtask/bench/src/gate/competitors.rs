//! What Envoy has itself for a part of what the gate does: its filters, configured as a user would.

use std::fmt::Write;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Addresses that are banned, by the IP matcher and in Lua.
pub const BANS: u32 = 100_000;
const FIRST_BANNED: u32 = 0x1400_0000;
/// Addresses that the local rate limit keeps a bucket for: more than have asked.
pub const BUCKETS: u32 = 200_000;
/// What an address may ask at once, of the gate's limit and of Envoy's.
pub const BURST: u32 = 30_000;
/// The cluster that external authorization asks: one that the configuration has already.
const SERVICE: &str = "demo";

/// Banned addresses, none of which asks, and no two of which make a larger block.
fn banned() -> impl Iterator<Item = Ipv4Addr> {
    (0..BANS).map(|n| Ipv4Addr::from(FIRST_BANNED + n * 5))
}

/// One of them.
pub fn banned_address() -> String {
    Ipv4Addr::from(FIRST_BANNED).to_string()
}

fn filter(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{kind}"));
    json!({ "name": format!("envoy.filters.http.{name}"), "typed_config": config })
}

/// `rbac` with the IP matcher, which looks into a trie: of Envoy's own ways to deny a list of addresses the
/// cheapest. It takes 262,144 at most.
pub fn rbac() -> Value {
    let ranges: Vec<Value> =
        banned().map(|address| json!({ "address_prefix": address, "prefix_len": 32 })).collect();
    let named = |name: &str, kind: &str, mut config: Value| {
        config["@type"] = json!(format!("type.googleapis.com/envoy.{kind}"));
        json!({ "name": name, "typed_config": config })
    };
    let input = named("source", "extensions.matching.common_inputs.network.v3.SourceIPInput", json!({}));
    let banned = json!({ "cidr_ranges": ranges, "stat_prefix": "banned" });
    let banned = named("banned", "extensions.matching.input_matchers.ip.v3.Ip", banned);
    let action = |name, action| {
        let config = json!({ "name": name, "action": action });
        json!({ "action": named(name, "config.rbac.v3.Action", config) })
    };
    filter(
        "rbac",
        "rbac.v3.RBAC",
        json!({ "matcher": {
            "matcher_list": { "matchers": [{
                "predicate": { "single_predicate": { "input": input, "custom_match": banned } },
                "on_match": action("banned", "DENY"),
            }] },
            "on_no_match": action("anybody", "ALLOW"),
        } }),
    )
}

/// Lua with the same list in a table.
pub fn lua() -> Value {
    let mut list = String::new();
    for address in banned() {
        // A `String` takes everything.
        let _ = writeln!(list, "{address}");
    }
    // A constructor of so many entries has more constants than Lua allows in a function.
    let code = format!(
        r#"
local banned = {{}}
for address in ([[
{list}]]):gmatch("%S+") do banned[address] = true end

function envoy_on_request(request)
  local client = request:streamInfo():downstreamRemoteAddress():match("^(.*):%d+$")
  if banned[client] then
    request:respond({{ [":status"] = "403" }}, "banned")
  end
end
"#
    );
    filter("lua", "lua.v3.Lua", json!({ "default_source_code": { "inline_string": code } }))
}

/// External authorization over HTTP: a service is asked about each request, and allows it at once, without
/// looking anything up.
pub fn ext_authz() -> Value {
    let server = json!({ "uri": "http://authorization", "cluster": SERVICE, "timeout": "2s" });
    let service = json!({ "server_uri": server });
    filter(
        "ext_authz",
        "ext_authz.v3.ExtAuthz",
        json!({ "transport_api_version": "V3", "http_service": service }),
    )
}

/// The local rate limit with a bucket for each address, from which nobody takes all.
pub fn local_ratelimit() -> Value {
    let all = json!({ "numerator": 100, "denominator": "HUNDRED" });
    let always = json!({ "default_value": all });
    let bucket =
        |tokens: u32| json!({ "max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "60s" });
    filter(
        "local_ratelimit",
        "local_ratelimit.v3.LocalRateLimit",
        json!({
            "stat_prefix": "limit",
            "token_bucket": bucket(1_000_000_000),
            "filter_enabled": always,
            "filter_enforced": always,
            "rate_limits": [{ "actions": [{ "remote_address": {} }] }],
            "descriptors": [{ "entries": [{ "key": "remote_address" }], "token_bucket": bucket(BURST) }],
            "max_dynamic_descriptors": BUCKETS,
        }),
    )
}
