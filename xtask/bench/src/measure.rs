//! A load that is measured: one thread, a number of kept connections, each sending
//! its next request when the last is answered, and the time of every request.
//!
//! It runs in a process of its own (`bench send`), tied to a processor if asked to, so that
//! what it costs is not in the figures.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tidegate_stack::http::{PATIENCE, Request};

/// Longest measurement.
pub const MAX_SECONDS: f64 = 600.0;
/// Most connections.
pub const MAX_CONNECTIONS: usize = 2_000;
/// Pause of a connection whose request was not answered.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Failures that are kept with their text.
const KEPT_FAILURES: usize = 5;

/// One request of a [`Plan`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shot {
    /// Path, with its query.
    pub path: String,
    /// The client's address; `None`: the loopback's.
    pub client: Option<String>,
    /// The status that is right. Another one is a failure.
    pub status: u16,
}

/// What to send.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where to: on this machine.
    pub address: SocketAddr,
    /// Connections, [`MAX_CONNECTIONS`] at most.
    pub connections: usize,
    /// How long, seconds; [`MAX_SECONDS`] at most.
    pub seconds: f64,
    /// The requests, in this order, from the start again when they are through.
    pub shots: Vec<Shot>,
}

/// What became of a [`Plan`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Answers with the status that was right.
    pub right: u64,
    /// Everything else: another status, no answer.
    pub wrong: u64,
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// From the first request to the last answer, seconds.
    pub seconds: f64,
    /// Time of each answered request, microseconds, ascending.
    pub micros: Vec<u32>,
}

impl Plan {
    /// Runs it in this process.
    ///
    /// # Errors
    /// It is not within the limits above, or an address is not of this machine.
    pub fn run(&self) -> Result<Outcome> {
        ensure!(self.address.ip().is_loopback(), "{} is not of this machine", self.address);
        ensure!(
            (0.0..=MAX_SECONDS).contains(&self.seconds),
            "{} seconds: {MAX_SECONDS} at most",
            self.seconds
        );
        ensure!((1..=MAX_CONNECTIONS).contains(&self.connections), "1 to {MAX_CONNECTIONS} connections");
        ensure!(!self.shots.is_empty(), "no requests");
        let shots = self.shots.iter().map(|shot| shot.build(self.address)).collect::<Result<Vec<_>>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(tokio::task::LocalSet::new().block_on(&runtime, self.drive(shots)))
    }

    async fn drive(&self, shots: Vec<Ready>) -> Outcome {
        let begin = Instant::now();
        let course = Rc::new(Course {
            address: self.address,
            end: begin + Duration::from_secs_f64(self.seconds),
            shots,
            next: std::cell::Cell::new(0),
            outcome: std::cell::RefCell::default(),
        });
        let connections: Vec<_> = (0..self.connections)
            .map(|_| tokio::task::spawn_local(Rc::clone(&course).connection()))
            .collect();
        for connection in connections {
            // It does not panic, and nobody cancels it.
            let _ = connection.await;
        }
        let mut outcome = course.outcome.take();
        outcome.seconds = begin.elapsed().as_secs_f64();
        outcome.micros.sort_unstable();
        outcome
    }

    /// Runs it in a process of its own, on one processor only if `cpu` says so.
    ///
    /// # Errors
    /// It cannot be run, or refuses.
    pub fn run_in(&self, cpu: Option<u32>) -> Result<Outcome> {
        Sender::start(cpu)?.run(self)
    }
}

/// A process that runs plans, one after the other.
pub struct Sender {
    child: Child,
    plans: ChildStdin,
    outcomes: BufReader<ChildStdout>,
}

impl Sender {
    /// Starts it, on one processor only if `cpu` says so.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(cpu: Option<u32>) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = match cpu {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &cpu.to_string()]).arg(&program);
                command
            }
            None => Command::new(&program),
        };
        let mut child = command
            .arg("send")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let plans = child.stdin.take().context("a program without input")?;
        let outcomes = BufReader::new(child.stdout.take().context("a program without output")?);
        Ok(Self { child, plans, outcomes })
    }

    /// Runs a plan and waits for its end.
    ///
    /// # Errors
    /// The process refuses the plan (and says why on standard error), or has ended.
    pub fn run(&mut self, plan: &Plan) -> Result<Outcome> {
        let mut line = serde_json::to_vec(plan)?;
        line.push(b'\n');
        self.plans.write_all(&line).context("the process that sends has ended")?;
        let mut answer = String::new();
        self.outcomes.read_line(&mut answer)?;
        ensure!(!answer.is_empty(), "the process that sends has ended");
        Ok(serde_json::from_str(&answer)?)
    }

    /// What that process does: a plan from each line of standard input, its outcome as a line of standard
    /// output.
    ///
    /// # Errors
    /// A plan cannot be read or run.
    pub fn serve() -> Result<()> {
        for line in std::io::stdin().lock().lines() {
            let plan: Plan = serde_json::from_str(&line?).context("not a plan")?;
            let mut outcome = serde_json::to_vec(&plan.run()?)?;
            outcome.push(b'\n');
            std::io::stdout().lock().write_all(&outcome)?;
        }
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request that is ready to be sent, and the status that is right.
type Ready = (hyper::Request<Full<Bytes>>, u16);

impl Shot {
    fn build(&self, address: SocketAddr) -> Result<Ready> {
        let request = Request::get(&self.path);
        let request = match &self.client {
            Some(client) => request.from(client),
            None => request,
        };
        Ok((request.build(address)?, self.status))
    }
}

/// What all connections share.
struct Course {
    address: SocketAddr,
    end: Instant,
    shots: Vec<Ready>,
    next: std::cell::Cell<usize>,
    outcome: std::cell::RefCell<Outcome>,
}

impl Course {
    async fn connection(self: Rc<Self>) {
        let mut open = None;
        while Instant::now() < self.end {
            let at = self.next.get();
            self.next.set((at + 1) % self.shots.len());
            let (request, status) = &self.shots[at];
            let begin = Instant::now();
            let answer = tokio::time::timeout(PATIENCE, self.exchange(&mut open, request.clone())).await;
            let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {PATIENCE:?}")));
            self.note(request.uri().path(), *status, &answer, begin.elapsed());
            if answer.is_err() {
                open = None;
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }

    async fn exchange(
        &self,
        open: &mut Option<SendRequest<Full<Bytes>>>,
        request: hyper::Request<Full<Bytes>>,
    ) -> Result<u16> {
        if open.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = tokio::net::TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::task::spawn_local(connection);
            *open = Some(sender);
        }
        let sender = open.as_mut().context("a connection")?;
        sender.ready().await?;
        let mut answer = sender.send_request(request).await?;
        while let Some(frame) = answer.body_mut().frame().await {
            frame?;
        }
        Ok(answer.status().as_u16())
    }

    fn note(&self, path: &str, right: u16, answer: &Result<u16>, took: Duration) {
        let mut outcome = self.outcome.borrow_mut();
        let failure = match answer {
            Ok(status) => {
                *outcome.by_status.entry(*status).or_default() += 1;
                outcome.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
                (*status != right).then(|| format!("{path}: {status} where {right} was right"))
            }
            Err(error) => Some(format!("{path}: {error:#}")),
        };
        match failure {
            None => outcome.right += 1,
            Some(failure) => {
                outcome.wrong += 1;
                if outcome.failures.len() < KEPT_FAILURES {
                    outcome.failures.push(failure);
                }
            }
        }
    }
}

impl Outcome {
    /// All requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.right + self.wrong
    }

    /// The time within which this share of the answered requests was answered
    /// (0 to 1; the nearest rank), milliseconds. NaN: none was.
    #[must_use]
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.micros.len() as f64).ceil().max(1.0) as usize;
        self.micros.get(rank - 1).map_or(f64::NAN, |micros| f64::from(*micros) / 1_000.0)
    }

    /// Requests per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        self.total() as f64 / self.seconds
    }
}

#[cfg(test)]
mod tests {
    use tidegate_backend::InProcess;
    use tidegate_stack::ports::local;

    use super::*;

    fn shot(path: &str, status: u16) -> Shot {
        Shot { path: path.to_owned(), client: None, status }
    }

    #[test]
    fn right_and_wrong_answers_are_told_apart() {
        let backend = InProcess::start("one", local(0)).unwrap();
        let shots = vec![shot("/status/404", 404), shot("/", 200), shot("/status/503", 200)];
        let plan = Plan { address: backend.address(), connections: 2, seconds: 0.2, shots };
        let outcome = plan.run().unwrap();
        assert_eq!(outcome.total(), outcome.by_status.values().sum::<u64>());
        assert_eq!(outcome.wrong, outcome.by_status[&503]);
        assert_eq!(outcome.right, outcome.by_status[&404] + outcome.by_status[&200]);
        assert_eq!(outcome.micros.len() as u64, outcome.total());
        assert_eq!(outcome.failures[0], "/status/503: 503 where 200 was right");
    }

    #[test]
    fn an_answer_that_does_not_come_is_wrong() {
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind(local(0)).unwrap().local_addr().unwrap();
        let outcome =
            Plan { address, connections: 1, seconds: 0.01, shots: vec![shot("/", 200)] }.run().unwrap();
        assert!(outcome.wrong > 0 && outcome.right == 0, "{outcome:?}");
        assert!(outcome.quantile(0.5).is_nan());
    }

    #[test]
    fn only_this_machine_and_only_for_a_while() {
        let plan = |address: &str, seconds| Plan {
            address: address.parse().unwrap(),
            connections: 1,
            seconds,
            shots: vec![shot("/", 200)],
        };
        assert!(plan("192.0.2.1:80", 1.0).run().unwrap_err().to_string().contains("not of this machine"));
        assert!(plan("127.0.0.1:80", 601.0).run().unwrap_err().to_string().contains("at most"));
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let outcome = Outcome { micros: (1..=200).map(|n| n * 1_000).collect(), ..Outcome::default() };
        assert_eq!(
            [0.0, 0.5, 0.95, 0.99, 1.0].map(|share| outcome.quantile(share)),
            [1.0, 100.0, 190.0, 198.0, 200.0]
        );
    }
}
