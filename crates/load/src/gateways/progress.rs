//! How far the gateways are, for the thread that measures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_policy::version::Version;

/// Counted by all gateways together.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections opened.
    pub connects: AtomicU64,
    /// Polls answered with news.
    pub answers: AtomicU64,
    /// Polls and other calls that failed.
    pub failures: AtomicU64,
    /// Answers that could not be applied, which a whole load follows.
    pub bad_answers: AtomicU64,
    /// Tables downloaded in pages, by each gateway.
    pub downloads: AtomicU64,
    /// Bases of bans that were to be folded and came out otherwise.
    pub misfolds: AtomicU64,
    /// Bytes of bodies received.
    pub bytes: AtomicU64,
    /// Acks that were taken.
    pub acks: AtomicU64,
}

impl Counts {
    /// One more.
    pub fn count(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// So far.
    pub fn get(count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }
}

/// What a gateway enforces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Enforced {
    version: Version,
    bans: u64,
}

/// What all gateways are at.
#[derive(Debug)]
pub struct Progress {
    counts: Counts,
    enforced: Mutex<Vec<Enforced>>,
    /// When, after the beginning of what is measured, gateways enforced another version.
    times: Mutex<Option<(Instant, Vec<Duration>)>>,
    /// When connections were opened.
    connects: Mutex<Vec<Instant>>,
}

impl Progress {
    /// `gateways` that enforce nothing yet.
    #[must_use]
    pub fn new(gateways: u32) -> Self {
        let enforced = (0..gateways).map(|_| Enforced::default()).collect();
        Self {
            counts: Counts::default(),
            enforced: Mutex::new(enforced),
            times: Mutex::new(None),
            connects: Mutex::new(Vec::new()),
        }
    }

    /// The counts.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A gateway opened a connection.
    pub fn connected(&self) {
        Counts::count(&self.counts.connects);
        locked(&self.connects).push(Instant::now());
    }

    /// The gateway of this number enforces `version`, with so many bans.
    pub fn enforces(&self, gateway: u32, version: Version, bans: u64) {
        if let Some(enforced) = locked(&self.enforced).get_mut(gateway as usize) {
            *enforced = Enforced { version, bans };
        }
        if let Some((since, times)) = locked(&self.times).as_mut() {
            times.push(since.elapsed());
        }
    }

    /// Gateways that enforce this version, or a later one of its epoch.
    #[must_use]
    pub fn at(&self, version: Version) -> usize {
        locked(&self.enforced).iter().filter(|enforced| enforced.version.covers(&version)).count()
    }

    /// Gateways that enforce at least so many bans.
    #[must_use]
    pub fn with_bans(&self, bans: u64) -> usize {
        locked(&self.enforced).iter().filter(|enforced| enforced.bans >= bans).count()
    }

    /// Whether all gateways enforce the same.
    #[must_use]
    pub fn are_equal(&self) -> bool {
        let enforced = locked(&self.enforced);
        enforced.windows(2).all(|two| two.first() == two.last())
    }

    /// From now on the times are noted at which gateways enforce something else.
    pub fn note_times(&self) {
        *locked(&self.times) = Some((Instant::now(), Vec::new()));
    }

    /// The times noted, which ends the noting.
    #[must_use]
    pub fn take_times(&self) -> Vec<Duration> {
        locked(&self.times).take().map(|(_, times)| times).unwrap_or_default()
    }

    /// The most connections opened within 100 ms since the last call.
    #[must_use]
    pub fn take_most_connects(&self) -> usize {
        let connects = std::mem::take(&mut *locked(&self.connects));
        let within = |since: &Instant| {
            let end = *since + Duration::from_millis(100);
            connects.iter().filter(|at| (*since..end).contains(at)).count()
        };
        // They are in order, so that each may be the first of its 100 ms; every tenth is near enough.
        connects.iter().step_by(10).map(within).max().unwrap_or(0)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
