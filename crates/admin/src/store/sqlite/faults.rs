//! What the store tried and could not do. Health reports a fault from the first failure of an
//! operation until one succeeds.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lock::locked;
use crate::store::{StoreError, StoreFault, StoreOperation};

/// A read that failed and was not tried again counts for this long: some are only done when
/// somebody asks.
const UNREPEATED_READ: Duration = Duration::from_secs(600);

/// A kind of work on the database. Which page of the file is damaged decides which kinds fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Work {
    /// A write of this name.
    Write(&'static str),
    /// A read of this name.
    Read(&'static str),
    /// Writing the write-ahead log back into the database.
    Checkpoint,
}

impl Work {
    fn operation(self) -> StoreOperation {
        match self {
            Self::Write(_) => StoreOperation::Write,
            Self::Read(_) => StoreOperation::Read,
            Self::Checkpoint => StoreOperation::Checkpoint,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Write(name) | Self::Read(name) => name,
            Self::Checkpoint => "the write-ahead log",
        }
    }
}

struct Fault {
    since: Instant,
    last: Instant,
    error: StoreError,
}

impl Fault {
    /// Whether a success of `other`, an operation of the same kind, shows that the cause is gone.
    /// A damaged page fails only those that need it; a full disk or a missing file fails all.
    fn ends_with(&self, own: Work, other: Work) -> bool {
        own == other || own.operation() == other.operation() && !matches!(self.error, StoreError::Damaged(_))
    }
}

/// The faults at this moment.
#[derive(Default)]
pub(super) struct Faults {
    now: Mutex<BTreeMap<Work, Fault>>,
    /// Whether there is any: asked after each read.
    any: AtomicBool,
}

impl Faults {
    /// Notes how `work` ended. A lock that another program holds, a store that is closed and an author whose
    /// token is gone are no faults.
    pub(super) fn note<T>(&self, work: Work, result: &Result<T, StoreError>) {
        match result {
            Ok(_) => self.worked(work),
            Err(
                StoreError::Busy | StoreError::Closed | StoreError::TokenRevoked | StoreError::TokenEnded,
            ) => {}
            Err(error) => self.failed(work, error),
        }
    }

    fn failed(&self, work: Work, error: &StoreError) {
        let (mut faults, now) = (locked(&self.now), Instant::now());
        if !faults.contains_key(&work) {
            tracing::error!(%error, "{} failed: {}", work.operation().name(), work.name());
        }
        let fault =
            faults.entry(work).or_insert_with(|| Fault { since: now, last: now, error: error.clone() });
        (fault.last, fault.error) = (now, error.clone());
        self.any.store(true, Ordering::Release);
    }

    /// `work` was done: a write was committed, a read ended.
    pub(super) fn worked(&self, work: Work) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut faults = locked(&self.now);
        faults.retain(|&of, fault| {
            let ended = fault.ends_with(of, work);
            if ended {
                tracing::info!("works again: {}: {}", of.operation().name(), of.name());
            }
            !ended
        });
        self.any.store(!faults.is_empty(), Ordering::Release);
    }

    /// Whether an operation of this kind fails.
    pub(super) fn has(&self, operation: StoreOperation) -> bool {
        self.any.load(Ordering::Acquire) && locked(&self.now).keys().any(|work| work.operation() == operation)
    }

    /// For health, by operation.
    pub(super) fn list(&self) -> Vec<StoreFault> {
        let mut faults = locked(&self.now);
        faults.retain(|work, fault| {
            work.operation() != StoreOperation::Read || fault.last.elapsed() < UNREPEATED_READ
        });
        self.any.store(!faults.is_empty(), Ordering::Release);
        let told = |(work, fault): (&Work, &Fault)| StoreFault {
            operation: work.operation(),
            what: work.name(),
            since: fault.since.elapsed(),
            why: fault.error.to_string(),
        };
        faults.iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: Work = Work::Write("events");
    const CHANGES: Work = Work::Write("changes");

    fn failed(error: StoreError) -> Result<(), StoreError> {
        Err(error)
    }

    fn names(faults: &Faults) -> Vec<&'static str> {
        faults.list().into_iter().map(|fault| fault.what).collect()
    }

    #[test]
    fn a_full_disk_is_over_with_any_write_and_a_damaged_page_with_its_own() {
        let faults = Faults::default();
        faults.note(EVENTS, &failed(StoreError::Failed("full".into())));
        faults.note(CHANGES, &failed(StoreError::Damaged("malformed".into())));
        faults.note(Work::Read("counts"), &Ok(()));
        assert_eq!(names(&faults), ["changes", "events"], "a read says nothing of writes");
        faults.note(Work::Write("housekeeping"), &Ok(()));
        assert_eq!(names(&faults), ["changes"]);
        faults.note(CHANGES, &failed(StoreError::Busy));
        faults.note(CHANGES, &Ok(()));
        assert_eq!(names(&faults), [""; 0]);
        assert!(!faults.has(StoreOperation::Write));
    }
}
