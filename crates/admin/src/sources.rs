//! Sources of bans: lists that are fetched again and again, and CrowdSec. What each has becomes a set in the
//! database, which the feed merges with the bans of `ip_monitor`.

mod crowdsec;
mod files;
mod http;
mod list;
mod schedule;
mod set;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tidegate_author::{Source, SourceType};
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::version::Version;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::ban_lists::check::{CheckedList, ImportRules};
use crate::feed::{Feed, SourceSet};
use crate::gateways::Gateways;
use crate::lock::locked;
use crate::protected_networks::{ProtectedNetworks, not_public};
use crate::store::{
    Author, Change, FetchedSource, ImportedBan, NewSet, SetOrigin, SourceState, SourceStatus, Store,
    StoreError, time_text,
};
use crowdsec::Streams;
use files::SourceFiles;
use schedule::Due;
use set::{Counts, HeldBack};

pub use http::{Reach, post};
pub use schedule::is_stale;

/// How long one fetch may take: an answer of the API takes 60 s at most.
const FETCH_TIME: Duration = Duration::from_secs(50);
/// How long may be waited for the turn of a source.
const TURN_TIME: Duration = Duration::from_secs(20);
/// Fetches at the same time, at most: each may have a hundred megabytes in memory.
const MAX_FETCHES: usize = 2;

/// Fetches the sources. A clone is another handle.
#[derive(Clone)]
pub struct Sources(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    feed: Feed,
    protected: ProtectedNetworks,
    gateways: Gateways,
    files: SourceFiles,
    turns: Semaphore,
    /// Held while a source is fetched, by name: one fetch of each at a time.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// When each is fetched next.
    due: Mutex<HashMap<String, Due>>,
    /// How far CrowdSec's decisions were read.
    streams: Streams,
    outcomes: [AtomicU64; FetchOutcome::ALL.len()],
}

/// How a fetch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FetchOutcome {
    /// Other entries than before are in force.
    Replaced,
    /// The source has what it had before.
    Unchanged,
    /// What it has is not in force: a list that became empty, or lost too much at once.
    HeldBack,
    /// It could not be fetched or read.
    Failed,
}

impl FetchOutcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Replaced, Self::Unchanged, Self::HeldBack, Self::Failed];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
            Self::HeldBack => "held_back",
            Self::Failed => "failed",
        }
    }
}

/// What came of a fetch.
#[derive(Clone, PartialEq, Debug)]
pub struct Refreshed {
    /// How it ended.
    pub outcome: FetchOutcome,
    /// Entries in force.
    pub entries: usize,
    /// Of these, such as there were not before.
    pub added: u64,
    /// Entries that are no longer there.
    pub removed: u64,
    /// What became of the list's entries, if it was read.
    pub counts: Option<Value>,
    /// Why it is held back.
    pub held_back: Option<Value>,
    /// The version of the tables that has them.
    pub version: Version,
    /// Its number.
    pub seq: u64,
}

/// Why a source was not fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RefreshError {
    /// There is no such source.
    #[error("there is no source of this name")]
    NotFound,
    /// Its document was changed meanwhile.
    #[error("the source was changed while it was fetched: refresh it again")]
    Changed,
    /// Others are fetched, and take long.
    #[error("other sources are being fetched, two at a time, and their servers are slow: try again")]
    Busy,
    /// It could not be fetched or read; the set before stays.
    #[error("{0}")]
    Failed(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a fetch failed, in words for people, without anything secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(String);

impl FetchError {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// Until when an entry bans; `None`: it does not end.
type End = Option<UnixSeconds>;

/// What a source answered.
enum Answer {
    /// What it had before.
    NotModified,
    /// All that it has.
    All(Listing),
}

/// The entries of a source, in order, each once.
#[derive(Default)]
struct Bans {
    listed: Vec<(Prefix, End)>,
    /// Those that it only simulates.
    simulated: Vec<(Prefix, End)>,
}

impl Bans {
    fn len(&self) -> usize {
        self.listed.len().saturating_add(self.simulated.len())
    }
}

impl From<CheckedList> for Bans {
    fn from(list: CheckedList) -> Self {
        let ends = |bans: Vec<ImportedBan>| bans.into_iter().map(|ban| (ban.prefix, ban.expires)).collect();
        Self { listed: ends(list.bans), simulated: list.simulated.map(ends).unwrap_or_default() }
    }
}

/// All that a source has.
struct Listing {
    bans: Bans,
    counts: Counts,
    etag: Option<String>,
    last_modified: Option<String>,
    /// Of CrowdSec: when all decisions were read.
    all_read: Option<Instant>,
}

/// What is held of a source before it is fetched.
struct Held {
    set: SourceSet,
    /// Where that is from, if it was fetched by the document as it is now.
    origin: Option<SetOrigin>,
}

impl Sources {
    /// Sources of the documents that `feed` has. `files`: the directory that files of sources are in.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        feed: Feed,
        (protected, gateways): (ProtectedNetworks, Gateways),
        files: Option<PathBuf>,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            feed,
            protected,
            gateways,
            files: SourceFiles(files),
            turns: Semaphore::new(MAX_FETCHES),
            busy: Mutex::default(),
            due: Mutex::default(),
            streams: Streams::default(),
            outcomes: Default::default(),
        }))
    }

    /// Fetches each source when it is due, until the service stops.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        schedule::run(self, stop).await;
    }

    /// Fetches so far, by how they ended.
    #[must_use]
    pub fn outcomes(&self) -> [(FetchOutcome, u64); FetchOutcome::ALL.len()] {
        FetchOutcome::ALL.map(|outcome| (outcome, self.0.outcomes[outcome as usize].load(Ordering::Relaxed)))
    }

    /// Whether files of sources have a directory.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.0.files.0.is_some()
    }

    /// The secret that the file `name` of the directory of files has.
    ///
    /// # Errors
    /// When there is no such directory or file, or nothing in it.
    pub fn secret(&self, name: &str) -> Result<String, FetchError> {
        self.0.files.secret(name)
    }

    /// Fetches a source now. `force`: whatever it has is taken, an empty list as well, and of CrowdSec all is read.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be fetched or read: then the set before stays.
    pub async fn refresh(&self, name: &str, force: bool, by: &Author) -> Result<Refreshed, RefreshError> {
        let begun = Instant::now();
        let busy = Arc::clone(locked(&self.0.busy).entry(name.to_owned()).or_default());
        let turn = async { (busy.lock().await, self.0.turns.acquire().await) };
        let (_alone, _turn) = timeout(TURN_TIME, turn).await.map_err(|_| RefreshError::Busy)?;
        // Whoever asked waits for both.
        let time = FETCH_TIME.saturating_sub(begun.elapsed());
        let snapshot = self.0.feed.caught_up().await?;
        let document = snapshot.sources.in_force.get(name).cloned().ok_or(RefreshError::NotFound)?;
        let states = self.0.store.source_states().await?;
        let state = states.into_iter().find(|state| state.name == name).unwrap_or_default();
        let hash = hash(&document.document);
        let held = Held {
            set: snapshot.source_set(name).cloned().unwrap_or_default(),
            origin: state.set.clone().filter(|origin| origin.document == hash),
        };
        let protected: Vec<Prefix> = self.0.protected_blocks().collect();
        // The allow list may have a million entries.
        let rules = tokio::task::spawn_blocking(move || ImportRules::of(&snapshot, protected)).await;
        let rules = rules.map_err(|error| StoreError::Failed(error.to_string()))?;
        let source = &document.parsed;
        let fetched = timeout(time, self.fetch(source, &held, rules, force)).await;
        let fetched = fetched.unwrap_or_else(|_| {
            Err(FetchError::new(format!("it was not there as a whole within {} s", time.as_secs())))
        });
        let attempt = Attempt { source, document: &document.document, hash, held, state, force };
        self.take(attempt, fetched, by).await
    }

    async fn fetch(
        &self,
        source: &Source,
        held: &Held,
        rules: ImportRules,
        force: bool,
    ) -> Result<Answer, FetchError> {
        let inner = &self.0;
        match source.kind {
            SourceType::List => list::fetch(source, &inner.files, held.origin.as_ref(), rules).await,
            SourceType::CrowdSec => {
                let all_read = inner.streams.take(source).filter(|_| !force);
                crowdsec::fetch(source, &inner.files, all_read, held, rules).await.map(Answer::All)
            }
        }
    }

    /// Stores what came of a fetch.
    async fn take(
        &self,
        attempt: Attempt<'_>,
        fetched: Result<Answer, FetchError>,
        by: &Author,
    ) -> Result<Refreshed, RefreshError> {
        let name = attempt.source.name.clone();
        let now = time_text::from_ms(time_text::now_ms());
        let mut status = SourceStatus { tried_at: Some(now.clone()), ..attempt.state.status.clone() };
        let all_read = match &fetched {
            Ok(Answer::All(listing)) => listing.all_read,
            _ => None,
        };
        let judged = match fetched {
            Ok(answer) => attempt.judged(answer, now.clone()).await?,
            Err(error) => Judged { error: Some(error), ..Judged::default() },
        };
        match (&judged.error, &judged.held_back) {
            (Some(error), _) => {
                status.failures = status.failures.saturating_add(1);
                status.error = Some(error.to_string());
            }
            (None, Some(held_back)) => {
                (status.failures, status.error) = (0, None);
                status.held_back = serde_json::to_string(held_back).ok();
            }
            (None, None) => {
                status = SourceStatus {
                    checked_at: Some(now),
                    tried_at: status.tried_at,
                    ..SourceStatus::default()
                };
            }
        }
        let next_ms = schedule::next_try(attempt.source.interval, status.failures);
        status.next_try_at = Some(time_text::from_ms(next_ms));
        locked(&self.0.due).insert(name.clone(), Due { document: attempt.hash.clone(), at_ms: next_ms });
        let outcome = judged.outcome();
        self.0.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
        let document = attempt.document.to_owned();
        let change = FetchedSource { name: name.clone(), document, set: judged.set, status };
        let committed = self.0.store.commit(Change::SourceFetched(Arc::new(change)), by).await?;
        if committed.is_stale {
            locked(&self.0.due).remove(&name);
            return Err(RefreshError::Changed);
        }
        if let Some(at) = all_read.filter(|_| judged.error.is_none()) {
            self.0.streams.note(attempt.source, at);
        }
        let version = Version { epoch: self.0.feed.version().epoch, seq: committed.seq };
        tracing::info!(by = %by.name, source = name, outcome = outcome.name(), entries = judged.entries, "fetched");
        match judged.error {
            Some(error) => {
                tracing::warn!(source = name, "the source could not be fetched: {error}");
                Err(RefreshError::Failed(error.to_string()))
            }
            None => Ok(Refreshed {
                outcome,
                entries: judged.entries,
                added: judged.added,
                removed: judged.removed,
                counts: judged.counts,
                held_back: judged.held_back.and_then(|why| serde_json::to_value(why).ok()),
                version,
                seq: committed.seq,
            }),
        }
    }
}

impl Inner {
    /// What no list bans: protected networks, and what is not of the public internet.
    fn protected_blocks(&self) -> impl Iterator<Item = Prefix> + use<> {
        let of_service = self.protected.list(&self.gateways).into_iter().map(|network| network.block);
        of_service.chain(not_public())
    }
}

/// A fetch under way.
struct Attempt<'a> {
    source: &'a Source,
    document: &'a str,
    hash: String,
    held: Held,
    state: SourceState,
    force: bool,
}

/// What is to become of an answer.
#[derive(Default)]
struct Judged {
    set: Option<NewSet>,
    entries: usize,
    added: u64,
    removed: u64,
    counts: Option<Value>,
    held_back: Option<HeldBack>,
    error: Option<FetchError>,
}

impl Judged {
    fn outcome(&self) -> FetchOutcome {
        match (&self.error, &self.held_back, &self.set) {
            (Some(_), ..) => FetchOutcome::Failed,
            (None, Some(_), _) => FetchOutcome::HeldBack,
            (None, None, Some(NewSet { entries: Some(_), .. })) => FetchOutcome::Replaced,
            (None, None, _) => FetchOutcome::Unchanged,
        }
    }
}

impl Attempt<'_> {
    /// What is to become of `answer`.
    async fn judged(&self, answer: Answer, now: String) -> Result<Judged, StoreError> {
        let held = self.held.set.clone();
        let same = Judged { entries: held.listed.len(), ..Judged::default() };
        let Answer::All(listing) = answer else { return Ok(same) };
        let counts = serde_json::to_value(&listing.counts).ok();
        let guards = (self.source.kind == SourceType::List && !self.force).then_some(self.source.max_shrink);
        let origin = SetOrigin {
            fetched_at: Some(now),
            document: self.hash.clone(),
            etag: listing.etag,
            last_modified: listing.last_modified,
            counts: counts.as_ref().map(Value::to_string).unwrap_or_default(),
        };
        if let Some(why) =
            guards.and_then(|max_shrink| set::guard(&held, &listing.bans, &listing.counts, max_shrink))
        {
            return Ok(Judged { held_back: Some(why), counts, ..same });
        }
        let has_set = self.state.set.is_some();
        let laid_out = tokio::task::spawn_blocking(move || set::lay_out(&held, listing.bans)).await;
        let laid_out = laid_out.map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(match laid_out {
            Err(error) => {
                Judged { error: Some(FetchError::new(format!("the set is too large: {error}"))), ..same }
            }
            Ok(new) => {
                let is_same = has_set && new.added == 0 && new.removed == 0 && new.changed == 0;
                let entries = (!is_same).then(|| Arc::new(new.bytes));
                let set = Some(NewSet { entries, origin });
                let (added, removed) = (new.added, new.removed);
                Judged { set, entries: new.entries, added, removed, counts, ..Judged::default() }
            }
        })
    }
}

/// A hash of a document's text.
fn hash(document: &str) -> String {
    hex::encode(Sha256::digest(document))
}
