//! What is known of a request when it is decided.

use std::net::IpAddr;

/// What is known of a request when it is decided. It came from a client, so it is bytes,
/// not text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'r> {
    /// The client's address, by Envoy's trusted-hop rules; `None` when there is none (a
    /// pipe): no ban can cover it.
    pub client: Option<IpAddr>,
    /// Request method; empty when absent.
    pub method: &'r [u8],
    /// Host as sent (port and case included); empty when absent.
    pub host: &'r [u8],
    /// Path with its query; empty when absent (CONNECT).
    pub path: &'r [u8],
    /// Whether the client used TLS, as far as is known where the request is decided. Where no
    /// route asks ([`RouteTable::asks_scheme`](crate::route::RouteTable::asks_scheme)) it need
    /// not be.
    pub https: bool,
    /// The port by which the client knows the listener; 0 where no route asks.
    pub port: u16,
    /// Header lines in order, names in lower case, pseudo-headers left out.
    pub headers: &'r [(&'r [u8], &'r [u8])],
    /// Random bits, by which one of several weighted backends is chosen.
    pub random_bits: u32,
}
