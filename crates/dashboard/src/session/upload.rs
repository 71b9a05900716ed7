//! A list that a visitor has sent, and how far it is.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::api::Problem;

/// How long a list is held.
pub const HELD_FOR: Duration = Duration::from_secs(10 * 60);
/// Bytes of a list that is held, at most.
pub const MAX_LIST: usize = 32 << 20;

/// A list.
#[derive(Clone)]
pub struct Upload {
    /// By which a page's form names it; another one whenever what is to be imported changes.
    pub id: String,
    /// Its bytes; none once it is imported.
    pub list: Bytes,
    /// What its file is called; empty: it was pasted.
    pub file: String,
    /// The fields of its form, as the query of the API has them.
    pub query: String,
    /// The form's `dry_run` answer, and what became of it since.
    pub state: UploadState,
}

/// How far a list is.
#[derive(Clone)]
pub enum UploadState {
    /// What the API answered when it was checked; with what was refused since.
    Checked(Value, Option<Box<Problem>>),
    /// It is being imported.
    Running,
    /// What the API answered when it was imported.
    Imported(Value),
}

/// What becomes of the wish to import a list.
pub enum Taken {
    /// This is to be imported.
    Upload(Upload),
    /// It is being imported, or was.
    Already,
    /// Another list is held, or none.
    Other,
}
