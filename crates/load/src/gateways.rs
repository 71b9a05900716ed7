//! Simulated gateways, all on one thread.

mod backoff;
mod connection;
mod gateway;
mod progress;
mod tables;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::LocalSet;

pub use progress::{Counts, Progress};

use gateway::{Common, Gateway};

/// Gateways that run until they are dropped.
pub struct Gateways {
    progress: Arc<Progress>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Gateways {
    /// Starts `count` gateways, all at once, which follow the feed at `feed`.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(count: u32, feed: SocketAddr, token: &str) -> Result<Self> {
        let progress = Arc::new(Progress::new(count));
        let (stop, mut stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (shared_progress, token) = (progress.clone(), token.to_owned());
        let thread = std::thread::Builder::new()
            .name("gateways".to_owned())
            .spawn(move || {
                let local = LocalSet::new();
                let shared = Rc::new(Common::new(feed, &token, shared_progress));
                for number in 0..count {
                    local.spawn_local(Gateway::new(number, shared.clone()).run());
                }
                // An error is that the handle is gone, which is the end as well.
                local.block_on(&runtime, async { drop(stopped.wait_for(|stop| *stop).await) });
            })
            .context("cannot start a thread")?;
        Ok(Self { progress, stop, thread: Some(thread) })
    }

    /// How far they are.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl Drop for Gateways {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
