//! Reads, checks, compiles and explains the documents of the API: HTTPRoutes, their
//! backends, geo rules, limits, automatic bans, flags and sources of bans; and lists of bans. The admin service uses it; none of it is in the
//! filter, which has only [`tidegate_policy`].
//!
//! A route's document is a `gateway.networking.k8s.io/v1` HTTPRoute (or `v1beta1`, which has the
//! same schema). What Kubernetes adds
//! to it (`status`, `metadata.uid` and the like) is ignored; a field that HTTPRoute does
//! not have is refused; a field that it has and that Tidegate does not support is refused
//! too, never ignored. `spec.parentRefs` holds a route to listeners, which are documents of
//! their own.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]
#![deny(unsafe_code)]

mod auto_ban;
mod backend;
pub mod ban_list;
mod canonical;
mod compile;
mod document;
mod duration;
pub mod explain;
mod flags;
mod geo;
mod httproute;
mod limit;
pub mod lines;
mod listener;
mod names;
mod page;
mod pattern;
pub mod reader;
mod route_id;
mod scope;
mod source;
pub mod strict_json;
mod template;
mod url;
mod warnings;

pub use auto_ban::{AutoBan, AutoBanKey, BadRequests, StatusMatch, read_auto_ban};
pub use backend::private::is_ip as is_private_address;
pub use backend::read_backend;
pub use canonical::{canonical, without_nulls};
pub use compile::{Backends, CompileError, MAX_AUTOMATA, compile};
pub use document::{API_VERSION, MAX_ROUTE_AUTOMATA, read};
pub use flags::{flags_at, is_within, read_flag, read_flags, write_flags, write_state};
pub use geo::{is_listed, read_geo_rule};
pub use httproute::{
    BackendRef, Condition, Match, MirrorRef, ObjectRef, Parent, PathMatch, Route, Rule, ValueMatch,
};
pub use limit::read_limit;
pub use listener::{FIRST_LISTENERS, Listener, Listeners, UNKNOWN_LISTENER, read_listener};
pub use page::read_page;
pub use pattern::{MAX_AUTOMATON, Regex, RegexError};
pub use reader::{DocumentError, MAX_PROBLEMS};
pub use route_id::{DEFAULT_NAMESPACE, ROUTE_ID_FORM, read_route_id, route_id};
pub use scope::{read_scope, read_scope_text, write_scope};
pub use source::{Credentials, Place, Source, SourceMode, SourceType, read_source};
pub use template::{Element, Template, TemplateError};
pub use tidegate_policy::route::Method;
pub use url::{FILE_FORM, MAX_FILE, MAX_URL, Reach, is_file_name, url_problem};
pub use warnings::warnings;
