//! Queue of the writer thread. Writes of the API go first; open events, batches of events
//! and housekeeping take turns.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_policy::wire::event::{OpenEvent, Source};
use tidegate_policy::wire::sync::Gateway;
use tokio::sync::oneshot;

use super::append::{AppendJob, MAX_ROWS};
use crate::lock::locked;
use crate::store::{Appended, Change, Committed, StoreError, TokenRow};

/// Writes of people that one transaction takes at most.
const MAX_URGENT: usize = 256;
/// Events whose response waits that one transaction takes at most.
const MAX_OPENS: usize = 500;
/// The writer checks file and lock when nothing has come for this long.
const IDLE_AFTER: Duration = Duration::from_millis(500);
/// The same while somebody else holds the write lock.
const IDLE_WHEN_LOCKED: Duration = Duration::from_millis(100);

/// Where the answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A job of ours or of the gateways.
pub(super) struct Queued<T> {
    /// When it came: it may wait for the lock so and so long.
    pub(super) since: Instant,
    /// What to do.
    pub(super) job: T,
}

/// What does not wait for events.
pub(super) enum UrgentJob {
    /// A write of our API, and whose.
    Change(Change, String, Reply<Committed>),
    /// A new token.
    Token(TokenRow, Reply<()>),
}

/// Something that waits for an answer.
pub(super) trait Job {
    /// Says that it cannot be done.
    fn fail(self, error: StoreError);
}

impl Job for UrgentJob {
    fn fail(self, error: StoreError) {
        match self {
            Self::Change(_, _, reply) => drop(reply.send(Err(error))),
            Self::Token(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// An event whose response waits until it is stored.
pub(super) struct OpenJob {
    pub(super) gateway: Gateway,
    /// The gateway as rows say it.
    pub(super) gateway_name: String,
    pub(super) open: OpenEvent,
    /// Where the answer goes.
    pub(super) reply: Reply<()>,
}

impl OpenJob {
    pub(super) fn new(gateway: Gateway, open: OpenEvent, reply: Reply<()>) -> Self {
        Self { gateway_name: gateway.to_string(), gateway, open, reply }
    }
}

impl Job for OpenJob {
    fn fail(self, error: StoreError) {
        drop(self.reply.send(Err(error)));
    }
}

/// What events bring.
pub(super) enum IngestJob {
    /// Batches of a post.
    Append(Box<AppendJob>, Reply<Appended>),
    /// Batches that could not be read.
    Malformed(u64, Reply<()>),
    /// The sources of this gateway are dead.
    CloseSources(Gateway, Reply<()>),
}

impl IngestJob {
    fn rows(&self) -> usize {
        match self {
            Self::Append(job, _) => job.rows_left(),
            Self::Malformed(..) | Self::CloseSources(..) => 0,
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

/// A step of housekeeping, small enough to hold nobody up.
#[derive(Clone, Debug)]
pub(super) enum HousekeepingStep {
    /// Remove these bans, if they still expire at that moment.
    DropExpired(Vec<(String, String)>),
    /// Remove the oldest events.
    TrimEvents,
    /// Remove log rows below this number.
    TrimLog(u64),
    /// Enter these open events into the ledger, if their end still will not come.
    GiveUp(Vec<(Source, u64)>),
    /// These sources are dead, if still nobody has spoken of them since.
    MarkDead(Vec<Source>, i64),
    /// Add up what these sources left, if they had ended by then, and forget them.
    AggregateSources(Vec<Source>, i64),
}

/// What the writer shall do next.
pub(super) enum WriterTask {
    /// End.
    Stop,
    /// Look whether file, schema and log are as we left them.
    Repair,
    /// Commit these.
    Urgent(Vec<Queued<UrgentJob>>),
    /// Store these: responses wait for them.
    Opens(Vec<Queued<OpenJob>>),
    /// Store these.
    Ingest(Vec<Queued<IngestJob>>),
    /// Do this.
    Housekeeping(HousekeepingStep, Reply<u64>),
    /// Nothing has come for a while.
    Idle,
}

/// All jobs that wait.
pub(super) struct Queue {
    /// See [`Options::ingest_every`](super::Options::ingest_every).
    ingest_every: Duration,
    lanes: Mutex<Lanes>,
    wake: Condvar,
}

#[derive(Default)]
struct Lanes {
    stopping: bool,
    repair: bool,
    urgent: VecDeque<Queued<UrgentJob>>,
    opens: VecDeque<Queued<OpenJob>>,
    ingest: VecDeque<Queued<IngestJob>>,
    ingest_rows: usize,
    housekeeping: VecDeque<(HousekeepingStep, Reply<u64>)>,
    /// Who of opens, events and housekeeping is asked first: the one after the last that
    /// had something to do.
    turn: usize,
    last_ingest: Option<Instant>,
    rest_until: Option<Instant>,
}

impl Lanes {
    fn ingest_wait(&self, now: Instant, every: Duration) -> Option<Duration> {
        if self.ingest.is_empty() {
            return None;
        }
        let paced = self.last_ingest.filter(|_| self.ingest_rows < MAX_ROWS).map(|last| last + every);
        let due = paced.max(self.rest_until).unwrap_or(now);
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

    fn take_opens(&mut self) -> Option<WriterTask> {
        let n = self.opens.len().min(MAX_OPENS);
        (n > 0).then(|| WriterTask::Opens(self.opens.drain(..n).collect()))
    }

    fn take_due_ingest(&mut self, now: Instant, every: Duration) -> Option<WriterTask> {
        (self.ingest_wait(now, every) == Some(Duration::ZERO)).then(|| self.take_ingest(now))
    }

    fn take_ingest(&mut self, now: Instant) -> WriterTask {
        let mut taken = Vec::new();
        let mut rows = 0;
        while rows < MAX_ROWS {
            let Some(waiting) = self.ingest.pop_front() else { break };
            rows += waiting.job.rows();
            taken.push(waiting);
        }
        self.ingest_rows -= rows;
        self.last_ingest = Some(now);
        WriterTask::Ingest(taken)
    }
}

impl Queue {
    pub(super) fn new(ingest_every: Duration) -> Self {
        Self { ingest_every, lanes: Mutex::default(), wake: Condvar::new() }
    }

    /// Waits for work; [`WriterTask::Idle`] after 500 ms without any (100 ms while locked out).
    pub(super) fn next(&self, locked_out: bool) -> WriterTask {
        let idle_at = Instant::now() + if locked_out { IDLE_WHEN_LOCKED } else { IDLE_AFTER };
        let mut lanes = locked(&self.lanes);
        loop {
            let now = Instant::now();
            if let Some(work) = lanes.next(now, self.ingest_every) {
                return work;
            }
            let until_idle = idle_at.saturating_duration_since(now);
            if until_idle.is_zero() {
                return WriterTask::Idle;
            }
            let wait = lanes.ingest_wait(now, self.ingest_every).map_or(until_idle, |w| w.min(until_idle));
            lanes = self.wake.wait_timeout(lanes, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether something waits that a transaction of events ends for before its time
    /// is over. Not for events whose response waits: each of them brings one that has
    /// ended, so those must not get less done than there are of these.
    pub(super) fn is_urgent(&self) -> bool {
        let lanes = locked(&self.lanes);
        lanes.stopping || lanes.repair || !lanes.urgent.is_empty()
    }

    /// Whether anything waits at all.
    pub(super) fn is_waited_for(&self) -> bool {
        let lanes = locked(&self.lanes);
        let mends_or_stops = lanes.stopping || lanes.repair;
        mends_or_stops
            || !lanes.urgent.is_empty()
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
        self.put(|lanes| lanes.urgent.push_back(Queued { since: Instant::now(), job }))
    }

    pub(super) fn put_open(&self, job: OpenJob) -> Result<(), StoreError> {
        self.put(|lanes| lanes.opens.push_back(Queued { since: Instant::now(), job }))
    }

    pub(super) fn put_ingest(&self, job: IngestJob) -> Result<(), StoreError> {
        self.put(|lanes| {
            lanes.ingest_rows += job.rows();
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

    /// Asks for a look whether the world is as we left it.
    pub(super) fn put_repair(&self) {
        let _ = self.put(|lanes| lanes.repair = true);
    }

    /// Puts back what could not be finished, in front, in its order.
    pub(super) fn return_urgent(&self, jobs: Vec<Queued<UrgentJob>>) {
        let mut lanes = locked(&self.lanes);
        for job in jobs.into_iter().rev() {
            lanes.urgent.push_front(job);
        }
    }

    /// Puts back what could not be finished, in front, in its order.
    pub(super) fn return_opens(&self, jobs: Vec<Queued<OpenJob>>) {
        let mut lanes = locked(&self.lanes);
        for job in jobs.into_iter().rev() {
            lanes.opens.push_front(job);
        }
    }

    /// Puts back what could not be finished, in front, in its order.
    pub(super) fn return_ingest(&self, jobs: Vec<Queued<IngestJob>>) {
        let mut lanes = locked(&self.lanes);
        for waiting in jobs.into_iter().rev() {
            lanes.ingest_rows += waiting.job.rows();
            lanes.ingest.push_front(waiting);
            // What is left over is a backlog: it goes on at once.
            lanes.last_ingest = None;
        }
    }

    /// A transaction of events held the lock for so long: for half of that time it
    /// is left free, or a backlog of events would keep every other program out.
    pub(super) fn rest(&self, held: Duration) {
        locked(&self.lanes).rest_until = Some(Instant::now() + held / 2);
    }

    /// Ends the writer; what waits is told that the store is closed.
    pub(super) fn stop(&self) {
        locked(&self.lanes).stopping = true;
        self.wake.notify_all();
    }

    /// Forgets what waits: whoever asked is told that the store is closed.
    pub(super) fn clear(&self) {
        let mut lanes = locked(&self.lanes);
        lanes.stopping = true;
        let mut forgotten = (
            std::mem::take(&mut lanes.urgent),
            std::mem::take(&mut lanes.opens),
            std::mem::take(&mut lanes.ingest),
            std::mem::take(&mut lanes.housekeeping),
        );
        drop(lanes);
        forgotten.0.drain(..).for_each(|w| w.job.fail(StoreError::Closed));
        forgotten.1.drain(..).for_each(|w| w.job.fail(StoreError::Closed));
        forgotten.2.drain(..).for_each(|w| w.job.fail(StoreError::Closed));
        forgotten.3.clear();
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
        let event = OpenEvent { source: Source(1), event: TrafficEvent::default() };
        let open = || OpenJob::new(gateway.clone(), event.clone(), oneshot::channel().0);
        (0..MAX_OPENS).for_each(|_| queue.put_open(open()).unwrap());
        assert!(queue.is_waited_for() && !queue.is_urgent());
        let token = TokenRow { hash: String::new(), name: String::new(), scope: String::new() };
        queue.put_urgent(UrgentJob::Token(token, oneshot::channel().0)).unwrap();
        assert!(queue.is_urgent());
    }
}
