//! The feed's options, its health, and the state that its tasks share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tidegate_policy::codec::MAX_BAN_BASE;
use tokio::sync::{mpsc, watch};

use super::blobs::Blobs;
use super::direct_rows::Lateness;
use super::direct_tables::CompiledTables;
use super::downloads::Downloads;
use super::events::FollowerEvent;
use super::restart_guess::RestartGuesses;
use super::state::FeedState;
use crate::gateways::Gateways;
use crate::lock::locked;
use crate::store::TableStore;

/// Notices kept for health.
const MAX_NOTICES: usize = 20;

/// Options of the feed.
#[derive(Clone)]
pub struct FeedOptions {
    /// The registry of gateways: gets new epochs, and knows whether a waiter needs acks.
    pub gateways: Gateways,
    /// Longest wait of a poll, whatever it asks for.
    pub max_wait: Duration,
    /// A new base is cut when the overlay has more keys than this and than `1 / overlay_fraction`
    /// of the base, or more than `overlay_max`.
    pub overlay_min: usize,
    /// Divisor of the base's size, see `overlay_min`; 8: an eighth.
    pub overlay_fraction: usize,
    /// See `overlay_min`.
    pub overlay_max: usize,
    /// Keys of an overlay, at most: a change beyond it waits for the new base. At 25 bytes per
    /// key at most, the overlay must be smaller than a page.
    pub overlay_limit: usize,
    /// Bytes of a table of addresses, at most. Entries beyond it are left out: see
    /// [`TableRoom`](super::table_room::TableRoom).
    pub table_limit: usize,
    /// How long superseded bases, and the log of changes since them, are kept at least.
    pub keep: Duration,
    /// Least time between two releases of polls; see `pace_each`.
    pub pace_min: Duration,
    /// Least time between two releases of polls, per waiting poll; the longer of both counts. About twice the
    /// processor time of an answer and its ack, so that the feed keeps one processor half busy at most.
    pub pace_each: Duration,
    /// How often small tables are compared with the store.
    pub reconcile_small: Duration,
    /// How often all tables are.
    pub reconcile_large: Duration,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self {
            gateways: Gateways::new(),
            max_wait: Duration::from_secs(60),
            overlay_min: 2_000,
            overlay_fraction: 8,
            overlay_max: 100_000,
            overlay_limit: 140_000,
            table_limit: MAX_BAN_BASE,
            keep: Duration::from_secs(15 * 60),
            pace_min: Duration::from_millis(2),
            pace_each: Duration::from_micros(100),
            reconcile_small: Duration::from_secs(60),
            reconcile_large: Duration::from_secs(600),
        }
    }
}

/// Something that the feed found and repaired, for health.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// When it was found.
    pub at: SystemTime,
    /// What was found.
    pub text: String,
}

/// State of the feed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FeedHealth {
    /// The error that keeps it from following the store at this moment.
    pub trouble: Option<String>,
    /// What it found and repaired, oldest first.
    pub notices: Vec<Notice>,
}

/// What the feed's handles and tasks share.
pub(super) struct FeedInner {
    pub options: FeedOptions,
    pub store: Arc<dyn TableStore>,
    pub guesses: RestartGuesses,
    /// The newest state.
    pub applied: watch::Sender<Arc<FeedState>>,
    /// The newest state that polls are answered from.
    pub released: watch::Sender<Arc<FeedState>>,
    pub blobs: Mutex<Blobs>,
    /// Polls that wait at this moment.
    pub waiting: AtomicUsize,
    /// Who is sent large tables, and who waits for it.
    pub downloads: Downloads,
    /// The newest refresh that was ordered here or that a gateway reported.
    pub refresh: AtomicU64,
    /// Held while a refresh is ordered: each reads all tables, one after the other.
    pub refreshing: tokio::sync::Mutex<()>,
    pub events: mpsc::UnboundedSender<FollowerEvent>,
    pub trouble: Mutex<Option<String>>,
    pub notices: Mutex<VecDeque<Notice>>,
    /// The tables that direct questions were last answered from.
    pub compiled: Arc<Mutex<Option<CompiledTables>>>,
    /// Held while they are compiled by who asks, and not by the compiler.
    pub compiling: tokio::sync::Mutex<()>,
    pub lateness: Lateness,
}

impl FeedInner {
    pub fn notice(&self, text: String) {
        tracing::warn!("{text}");
        let mut notices = locked(&self.notices);
        if notices.len() >= MAX_NOTICES {
            notices.pop_front();
        }
        notices.push_back(Notice { at: SystemTime::now(), text });
    }

    pub fn set_trouble(&self, trouble: Option<String>) {
        let mut held = locked(&self.trouble);
        if *held != trouble {
            match &trouble {
                Some(text) => tracing::error!("the feed stands still: {text}"),
                None => tracing::info!("the feed goes on"),
            }
            *held = trouble;
        }
    }
}
