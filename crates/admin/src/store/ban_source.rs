//! What is stored of sources of bans besides their documents.

use std::sync::Arc;

/// What came of fetching a source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FetchedSource {
    /// Its name.
    pub name: String,
    /// The text of the document by which it was fetched.
    pub document: String,
    /// What is stored in the place of its set; `None`: that stays.
    pub set: Option<NewSet>,
    /// How its fetches go.
    pub status: SourceStatus,
}

/// The set that a source has now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewSet {
    /// An [`AddressTable`](tidegate_policy::table::AddressTable)'s bytes; `None`: they are as they were.
    pub entries: Option<Arc<Vec<u8>>>,
    /// The rest of it.
    pub origin: SetOrigin,
}

/// Where a set is from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetOrigin {
    /// When it was fetched: UTC, as text.
    pub fetched_at: Option<String>,
    /// A hash of the document by which it was fetched.
    pub document: String,
    /// `ETag` of the answer.
    pub etag: Option<String>,
    /// `Last-Modified` of the answer.
    pub last_modified: Option<String>,
    /// What became of the list's entries, as JSON.
    pub counts: String,
}

/// How the fetches of a source go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceStatus {
    /// When the set was last known to be what the source has: UTC, as text.
    pub checked_at: Option<String>,
    /// When it was last tried to fetch it: UTC, as text.
    pub tried_at: Option<String>,
    /// Fetches that failed since the last that did not.
    pub failures: u64,
    /// Why the last one failed.
    pub error: Option<String>,
    /// Why a list that was fetched is not in force, as JSON.
    pub held_back: Option<String>,
    /// When it is tried again: UTC, as text.
    pub next_try_at: Option<String>,
}

/// What is stored of one source, without its entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceState {
    /// Its name.
    pub name: String,
    /// Where its set is from; `None`: it has none.
    pub set: Option<SetOrigin>,
    /// How its fetches go.
    pub status: SourceStatus,
}
