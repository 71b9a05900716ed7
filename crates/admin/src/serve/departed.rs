//! Gateways that are gone for good: another process of their node has taken
//! over. What their VMs numbered and did not deliver will not come any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::wire::sync::Gateway;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::gateways::Gateways;
use crate::store::Store;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Two gateways with one node name drop out of the list by turns, so being
/// absent for a moment says nothing.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// Gateways by when they were last in the list.
#[derive(Default)]
struct Seen(HashMap<Gateway, Instant>);

impl Seen {
    /// Takes what is listed `now`; answers who has not been for long, once.
    fn take(&mut self, listed: impl IntoIterator<Item = Gateway>, now: Instant) -> Vec<Gateway> {
        self.0.extend(listed.into_iter().map(|gateway| (gateway, now)));
        let gone = |at: &Instant| now.saturating_duration_since(*at) >= GONE_AFTER;
        self.0.extract_if(|_, at| gone(at)).map(|(gateway, _)| gateway).collect()
    }

    /// Says `gateway` again with the next look.
    fn again(&mut self, gateway: Gateway, now: Instant) {
        self.0.insert(gateway, now.checked_sub(GONE_AFTER).unwrap_or(now));
    }
}

/// Closes the sources of gateways that are gone, until the task is ended.
pub async fn follow(gateways: Gateways, store: Arc<dyn Store>) {
    let mut seen = Seen::default();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = look.tick().await;
        for gateway in seen.take(gateways.list().into_iter().map(|status| status.gateway), now) {
            match store.close_sources_of(gateway.clone()).await {
                Ok(()) => tracing::info!(%gateway, "gone: another process of its node has taken over"),
                Err(error) => {
                    tracing::warn!(%gateway, %error, "its sources could not be closed yet");
                    seen.again(gateway, now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_absent_for_long_is_named_once() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let (old, new) = (Gateway::new(b"node", 1), Gateway::new(b"node", 2));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seen.take([old.clone()], at(0)), []);
        assert_eq!(seen.take([new.clone()], at(5)), []);
        assert_eq!(seen.take([old.clone(), new.clone()], at(6)), [], "it was there again");
        assert_eq!(seen.take([new.clone()], at(15)), []);
        assert_eq!(seen.take([new.clone()], at(16)), std::slice::from_ref(&old));
        assert_eq!(seen.take([new.clone()], at(17)), []);
        seen.again(old.clone(), at(17));
        assert_eq!(seen.take([new], at(18)), [old]);
    }
}
