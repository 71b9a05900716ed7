//! Routes: Gateway API HTTPRoute semantics. `tidegate-author` reads, validates and
//! compiles documents; this module has the compiled table and its search.
//!
//! The specification leaves some points open. The choices made here:
//!
//! - **Hosts** are compared without port, without one trailing dot and without
//!   regard to case. One that is absent or an IPv6 address has no name: only routes
//!   without hostnames match it. One that [cannot be read](crate::host::RequestHost::read)
//!   matches nothing, so that it does not get around the routes of a hostname.
//! - **Hostname precedence is not exclusive**: when no rule of the exact hostname
//!   matches, those of the longest wildcard are tried, then the shorter ones,
//!   then the routes without hostnames.
//! - **RegularExpression paths** come after `Exact` and before every
//!   `PathPrefix`, as in Envoy Gateway, so that a catch-all `/` does not hide
//!   them. Among each other they are equal: method, headers, query parameters,
//!   age, name and order decide, never the length of the pattern.
//! - **Template paths** are Tidegate's own, as `/repos/{owner}/{repo}`: a `{name}`
//!   matches one element that is not empty, everything else is compared byte by byte,
//!   and all of the path must match. They come after `Exact` and before
//!   `RegularExpression`. Of two that match a path the one with more literal elements
//!   comes first, then the one that is literal where they first differ; names do
//!   not count.
//! - A trailing `/` of a prefix does not count for its length.
//! - **Paths** are the bytes before `?` or `#`, neither decoded nor normalised
//!   (Envoy does that, if it is configured). A target that does not begin with `/`
//!   (CONNECT, `OPTIONS *`) is no path and matches nothing.
//! - **Headers**: values of a repeated header are joined by `,`, as in RFC 9110
//!   and in Envoy, those of `cookie` by `; `. A match on `host` sees the request's host.
//! - **Query parameters** are cut at `&` and the first `=`, then names and values are
//!   decoded once, `%20` and `+` both to a space; the first of a repeated one counts;
//!   one without `=` is empty.
//! - Of several conditions on one name in a match the first counts, also for the
//!   number of conditions that decides precedence.
//! - Routes of unknown age are younger than all others. A route without
//!   namespace sorts as `default/<name>`.

pub mod action;
mod backend;
mod found;
pub mod layout;
mod load;
mod method;
mod parsed_request;
#[cfg(test)]
pub(crate) mod sample;
mod shapes;
mod table;
mod trie;

pub use backend::{Backend, RESERVED_CLUSTER_PREFIX, Target, TargetTls};
pub(crate) use backend::{is_name, is_template};
pub use found::{ResponseFrom, RouteMatch, TooLong};
pub(crate) use layout::MAX_GEO_NAMES;
pub use layout::{MAX_ELEMENTS, MAX_ROUTE_TABLE, ROUTES_FORMAT};
pub use load::RouteLoad;
pub use method::Method;
pub use table::RouteTable;
