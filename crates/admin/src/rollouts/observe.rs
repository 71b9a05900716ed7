//! What the service sees of a stage at one moment: the figures of its requests, events that are missing, gateways.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_rollout::figures::{BlockFigures, Completeness, Observed, StageFigures};
use tidegate_rollout::run::Run;

use super::Inner;
use crate::gateways::{GatewayStatus, LOST_AFTER};
use crate::store::{RecordedBefore, RecordingCounts, RolloutRow, StoreError};

/// Events that are missing for so long are: what comes later is stored, and no longer missing then. A recorder that
/// repeats a post sends what comes after it meanwhile.
const MISSING_FOR: Duration = Duration::from_secs(3);
/// A gateway that does not enforce a version for so long lags.
const LAGS_AFTER: Duration = Duration::from_secs(5);

/// What earlier looks at a measurement saw.
#[derive(Clone, Default)]
pub(super) struct Observer {
    /// How many events were missing, oldest first; the first is from before [`MISSING_FOR`] if there is any.
    missing: VecDeque<(Instant, u64)>,
    /// What the stage's groups measured before it, once it was read: it does not change.
    before: Option<Arc<BlockFigures>>,
}

impl RecordedBefore {
    /// The counts of `recorded`.
    pub(super) fn of(recorded: &RecordingCounts) -> Self {
        let dropped = recorded.dropped.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
        Self { numbered: recorded.numbered, missing: recorded.missing, dropped }
    }
}

impl Observer {
    /// What the present measurement of `run` has; `None`: nothing is measured.
    pub async fn figures(
        &mut self,
        service: &Inner,
        row: &RolloutRow,
        run: &Run,
    ) -> Result<Option<StageFigures>, StoreError> {
        let (Some(measurement), Some(measured)) = (run.measurement(), &row.measured) else {
            return Ok(None);
        };
        let counted = service.store.stage_figures(&row.name, measurement.run, measurement.number).await?;
        let age = Duration::from_millis(counted.measured_ms);
        let before = RecordedBefore {
            missing: run
                .current
                .least_missing
                .map_or(measured.before.missing, |least| least.min(measured.before.missing)),
            ..measured.before
        };
        let observed = self.observed(service, before, age).await?;
        let before = self.before(service, row, run).await?;
        Ok(Some(StageFigures { slice_ms: measurement.slice_ms, observed, before, ..counted }))
    }

    /// What the groups of the present stage measured before it; `None`: nothing.
    async fn before(
        &mut self,
        service: &Inner,
        row: &RolloutRow,
        run: &Run,
    ) -> Result<Option<Arc<BlockFigures>>, StoreError> {
        let Some(number) = run.current.before else { return Ok(None) };
        if self.before.is_none() {
            let figures = service.store.stage_figures(&row.name, run.number, number).await?;
            self.before = Some(Arc::new(figures.ahead));
        }
        Ok(self.before.clone().filter(|before| !before.slices.is_empty()))
    }

    /// What the service sees; `before`: the counts of recording when the measurement began, `age` ago, of which as many are
    /// still missing as can be.
    async fn observed(
        &mut self,
        service: &Inner,
        before: RecordedBefore,
        age: Duration,
    ) -> Result<Observed, StoreError> {
        let open = service.store.gateways_with_open_sources().await?;
        let counts = service.store.recording().await?;
        let now = RecordedBefore::of(&counts);
        let missing = self.missing_for_a_while(now.missing.saturating_sub(before.missing), Instant::now());
        let dropped = now.dropped.saturating_sub(before.dropped);
        let numbered = now.numbered.saturating_sub(before.numbered);
        let exact = counts.is_exact(service.gateways.silent(&open));
        let completeness = missing.filter(|_| numbered > 0).map(|missing| {
            #[expect(clippy::cast_precision_loss, reason = "a ratio")]
            let gone = missing.saturating_add(dropped) as f64 / numbered as f64;
            Completeness { ratio: (1.0 - gone).max(0.0), exact }
        });
        let seen = gateways(service, age);
        Ok(Observed { completeness, missing: now.missing, queue_depth: counts.pending, dropped, ..seen })
    }

    /// The fewest that were missing at all looks within [`MISSING_FOR`]; `None`: they have not been that long.
    fn missing_for_a_while(&mut self, missing: u64, now: Instant) -> Option<u64> {
        self.missing.push_back((now, missing));
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= MISSING_FOR;
        while self.missing.get(1).is_some_and(|(at, _)| is_old(at)) {
            self.missing.pop_front();
        }
        self.missing.front().filter(|(at, _)| is_old(at))?;
        self.missing.iter().map(|(_, missing)| *missing).min()
    }
}

/// Gateways, as they are; lost are those that have been lost since the measurement began, `age` ago.
fn gateways(service: &Inner, age: Duration) -> Observed {
    let all = service.gateways.list();
    let lost = all.iter().filter(|one| one.lost && is_lost_since(one.silent_for, age)).count();
    let live: Vec<&GatewayStatus> = all.iter().filter(|one| !one.lost).collect();
    let unenforced = service.gateways.unenforced().unwrap_or_default();
    let version = service.feed.version();
    let lagging = match unenforced > LAGS_AFTER {
        true => live.iter().filter(|one| !one.enforces(version)).count(),
        false => 0,
    };
    Observed {
        gateways: live.len() as u64,
        lost: lost as u64,
        lagging: lagging as u64,
        recorder_absent: live.iter().any(|one| one.poller.as_ref().is_some_and(|poller| !poller.recorder)),
        oldest_tables_ms: (!live.is_empty()).then_some(millis(unenforced)),
        ..Observed::default()
    }
}

/// Whether a gateway that has been silent for so long was lost no longer than `age` ago. No time of day is asked, so a clock
/// that is set makes none lost, and none found.
fn is_lost_since(silent_for: Duration, age: Duration) -> bool {
    silent_for.saturating_sub(LOST_AFTER) <= age
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_was_lost_before_the_stage_is_not_lost_in_it() {
        let lost = |silent, age| is_lost_since(Duration::from_secs(silent), Duration::from_secs(age));
        assert_eq!([lost(14, 10), lost(13, 10), lost(4, 10), lost(4, 0)], [false, true, true, false]);
    }

    #[test]
    fn what_is_missing_for_a_moment_is_only_late() {
        let (mut observer, begun) = (Observer::default(), Instant::now());
        let mut look =
            |at_ms, missing| observer.missing_for_a_while(missing, begun + Duration::from_millis(at_ms));
        assert_eq!([look(0, 0), look(2_900, 9)], [None, None]);
        assert_eq!([look(3_100, 9), look(5_800, 4)], [Some(0), Some(0)]);
        // It was never less than 4 from 2.9 s on.
        assert_eq!([look(6_000, 7), look(6_200, 7)], [Some(4), Some(4)]);
        assert_eq!(look(9_500, 7), Some(7));
    }
}
