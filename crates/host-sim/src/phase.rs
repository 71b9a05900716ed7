//! Which callback of a VM runs: what the host returns and accepts depends on it.

/// How a callout ends.
#[derive(Clone, Debug)]
pub(crate) enum CallEnd {
    Answer {
        status: u16,
        /// Beside `:status`.
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// Zero headers: getters answer `BadArgument`.
    Failure,
}

impl CallEnd {
    /// An answer of Envoy's own.
    pub fn own(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Vec::new() }
    }
}

/// Which callback a VM is in.
#[derive(Clone, Debug, Default)]
pub(crate) enum Phase {
    #[default]
    None,
    Configure(Vec<u8>),
    CallResponse(CallEnd),
    /// A request's, from within a root context's.
    Notified,
    RequestHeaders,
    ResponseHeaders,
    /// A part of a body, or trailers.
    Body,
    Log,
    Done,
}

impl Phase {
    /// Whether Envoy may be in the middle of what has failed: it does not tolerate that a call is
    /// made then, nor what leads to one.
    pub fn is_of_failure(&self) -> bool {
        matches!(self, Self::CallResponse(CallEnd::Failure | CallEnd::Answer { status: 500.., .. }))
    }
}
