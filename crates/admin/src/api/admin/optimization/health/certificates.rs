//! What health says of the listeners' certificates.

use crate::api::app_state::AppState;
use crate::finding::{Finding, FindingCode};

/// Certificates that are refused, or end.
pub fn reasons(app: &AppState) -> Vec<Finding> {
    let mut reasons = Vec::new();
    for (listener, tls) in app.tls.named() {
        let Some(state) = tls.as_ref().map(|tls| tls.state()) else { continue };
        let mut say = |code: FindingCode, detail: String| reasons.push(code.says(detail));
        if let Some(why) = state.refused {
            let detail = format!(
                "the listener for {listener} shows the certificate that it had before, because the files cannot be \
                 used: {why}"
            );
            say(FindingCode::CertificateRefused, detail);
        }
        if state.days_left <= 0.0 {
            say(
                FindingCode::CertificateEnded,
                format!("the certificate of the listener for {listener} has ended"),
            );
        } else if state.ends_soon {
            let left = state.days_left;
            let detail = format!("the certificate of the listener for {listener} ends in {left:.1} days");
            say(FindingCode::CertificateEndsSoon, detail);
        }
    }
    reasons
}
