//! Answers of the filter's own: denials as RFC 9457 problem details, redirects, and CORS
//! preflight answers.

use tidegate_policy::decide::Reason;
use tidegate_policy::route::action::CorsHeaders;

use crate::host::{Host, HostError, LocalReply};

/// `Retry-After` in seconds, if the filter could not decide: tables are there within a
/// second of the admin service's answer.
const RETRY_AFTER: &[u8] = b"1";

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

/// Answers with a denial. The reason is in the body and in `%RESPONSE_CODE_DETAILS%`.
/// `status` is the reason's, or a rule's own.
///
/// # Errors
/// When the host refuses.
pub fn deny<H: Host>(host: &H, reason: Reason, status: u16) -> Result<(), HostError> {
    match reason {
        Reason::NotReady | Reason::CheckUnavailable => {
            deny_with(host, reason, status, &[("retry-after", RETRY_AFTER)])
        }
        _ => deny_with::<H, &[u8]>(host, reason, status, &[]),
    }
}

/// [`deny`], with these headers.
///
/// # Errors
/// When the host refuses.
pub fn deny_with<H: Host, V: AsRef<[u8]>>(
    host: &H,
    reason: Reason,
    status: u16,
    headers: &[(&str, V)],
) -> Result<(), HostError> {
    let mut all: Vec<(&str, &[u8])> = vec![("content-type", b"application/problem+json")];
    all.extend(headers.iter().map(|(name, value)| (*name, value.as_ref())));
    let body = body(reason, status);
    host.reply(LocalReply { status, details: reason.code(), headers: &all, body: body.as_bytes() })
}

/// The problem document, written without a JSON library: every part is a constant that
/// needs no escapes, which a test checks.
fn body(reason: Reason, status: u16) -> String {
    let (code, title, status) = (reason.code(), reason.title(), status.to_string());
    [
        r#"{"type":"urn:tidegate:problem:"#,
        code,
        r#"","title":""#,
        title,
        r#"","status":"#,
        &status,
        r#","code":""#,
        code,
        "\"}\n",
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_is_json_that_says_the_reason() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            let status = 451 + u16::try_from(at).unwrap();
            let body: serde_json::Value = serde_json::from_str(&body(reason, status)).unwrap();
            assert_eq!(body["code"], reason.code());
            assert_eq!(body["status"], status);
            assert_eq!(body["title"], reason.title());
        }
    }
}
