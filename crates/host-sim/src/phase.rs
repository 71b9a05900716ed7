//! Which callback of a VM runs: what the host returns and accepts depends on it.

/// How a callout ends.
#[derive(Clone, Debug)]
pub(crate) enum CallEnd {
    Answer {
        status: u16,
        body: Vec<u8>,
    },
    /// Zero headers: getters answer `BadArgument`.
    Failure,
}

/// Which callback a VM is in.
#[derive(Clone, Debug, Default)]
pub(crate) enum Phase {
    #[default]
    None,
    Configure(Vec<u8>),
    CallResponse(CallEnd),
    RequestHeaders,
    ResponseHeaders,
    Log,
    Done,
}
