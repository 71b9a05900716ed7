//! Gateways that have been replaced by another process of their node. What their VMs numbered and
//! did not deliver will not arrive any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::wire::sync::Gateway;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::gateways::Gateways;
use crate::store::Store;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Two gateways with one node name replace each other in the list again and again, so a short
/// absence means nothing.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// Gateways that were listed.
#[derive(Default)]
struct LastListed {
    /// When each was last in the list.
    at: HashMap<Gateway, Instant>,
    /// Gateways from before this service started. They count as listed once they, or another
    /// process of their node, are heard of.
    before: Vec<Gateway>,
}

impl LastListed {
    /// Takes the gateways that are listed `now`. Returns, once each, those that have been absent
    /// for longer than `GONE_AFTER`.
    fn update(&mut self, listed: impl IntoIterator<Item = Gateway>, now: Instant) -> Vec<Gateway> {
        for gateway in listed {
            for known in self.before.extract_if(.., |known| known.node == gateway.node) {
                self.at.insert(known, now);
            }
            self.at.insert(gateway, now);
        }
        let gone = |at: &Instant| now.saturating_duration_since(*at) >= GONE_AFTER;
        self.at.extract_if(|_, at| gone(at)).map(|(gateway, _)| gateway).collect()
    }

    /// Makes the next update return `gateway` again.
    fn retry(&mut self, gateway: Gateway, now: Instant) {
        self.at.insert(gateway, now.checked_sub(GONE_AFTER).unwrap_or(now));
    }
}

/// Closes the sources of gateways that are gone. Runs until the task is aborted.
pub async fn follow(gateways: Gateways, store: Arc<dyn Store>) {
    let mut seen = LastListed::default();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = false;
    loop {
        let now = look.tick().await;
        if !asked {
            // An Envoy may have been replaced while no service was running.
            match store.gateways_with_open_sources().await {
                Ok(gateways) => (seen.before, asked) = (gateways, true),
                Err(error) => tracing::warn!(%error, "cannot read which gateways there were"),
            }
        }
        let listed = gateways.list();
        let heard: Vec<_> =
            listed.iter().filter(|status| !status.lost).map(|status| status.gateway.clone()).collect();
        store.note_gateways(&heard);
        for gateway in seen.update(listed.into_iter().map(|status| status.gateway), now) {
            match store.close_sources_of(gateway.clone()).await {
                Ok(()) => tracing::info!(%gateway, "gone: another process of its node has taken over"),
                Err(error) => {
                    tracing::warn!(%gateway, %error, "its sources could not be closed yet");
                    seen.retry(gateway, now);
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
        let (mut seen, start) = (LastListed::default(), Instant::now());
        let (old, new) = (Gateway::new(b"node", 1), Gateway::new(b"node", 2));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seen.update([old.clone()], at(0)), []);
        assert_eq!(seen.update([new.clone()], at(5)), []);
        assert_eq!(seen.update([old.clone(), new.clone()], at(6)), [], "it was there again");
        assert_eq!(seen.update([new.clone()], at(15)), []);
        assert_eq!(seen.update([new.clone()], at(16)), std::slice::from_ref(&old));
        assert_eq!(seen.update([new.clone()], at(17)), []);
        seen.retry(old.clone(), at(17));
        assert_eq!(seen.update([new], at(18)), [old]);
    }

    #[test]
    fn who_was_replaced_before_the_start_is_named_too() {
        let start = Instant::now();
        let [old, new, other] = [("node", 1), ("node", 2), ("other", 3)]
            .map(|(node, process)| Gateway::new(node.as_bytes(), process));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seen = LastListed { before: vec![old.clone(), other], ..LastListed::default() };
        assert_eq!(seen.update([], at(20)), [], "nobody has come in its place");
        assert_eq!(seen.update([new.clone()], at(30)), []);
        assert_eq!(seen.update([new.clone()], at(39)), []);
        assert_eq!(seen.update([new.clone()], at(40)), [old], "and `other` may come back");
        assert_eq!(seen.update([new], at(60)), []);
    }

    #[test]
    fn who_comes_back_after_the_start_is_not_gone() {
        let (start, back) = (Instant::now(), Gateway::new(b"node", 1));
        let mut seen = LastListed { before: vec![back.clone()], ..LastListed::default() };
        for seconds in 0..30 {
            assert_eq!(seen.update([back.clone()], start + Duration::from_secs(seconds)), []);
        }
    }
}
