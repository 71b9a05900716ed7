//! Latest reports of gateways, in memory: which sources are alive (heard of within 10 s) and
//! the state of each recorder's queue.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tidegate_policy::wire::event::{SourceState, VmId};
use tidegate_policy::wire::sync::Gateway;

use super::ledger::SILENT_FOR;
use crate::lock::locked;
use crate::store::{Append, RecorderFigures, RefusedClaim};

/// A source counts as alive for this long after it was last heard of.
const ALIVE_FOR: Duration = Duration::from_secs(10);
/// A recorder's report of its queue counts for this long.
const WAITING_FOR: Duration = Duration::from_secs(60);
/// Sources, and recorders, that are kept at most.
const MAX_KNOWN: usize = 100_000;

/// Reports by source and by gateway.
#[derive(Default)]
pub(super) struct GatewayReports(Mutex<Reports>);

#[derive(Default)]
struct Reports {
    sources: HashMap<VmId, Instant>,
    recorders: HashMap<Gateway, (Instant, RecorderFigures)>,
    /// When each gateway, as rows have it, was last heard of, by polls or posts.
    gateways: HashMap<String, Instant>,
    /// The last claim that was refused because it is not possible.
    refused: Option<RefusedClaim>,
    /// Retries of recorders that are gone.
    past_retries: u64,
}

impl GatewayReports {
    /// Takes in the reports of a post.
    pub(super) fn note_post(&self, append: &Append) {
        let now = Instant::now();
        let mut reports = locked(&self.0);
        for report in &append.sources {
            match report.state {
                SourceState::Alive => reports.sources.insert(report.source, now),
                SourceState::Dead => reports.sources.remove(&report.source),
            };
        }
        reports.recorders.insert(append.gateway.clone(), (now, append.recorder.bounded()));
        reports.gateways.insert(append.gateway.to_string(), now);
        if reports.sources.len() > MAX_KNOWN || reports.recorders.len() > MAX_KNOWN {
            reports.forget_silent(now);
        }
    }

    /// Notes gateways that were heard of.
    pub(super) fn note_gateways(&self, gateways: &[Gateway]) {
        let now = Instant::now();
        let mut reports = locked(&self.0);
        reports.gateways.retain(|_, at| now.duration_since(*at) < SILENT_FOR);
        reports.gateways.extend(gateways.iter().map(|gateway| (gateway.to_string(), now)));
    }

    /// Whether a gateway, as rows have it, was heard of within the time after which its sources
    /// would be dead. One that is quiet is not.
    pub(super) fn is_heard_of(&self, gateway: &str) -> bool {
        locked(&self.0).gateways.get(gateway).is_some_and(|at| at.elapsed() < SILENT_FOR)
    }

    /// Notes a claim that was refused because it is not possible.
    pub(super) fn note_refused(&self, claim: RefusedClaim) {
        let mut reports = locked(&self.0);
        let known = reports.refused.as_ref().is_some_and(|last| last.source == claim.source);
        if !known {
            let RefusedClaim { source, gateway, number, .. } = &claim;
            tracing::warn!(%source, gateway, number, "a source cannot have numbered so many events: not believed");
        }
        reports.refused = Some(claim);
    }

    /// The last claim that was refused.
    pub(super) fn refused(&self) -> Option<RefusedClaim> {
        locked(&self.0).refused.clone()
    }

    /// Notes that `source` is alive.
    pub(super) fn note_source(&self, source: VmId) {
        let now = Instant::now();
        let mut reports = locked(&self.0);
        reports.sources.insert(source, now);
        if reports.sources.len() > MAX_KNOWN {
            reports.forget_silent(now);
        }
    }

    /// Removes a gateway whose process has ended; its retries are kept.
    pub(super) fn forget_gateway(&self, gateway: &Gateway) {
        let mut reports = locked(&self.0);
        reports.gateways.remove(&gateway.to_string());
        if let Some((_, figures)) = reports.recorders.remove(gateway) {
            reports.past_retries = reports.past_retries.saturating_add(figures.retries);
        }
    }

    /// Number of sources alive, and the sums of the recorders' reports.
    pub(super) fn totals(&self) -> (u64, RecorderFigures) {
        let now = Instant::now();
        let mut reports = locked(&self.0);
        reports.forget_silent(now);
        let mut all = RecorderFigures { retries: reports.past_retries, ..RecorderFigures::default() };
        for (at, figures) in reports.recorders.values() {
            all.retries = all.retries.saturating_add(figures.retries);
            if now.duration_since(*at) < WAITING_FOR {
                all.waiting_bytes = all.waiting_bytes.saturating_add(figures.waiting_bytes);
                all.oldest_ms = all.oldest_ms.max(figures.oldest_ms);
            }
        }
        (reports.sources.len() as u64, all)
    }
}

impl Reports {
    fn forget_silent(&mut self, now: Instant) {
        self.sources.retain(|_, at| now.duration_since(*at) < ALIVE_FOR);
        if self.recorders.len() > MAX_KNOWN {
            let past = &mut self.past_retries;
            self.recorders.retain(|_, (at, figures)| {
                let keep = now.duration_since(*at) < WAITING_FOR;
                if !keep {
                    *past = past.saturating_add(figures.retries);
                }
                keep
            });
        }
    }
}
