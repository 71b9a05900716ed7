//! Sets where Envoy sends a request: to a cluster of its configuration, or through its
//! dynamic forward proxy to an upstream that its configuration does not have.

use tidegate_policy::decide::Reason;
use tidegate_policy::route::action::MAX_MIRRORS;
use tidegate_policy::route::{Backend, RESERVED_CLUSTER_PREFIX, Target};

use crate::filter::Filter;
use crate::host::{Host, HostError};

/// The header that Envoy's `cluster_header` follows.
pub const CLUSTER_HEADER: &str = "x-tidegate-cluster";

/// Filter state that the forward proxy's cluster reads
/// (`source/extensions/clusters/dynamic_forward_proxy/cluster.cc`).
const HOST_STATE: &str = "envoy.upstream.dynamic_host";
const PORT_STATE: &str = "envoy.upstream.dynamic_port";
/// Filter state that TLS to upstreams reads
/// (`source/common/network/transport_socket_options_impl.cc`): the SNI, and the names of
/// which the certificate must have one.
const SNI_STATE: &str = "envoy.network.upstream_server_name";
const SAN_STATE: &str = "envoy.network.upstream_subject_alt_names";

/// Headers with the clusters that get a copy of the request. Envoy's routes match on
/// them, from the first without a gap.
const MIRROR_HEADERS: [&str; MAX_MIRRORS] =
    ["x-tidegate-mirror-1", "x-tidegate-mirror-2", "x-tidegate-mirror-3", "x-tidegate-mirror-4"];

/// Sends the current request to `backend`.
///
/// The cluster's header is set last, after the filter state: without that the forward
/// proxy would connect to the client's `Host`.
///
/// # Errors
/// Why the request is to be denied, when the host refused.
pub fn send<H: Host>(filter: &Filter<H>, backend: &Backend) -> Result<(), Reason> {
    let host = &filter.instance.host;
    let cluster = filter.clusters.of(backend);
    let target_set = match &backend.target {
        // Backends' names are checked for this prefix, the template's results are not.
        None if cluster.starts_with(RESERVED_CLUSTER_PREFIX) => return Err(Reason::NoBackend),
        None => Ok(()),
        Some(target) => set_dynamic_target(host, target),
    };
    // Without the header a route of Envoy's own might take the request somewhere else.
    filter.require(target_set.and_then(|()| host.set_request_header(CLUSTER_HEADER, cluster.as_bytes())))
}

fn set_dynamic_target<H: Host>(host: &H, target: &Target) -> Result<(), HostError> {
    host.set_filter_state(HOST_STATE, &bracketed(&target.host))?;
    host.set_filter_state(PORT_STATE, &target.port.to_string())?;
    if let Some(tls) = &target.tls {
        host.set_filter_state(SNI_STATE, &tls.sni)?;
        host.set_filter_state(SAN_STATE, &tls.sni)?;
    }
    Ok(())
}

/// Has the current request copied to the first [`MAX_MIRRORS`] of these backends. A copy
/// whose headers the host refuses is not made.
pub fn mirror<'b, H: Host>(filter: &Filter<H>, backends: impl Iterator<Item = &'b Backend>) {
    let may_be_named = |cluster: &str, backend: &Backend| {
        backend.target.is_some() || !cluster.starts_with(RESERVED_CLUSTER_PREFIX)
    };
    let named = backends
        .map(|backend| (filter.clusters.of(backend), backend))
        .filter(|(cluster, backend)| may_be_named(cluster, backend));
    for (header, (cluster, backend)) in MIRROR_HEADERS.into_iter().zip(named) {
        if filter.count_error(set_mirror(&filter.instance.host, header, &cluster, backend)).is_err() {
            return;
        }
    }
}

fn set_mirror<H: Host>(host: &H, header: &str, cluster: &str, backend: &Backend) -> Result<(), HostError> {
    if let Some(target) = &backend.target {
        let set =
            |part: &str, value: &str| host.set_request_header(&[header, part].concat(), value.as_bytes());
        set("-host", &bracketed(&target.host))?;
        set("-port", &target.port.to_string())?;
        if let Some(tls) = &target.tls {
            set("-sni", &tls.sni)?;
        }
    }
    // Set last: this header makes Envoy copy the request.
    host.set_request_header(header, cluster.as_bytes())
}

/// A host in the form that Envoy reads from filter state: an IPv6 address in brackets.
fn bracketed(host: &str) -> String {
    if host.contains(':') { ["[", host, "]"].concat() } else { host.to_owned() }
}
