//! How the flags apply to the described request.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::decide::Tables;
use tidegate_policy::flags::{Flag, FlagState};
use tidegate_policy::host::RequestHost;
use tidegate_policy::request::Facts;
use utoipa::ToSchema;

/// How one flag applies to a request. What is decided is the same either way.
#[derive(Serialize, Debug, ToSchema)]
pub struct AppliedFlag {
    /// What it is set to.
    #[schema(value_type = Value)]
    state: Value,
    /// `on`, `off` or `shadow`: for this client, here.
    applies: &'static str,
    /// The flag is limited to gateways, hostnames or routes that the request is not for.
    outside: bool,
}

/// All flags, by name. `gateway`: the node id of the gateway that the request comes to; empty: one that no flag names.
/// `route`: the one that the request takes.
pub fn applied(
    tables: &Tables,
    facts: &Facts<'_>,
    gateway: &str,
    route: Option<&str>,
) -> BTreeMap<&'static str, AppliedFlag> {
    let host = RequestHost::read(facts.host);
    let modes = tables.flags.modes_at(facts.client, |scope| scope.fits(gateway, host.as_ref(), || route));
    let applied = |flag: Flag| {
        let state = tables.flags.get(flag);
        let applies = match state {
            FlagState::Shadow => "shadow",
            _ if modes.is_on(flag) => "on",
            _ => "off",
        };
        let state = author::write_state(state);
        (flag.name(), AppliedFlag { state, applies, outside: modes.outside.has(flag) })
    };
    Flag::ALL.into_iter().map(applied).collect()
}
