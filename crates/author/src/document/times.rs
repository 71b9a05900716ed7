//! A rule's `timeouts`, `retry` and `sessionPersistence`.

use super::super::reader::{DocumentErrors, DocumentNode, Object};
use super::rule_reader::RuleReader;
use crate::duration;
use tidegate_policy::route::action::{Retry, Timeouts};

const MAX_CODES: usize = 200;
const MAX_ATTEMPTS: u32 = 100;
/// Tries after the first if `attempts` is left out: Envoy's default.
const ATTEMPTS: u32 = 1;

impl RuleReader<'_> {
    pub(super) fn timeouts(&mut self, node: Option<DocumentNode<'_>>) -> Timeouts {
        let mut timeouts = Timeouts::default();
        let known = &["request", "backendRequest"];
        let Some(fields) = node.and_then(|node| node.object(known, self.errors)) else {
            return timeouts;
        };
        timeouts.request_ms = time(&fields, "request", self.errors);
        timeouts.backend_ms = time(&fields, "backendRequest", self.errors);
        if timeouts.request_ms != 0
            && timeouts.backend_ms > timeouts.request_ms
            && let Some(node) = fields.get("backendRequest")
        {
            node.note(self.errors, "conflict", "one try cannot take longer than the request: see `request`");
        }
        timeouts
    }

    pub(super) fn retry(&mut self, node: Option<DocumentNode<'_>>) -> Option<Retry> {
        let fields = node?.object(&["attempts", "backoff", "codes"], self.errors)?;
        let attempts = fields.get("attempts");
        let attempts = attempts.map_or(Some(ATTEMPTS), |node| node.integer(0, MAX_ATTEMPTS, self.errors));
        if let Some(node) = fields.get("backoff") {
            time(&fields, "backoff", self.errors);
            let says = "Envoy takes a backoff from its own route only: leave it out (it waits some 25 ms before \
                        the first further try, and longer each time)";
            node.note(self.errors, "not_supported", says);
        }
        let codes = fields.get("codes").map(|list| list.list(MAX_CODES, self.errors)).unwrap_or_default();
        let codes = codes.iter().filter_map(|node| node.integer(400, 599, self.errors));
        let codes = codes.filter_map(|code| u16::try_from(code).ok()).collect();
        Some(Retry { attempts: attempts?, codes })
    }

    /// Refuses `sessionPersistence`: Envoy's load balancer chooses the host of a cluster,
    /// and a filter cannot influence it.
    pub(super) fn refuse_persistence(&mut self, node: Option<DocumentNode<'_>>) {
        let known = &["sessionName", "absoluteTimeout", "idleTimeout", "type", "cookieConfig"];
        let Some(node) = node else { return };
        let Some(fields) = node.object(known, self.errors) else { return };
        for name in ["absoluteTimeout", "idleTimeout"] {
            time(&fields, name, self.errors);
        }
        let says = "a filter cannot bind a client to a host of a cluster: leave it out, and use Envoy's \
                    stateful session filter on the cluster";
        node.note(self.errors, "not_supported", says);
    }
}

/// A duration in milliseconds; 0 if there is none.
fn time(fields: &Object<'_>, name: &str, errors: &mut DocumentErrors) -> u32 {
    fields.get(name).and_then(|node| duration::milliseconds(&node, errors)).unwrap_or_default()
}
