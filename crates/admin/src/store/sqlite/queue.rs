//! What waits for the writer, and what goes first: bans and routes, then events
//! whose response waits, other events and chores by turns.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_policy::wire::event::{OpenEvent, Source};
use tidegate_policy::wire::sync::Gateway;
use tokio::sync::oneshot;

use super::ingest::AppendJob;
use super::shared::locked;
use crate::store::{Change, Committed, StoreError, TokenRow};

/// Writes of people that one transaction takes at most.
const MAX_URGENT: usize = 256;
/// Events whose response waits that one transaction takes at most.
const MAX_OPENS: usize = 500;
/// Rows that one transaction of events takes at most.
pub(super) const MAX_ROWS: usize = 2_000;
/// The writer looks around when nothing has come for so long.
const IDLE_AFTER: Duration = Duration::from_millis(500);
/// The same while somebody else holds the write lock.
const IDLE_WHEN_LOCKED: Duration = Duration::from_millis(100);

/// Where the answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A job of ours or of the gateways.
pub(super) struct Waiting<T> {
    /// When it came: it may wait for the lock so and so long.
    pub(super) since: Instant,
    /// What to do.
    pub(super) job: T,
}

/// What does not wait for events.
pub(super) enum Urgent {
    /// A write of our API, and whose.
    Change(Change, String, Reply<Committed>),
    /// A new token.
    Token(TokenRow, Reply<()>),
}

/// Something that waits for an answer.
pub(super) trait Fail {
    /// Says that it cannot be done.
    fn fail(self, error: StoreError);
}

impl Fail for Urgent {
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

impl Fail for OpenJob {
    fn fail(self, error: StoreError) {
        drop(self.reply.send(Err(error)));
    }
}

/// What events bring.
pub(super) enum Ingest {
    /// Batches of a post.
    Append(Box<AppendJob>),
    /// Batches that could not be read.
    Malformed(u64, Reply<()>),
    /// The sources of this gateway are dead.
    CloseSources(Gateway, Reply<()>),
}

impl Ingest {
    fn rows(&self) -> usize {
        match self {
            Self::Append(job) => job.rows_left(),
            Self::Malformed(..) | Self::CloseSources(..) => 0,
        }
    }
}

impl Fail for Ingest {
    fn fail(self, error: StoreError) {
        match self {
            Self::Append(job) => drop(job.reply.send(Err(error))),
            Self::Malformed(_, reply) | Self::CloseSources(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// A step of housekeeping, small enough to hold nobody up.
#[derive(Clone, Debug)]
pub(super) enum Chore {
    /// Remove these bans, if they still expire at that moment.
    DropExpired(Vec<(String, String)>),
    /// Remove the oldest events.
    TrimEvents,
    /// Remove log rows below this number.
    TrimLog(u64),
    /// Enter these open events into the ledger, if their end still will not come.
    GiveUp(Vec<(Source, u64)>),
    /// These sources are dead, if still nobody has spoken of them since.
    Bury(Vec<Source>, i64),
    /// Add up what these sources left, if they had ended by then, and forget them.
    Fold(Vec<Source>, i64),
}

/// What the writer shall do next.
pub(super) enum Work {
    /// End.
    Stop,
    /// Look whether the world is as we left it.
    Mend,
    /// Commit these.
    Urgent(Vec<Waiting<Urgent>>),
    /// Store these: responses wait for them.
    Opens(Vec<Waiting<OpenJob>>),
    /// Store these.
    Ingest(Vec<Waiting<Ingest>>),
    /// Do this.
    Chore(Chore, Reply<u64>),
    /// Nothing has come for a while.
    Idle,
}

/// See the module.
pub(super) struct Queue {
    /// See [`Options::ingest_every`](super::Options::ingest_every).
    ingest_every: Duration,
    lines: Mutex<Lines>,
    wake: Condvar,
}

#[derive(Default)]
struct Lines {
    stopping: bool,
    mend: bool,
    urgent: VecDeque<Waiting<Urgent>>,
    opens: VecDeque<Waiting<OpenJob>>,
    ingest: VecDeque<Waiting<Ingest>>,
    ingest_rows: usize,
    chores: VecDeque<(Chore, Reply<u64>)>,
    /// Who of opens, events and chores is asked first: the one after the last that
    /// had something to do.
    turn: usize,
    last_ingest: Option<Instant>,
    rest_until: Option<Instant>,
}

impl Lines {
    fn ingest_wait(&self, now: Instant, every: Duration) -> Option<Duration> {
        if self.ingest.is_empty() {
            return None;
        }
        let paced = self.last_ingest.filter(|_| self.ingest_rows < MAX_ROWS).map(|last| last + every);
        let due = paced.max(self.rest_until).unwrap_or(now);
        Some(due.saturating_duration_since(now))
    }

    fn next(&mut self, now: Instant, ingest_every: Duration) -> Option<Work> {
        if self.stopping {
            return Some(Work::Stop);
        }
        if std::mem::take(&mut self.mend) {
            return Some(Work::Mend);
        }
        if !self.urgent.is_empty() {
            let n = self.urgent.len().min(MAX_URGENT);
            return Some(Work::Urgent(self.urgent.drain(..n).collect()));
        }
        (0..3).find_map(|after| {
            let whose = (self.turn + after) % 3;
            let work = match whose {
                0 => self.take_opens(),
                1 => self.take_due_ingest(now, ingest_every),
                _ => self.chores.pop_front().map(|(chore, reply)| Work::Chore(chore, reply)),
            }?;
            self.turn = whose + 1;
            Some(work)
        })
    }

    fn take_opens(&mut self) -> Option<Work> {
        let n = self.opens.len().min(MAX_OPENS);
        (n > 0).then(|| Work::Opens(self.opens.drain(..n).collect()))
    }

    fn take_due_ingest(&mut self, now: Instant, every: Duration) -> Option<Work> {
        (self.ingest_wait(now, every) == Some(Duration::ZERO)).then(|| self.take_ingest(now))
    }

    fn take_ingest(&mut self, now: Instant) -> Work {
        let mut taken = Vec::new();
        let mut rows = 0;
        while rows < MAX_ROWS {
            let Some(waiting) = self.ingest.pop_front() else { break };
            rows += waiting.job.rows();
            taken.push(waiting);
        }
        self.ingest_rows -= rows;
        self.last_ingest = Some(now);
        Work::Ingest(taken)
    }
}

impl Queue {
    pub(super) fn new(ingest_every: Duration) -> Self {
        Self { ingest_every, lines: Mutex::default(), wake: Condvar::new() }
    }

    /// Waits for work; never longer than it takes to look around.
    pub(super) fn next(&self, locked_out: bool) -> Work {
        let idle_at = Instant::now() + if locked_out { IDLE_WHEN_LOCKED } else { IDLE_AFTER };
        let mut lines = locked(&self.lines);
        loop {
            let now = Instant::now();
            if let Some(work) = lines.next(now, self.ingest_every) {
                return work;
            }
            let until_idle = idle_at.saturating_duration_since(now);
            if until_idle.is_zero() {
                return Work::Idle;
            }
            let wait = lines.ingest_wait(now, self.ingest_every).map_or(until_idle, |w| w.min(until_idle));
            lines = self.wake.wait_timeout(lines, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether something waits that a transaction of events ends for before its time
    /// is over. Not for events whose response waits: each of them brings one that has
    /// ended, so those must not get less done than there are of these.
    pub(super) fn is_urgent(&self) -> bool {
        let lines = locked(&self.lines);
        lines.stopping || lines.mend || !lines.urgent.is_empty()
    }

    /// Whether anything waits at all.
    pub(super) fn is_waited_for(&self) -> bool {
        let lines = locked(&self.lines);
        let mends_or_stops = lines.stopping || lines.mend;
        mends_or_stops
            || !lines.urgent.is_empty()
            || !lines.opens.is_empty()
            || !lines.ingest.is_empty()
            || !lines.chores.is_empty()
    }

    /// Whether the store is being closed.
    pub(super) fn is_stopping(&self) -> bool {
        locked(&self.lines).stopping
    }

    fn put(&self, put: impl FnOnce(&mut Lines)) -> Result<(), StoreError> {
        let mut lines = locked(&self.lines);
        if lines.stopping {
            return Err(StoreError::Closed);
        }
        put(&mut lines);
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn put_urgent(&self, job: Urgent) -> Result<(), StoreError> {
        self.put(|lines| lines.urgent.push_back(Waiting { since: Instant::now(), job }))
    }

    pub(super) fn put_open(&self, job: OpenJob) -> Result<(), StoreError> {
        self.put(|lines| lines.opens.push_back(Waiting { since: Instant::now(), job }))
    }

    pub(super) fn put_ingest(&self, job: Ingest) -> Result<(), StoreError> {
        self.put(|lines| {
            lines.ingest_rows += job.rows();
            lines.ingest.push_back(Waiting { since: Instant::now(), job });
        })
    }

    pub(super) fn put_chore(&self, chore: Chore, reply: Reply<u64>) -> Result<(), StoreError> {
        self.put(|lines| lines.chores.push_back((chore, reply)))
    }

    /// Asks for a look whether the world is as we left it.
    pub(super) fn put_mend(&self) {
        let _ = self.put(|lines| lines.mend = true);
    }

    /// Puts back what could not be finished, in front, in its order.
    pub(super) fn return_urgent(&self, jobs: Vec<Waiting<Urgent>>) {
        let mut lines = locked(&self.lines);
        for job in jobs.into_iter().rev() {
            lines.urgent.push_front(job);
        }
    }

    /// Puts back what could not be finished, in front, in its order.
    pub(super) fn return_opens(&self, jobs: Vec<Waiting<OpenJob>>) {
        let mut lines = locked(&self.lines);
        for job in jobs.into_iter().rev() {
            lines.opens.push_front(job);
        }
    }

    /// Puts back what could not be finished, in front, in its order.
    pub(super) fn return_ingest(&self, jobs: Vec<Waiting<Ingest>>) {
        let mut lines = locked(&self.lines);
        for waiting in jobs.into_iter().rev() {
            lines.ingest_rows += waiting.job.rows();
            lines.ingest.push_front(waiting);
            // What is left over is a backlog: it goes on at once.
            lines.last_ingest = None;
        }
    }

    /// A transaction of events held the lock for so long: for half of that time it
    /// is left free, or a heap of events would keep every other program out.
    pub(super) fn rest(&self, held: Duration) {
        locked(&self.lines).rest_until = Some(Instant::now() + held / 2);
    }

    /// Ends the writer; what waits is told that the store is closed.
    pub(super) fn stop(&self) {
        locked(&self.lines).stopping = true;
        self.wake.notify_all();
    }

    /// Forgets what waits: whoever asked is told that the store is closed.
    pub(super) fn clear(&self) {
        let mut lines = locked(&self.lines);
        lines.stopping = true;
        let mut forgotten = (
            std::mem::take(&mut lines.urgent),
            std::mem::take(&mut lines.opens),
            std::mem::take(&mut lines.ingest),
            std::mem::take(&mut lines.chores),
        );
        drop(lines);
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
        queue.put_urgent(Urgent::Token(token, oneshot::channel().0)).unwrap();
        assert!(queue.is_urgent());
    }
}
