//! What went past the gate of the bodies of a request and its response: callbacks tell of it, which cost
//! next to nothing, while the attributes that say the same are dear ([`Host::property`]).
//!
//! [`Host::property`]: crate::host::Host::property

use super::facts::Declared;

/// One direction's body, as far as it went past the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Body {
    bytes: u64,
    has_ended: bool,
    /// Whether it ended with the headers: there is no body, not even an empty one.
    is_absent: bool,
}

impl Body {
    /// The headers came. `ends`: nothing follows them.
    pub fn begin(&mut self, ends: bool) {
        (self.has_ended, self.is_absent) = (ends, ends);
    }

    /// A part of the body, or the trailers came. `ends`: nothing follows it.
    pub fn add(&mut self, bytes: usize, ends: bool) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.has_ended |= ends;
    }

    /// Whether all of it came. What did not may have been cut off, or replaced by an answer of Envoy's.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Bytes of the body on the wire, if that is certain: all of it came, and as many bytes as are
    /// declared. Of another one a filter between the gate and the wire may have made more or less (by
    /// compressing it, for example), or something else: what makes a body longer or shorter declares its
    /// new length, or none; of an empty one a compressor makes some bytes. `is_bodiless`: the declared length is of a body that does not come (an answer
    /// to HEAD, 304).
    pub fn certain(&self, declared: Declared, is_bodiless: bool) -> Option<u64> {
        let is_certain = match declared {
            Declared::Bytes(bytes) => bytes == self.bytes || is_bodiless && self.bytes == 0,
            Declared::Nothing => self.is_absent,
            Declared::Unreadable => false,
        };
        (self.has_ended && is_certain).then_some(self.bytes)
    }
}

/// The bodies of a request and its response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bodies {
    /// The request's.
    pub request: Body,
    /// The response's.
    pub response: Body,
    /// When the response ended, by the monotonic clock, nanoseconds.
    pub ended_ns: Option<u64>,
}

impl Bodies {
    /// Nanoseconds from `sent_ns` to the response's end; `None` if there was none, or nothing was sent.
    pub fn ended_after(&self, sent_ns: Option<u64>) -> Option<u64> {
        Some(self.ended_ns?.saturating_sub(sent_ns?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[usize], has_ended: bool) -> Body {
        let mut body = Body::default();
        body.begin(false);
        parts.iter().for_each(|part| body.add(*part, false));
        body.add(0, has_ended);
        body
    }

    #[test]
    fn an_empty_body_is_no_absent_one() {
        let mut absent = Body::default();
        absent.begin(true);
        assert_eq!(absent.certain(Declared::Nothing, false), Some(0));
        assert_eq!(body(&[], true).certain(Declared::Nothing, false), None);
    }

    #[test]
    fn a_body_that_came_as_declared_is_certain() {
        for (parts, declared, is_bodiless, bytes) in [
            (&[300, 700][..], Declared::Bytes(1_000), false, Some(1_000)),
            (&[], Declared::Bytes(0), false, Some(0)),
            (&[], Declared::Bytes(1_000), true, Some(0)),
            (&[], Declared::Bytes(1_000), false, None),
            (&[1_000], Declared::Bytes(24), false, None),
            (&[1_000], Declared::Bytes(24), true, None),
            (&[1_000], Declared::Nothing, false, None),
            (&[1_000], Declared::Unreadable, false, None),
        ] {
            assert_eq!(body(parts, true).certain(declared, is_bodiless), bytes, "{parts:?} of {declared:?}");
            assert_eq!(body(parts, false).certain(declared, is_bodiless), None, "it has not ended");
        }
    }
}
