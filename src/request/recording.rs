//! Synchronous recording: a response waits until its event is stored. The event
//! is open then; the one that completes it has the same number and comes the
//! normal way, at the request's end.

use tidegate_policy::wire::event::{MAX_OPEN, TrafficEvent, open_bytes};

use crate::direct::RAN_OUT;
use crate::filter::Filter;
use crate::host::{CallToken, Host};
use crate::metrics::Count;

/// Where open events are posted.
const PATH: &str = "/api/data-plane/v1/events?sync=1";

/// The post of an event whose response is held until it is answered.
#[derive(Clone, Copy, Debug)]
pub struct PendingStore {
    /// Names the answer.
    pub token: CallToken,
    /// When it was posted, monotonic nanoseconds.
    pub since_ns: u64,
}

/// Posts the event as it is so far, with the number that it was given; `None`, counted,
/// when it could not be posted: then there is nothing to wait for.
pub fn post<H: Host>(filter: &Filter<H>, event: &TrafficEvent) -> Option<PendingStore> {
    let vm = &filter.vm;
    let since_ns = vm.host.monotonic_ns();
    let worth_it = filter.line.recording.may_ask(since_ns);
    let sent = match open_bytes(vm.source, event) {
        Ok(body) if worth_it && body.len() <= MAX_OPEN => {
            filter.line.post(PATH, &body, filter.sync_timeout).ok()
        }
        _ => None,
    };
    let Some(token) = sent else {
        vm.metrics.count(Count::SyncFailed);
        return None;
    };
    Some(PendingStore { token, since_ns })
}

/// Counts what came of the post, inside its callback. The response goes on whatever it is.
pub fn finish<H: Host>(filter: &Filter<H>, num_headers: usize) {
    let status = if num_headers == 0 { None } else { filter.vm.host.call_status() };
    let patience = &filter.line.recording;
    match status {
        Some(RAN_OUT) => patience.note_ran_out(filter.vm.host.monotonic_ns()),
        Some(_) => patience.note_answered(),
        None => {}
    }
    let count = if matches!(status, Some(200..=299)) { Count::SyncStored } else { Count::SyncFailed };
    filter.vm.metrics.count(count);
}
