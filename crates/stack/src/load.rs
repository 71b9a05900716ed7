//! Many requests at once: a number of them, or until stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::http::{Connection, Request};

/// Failures that are kept with their text.
const KEPT_FAILURES: usize = 20;

/// What became of a load.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Requests without a complete answer.
    pub failed: u64,
    /// The first of those, in words.
    pub failures: Vec<String>,
}

impl Tally {
    /// All requests sent.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_status.values().sum::<u64>() + self.failed
    }

    /// Answers with this status.
    #[must_use]
    pub fn status(&self, status: u16) -> u64 {
        self.by_status.get(&status).copied().unwrap_or(0)
    }

    fn merge(mut self, other: Self) -> Self {
        for (status, count) in other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(KEPT_FAILURES);
        self
    }
}

/// A load that runs until [`Load::stop`] or until its number is reached.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// `concurrency` connections, each sending one request after the other, the
    /// n-th of all being `request(n)`; `total` of them, or without end.
    pub fn start(
        address: SocketAddr,
        concurrency: usize,
        total: Option<u64>,
        request: impl Fn(u64) -> Request + Send + Sync + 'static,
    ) -> Self {
        Self::balanced(move || address, concurrency, total, request)
    }

    /// As [`Load::start`], with each new connection to the address that `choose` says
    /// then: what a load balancer does.
    pub fn balanced(
        choose: impl Fn() -> SocketAddr + Send + Sync + 'static,
        concurrency: usize,
        total: Option<u64>,
        request: impl Fn(u64) -> Request + Send + Sync + 'static,
    ) -> Self {
        let choose = Arc::new(choose);
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let request = Arc::new(request);
        let threads = (0..concurrency)
            .map(|_| {
                let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
                let (choose, request) = (Arc::clone(&choose), Arc::clone(&request));
                std::thread::spawn(move || {
                    drive(choose.as_ref(), request.as_ref(), || {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        let over = total.is_some_and(|total| number >= total);
                        (!over && !stop.load(Ordering::Relaxed)).then_some(number)
                    })
                })
            })
            .collect();
        Self { stop, sent, threads }
    }

    /// Requests begun so far (a few more than were sent, near the end).
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until the number is reached.
    #[must_use]
    pub fn finish(self) -> Tally {
        self.threads
            .into_iter()
            .map(|thread| thread.join().expect("a load thread does not panic"))
            .fold(Tally::default(), Tally::merge)
    }

    /// Lets what is under way end, and no more.
    #[must_use]
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

/// One connection's requests; a broken connection is a failure and is replaced.
fn drive(
    choose: &dyn Fn() -> SocketAddr,
    request: &dyn Fn(u64) -> Request,
    next: impl Fn() -> Option<u64>,
) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    while let Some(number) = next() {
        let answer = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::open(choose()),
        }
        .and_then(|mut open| Ok((open.send(&request(number))?, open)));
        match answer {
            Ok((answer, open)) => {
                *tally.by_status.entry(answer.status).or_default() += 1;
                connection = (!answer.closes()).then_some(open);
            }
            Err(error) => {
                tally.failed += 1;
                if tally.failures.len() < KEPT_FAILURES {
                    tally.failures.push(format!("{error:#}"));
                }
            }
        }
    }
    tally
}
