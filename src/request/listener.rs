//! By which listener a request came, as far as routes tell listeners apart.

use tidegate_policy::decide::{Routing, Tables};
use tidegate_policy::flags::{Mode, Modes};
use tidegate_policy::route::RouteTable;

use super::event;
use super::facts::RequestFacts;
use crate::filter::Filter;
use crate::host::Host;

/// How a request came. By default what routes that ask for nothing are told.
#[derive(Clone, Copy, Default)]
pub struct CameBy {
    /// Whether the client used TLS.
    pub https: bool,
    /// The port by which the client knows the listener.
    pub port: u16,
}

impl CameBy {
    /// Reads what routes ask for, if a route is searched for: by the check of routes, unless Envoy has its own,
    /// and by that of the address for bans that apply on some routes. Where the admin service answers one of
    /// them, its routes may ask for anything. Each part is a host call.
    pub fn read<H: Host>(
        filter: &Filter<H>,
        facts: &RequestFacts,
        tables: Option<&Tables>,
        modes: &Modes,
    ) -> Self {
        let of_tidegate = filter.settings.routing == Routing::Tidegate;
        let is_cached = modes.ip == Mode::Cached && (modes.route == Mode::Cached || !of_tidegate);
        let tables = tables.filter(|_| is_cached);
        let routes = tables.map(|tables| &*tables.routes);
        match of_tidegate || tables.is_none_or(Tables::has_scoped_bans) {
            true => Self::as_asked_by(filter, facts, routes),
            false => Self::default(),
        }
    }

    /// Reads what `routes` ask for; `None`: they may ask for anything.
    pub fn as_asked_by<H: Host>(
        filter: &Filter<H>,
        facts: &RequestFacts,
        routes: Option<&RouteTable>,
    ) -> Self {
        let mut came_by = Self::default();
        if routes.is_none_or(RouteTable::asks_scheme) {
            came_by.https = is_https(filter, facts);
        }
        if routes.is_none_or(RouteTable::asks_port) {
            came_by.port = port(filter);
        }
        came_by
    }
}

/// Whether the client used TLS: as configured, else as a trusted hop says, else as the
/// connection is. Not by `:scheme`, which over HTTP/2 is whatever the client says.
fn is_https<H: Host>(filter: &Filter<H>, facts: &RequestFacts) -> bool {
    filter.listener_https.unwrap_or_else(|| match facts.forwarded_proto() {
        Some(b"https") => true,
        Some(b"http") => false,
        _ => filter.instance.host.property("connection\0tls_version").is_ok_and(|tls| tls.is_some()),
    })
}

/// The port that clients know the listener by: as configured, else the one at which
/// the current request arrived.
pub fn port<H: Host>(filter: &Filter<H>) -> u16 {
    let arrived = || event::number(&filter.instance.host, "destination\0port");
    let port = filter.listener_port.or_else(|| u16::try_from(arrived()?).ok());
    port.unwrap_or(80)
}
