//! Another gateway that only polls: the moment at which its poll is answered is that at which the admin
//! service has told all gateways.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::{self, FORMATS_HEADER};
use tidegate_policy::wire::sync::{GATEWAY_HEADER, HELD_HEADER, Held, SyncAnswer};
use tidegate_stack::Stack;
use tidegate_stack::http::{Connection, Request};
use tidegate_stack::ports::local;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The gateway.
pub struct FeedPoll {
    answers: Receiver<Result<Instant>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FeedPoll {
    /// Begins to poll, and waits until it has all tables.
    pub fn start(stack: &Stack) -> Result<Self> {
        let token = stack.create_gateway_token("bench-poll")?;
        let mut connection = Connection::open(local(stack.ports().gateways))?;
        let (tell, answers) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut since, mut held) = (None, Held::default());
            while !stopped.load(Ordering::Relaxed) {
                let polled = poll(&mut connection, &token, &mut since, &mut held);
                let ends = polled.is_err();
                if let Some(answer) = polled.map(|news| news.then(Instant::now)).transpose() {
                    let _ = tell.send(answer);
                }
                if ends {
                    break;
                }
            }
        });
        let poll = Self { answers, stop, thread: Some(thread) };
        poll.next_after(Instant::now())?;
        Ok(poll)
    }

    /// Waits for the first answer with news after `begin`.
    pub fn next_after(&self, begin: Instant) -> Result<Instant> {
        loop {
            let at = self.answers.recv_timeout(PATIENCE).context("no poll was answered for 20 s")??;
            if at > begin {
                return Ok(at);
            }
        }
    }
}

impl Drop for FeedPoll {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What went wrong was seen where its answer was waited for.
            let _ = thread.join();
        }
    }
}

/// One poll; true if it brought news. What it brought counts as held.
fn poll(
    connection: &mut Connection,
    token: &str,
    since: &mut Option<Version>,
    held: &mut Held,
) -> Result<bool> {
    let after = since.map(|since| format!("since={since}&")).unwrap_or_default();
    let request = Request::get(&format!("/api/data-plane/v1/sync?{after}wait=1s"))
        .bearer(token)
        .header(GATEWAY_HEADER, "bench-poll;00000000000000bb")
        .header(FORMATS_HEADER, formats::formats())
        .header(HELD_HEADER, held.to_string());
    let answer = connection.send(&request)?;
    match answer.status {
        304 => return Ok(false),
        200 => {}
        other => bail!("a poll got {other}: {}", answer.text()),
    }
    let answer = SyncAnswer::from_bytes(&answer.body).context("an answer that cannot be read")?;
    *since = Some(answer.version);
    held.refresh = Some(answer.refresh);
    for update in answer.whole {
        held.hashes[update.table] = Some(update.blob.hash);
    }
    if let Some(bans) = answer.bans {
        held.hashes[Table::BanBase] = Some(bans.base.hash);
        held.bans = Some(bans.digest);
    }
    Ok(true)
}
