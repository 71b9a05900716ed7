//! What all pages share.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::api::ApiService;
use crate::session::Sessions;

/// Streams of live parts at a time, at most.
const MAX_STREAMS: usize = 64;

/// What all pages share.
#[derive(Clone)]
pub struct Dashboard {
    /// The admin API.
    pub(crate) api: Arc<dyn ApiService>,
    /// The sessions.
    pub(crate) sessions: Arc<Sessions>,
    /// Whether visitors come over TLS.
    pub(crate) secure: bool,
    /// Places for streams of live parts.
    pub(crate) streams: Arc<Semaphore>,
}

impl Dashboard {
    /// The dashboard of an API. `secure`: its listener speaks TLS, so cookies are for TLS only.
    pub fn new(api: Arc<dyn ApiService>, sessions: Arc<Sessions>, secure: bool) -> Self {
        Self { api, sessions, secure, streams: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }
}
