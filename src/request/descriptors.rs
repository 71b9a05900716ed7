//! What a request is, for Envoy's own rate limit filter after this one: one service
//! can count for several gateways so.

use std::net::{IpAddr, Ipv6Addr};

use tidegate_policy::decide::Reason;

use crate::filter::Filter;
use crate::host::{Host, HostError};
use crate::metrics::Count;

/// The route's name.
const ROUTE_HEADER: &str = "x-tidegate-route";
/// The client: an IPv4 address, or the /64 that an IPv6 address is in, for whoever
/// has one address of it has them all.
const CLIENT_HEADER: &str = "x-tidegate-client";

/// Describes the request at hand, if that is wanted. What is not known of it is not
/// said: a descriptor that would need it is then not made.
///
/// # Errors
/// Why it is to be denied, when Envoy could not be told: no limit would hold.
pub fn describe<H: Host>(
    filter: &Filter<H>,
    route: Option<&str>,
    client: Option<IpAddr>,
) -> Result<(), Reason> {
    if !filter.descriptor_headers {
        return Ok(());
    }
    tell(&filter.vm.host, route, client).map_err(|_| {
        filter.vm.metrics.count(Count::HostErrors);
        Reason::NotReady
    })
}

fn tell<H: Host>(host: &H, route: Option<&str>, client: Option<IpAddr>) -> Result<(), HostError> {
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
