//! What is known of a request when it is decided.

use std::net::IpAddr;

/// What is known of a request when it is decided. All of it came from a client:
/// bytes, not text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'r> {
    /// The client, as Envoy's trusted-hop rules see it; `None` when there is no
    /// address (a pipe): no ban can cover it.
    pub client: Option<IpAddr>,
    /// Request method; empty when absent.
    pub method: &'r [u8],
    /// Host as sent (port and case included); empty when absent.
    pub host: &'r [u8],
    /// Path with its query; empty when absent (CONNECT).
    pub path: &'r [u8],
    /// Header lines in order, names in lower case, pseudo-headers left out.
    pub headers: &'r [(&'r [u8], &'r [u8])],
    /// Random bits: which backend of several weighted ones takes the request.
    pub dice: u32,
}
