//! The VMs of this process ("sources" of events), and what was reported about them to the
//! admin service. A VM is reported dead only once the queue has been empty after its
//! death was noticed: events that are missing then will not come any more.

use tidegate_policy::wire::event::{SourceReport, SourceState, VmId};

/// The most VMs that are followed; a process has far fewer.
const MAX_SOURCES: usize = 1_024;

struct KnownSource {
    report: SourceReport,
    /// The queue was empty at some time after the source died.
    drained: bool,
    /// The last report that the admin service acknowledged.
    reported: Option<SourceReport>,
}

/// The VMs of this process.
#[derive(Default)]
pub struct Sources {
    known: Vec<KnownSource>,
}

impl Sources {
    /// Updates the sources from the slots. A source without a slot is dead: it closed,
    /// or its slot was taken over.
    pub fn update(&mut self, slots: &[SourceReport]) {
        for slot in slots {
            let room = self.known.len() < MAX_SOURCES;
            match self.known.iter_mut().find(|known| known.report.source == slot.source) {
                Some(known) => {
                    let numbered_hi = known.report.numbered_hi.max(slot.numbered_hi);
                    if slot.state == SourceState::Alive {
                        known.drained = false;
                    }
                    known.report = SourceReport { numbered_hi, ..*slot };
                }
                None if room => {
                    self.known.push(KnownSource { report: *slot, drained: false, reported: None });
                }
                None => {}
            }
        }
        for known in &mut self.known {
            if !slots.iter().any(|slot| slot.source == known.report.source) {
                known.report.state = SourceState::Dead;
            }
        }
        // A dead source without a slot is dropped once that is acknowledged.
        self.known.retain(|known| {
            let dead_reported = known.reported.is_some_and(|report| report.state == SourceState::Dead);
            !dead_reported || slots.iter().any(|slot| slot.source == known.report.source)
        });
    }

    /// The queue is empty.
    pub fn on_queue_empty(&mut self) {
        for known in &mut self.known {
            known.drained |= known.report.state == SourceState::Dead;
        }
    }

    /// The reports to post now. `outstanding`: whether batches of the source are held that
    /// the post does not carry; it is reported alive then.
    #[must_use]
    pub fn due(&self, outstanding: impl Fn(VmId) -> bool) -> Vec<SourceReport> {
        let report = |known: &KnownSource| {
            let dead = known.report.state == SourceState::Dead;
            let settled = known.drained && !outstanding(known.report.source);
            let state = if dead && settled { SourceState::Dead } else { SourceState::Alive };
            SourceReport { state, ..known.report }
        };
        self.known.iter().map(report).collect()
    }

    /// Whether `reports` differ from what was acknowledged.
    #[must_use]
    pub fn differ(&self, reports: &[SourceReport]) -> bool {
        self.known.iter().zip(reports).any(|(known, report)| known.reported != Some(*report))
    }

    /// These were acknowledged.
    pub fn on_reported(&mut self, reports: Vec<SourceReport>) {
        for report in reports {
            if let Some(known) = self.known.iter_mut().find(|known| known.report.source == report.source) {
                known.reported = Some(report);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(source: u128, numbered_hi: u64, state: SourceState) -> SourceReport {
        SourceReport { source: VmId(source), numbered_hi, state }
    }

    fn states(sources: &Sources) -> Vec<SourceState> {
        sources.due(|_| false).iter().map(|report| report.state).collect()
    }

    #[test]
    fn a_death_is_said_once_the_queue_was_empty_after_it() {
        let mut sources = Sources::default();
        sources.update(&[slot(1, 5, SourceState::Alive)]);
        sources.on_queue_empty();
        sources.update(&[slot(1, 7, SourceState::Dead)]);
        assert_eq!(states(&sources), [SourceState::Alive], "empty before it died says nothing");
        sources.on_queue_empty();
        assert_eq!(states(&sources), [SourceState::Dead]);
        assert_eq!(sources.due(|_| true)[0].state, SourceState::Alive, "its batches are still here");
    }

    #[test]
    fn a_source_without_a_slot_is_dead_and_forgotten_once_said() {
        let mut sources = Sources::default();
        sources.update(&[slot(1, 5, SourceState::Alive), slot(2, 1, SourceState::Alive)]);
        sources.update(&[slot(2, 1, SourceState::Alive)]);
        sources.on_queue_empty();
        let reports = sources.due(|_| false);
        assert_eq!(reports[0], slot(1, 5, SourceState::Dead));
        assert!(sources.differ(&reports));
        sources.on_reported(reports);
        sources.update(&[slot(2, 1, SourceState::Alive)]);
        assert_eq!(sources.due(|_| false), [slot(2, 1, SourceState::Alive)]);
        assert!(!sources.differ(&sources.due(|_| false)));
    }
}
