//! Which requests a flag is limited to: on gateways, at hostnames, on routes.

use serde::{Deserialize, Serialize};

use super::Flag;
use crate::codec::at_most;
use crate::host::RequestHost;
use crate::scope::{MAX_SCOPE_NAMES, Scope};

/// Which requests a flag is limited to. Each of the three narrows it: a request must be on one of the gateways, for one
/// of the hostnames and take one of the routes, where there are any. One without all three fits every request.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct FlagScope {
    /// Node ids of gateways, as [`Gateway::node`](crate::wire::sync::Gateway::node) has them.
    #[serde(deserialize_with = "at_most::<MAX_SCOPE_NAMES, _, _>")]
    pub gateways: Vec<String>,
    /// Hostnames and routes.
    pub place: Scope,
}

impl FlagScope {
    /// Whether it limits nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty() && self.place.is_empty()
    }

    /// Whether a request is in it: on this gateway, for this host (`None`: one that cannot be read), on the route that
    /// `route` finds, which is only asked for where routes are named.
    #[must_use]
    pub fn fits<'r>(
        &self,
        gateway: &str,
        host: Option<&RequestHost>,
        route: impl FnOnce() -> Option<&'r str>,
    ) -> bool {
        let on_gateway = self.gateways.is_empty() || self.gateways.iter().any(|name| name == gateway);
        let at_host =
            || self.place.hostnames.is_empty() || host.is_some_and(|host| self.place.fits_host(host));
        on_gateway && at_host() && (self.place.routes.is_empty() || self.place.fits_route(route()))
    }
}

/// Flags, of which each is there or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct FlagSet(u8);

impl FlagSet {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is there.
    #[must_use]
    pub fn has(self, flag: Flag) -> bool {
        self.0 & bit(flag) != 0
    }

    /// These and one more.
    #[must_use]
    pub fn with(self, flag: Flag) -> Self {
        Self(self.0 | bit(flag))
    }
}

/// Five flags: there are bits for all.
fn bit(flag: Flag) -> u8 {
    1u8.wrapping_shl(flag as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_must_be_fitted_and_a_route_is_only_asked_for_where_one_is() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let scope = |gateways: &[&str], hostnames: &[&str], routes: &[&str]| FlagScope {
            gateways: names(gateways),
            place: Scope { hostnames: names(hostnames), routes: names(routes) },
        };
        let a = RequestHost::read(b"A.example:80");
        let fits = |scope: &FlagScope, gateway, host: Option<&RequestHost>| {
            scope.fits(gateway, host, || panic!("no route is named"))
        };
        assert!(scope(&[], &[], &[]).is_empty() && fits(&scope(&[], &[], &[]), "edge-1", None));
        let edge = scope(&["edge-1"], &[], &[]);
        assert!(fits(&edge, "edge-1", None) && !fits(&edge, "edge-2", None) && !edge.is_empty());
        let host = scope(&["edge-1"], &["a.example"], &[]);
        assert!(fits(&host, "edge-1", a.as_ref()));
        assert!(!fits(&host, "edge-1", None) && !fits(&host, "edge-2", a.as_ref()));
        let route = scope(&[], &[], &["shop"]);
        assert!(route.fits("", None, || Some("shop")) && !route.fits("", None, || None));
        // What is not on the gateway is not searched for.
        assert!(!fits(&scope(&["edge-1"], &[], &["shop"]), "edge-2", None));
    }

    #[test]
    fn a_set_has_the_flags_that_were_put_in() {
        let set = FlagSet::default().with(Flag::GeoRulesCache).with(Flag::AsyncRecording);
        let has = Flag::ALL.into_iter().filter(|flag| set.has(*flag));
        assert_eq!(has.collect::<Vec<_>>(), [Flag::GeoRulesCache, Flag::AsyncRecording]);
        assert!(!set.is_empty() && FlagSet::default().is_empty());
    }
}
