//! How the feed behaves, how it is, and what its tasks share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};

use super::blobs::Blobs;
use super::events::FollowerEvent;
use super::restart_guess::RestartGuesses;
use super::state::FeedState;
use crate::gateways::Gateways;
use crate::lock::locked;
use crate::store::TableStore;

/// Notices kept for health.
const MAX_NOTICES: usize = 20;

/// How the feed behaves.
#[derive(Clone)]
pub struct FeedOptions {
    /// Who is told of new epochs, and asked whether somebody waits for acks.
    pub gateways: Gateways,
    /// A poll waits no longer, whatever it asks for.
    pub max_wait: Duration,
    /// A new base is cut when the overlay has more keys than this, and than ...
    pub overlay_min: usize,
    /// ... this fraction of the base (8: an eighth), ...
    pub overlay_fraction: usize,
    /// ... or than this in any case.
    pub overlay_max: usize,
    /// An overlay never grows beyond this: the change waits for the new base. At
    /// 25 bytes per key at most it must stay under a page.
    pub overlay_limit: usize,
    /// How long superseded bases, and the log since them, are kept at least.
    pub keep: Duration,
    /// Polls are released no sooner than this after each other, ...
    pub pace_min: Duration,
    /// ... and than this for each of them.
    pub pace_each: Duration,
    /// How often small tables are compared with the store.
    pub reconcile_small: Duration,
    /// How often large ones are.
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
            keep: Duration::from_secs(15 * 60),
            pace_min: Duration::from_millis(2),
            pace_each: Duration::from_micros(20),
            reconcile_small: Duration::from_secs(60),
            reconcile_large: Duration::from_secs(600),
        }
    }
}

/// Something that the feed found and mended, for health.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// When.
    pub at: SystemTime,
    /// What.
    pub text: String,
}

/// How the feed itself is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FeedHealth {
    /// What keeps it from following the store at this moment.
    pub trouble: Option<String>,
    /// What it found and mended, oldest first.
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
    /// The newest refresh that was ordered here or that a gateway spoke of.
    pub refresh: AtomicU64,
    /// Held by whoever orders one: they read all tables, one after the other.
    pub refreshing: tokio::sync::Mutex<()>,
    pub events: mpsc::UnboundedSender<FollowerEvent>,
    pub trouble: Mutex<Option<String>>,
    pub notices: Mutex<VecDeque<Notice>>,
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
