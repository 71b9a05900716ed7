//! Calls that failed, and whose makers do not know yet.
//!
//! Envoy reports a failure from the middle of what failed. Seen with Envoy 1.40 over HTTP/2: its
//! codec ends a stream whose answer is malformed (a body that does not have its
//! `content-length`, over 100 headers or 60 KiB of them, a 204 with a body) while it writes the
//! reset, and a call that the callback makes goes out on the same connection, into the
//! codec that is writing. Envoy ends with SIGSEGV. What a callback asks for and Envoy does after
//! it (a request resumed, a local reply) is done from there as well, and a local reply brings
//! `on_response_headers`, which may make a call.
//!
//! So in the callback of a call that failed nothing is done that acts. It is noted, and who made
//! it is told in a callback that Envoy makes from its event loop.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::host::CallToken;

/// Whether a call failed: without an answer, or with a status from 500 on. When a connection
/// breaks or a stream is reset before headers came, Envoy answers with 503 or 502 from the middle
/// of that.
#[must_use]
pub fn has_failed(status: Option<u16>) -> bool {
    status.is_none_or(|status| status >= 500)
}

/// Who made a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallMaker {
    /// A root context. Another one of the same instance can go on in its place.
    Root,
    /// The HTTP context of this number.
    Request(u32),
}

/// A call that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailedCall {
    /// Who is to be told.
    pub maker: CallMaker,
    /// The call.
    pub token: CallToken,
    /// Its status, if it was answered.
    pub status: Option<u16>,
}

/// Those of one instance, the oldest first. Each open call is here at most once.
#[derive(Debug, Default)]
pub struct FailedCalls(RefCell<VecDeque<FailedCall>>);

impl FailedCalls {
    /// Adds a call. True: it is the only one, so the VM must be woken.
    pub fn push(&self, call: FailedCall) -> bool {
        let mut calls = self.0.borrow_mut();
        calls.push_back(call);
        calls.len() == 1
    }

    /// Takes the oldest out; true: it was the last.
    pub fn pop(&self) -> Option<(FailedCall, bool)> {
        let mut calls = self.0.borrow_mut();
        calls.pop_front().map(|call| (call, calls.is_empty()))
    }
}
