//! A route's id: its identity in one string. It is the name alone in namespace `default`, else
//! `NAMESPACE/NAME`. Two routes have the same id if and only if they have the same namespace and name,
//! for neither has a `/` in it.

use crate::Route;
use crate::names::{is_label, is_subdomain};

/// The namespace of what gives none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// What an id is, for messages.
pub const ROUTE_ID_FORM: &str = "must be a route's name, with its namespace before it if that is not default: \
                                 as in orders or team-a/orders";
/// Longest namespace, in bytes.
const MAX_NAMESPACE: usize = 63;

/// The id of the route `name` of a namespace; `None`: `default`.
#[must_use]
pub fn route_id(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        None | Some(DEFAULT_NAMESPACE) => name.to_owned(),
        Some(namespace) => format!("{namespace}/{name}"),
    }
}

/// The id that a text means: `default/NAME` is `NAME`. `None`: it is no id.
#[must_use]
pub fn read_route_id(text: &str) -> Option<String> {
    let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
    let is_valid = is_label(namespace) && namespace.len() <= MAX_NAMESPACE && is_subdomain(name);
    is_valid.then(|| route_id(Some(namespace), name))
}

impl Route {
    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }

    /// Its [id](self).
    #[must_use]
    pub fn id(&self) -> String {
        route_id(self.namespace.as_deref(), &self.name)
    }

    /// `{namespace}/{name}`, by which the Gateway API resolves ties between routes of one age.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_is_of_the_default_namespace() {
        for (text, id) in [
            ("http", Some("http")),
            ("default/http", Some("http")),
            ("team-a/http", Some("team-a/http")),
            ("team-a/http.v1", Some("team-a/http.v1")),
            ("a.b/http", None),
            ("a/b/c", None),
            ("/http", None),
            ("http/", None),
            ("../flags", None),
            ("Team/http", None),
            ("", None),
        ] {
            assert_eq!(read_route_id(text).as_deref(), id, "{text}");
        }
        assert!(read_route_id(&format!("{}/{}", "n".repeat(63), "r".repeat(253))).is_some());
        assert!(read_route_id(&format!("{}/r", "n".repeat(64))).is_none());
        assert_eq!(
            [None, Some("default"), Some("team-a")].map(|namespace| route_id(namespace, "r")),
            ["r", "r", "team-a/r"]
        );
    }
}
