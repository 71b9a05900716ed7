//! What health says of the listeners' certificates.

use super::Reason;
use crate::api::app_state::AppState;

/// Certificates that are refused, or end.
pub fn reasons(app: &AppState) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for (listener, tls) in app.tls.named() {
        let Some(state) = tls.as_ref().map(|tls| tls.state()) else { continue };
        let mut say = |code, detail| reasons.push(Reason { code, detail });
        if let Some(why) = state.refused {
            let detail = format!(
                "the listener for {listener} shows the certificate that it had before, because the files cannot be \
                 used: {why}"
            );
            say("certificate_refused", detail);
        }
        if state.days_left <= 0.0 {
            say("certificate_ended", format!("the certificate of the listener for {listener} has ended"));
        } else if state.ends_soon {
            let left = state.days_left;
            let detail = format!("the certificate of the listener for {listener} ends in {left:.1} days");
            say("certificate_ends_soon", detail);
        }
    }
    reasons
}
