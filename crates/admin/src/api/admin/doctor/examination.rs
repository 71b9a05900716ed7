//! What the doctor finds beyond health, from the state of gateways, disk, tokens and recording at
//! one moment.

use std::time::Duration;

use jiff::Timestamp;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::version::Version;

use crate::finding::{Finding, FindingCode, Severity};
use crate::gateways::{GatewayStatus, PollerStatus};
use crate::store::{RecordingCounts, StoreHealth, TokenRow};
use crate::time;

/// A change that is not enforced for longer is a fault.
const LAGGING: Duration = Duration::from_secs(5);
/// Difference of two clocks, milliseconds, from which on it is worth telling.
const SKEWED_MS: u64 = 5_000;
/// Holders of the lease within a minute, from which on it changes hands.
const MANY_HOLDERS: usize = 3;
/// A disk with less room than this, bytes, is nearly full.
const LITTLE_ROOM: u64 = 256 << 20;
/// So is one with less than this part of its size.
const SMALL_PART: u64 = 50;
/// Events that a recorder holds for longer, milliseconds.
const WAITING_MS: u64 = 60_000;
/// Of so many numbered events one may be missing: completeness of 99.5 %.
const ONE_OF: u64 = 200;
/// Tokens that end within this time.
const ENDING: Duration = Duration::from_secs(7 * 86_400);

/// The state at one moment.
pub struct Examination<'a> {
    /// The version of the tables.
    pub version: Version,
    /// Hash of the flags that gateways should hold.
    pub flags: BlobHash,
    /// All gateways.
    pub gateways: &'a [GatewayStatus],
    /// Age of the oldest change that a live gateway does not enforce.
    pub unenforced: Option<Duration>,
    /// The store's state.
    pub store: &'a StoreHealth,
    /// All tokens.
    pub tokens: &'a [TokenRow],
    /// The counts of events.
    pub recording: &'a RecordingCounts,
    /// Handshakes with gateways that did not succeed since the service began.
    pub failed_handshakes: u64,
    /// Now.
    pub now: Timestamp,
}

impl Examination<'_> {
    /// All that is found.
    pub fn findings(&self) -> Vec<Finding> {
        let live = || self.gateways.iter().filter(|gateway| !gateway.lost);
        let mut found: Vec<Finding> = self.lagging().into_iter().collect();
        found.extend(live().flat_map(|gateway| self.of_gateway(gateway)));
        found.extend(self.disk());
        found.extend(self.recording());
        found.extend(self.tokens.iter().filter_map(|token| self.ending(token)));
        if self.gateways.is_empty() {
            let tried = match self.failed_handshakes {
                0 => String::new(),
                count => format!(
                    "; {count} connections to its listener did not get through TLS: one side does not trust the other's \
                     certificate, or spoke no TLS"
                ),
            };
            let detail = format!("no gateway has reported to this service since it began{tried}");
            found.push(FindingCode::NoGateway.says(detail));
        }
        found
    }

    fn lagging(&self) -> Option<Finding> {
        let age = self.unenforced.filter(|age| *age > LAGGING)?;
        let behind = self.gateways.iter().filter(|gateway| {
            !gateway.lost && gateway.ack.is_none_or(|ack| !ack.version.covers(&self.version) || ack.stale > 0)
        });
        let nodes: Vec<&str> = behind.map(|gateway| gateway.gateway.node.as_str()).collect();
        Some(FindingCode::GatewayLagging.says(format!(
            "a change of {} s ago is not enforced by every gateway yet; behind are: {}",
            age.as_secs(),
            nodes.join(", ")
        )))
    }

    fn of_gateway(&self, gateway: &GatewayStatus) -> Vec<Finding> {
        let node = &gateway.gateway.node;
        let mut found = Vec::new();
        if !gateway.unread.is_empty() {
            let unread = gateway.unread.join(", ");
            found.push(FindingCode::OtherVersion.says(format!(
                "the filter of {node} is of another version and cannot read these tables: {unread}"
            )));
        }
        let Some(poller) = gateway.poller else { return found };
        let PollerStatus { recorder, clock_ahead_ms, lease_changes, flags } = poller;
        if flags.is_some_and(|flags| flags != self.flags) {
            let detail = format!("{node} holds other flags than are set here, and goes by those");
            found.push(FindingCode::FlagsDiffer.says(detail));
        }
        if lease_changes >= MANY_HOLDERS {
            found.push(FindingCode::LeaseChanges.says(format!(
                "in {node} another VM took the lease {lease_changes} times within the last minute"
            )));
        }
        if clock_ahead_ms.unsigned_abs() > SKEWED_MS {
            let way = if clock_ahead_ms > 0 { "ahead of" } else { "behind" };
            found.push(FindingCode::ClockSkew.says(format!(
                "the clock of {node} is {} s {way} this service's: its events have the wrong time, or bans end at one",
                clock_ahead_ms.unsigned_abs() / 1_000
            )));
        }
        if !recorder {
            let detail =
                format!("{node} has no recorder of its own: a worker polls and records beside its requests");
            found.push(FindingCode::NoRecorder.says(detail));
        }
        found
    }

    fn disk(&self) -> Option<Finding> {
        let disk = self.store.disk?;
        let free = disk.free >> 20;
        if disk.free < LITTLE_ROOM || disk.free < disk.size / SMALL_PART {
            let size = disk.size >> 20;
            return Some(
                FindingCode::DiskLow.says(format!(
                    "the disk with the database is nearly full: {free} of {size} MiB are left"
                )),
            );
        }
        let growth = self.store.event_limit.saturating_sub(self.store.event_bytes);
        (growth > disk.free).then(|| {
            FindingCode::RetentionNoRoom.says(format!(
                "events may still take {} MiB, and the disk with the database has {free} MiB left",
                growth >> 20
            ))
        })
    }

    fn recording(&self) -> Vec<Finding> {
        let counts = self.recording;
        let mut found = Vec::new();
        let dropped = counts.dropped.iter().fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
        let missing = dropped.saturating_add(counts.lost);
        if missing > 0 {
            let detail = format!(
                "of {} numbered events {dropped} were dropped and {} lost",
                counts.numbered, counts.lost
            );
            let many = missing.saturating_mul(ONE_OF) > counts.numbered;
            let severity = if many { Severity::Warning } else { Severity::Note };
            found.push(Finding { severity, ..FindingCode::EventsDropped.says(detail) });
        }
        if counts.recorder.oldest_ms > WAITING_MS {
            found.push(FindingCode::EventsWaiting.says(format!(
                "a recorder holds events for {} s already, {} KiB of them",
                counts.recorder.oldest_ms / 1_000,
                counts.recorder.waiting_bytes >> 10
            )));
        }
        found
    }

    fn ending(&self, token: &TokenRow) -> Option<Finding> {
        let end = time::parse_timestamp(token.expires_at.as_deref()?)?;
        let left = Duration::try_from(end.duration_since(self.now)).ok()?;
        (left < ENDING).then(|| {
            let left = match left.as_secs() {
                seconds @ ..7_200 => format!("{} min", seconds / 60),
                seconds => format!("{} h", seconds / 3_600),
            };
            FindingCode::TokenEnding.says(format!(
                "the token `{}` of the role `{}` ends in {left}, {}",
                token.name,
                token.role,
                time::rfc3339(end)
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policy::wire::sync::{Ack, Gateway};

    use super::*;
    use crate::store::{DiskSpace, RecorderFigures};

    const VERSION: Version = Version { epoch: 7, seq: 5 };
    const FLAGS: BlobHash = BlobHash(1);

    /// A gateway with which all is well.
    fn well() -> GatewayStatus {
        GatewayStatus {
            gateway: Gateway { node: "edge-1".to_owned(), process: 1 },
            address: None,
            ack: Some(Ack { version: VERSION, live: 2, ..Ack::default() }),
            lost: false,
            known_for: Duration::from_secs(60),
            silent_for: Duration::ZERO,
            unread: Vec::new(),
            poller: Some(poller()),
        }
    }

    fn poller() -> PollerStatus {
        PollerStatus { recorder: true, clock_ahead_ms: 20, lease_changes: 0, flags: Some(FLAGS) }
    }

    /// What is found, with nothing wrong but what `change` does.
    fn found(
        change: impl FnOnce(&mut GatewayStatus, &mut StoreHealth, &mut RecordingCounts),
    ) -> Vec<Finding> {
        let (mut gateway, mut recording) =
            (well(), RecordingCounts { numbered: 1_000, ..Default::default() });
        let disk = Some(DiskSpace { free: 50 << 30, size: 100 << 30 });
        let mut store = StoreHealth { event_limit: 2_000_000_000, disk, ..StoreHealth::default() };
        change(&mut gateway, &mut store, &mut recording);
        let behind = gateway.ack.is_none_or(|ack| !ack.version.covers(&VERSION));
        let examination = Examination {
            version: VERSION,
            flags: FLAGS,
            gateways: &[gateway],
            unenforced: behind.then_some(Duration::from_secs(9)),
            store: &store,
            tokens: &[],
            recording: &recording,
            failed_handshakes: 0,
            now: Timestamp::UNIX_EPOCH,
        };
        examination.findings()
    }

    #[test]
    fn each_fault_is_named_and_nothing_where_all_is_well() {
        assert_eq!(found(|_, _, _| {}), []);
        let of_poller = |change: fn(&mut PollerStatus)| found(|g, _, _| g.poller.iter_mut().for_each(change));
        let mib = 1 << 20;
        let cases = [
            (found(|g, _, _| g.ack = None), "gateway_lagging", "9 s ago"),
            (found(|g, _, _| g.unread = vec!["routes", "limits"]), "other_version", "routes, limits"),
            (of_poller(|p| p.flags = Some(BlobHash(2))), "flags_differ", "other flags"),
            (of_poller(|p| p.lease_changes = 3), "lease_changes", "3 times"),
            (of_poller(|p| p.clock_ahead_ms = 6_000), "clock_skew", "6 s ahead of"),
            (of_poller(|p| p.clock_ahead_ms = -90_000), "clock_skew", "90 s behind"),
            (of_poller(|p| p.recorder = false), "no_recorder", "edge-1"),
            (
                found(|_, s, _| s.disk = Some(DiskSpace { free: 255 * mib, size: 1_000 * mib })),
                "disk_low",
                "255 of 1000 MiB",
            ),
            (
                found(|_, s, _| s.disk = Some(DiskSpace { free: 1_900 * mib, size: 100_000 * mib })),
                "disk_low",
                "1900 of",
            ),
            (
                found(|_, s, _| s.disk = Some(DiskSpace { free: 900 * mib, size: 1_000 * mib })),
                "retention_no_room",
                "900 MiB left",
            ),
            (
                found(|_, _, r| (r.dropped, r.lost) = (vec![("expired", 4)], 2)),
                "events_dropped",
                "4 were dropped and 2",
            ),
            (
                found(|_, _, r| {
                    r.recorder = RecorderFigures { oldest_ms: 61_000, waiting_bytes: 4_096, retries: 9 };
                }),
                "events_waiting",
                "61 s already, 4 KiB",
            ),
        ];
        for (found, code, says) in cases {
            let [finding] = found.as_slice() else { panic!("{code}: {found:?}") };
            assert_eq!(finding.code, code);
            assert!(finding.detail.contains(says) && !finding.mend.is_empty(), "{finding:?}");
        }
        let few = found(|_, _, r| r.lost = 5);
        assert_eq!(few.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Note]);
        assert_eq!(
            found(|g, _, _| (g.lost, g.unread) = (true, vec!["flags"])),
            [],
            "health says that it is lost"
        );
    }

    #[test]
    fn tokens_are_told_of_in_their_last_week() {
        let now: Timestamp = "2026-11-30T00:00:00Z".parse().unwrap();
        let ending = |end: Option<&str>| {
            let token =
                TokenRow { name: "ci".into(), expires_at: end.map(str::to_owned), ..TokenRow::default() };
            let examination = Examination {
                version: VERSION,
                flags: FLAGS,
                gateways: &[well()],
                unenforced: None,
                store: &StoreHealth::default(),
                tokens: &[token],
                recording: &RecordingCounts::default(),
                failed_handshakes: 0,
                now,
            };
            examination.findings().pop().map(|finding| finding.detail)
        };
        assert!(ending(Some("2026-12-01 12:00:00.000")).unwrap().contains("`ci`"));
        assert!(ending(Some("2026-12-01 12:00:00.000")).unwrap().contains("36 h"));
        for quiet in [None, Some("2026-12-08"), Some("2026-11-29"), Some("soon")] {
            assert_eq!(ending(quiet), None, "{quiet:?}");
        }
    }
}
