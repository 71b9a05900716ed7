//! Answers of the filter's own: denials as RFC 9457 problem details or HTML, redirects, and CORS
//! preflight answers.

use tidegate_policy::decide::Reason;
use tidegate_policy::pages::{BUILT_IN, Pages, Placeholder, render};
use tidegate_policy::route::action::CorsHeaders;

use super::accept::prefers_html;
use super::facts::RequestFacts;
use crate::host::{Host, HostError, LocalReply};

/// `Retry-After` in seconds, if the filter could not decide: tables are there within a
/// second of the admin service's answer.
const RETRY_AFTER: &[u8] = b"1";

/// A request that is denied, and the pages for it.
#[derive(Clone, Copy)]
pub struct Denied<'r> {
    /// The request.
    pub facts: &'r RequestFacts,
    /// Those that replace the built-in one; `None` before the first tables came.
    pub pages: Option<&'r Pages>,
}

/// Answers with a redirect. `%RESPONSE_CODE_DETAILS%` is `redirect`.
///
/// # Errors
/// When the host refuses.
pub fn redirect<H: Host>(host: &H, status: u16, location: &[u8]) -> Result<(), HostError> {
    let headers = [("location", location)];
    host.reply(LocalReply { status, details: "redirect", headers: &headers, body: b"" })
}

/// Answers a browser's preflight request. `%RESPONSE_CODE_DETAILS%` is `cors_preflight`.
/// With `vary: origin`: caches must not give one site's answer to another's page (Fetch
/// standard, "CORS protocol and HTTP caches").
///
/// # Errors
/// When the host refuses.
pub fn preflight<H: Host>(host: &H, headers: &CorsHeaders) -> Result<(), HostError> {
    let mut all: Vec<(&str, &[u8])> = vec![("vary", b"origin")];
    all.extend(headers.iter().map(|(name, value)| (*name, value.as_slice())));
    host.reply(LocalReply { status: 204, details: "cors_preflight", headers: &all, body: b"" })
}

/// Answers with a denial: HTML for a client that likes it better, else a problem document. The
/// reason is in the body and in `%RESPONSE_CODE_DETAILS%`. `status` is the reason's, or a rule's
/// own.
///
/// `no-store`: the answer holds for this client at this moment, and has its request's id in it,
/// while a cache may keep a 404 or 451 unless told otherwise (RFC 9110, 15.1; RFC 7725). Of an
/// answer to gRPC Envoy makes trailers, with the problem document as `grpc-message`.
///
/// # Errors
/// When the host refuses.
pub fn deny<H: Host>(
    host: &H,
    denied: Denied<'_>,
    reason: Reason,
    status: u16,
    headers: &[(&str, Vec<u8>)],
) -> Result<(), HostError> {
    let mut all: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
    if matches!(reason, Reason::NotReady | Reason::CheckUnavailable) {
        all.push(("retry-after", RETRY_AFTER));
    }
    let facts = denied.facts;
    let is_grpc = facts.values(b"content-type").any(|kind| kind.starts_with(b"application/grpc"));
    let is_html = !is_grpc && prefers_html(facts.values(b"accept"));
    let body = if is_html { page(denied, reason, status, &all) } else { problem(facts, reason, status) };
    let kind: &[u8] = if is_html { b"text/html; charset=utf-8" } else { b"application/problem+json" };
    all.push(("content-type", kind));
    if !is_grpc {
        all.extend([("vary", &b"accept"[..]), ("cache-control", b"no-store")]);
    }
    host.reply(LocalReply { status, details: reason.code(), headers: &all, body: body.as_bytes() })
}

fn page(denied: Denied<'_>, reason: Reason, status: u16, headers: &[(&str, &[u8])]) -> String {
    let Denied { facts, pages } = denied;
    let html = pages.and_then(|pages| pages.get(reason.code())).unwrap_or(BUILT_IN);
    let (status, client) = (status.to_string(), facts.client().map(|client| client.to_string()));
    render(html, |placeholder| match placeholder {
        Placeholder::RequestId => facts.request_id(),
        Placeholder::Status => Some(status.as_bytes()),
        Placeholder::Reason => Some(reason.code().as_bytes()),
        Placeholder::Title => Some(reason.title().as_bytes()),
        Placeholder::RetryAfter => {
            headers.iter().find(|(name, _)| *name == "retry-after").map(|(_, value)| *value)
        }
        Placeholder::ClientIp => client.as_deref().map(str::as_bytes),
    })
}

/// The problem document, written without a JSON library: no part needs escapes, which a test
/// checks.
fn problem(facts: &RequestFacts, reason: Reason, status: u16) -> String {
    let (code, title, status) = (reason.code(), reason.title(), status.to_string());
    let id = facts.request_id().and_then(|id| std::str::from_utf8(id).ok());
    let (before_id, id) = id.map_or(("", ""), |id| (r#"","request_id":""#, id));
    [
        r#"{"type":"urn:tidegate:problem:"#,
        code,
        r#"","title":""#,
        title,
        r#"","status":"#,
        &status,
        r#","code":""#,
        code,
        before_id,
        id,
        "\"}\n",
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tidegate_host_sim::{Request, SimHost};
    use tidegate_policy::pages::Page;

    use super::*;
    use crate::host::HeaderMap;

    /// The page for `no_backend`.
    const PAGE: &str = "{{status}} {{reason}} {{title}} {{request_id}} {{client_ip}} {{retry_after}}";

    /// The answer to a request with these headers: its headers and body.
    fn answer(reason: Reason, status: u16, headers: &[(&str, &[u8])]) -> (Vec<(String, String)>, String) {
        let host = SimHost::alone();
        host.begin(Request::default());
        let facts = RequestFacts::of(Some("192.0.2.1".parse().unwrap()), HeaderMap::of(headers), None);
        let pages = Pages::new(vec![Page { reason: "no_backend".to_owned(), html: PAGE.to_owned() }]);
        let denied = Denied { facts: &facts, pages: Some(&pages) };
        deny(&host, denied, reason, status, &[("retry-after", b"7".to_vec())]).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let pair = |(name, value)| (text(name), text(value));
        (host.reply_headers().into_iter().map(pair).collect(), text(host.reply_body()))
    }

    fn is_html((headers, body): &(Vec<(String, String)>, String)) -> bool {
        let kind = &headers.iter().find(|(name, _)| name == "content-type").unwrap().1;
        assert_eq!(kind == "text/html; charset=utf-8", body.starts_with("<!doctype html>"), "{kind}: {body}");
        kind.starts_with("text/html")
    }

    #[test]
    fn every_problem_is_json_that_says_the_reason() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            let status = 451 + u16::try_from(at).unwrap();
            let body: Value = serde_json::from_str(&answer(reason, status, &[]).1).unwrap();
            assert_eq!(body["code"], reason.code());
            assert_eq!(body["status"], status);
            assert_eq!(body["title"], reason.title());
            assert_eq!(body.get("request_id"), None);
        }
    }

    #[test]
    fn the_requests_id_is_in_the_body_or_left_out() {
        let long = [b'a'; 129];
        for (id, shown) in [
            (&b"5a3b-7"[..], Some("5a3b-7")),
            (b"Root=1;<&'>", Some("Root=1;<&'>")),
            (&long[1..], std::str::from_utf8(&long[1..]).ok()),
            (&long, None),
            (b"", None),
            (b"a\"", None),
            (b"a\\", None),
            (b"a b", None),
            (b"\xff\0\n", None),
        ] {
            let (_, body) = answer(Reason::IpBanned, 403, &[("x-request-id", id), ("x-request-id", b"2")]);
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["request_id"].as_str(), shown);
            let html = ("accept", &b"text/html"[..]);
            let (_, page) = answer(Reason::IpBanned, 403, &[("x-request-id", id), html]);
            let shown = shown.unwrap_or("-").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            assert!(page.contains(&format!("<code>{}</code>", shown.replace('\'', "&#39;"))), "{page}");
        }
    }

    #[test]
    fn a_person_is_shown_a_page_and_a_program_a_problem() {
        let browser: (&str, &[u8]) = ("accept", b"text/html,application/xml;q=0.9,*/*;q=0.8");
        let page = answer(Reason::GeoDenied, 451, &[browser]);
        assert!(is_html(&page));
        for said in [Reason::GeoDenied.title(), "451 geo_denied"] {
            assert!(page.1.contains(said), "{}", page.1);
        }
        assert!(!is_html(&answer(Reason::GeoDenied, 451, &[("accept", b"*/*")])));
        assert!(!is_html(&answer(Reason::GeoDenied, 451, &[])));
        for headers in [&[browser][..], &[]] {
            let (headers, _) = answer(Reason::NoRoute, 404, headers);
            for (name, value) in [("vary", "accept"), ("cache-control", "no-store"), ("retry-after", "7")] {
                assert!(headers.contains(&(name.to_owned(), value.to_owned())), "{headers:?}");
            }
        }
        let grpc = answer(Reason::GeoDenied, 451, &[browser, ("content-type", b"application/grpc+proto")]);
        let today = [("retry-after", "7"), ("content-type", "application/problem+json")];
        assert_eq!(grpc.0, today.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(serde_json::from_str::<Value>(&grpc.1).is_ok());
    }

    #[test]
    fn a_reason_has_its_own_page_where_there_is_one() {
        let headers = [("accept", &b"text/html"[..]), ("x-request-id", b"<7>")];
        let (_, page) = answer(Reason::NoBackend, 500, &headers);
        let title = Reason::NoBackend.title();
        assert_eq!(page, format!("500 no_backend {title} &lt;7&gt; 192.0.2.1 7"));
        assert!(answer(Reason::NoRoute, 404, &headers).1.starts_with("<!doctype html>"));
    }
}
