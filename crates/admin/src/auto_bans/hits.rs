//! Which rules events are about, noted while they are written.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use tidegate_author::{AutoBan, AutoBanKey, BadRequests};
use tidegate_policy::decide::Reason;
use tidegate_policy::wire::event::TrafficEvent;

/// The rules at one moment.
#[derive(Default)]
pub struct RuleSet(Vec<Arc<AutoBan>>);

impl RuleSet {
    pub(super) fn new(rules: Vec<Arc<AutoBan>>) -> Self {
        Self(rules)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An event that a rule counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hit {
    /// The address, or the first of its block.
    pub(super) key: IpAddr,
    /// When its request came, milliseconds by the gateway's clock.
    pub(super) time_ms: i64,
    /// Whether it is what the rule bans for; else it is only one of all requests.
    pub(super) is_bad: bool,
}

/// What the events of one transaction are to rules, not yet counted.
pub struct NewHits {
    rules: Arc<RuleSet>,
    /// For each rule.
    hits: Vec<Vec<Hit>>,
}

impl NewHits {
    /// None yet, of these rules.
    #[must_use]
    pub fn new(rules: Arc<RuleSet>) -> Self {
        let hits = rules.0.iter().map(|_| Vec::new()).collect();
        Self { rules, hits }
    }

    /// Whether there is nothing to count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hits.iter().all(Vec::is_empty)
    }

    /// Notes a request that has ended.
    pub fn note(&mut self, event: &TrafficEvent) {
        let Some(client) = event.client else { return };
        let is_banned = event.reason.as_deref() == Some(Reason::IpBanned.code());
        for (rule, hits) in self.rules.0.iter().zip(&mut self.hits) {
            // What a ban keeps away says nothing new, and would make the ban last for ever.
            if is_banned && !rule.matches.has_banned() {
                continue;
            }
            let is_bad = is_bad(&rule.matches, event);
            if is_bad || rule.share.is_some() {
                let time_ms = i64::try_from(event.time_ms).unwrap_or(i64::MAX);
                hits.push(Hit { key: key_of(rule.key, client), time_ms, is_bad });
            }
        }
    }

    pub(super) fn by_rule(&self) -> impl Iterator<Item = (&Arc<AutoBan>, &[Hit])> {
        self.rules.0.iter().zip(self.hits.iter().map(Vec::as_slice))
    }
}

/// What a client is counted by.
fn key_of(key: AutoBanKey, client: IpAddr) -> IpAddr {
    match (key, client.to_canonical()) {
        (AutoBanKey::Network, IpAddr::V6(v6)) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        (_, address) => address,
    }
}

fn is_bad(matches: &BadRequests, event: &TrafficEvent) -> bool {
    fn holds(wanted: &[String], found: Option<&str>) -> bool {
        wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|wanted| wanted == found))
    }
    let BadRequests { statuses, reasons, routes, templates, methods } = matches;
    (statuses.is_empty()
        || event.status.is_some_and(|status| statuses.iter().any(|wanted| wanted.has(status))))
        && holds(reasons, event.reason.as_deref())
        && holds(routes, event.route.as_deref())
        && holds(templates, event.template.as_deref())
        && (methods.is_empty()
            || event.method.as_deref().is_some_and(|method| methods.iter().any(|m| m.as_bytes() == method)))
}
