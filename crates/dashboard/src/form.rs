//! Forms that a visitor sends.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts as _, Request};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use maud::{Markup, html};

use crate::body::SentBody;
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::session::{self, NoRandomBytes};
use crate::visitor::Visitor;

/// Bytes of a form, at most: a document of the API has at most 1 MiB, and is longer when it is encoded.
const MAX_FORM: usize = 4 << 20;
/// The field by which a form is known to be of this session.
pub const FORM_TOKEN: &str = "form_token";
/// The field by which a form that is sent twice is known.
pub const ONCE: &str = "once";

/// Fields that nobody types.
const NOT_TYPED: [&str; 3] = [FORM_TOKEN, ONCE, "etag"];
/// Characters from which a text would be missed.
const LONG_TEXT: usize = 40;

/// A form that was sent by a visitor's own page.
pub struct Form {
    /// Who sent it.
    pub visitor: Visitor,
    fields: BTreeMap<String, String>,
}

impl Form {
    /// The field of this name, without blanks around it; empty: it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |value| value.trim())
    }

    /// A longer text as it was sent, with the line ends of a document: forms send CR and LF (HTML, 4.10.21.4).
    pub fn text(&self, name: &str) -> String {
        self.fields.get(name).map(|text| text.replace("\r\n", "\n")).unwrap_or_default()
    }

    /// Whether a box is ticked.
    pub fn is_ticked(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// The key by which the API knows a form that is sent twice.
    pub fn once(&self) -> &str {
        self.get(ONCE)
    }
}

/// The hidden fields of a form: that it is of this session, and which one it is.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn hidden_fields(visitor: &Visitor) -> Result<Markup, NoRandomBytes> {
    let (token, once) = (visitor.form_token()?, session::once_key()?);
    Ok(html! {
        input type="hidden" name=(FORM_TOKEN) value=(token);
        input type="hidden" name=(ONCE) value=(once);
    })
}

/// Refuses what another site made the browser send.
///
/// # Errors
/// When `Sec-Fetch-Site` (W3C Fetch Metadata) names another site; where a browser does not send it, as to hosts
/// without TLS, when `Origin` is not the host that was asked.
pub fn require_same_origin(headers: &HeaderMap, uri: &Uri) -> Result<(), PageError> {
    let is_ours = match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(site) => matches!(site, b"same-origin" | b"none"),
        None => headers.get(ORIGIN).is_none_or(|origin| is_asked_host(origin, headers, uri)),
    };
    if is_ours {
        return Ok(());
    }
    let detail = "The form was sent from a page of another site. Nothing was changed.";
    Err(PageError::refused(StatusCode::FORBIDDEN, "This form is not from here", detail))
}

fn is_asked_host(origin: &HeaderValue, headers: &HeaderMap, uri: &Uri) -> bool {
    // HTTP/2 has it in the URI.
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str().as_bytes()));
    let at = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    at.zip(host).is_some_and(|((_, origin), host)| origin.as_bytes().eq_ignore_ascii_case(host))
}

/// The longer texts that somebody typed, of a form that is not taken.
fn typed(fields: BTreeMap<String, String>) -> Vec<String> {
    let is_typed = |name: &str, text: &str| {
        !NOT_TYPED.contains(&name) && (text.contains('\n') || text.chars().count() >= LONG_TEXT)
    };
    fields.into_iter().filter(|(name, text)| is_typed(name, text)).map(|(_, text)| text).collect()
}

/// The fields of a form's body.
///
/// # Errors
/// When it does not arrive, or is too long.
pub async fn read_fields(body: Body) -> Result<BTreeMap<String, String>, PageError> {
    let body = SentBody::new(body);
    let bytes = body.after(to_bytes(body.paced(), MAX_FORM).await).await.map_err(|_| {
        let detail = "It did not arrive whole, or is longer than a form may be. Nothing was changed.";
        PageError::refused(StatusCode::PAYLOAD_TOO_LARGE, "The form cannot be read", detail)
    })?;
    let pairs = form_urlencoded::parse(&bytes);
    Ok(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
}

impl FromRequest<Dashboard> for Form {
    type Rejection = PageError;

    async fn from_request(request: Request, dashboard: &Dashboard) -> Result<Self, PageError> {
        require_same_origin(request.headers(), request.uri())?;
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, dashboard).await;
        let fields = read_fields(body).await?;
        let visitor = match visitor {
            Err(PageError::SignedOut { .. }) => return Err(PageError::Ended { typed: typed(fields) }),
            visitor => visitor?,
        };
        if !visitor.is_form_token(fields.get(FORM_TOKEN).map_or("", String::as_str)) {
            return Err(PageError::OutOfDate { typed: typed(fields) });
        }
        Ok(Self { visitor, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_of_another_site_is_known_with_and_without_fetch_metadata() {
        let is_taken = |headers: &[(&'static str, &'static str)], uri: &'static str| {
            let pairs = headers.iter().map(|(name, value)| {
                (axum::http::HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            require_same_origin(&pairs.collect(), &Uri::from_static(uri)).is_ok()
        };
        let host = ("host", "Gate.example:9070");
        let own = ("origin", "http://gate.example:9070");
        assert!(is_taken(&[host], "/ui/"));
        assert!(is_taken(&[host, own], "/ui/"));
        assert!(is_taken(&[own], "http://gate.example:9070/ui/"));
        assert!(is_taken(&[host, ("origin", "null"), ("sec-fetch-site", "same-origin")], "/ui/"));
        for other in ["null", "http://gate.example", "http://gate.example:90700", "http://evil.example"] {
            assert!(!is_taken(&[host, ("origin", other)], "/ui/"), "{other}");
        }
        assert!(!is_taken(&[host, own, ("sec-fetch-site", "same-site")], "/ui/"));
    }

    #[test]
    fn long_texts_of_a_form_that_is_not_taken_are_kept() {
        let long = "x".repeat(LONG_TEXT);
        let fields = [("document", "a: 1\n"), ("reason", "short"), ("note", &long), ("form_token", &long)];
        let fields = fields.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(typed(fields.into()), ["a: 1\n", &long]);
    }
}
