//! A rule's `timeouts`, `retry` and `sessionPersistence`.

use super::super::reader::{Object, Place, Problems};
use super::rule::Reader;
use crate::duration;
use tidegate_policy::route::action::{Retry, Timeouts};

const MAX_CODES: usize = 200;
const MAX_ATTEMPTS: u32 = 100;
/// Tries after the first where `attempts` is left out: Envoy's default.
const ATTEMPTS: u32 = 1;

impl Reader<'_> {
    pub(super) fn timeouts(&mut self, place: Option<Place<'_>>) -> Timeouts {
        let mut timeouts = Timeouts::default();
        let known = &["request", "backendRequest"];
        let Some(fields) = place.and_then(|place| place.object(known, self.problems)) else {
            return timeouts;
        };
        timeouts.request_ms = time(&fields, "request", self.problems);
        timeouts.backend_ms = time(&fields, "backendRequest", self.problems);
        if timeouts.request_ms != 0
            && timeouts.backend_ms > timeouts.request_ms
            && let Some(place) = fields.get("backendRequest")
        {
            place.note(
                self.problems,
                "conflict",
                "one try cannot take longer than the request: see `request`",
            );
        }
        timeouts
    }

    pub(super) fn retry(&mut self, place: Option<Place<'_>>) -> Option<Retry> {
        let fields = place?.object(&["attempts", "backoff", "codes"], self.problems)?;
        let attempts = fields.get("attempts");
        let attempts = attempts.map_or(Some(ATTEMPTS), |place| place.integer(0, MAX_ATTEMPTS, self.problems));
        if let Some(place) = fields.get("backoff") {
            time(&fields, "backoff", self.problems);
            let says = "Envoy takes a backoff from its own route only: leave it out (it waits some 25 ms before \
                        the first further try, and longer each time)";
            place.note(self.problems, "not_supported", says);
        }
        let codes = fields.get("codes").map(|list| list.list(MAX_CODES, self.problems)).unwrap_or_default();
        let codes = codes.iter().filter_map(|place| place.integer(400, 599, self.problems));
        let codes = codes.filter_map(|code| u16::try_from(code).ok()).collect();
        Some(Retry { attempts: attempts?, codes })
    }

    /// Which host of a cluster takes a request is chosen by Envoy's load balancer,
    /// to which a filter cannot speak.
    pub(super) fn refuse_persistence(&mut self, place: Option<Place<'_>>) {
        let known = &["sessionName", "absoluteTimeout", "idleTimeout", "type", "cookieConfig"];
        let Some(place) = place else { return };
        let Some(fields) = place.object(known, self.problems) else { return };
        for name in ["absoluteTimeout", "idleTimeout"] {
            time(&fields, name, self.problems);
        }
        let says = "a filter cannot bind a client to a host of a cluster: leave it out, and use Envoy's \
                    stateful session filter on the cluster";
        place.note(self.problems, "not_supported", says);
    }
}

/// A duration in milliseconds; 0 where there is none.
fn time(fields: &Object<'_>, name: &str, problems: &mut Problems) -> u32 {
    fields.get(name).and_then(|place| duration::milliseconds(&place, problems)).unwrap_or_default()
}
