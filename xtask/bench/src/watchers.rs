//! What a client of each worker sees: a connection to each that asks at a steady pace, and, while a ban is
//! waited for, as the client that is banned.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tidegate_stack::Stack;
use tidegate_stack::http::{Connection, Request};

use crate::rounds::millis;

/// What is asked for.
const PATH: &str = "/svc-00/watched";
/// Who asks while no ban is waited for.
const NOBODY_BANNED: &str = "10.1.0.1";
/// After this long a ban counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// A ban that is waited for.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its number.
    pub ban: u32,
    /// The address.
    pub client: Arc<str>,
}

/// What a watcher saw of a worker.
#[derive(Clone, Copy, Debug)]
pub enum Sight {
    /// It lets the client through: its ban has not come yet.
    Passes,
    /// It denied the client for the first time. An answer arrived then.
    Denied(u32, Instant),
}

/// Tells all watchers what to watch, from any thread.
#[derive(Clone, Default)]
pub struct Orders(Vec<Sender<Watched>>);

impl Orders {
    /// From now on all of them ask as this client, until their worker denies it.
    pub fn watch(&self, watched: &Watched) -> Result<()> {
        self.0.iter().try_for_each(|order| Ok(order.send(watched.clone())?))
    }
}

/// A watcher for each worker.
pub struct Watchers {
    orders: Orders,
    sights: Receiver<Sight>,
    threads: Vec<JoinHandle<Result<Vec<f64>>>>,
}

impl Watchers {
    /// Starts them; each asks once in `pace`, if it is answered by then.
    pub fn start(stack: &Stack, pace: Duration) -> Result<Self> {
        let (see, sights) = mpsc::channel();
        let mut watchers = Self { orders: Orders::default(), sights, threads: Vec::new() };
        for connection in stack.connection_per_worker()? {
            let (order, orders) = mpsc::channel();
            let watcher =
                Watcher { connection, orders, see: see.clone(), open: VecDeque::new(), millis: Vec::new() };
            watchers.orders.0.push(order);
            watchers.threads.push(std::thread::spawn(move || watcher.run(pace)));
        }
        Ok(watchers)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.orders.0.len()
    }

    /// Whom to tell what to watch. They watch until all of these are gone.
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Waits for what the next one sees.
    pub fn sight(&self) -> Result<Sight> {
        self.sights
            .recv_timeout(LOST_AFTER)
            .context("a worker has not answered or not enforced a ban for 20 s")
    }

    /// What all of them have seen, after they have seen every ban enforced; and the time of each answer that
    /// let a client through, milliseconds.
    pub fn finish(self) -> Result<(Vec<Sight>, Vec<f64>)> {
        drop(self.orders);
        let mut millis = Vec::new();
        for thread in self.threads {
            millis.extend(thread.join().map_err(|_| anyhow::anyhow!("a watcher panicked"))??);
        }
        Ok((self.sights.try_iter().collect(), millis))
    }
}

struct Watcher {
    connection: Connection,
    orders: Receiver<Watched>,
    see: Sender<Sight>,
    /// What is waited for, whether it was seen to pass, and since when.
    open: VecDeque<(Watched, bool, Instant)>,
    millis: Vec<f64>,
}

impl Watcher {
    fn run(mut self, pace: Duration) -> Result<Vec<f64>> {
        let mut due = Instant::now();
        come_first();
        loop {
            let now = Instant::now();
            match self.orders.try_recv() {
                Ok(watched) => self.open.push_back((watched, false, now)),
                Err(TryRecvError::Disconnected) if self.open.is_empty() => return Ok(self.millis),
                Err(_) => {}
            }
            self.ask()?;
            due = (due + pace).max(now);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    fn ask(&mut self) -> Result<()> {
        let watched = self.open.pop_front();
        let client = watched.as_ref().map_or(NOBODY_BANNED, |(watched, ..)| &watched.client);
        let begin = Instant::now();
        let status = self.connection.send(&Request::get(PATH).from(client))?.status;
        let end = Instant::now();
        match (status, watched) {
            (200, None) => self.millis.push(millis(end - begin)),
            (200, Some((watched, passed, since))) => {
                self.millis.push(millis(end - begin));
                ensure!(since.elapsed() < LOST_AFTER, "{} is still let through", watched.client);
                if !passed {
                    let _ = self.see.send(Sight::Passes);
                }
                self.open.push_back((watched, true, since));
            }
            (403, Some((watched, ..))) => {
                let _ = self.see.send(Sight::Denied(watched.ban, end));
            }
            (other, watched) => bail!("{watched:?} got {other}"),
        }
        Ok(())
    }
}

/// A client is another machine: this thread is not to wait for a processor that the gateway and the admin service
/// share. Where that is not allowed, it does, and the figures are larger.
pub fn come_first() {
    let _ = rustix::process::setpriority_process(None, -20);
}
