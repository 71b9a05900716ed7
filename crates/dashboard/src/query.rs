//! Parameters of a page's address.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::api::encoded;

/// The query of a page. What a page does not know is passed over: addresses of pages are kept as bookmarks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageQuery(BTreeMap<String, String>);

impl PageQuery {
    /// The parameters in `query`; of one that is repeated, the last.
    pub fn read(query: &str) -> Self {
        let pairs = form_urlencoded::parse(query.as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The parameter of this name; empty: it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.trim())
    }

    /// The same query with another value of one parameter; an empty one takes it out.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        if value.is_empty() {
            other.0.remove(name);
        } else {
            other.0.insert(name.to_owned(), value.to_owned());
        }
        other
    }

    /// Only the parameters of these names that have a value.
    pub fn only(&self, names: &[&str]) -> Self {
        let kept =
            self.0.iter().filter(|(name, value)| names.contains(&name.as_str()) && !value.trim().is_empty());
        Self(kept.map(|(name, value)| (name.clone(), value.trim().to_owned())).collect())
    }

    /// As text: `?a=1&b=2`, or nothing.
    pub fn text(&self) -> String {
        let pairs: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }
}

impl<S: Sync> FromRequestParts<S> for PageQuery {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::read(parts.uri.query().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::PageQuery;

    #[test]
    fn a_query_keeps_what_it_has_with_one_value_changed() {
        let query = PageQuery::read("status=403&path=%2Fa+b&status=404&x=");
        assert_eq!((query.get("status"), query.get("path"), query.get("none")), ("404", "/a b", ""));
        assert_eq!(query.with("status", "").only(&["status", "path", "x"]).text(), "?path=%2Fa%20b");
        assert_eq!(PageQuery::default().text(), "");
    }
}
