//! Denials, as RFC 9457 problem details.

use tidegate_policy::decide::Reason;

use crate::host::{Host, LocalReply};

/// Seconds after which a gate without tables is worth another try: they are
/// there within a second of the admin service's answer.
const RETRY_AFTER: &str = "1";

/// Answers with a denial; false when the host refused. The reason is in the body
/// and in `%RESPONSE_CODE_DETAILS%`.
pub fn deny<H: Host>(host: &H, reason: Reason) -> bool {
    let headers = [("content-type", "application/problem+json"), ("retry-after", RETRY_AFTER)];
    let headers = match reason {
        Reason::NotReady | Reason::CheckUnavailable => headers.as_slice(),
        _ => headers.get(..1).unwrap_or_default(),
    };
    let body = body(reason);
    let reply =
        LocalReply { status: reason.status(), details: reason.code(), headers, body: body.as_bytes() };
    host.reply(reply).is_ok()
}

/// Put together without a JSON writer: every part is a constant that needs no
/// escapes, which a test checks.
fn body(reason: Reason) -> String {
    let (code, title, status) = (reason.code(), reason.title(), reason.status().to_string());
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
        for reason in Reason::ALL {
            let body: serde_json::Value = serde_json::from_str(&body(reason)).unwrap();
            assert_eq!(body["code"], reason.code());
            assert_eq!(body["status"], reason.status());
            assert_eq!(body["title"], reason.title());
        }
    }
}
