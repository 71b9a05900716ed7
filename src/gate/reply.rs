//! Denials, as RFC 9457 problem details.

use tidegate_policy::decide::Reason;

use crate::host::{Host, LocalReply};

/// Seconds after which a gate that could not decide is worth another try: tables
/// are there within a second of the admin service's answer.
const RETRY_AFTER: &str = "1";

/// Answers with a denial; false when the host refused. The reason is in the body
/// and in `%RESPONSE_CODE_DETAILS%`. `status` is the reason's, or a rule's own.
pub fn deny<H: Host>(host: &H, reason: Reason, status: u16) -> bool {
    let headers = [("content-type", "application/problem+json"), ("retry-after", RETRY_AFTER)];
    let headers = match reason {
        Reason::NotReady | Reason::CheckUnavailable => headers.as_slice(),
        _ => headers.get(..1).unwrap_or_default(),
    };
    let body = body(reason, status);
    host.reply(LocalReply { status, details: reason.code(), headers, body: body.as_bytes() }).is_ok()
}

/// Put together without a JSON writer: every part is a constant that needs no
/// escapes, which a test checks.
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
