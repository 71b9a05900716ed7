//! Queue of the writer thread. Changes through the API go first; open events, batches of events
//! and housekeeping take turns.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_policy::wire::event::{OpenEvent, VmId};
use tidegate_policy::wire::sync::Gateway;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::append::{AppendJob, MAX_BACKLOG_ROWS, MAX_ROWS};
use super::backup::BackupCopy;
use super::ban_import::ImportPlan;
use super::former_rows::FormerChange;
use crate::lock::locked;
use crate::store::{Appended, Author, Change, CommitOptions, Committed, Restored, StoreError, StoreTable};

/// Urgent jobs per transaction, at most.
const MAX_URGENT: usize = 256;
/// Open events per transaction, at most.
const MAX_OPENS: usize = 500;
/// After this long without a job the writer checks file and lock.
const IDLE_AFTER: Duration = Duration::from_millis(500);
/// The same while another program holds the write lock.
const IDLE_WHEN_LOCKED: Duration = Duration::from_millis(100);

/// Channel for the result of a job.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A waiting job.
pub(super) struct Queued<T> {
    /// When it was queued. It waits for the write lock until
    /// [`Options::busy_for`](super::Options::busy_for) after this.
    pub(super) since: Instant,
    /// The job.
    pub(super) job: T,
}

/// A write that is done before waiting events.
pub(super) struct UrgentJob {
    pub(super) change: Change,
    /// Of an import: what it is to change.
    pub(super) plan: Option<ImportPlan>,
    /// The author.
    pub(super) by: Author,
    pub(super) options: CommitOptions,
    /// Channel for the result of a job.
    pub(super) reply: Reply<Committed>,
}

/// A restore, in a transaction of its own.
pub(super) struct RestoreJob {
    pub(super) copy: BackupCopy,
    /// The author.
    pub(super) by: Author,
    /// Channel for the result of a job.
    pub(super) reply: Reply<Restored>,
    /// Held until it has ended, whoever still waits for it.
    pub(super) one_at_a_time: OwnedMutexGuard<()>,
}

impl Job for RestoreJob {
    fn fail(self, error: StoreError) {
        drop(self.reply.send(Err(error)));
    }
}

/// A job whose sender waits for its result.
pub(super) trait Job {
    /// Sends an error as the result.
    fn fail(self, error: StoreError);
}

impl Job for UrgentJob {
    fn fail(self, error: StoreError) {
        drop(self.reply.send(Err(error)));
    }
}

/// An open event: its response waits until it is stored.
pub(super) struct OpenJob {
    pub(super) gateway: Gateway,
    /// The gateway as rows have it.
    pub(super) gateway_name: String,
    pub(super) open: OpenEvent,
    /// Channel for the result of a job.
    pub(super) reply: Reply<bool>,
}

impl OpenJob {
    pub(super) fn new(gateway: Gateway, open: OpenEvent, reply: Reply<bool>) -> Self {
        Self { gateway_name: gateway.to_string(), gateway, open, reply }
    }
}

impl Job for OpenJob {
    fn fail(self, error: StoreError) {
        drop(self.reply.send(Err(error)));
    }
}

/// Batches of events, and what else posts report.
pub(super) enum IngestJob {
    /// Store the batches of a post.
    Append(Box<AppendJob>, Reply<Appended>),
    /// Count this many batches that could not be read.
    Malformed(u64, Reply<()>),
    /// Mark the sources of this gateway as dead.
    CloseSources(Gateway, Reply<()>),
}

impl IngestJob {
    /// Units of work, at least one.
    pub(super) fn work(&self) -> usize {
        match self {
            Self::Append(job, _) => job.work_left(),
            Self::Malformed(..) | Self::CloseSources(..) => 1,
        }
    }
}

impl Job for IngestJob {
    fn fail(self, error: StoreError) {
        match self {
            Self::Append(_, reply) => drop(reply.send(Err(error))),
            Self::Malformed(_, reply) | Self::CloseSources(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// A step of housekeeping: one short transaction.
#[derive(Clone, Debug)]
pub(super) enum HousekeepingStep {
    /// Remove these bans of a table (key and expiry), if they still expire at that time.
    DropExpired(StoreTable, Vec<(String, String)>),
    /// Change former rows.
    KeepFormer(Vec<FormerChange>),
    /// Note when these tokens (by their hashes) were last used (milliseconds).
    TokensUsed(Vec<(String, i64)>),
    /// Forget earlier bans by rules.
    TrimAutoBans,
    /// Remove the oldest events.
    TrimEvents,
    /// Remove rows of the change log below this number.
    TrimLog(u64),
    /// Enter these open events into the ledger, if it is still certain that their end will not
    /// come.
    GiveUp(Vec<(VmId, u64)>),
    /// Mark these sources as dead, unless they were heard of since this time (milliseconds).
    MarkDead(Vec<VmId>, i64),
    /// Note that these sources, which said nothing for long, are still there.
    StillThere(Vec<VmId>),
    /// Merge rollups of spans of this length (0: minutes, 1: hours) that began before this (Unix seconds) into
    /// longer ones.
    FoldRollups(usize, i64),
    /// Remove the oldest rollups: those of days before this (Unix seconds), or any.
    TrimRollups(Option<i64>),
    /// Remove these keys of rollups, if no row has them.
    RemoveRollupKeys(Vec<i64>),
    /// Remove frequent values of days before this.
    TrimTopValues(i64),
    /// Add these sources to the totals and remove their rows, if they had closed by the first time,
    /// or died without that by the second (milliseconds).
    AggregateSources(Vec<VmId>, i64, i64),
}

/// The writer's next task.
pub(super) enum WriterTask {
    /// End the thread.
    Stop,
    /// Check file, schema and change log, and repair them; audit what other programs changed.
    Repair,
    /// Commit these jobs.
    Urgent(Vec<Queued<UrgentJob>>),
    /// Put back what people wrote.
    Restore(Box<RestoreJob>),
    /// Store these open events.
    Opens(Vec<Queued<OpenJob>>),
    /// Store these batches.
    Ingest(Vec<Queued<IngestJob>>),
    /// Do this step.
    Housekeeping(HousekeepingStep, Reply<u64>),
    /// No job for a while.
    Idle,
}

impl WriterTask {
    /// How health calls it if it fails.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Stop | Self::Repair => "repair",
            Self::Urgent(_) => "changes",
            Self::Restore(_) => "a restore",
            Self::Opens(_) => "open events",
            Self::Ingest(_) => "events",
            Self::Housekeeping(..) => "housekeeping",
            Self::Idle => "a trial",
        }
    }
}

/// The waiting jobs.
pub(super) struct Queue {
    /// Microseconds; see [`Options::ingest_every`](super::Options::ingest_every).
    ingest_every: AtomicU64,
    lanes: Mutex<Lanes>,
    wake: Condvar,
}

#[derive(Default)]
struct Lanes {
    stopping: bool,
    repair: bool,
    urgent: VecDeque<Queued<UrgentJob>>,
    /// Imports and sets of sources, which wait until no other change does.
    imports: VecDeque<Queued<UrgentJob>>,
    restores: VecDeque<RestoreJob>,
    opens: VecDeque<Queued<OpenJob>>,
    ingest: VecDeque<Queued<IngestJob>>,
    ingest_work: usize,
    housekeeping: VecDeque<(HousekeepingStep, Reply<u64>)>,
    /// Which of opens, ingest and housekeeping is looked at first (0, 1, 2; modulo 3): the one
    /// after that which was served last.
    turn: usize,
    last_ingest: Option<Instant>,
    ingest_paused_until: Option<Instant>,
}

impl Lanes {
    fn ingest_wait(&self, now: Instant, every: Duration) -> Option<Duration> {
        if self.ingest.is_empty() {
            return None;
        }
        let paced = self.last_ingest.filter(|_| self.ingest_work < MAX_ROWS).map(|last| last + every);
        let due = paced.max(self.ingest_paused_until).unwrap_or(now);
        Some(due.saturating_duration_since(now))
    }

    fn next(&mut self, now: Instant, ingest_every: Duration) -> Option<WriterTask> {
        if self.stopping {
            return Some(WriterTask::Stop);
        }
        if std::mem::take(&mut self.repair) {
            return Some(WriterTask::Repair);
        }
        if !self.urgent.is_empty() {
            let n = self.urgent.len().min(MAX_URGENT);
            return Some(WriterTask::Urgent(self.urgent.drain(..n).collect()));
        }
        if let Some(import) = self.imports.pop_front() {
            return Some(WriterTask::Urgent(vec![import]));
        }
        if let Some(restore) = self.restores.pop_front() {
            return Some(WriterTask::Restore(Box::new(restore)));
        }
        (0..3).find_map(|after| {
            let whose = (self.turn + after) % 3;
            let work = match whose {
                0 => self.take_opens(),
                1 => self.take_due_ingest(now, ingest_every),
                _ => self.housekeeping.pop_front().map(|(step, reply)| WriterTask::Housekeeping(step, reply)),
            }?;
            self.turn = whose + 1;
            Some(work)
        })
    }

    /// Where a change waits.
    fn lane_of(&mut self, job: &UrgentJob) -> &mut VecDeque<Queued<UrgentJob>> {
        match job.change {
            Change::ImportBans(_) | Change::SourceFetched(_) | Change::ForgetSources => &mut self.imports,
            _ => &mut self.urgent,
        }
    }

    fn take_opens(&mut self) -> Option<WriterTask> {
        let n = self.opens.len().min(MAX_OPENS);
        (n > 0).then(|| WriterTask::Opens(self.opens.drain(..n).collect()))
    }

    fn take_due_ingest(&mut self, now: Instant, every: Duration) -> Option<WriterTask> {
        (self.ingest_wait(now, every) == Some(Duration::ZERO)).then(|| self.take_ingest(now))
    }

    fn take_ingest(&mut self, now: Instant) -> WriterTask {
        let mut taken = Vec::new();
        let mut work = 0;
        while work < MAX_BACKLOG_ROWS {
            let Some(waiting) = self.ingest.pop_front() else { break };
            work += waiting.job.work();
            taken.push(waiting);
        }
        self.ingest_work -= work;
        self.last_ingest = Some(now);
        WriterTask::Ingest(taken)
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl Queue {
    pub(super) fn new(ingest_every: Duration) -> Self {
        let ingest_every = AtomicU64::new(micros(ingest_every));
        Self { ingest_every, lanes: Mutex::default(), wake: Condvar::new() }
    }

    /// Transactions of events begin at most this often from now on.
    pub(super) fn set_ingest_every(&self, every: Duration) {
        self.ingest_every.store(micros(every), Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Waits for a task; [`WriterTask::Idle`] after 500 ms without any (100 ms if `locked_out`).
    pub(super) fn next(&self, locked_out: bool) -> WriterTask {
        let idle_at = Instant::now() + if locked_out { IDLE_WHEN_LOCKED } else { IDLE_AFTER };
        let mut lanes = locked(&self.lanes);
        loop {
            let now = Instant::now();
            let every = Duration::from_micros(self.ingest_every.load(Ordering::Relaxed));
            if let Some(work) = lanes.next(now, every) {
                return work;
            }
            let until_idle = idle_at.saturating_duration_since(now);
            if until_idle.is_zero() {
                return WriterTask::Idle;
            }
            let wait = lanes.ingest_wait(now, every).map_or(until_idle, |w| w.min(until_idle));
            lanes = self.wake.wait_timeout(lanes, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether something waits for which a transaction of events ends early. Open events do not
    /// count: each is followed by a completing event, and if opens ended these transactions,
    /// fewer completing events would be stored than opens.
    pub(super) fn is_urgent(&self) -> bool {
        let lanes = locked(&self.lanes);
        lanes.stopping || lanes.repair || !lanes.urgent.is_empty()
    }

    /// Whether any job waits.
    pub(super) fn is_waited_for(&self) -> bool {
        let lanes = locked(&self.lanes);
        let mends_or_stops = lanes.stopping || lanes.repair;
        mends_or_stops
            || !lanes.urgent.is_empty()
            || !lanes.imports.is_empty()
            || !lanes.restores.is_empty()
            || !lanes.opens.is_empty()
            || !lanes.ingest.is_empty()
            || !lanes.housekeeping.is_empty()
    }

    /// Whether the store is being closed.
    pub(super) fn is_stopping(&self) -> bool {
        locked(&self.lanes).stopping
    }

    fn put(&self, put: impl FnOnce(&mut Lanes)) -> Result<(), StoreError> {
        let mut lanes = locked(&self.lanes);
        if lanes.stopping {
            return Err(StoreError::Closed);
        }
        put(&mut lanes);
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn put_urgent(&self, job: UrgentJob) -> Result<(), StoreError> {
        self.put(|lanes| lanes.lane_of(&job).push_back(Queued { since: Instant::now(), job }))
    }

    pub(super) fn put_restore(&self, job: RestoreJob) -> Result<(), StoreError> {
        self.put(|lanes| lanes.restores.push_back(job))
    }

    pub(super) fn put_open(&self, job: OpenJob) -> Result<(), StoreError> {
        self.put(|lanes| lanes.opens.push_back(Queued { since: Instant::now(), job }))
    }

    pub(super) fn put_ingest(&self, job: IngestJob) -> Result<(), StoreError> {
        self.put(|lanes| {
            lanes.ingest_work += job.work();
            lanes.ingest.push_back(Queued { since: Instant::now(), job });
        })
    }

    pub(super) fn put_housekeeping(
        &self,
        step: HousekeepingStep,
        reply: Reply<u64>,
    ) -> Result<(), StoreError> {
        self.put(|lanes| lanes.housekeeping.push_back((step, reply)))
    }

    /// Requests [`WriterTask::Repair`].
    pub(super) fn put_repair(&self) {
        let _ = self.put(|lanes| lanes.repair = true);
    }

    /// Puts unfinished jobs back at the front, in their order.
    pub(super) fn return_urgent(&self, jobs: Vec<Queued<UrgentJob>>) {
        let mut lanes = locked(&self.lanes);
        for job in jobs.into_iter().rev() {
            lanes.lane_of(&job.job).push_front(job);
        }
    }

    /// Puts unfinished jobs back at the front, in their order.
    pub(super) fn return_opens(&self, jobs: Vec<Queued<OpenJob>>) {
        let mut lanes = locked(&self.lanes);
        for job in jobs.into_iter().rev() {
            lanes.opens.push_front(job);
        }
    }

    /// Puts unfinished jobs back at the front, in their order.
    pub(super) fn return_ingest(&self, jobs: Vec<Queued<IngestJob>>) {
        let mut lanes = locked(&self.lanes);
        for waiting in jobs.into_iter().rev() {
            lanes.ingest_work += waiting.job.work();
            lanes.ingest.push_front(waiting);
            // Unfinished jobs are a backlog: they go on without the pause of `ingest_every`.
            lanes.last_ingest = None;
        }
    }

    /// Pauses transactions of events for half of `held`, the time that one held the write lock:
    /// otherwise a backlog of events would lock out all other programs.
    pub(super) fn pause_ingest(&self, held: Duration) {
        locked(&self.lanes).ingest_paused_until = Some(Instant::now() + held / 2);
    }

    /// Ends the writer; new and waiting jobs fail with [`StoreError::Closed`].
    pub(super) fn stop(&self) {
        locked(&self.lanes).stopping = true;
        self.wake.notify_all();
    }

    /// Fails all waiting jobs with [`StoreError::Closed`].
    pub(super) fn clear(&self) {
        let mut lanes = locked(&self.lanes);
        lanes.stopping = true;
        let mut forgotten = (
            std::mem::take(&mut lanes.urgent),
            std::mem::take(&mut lanes.imports),
            std::mem::take(&mut lanes.opens),
            std::mem::take(&mut lanes.ingest),
            std::mem::take(&mut lanes.housekeeping),
            std::mem::take(&mut lanes.restores),
        );
        drop(lanes);
        forgotten.0.drain(..).for_each(|w| w.job.fail(StoreError::Closed));
        forgotten.1.drain(..).for_each(|w| w.job.fail(StoreError::Closed));
        forgotten.2.drain(..).for_each(|w| w.job.fail(StoreError::Closed));
        forgotten.3.drain(..).for_each(|w| w.job.fail(StoreError::Closed));
        forgotten.4.clear();
        forgotten.5.drain(..).for_each(|job| job.fail(StoreError::Closed));
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policy::wire::event::TrafficEvent;

    use super::*;

    #[test]
    fn a_ban_ends_a_transaction_of_events_and_a_waiting_response_does_not() {
        let queue = Queue::new(Duration::ZERO);
        let gateway: Gateway = "node;00000000000000aa".parse().unwrap();
        let event = OpenEvent { source: VmId(1), event: TrafficEvent::default() };
        let open = || OpenJob::new(gateway.clone(), event.clone(), oneshot::channel().0);
        (0..MAX_OPENS).for_each(|_| queue.put_open(open()).unwrap());
        assert!(queue.is_waited_for() && !queue.is_urgent());
        let change = Change::Unban { keys: Vec::new() };
        let options = CommitOptions::default();
        let job = UrgentJob { change, plan: None, by: "test".into(), options, reply: oneshot::channel().0 };
        queue.put_urgent(job).unwrap();
        assert!(queue.is_urgent());
    }
}
