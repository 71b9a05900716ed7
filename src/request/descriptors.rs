//! Headers for Envoy's own rate limit filter, after this one in the chain: its descriptors
//! can name the route and the client, so that one rate limit service counts for several
//! gateways.

use std::net::{IpAddr, Ipv6Addr};

use tidegate_policy::decide::Reason;

use crate::filter::Filter;
use crate::host::{Host, HostError};

/// The route's name.
const ROUTE_HEADER: &str = "x-tidegate-route";
/// The client: an IPv4 address, or the /64 of an IPv6 address, because one client
/// usually has all of it.
const CLIENT_HEADER: &str = "x-tidegate-client";

/// Sets the headers on the current request, if `descriptor_headers` is configured. A value
/// that is not known gets no header: Envoy then makes no descriptor that needs it.
///
/// # Errors
/// Why the request is to be denied when the host refuses: limits of that filter would
/// not hold.
pub fn set<H: Host>(filter: &Filter<H>, route: Option<&str>, client: Option<IpAddr>) -> Result<(), Reason> {
    if !filter.descriptor_headers {
        return Ok(());
    }
    filter.require(set_headers(&filter.instance.host, route, client))
}

fn set_headers<H: Host>(host: &H, route: Option<&str>, client: Option<IpAddr>) -> Result<(), HostError> {
    if let Some(route) = route {
        host.set_request_header(ROUTE_HEADER, route.as_bytes())?;
    }
    let Some(client) = client else { return Ok(()) };
    host.set_request_header(CLIENT_HEADER, counted_as(client).to_string().as_bytes())
}

fn counted_as(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_version_6_is_its_network() {
        let counted = |client: &str| counted_as(client.parse().unwrap()).to_string();
        assert_eq!(counted("192.0.2.1"), "192.0.2.1");
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("2001:db8:1:2::"), "2001:db8:1:2::");
    }
}
