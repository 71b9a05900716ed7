//! How fast callers without a token are served, by address: what they ask costs time that callers
//! with a token need.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::{IntoResponse, Response};

use crate::lock::locked;
use crate::problem::{Problem, ProblemCode};
use crate::serve::connections::{AddressBlock, OpenConnection};

/// Requests that an address may send at once,
const BURST: f64 = 100.0;
/// and per second after that.
const PER_SECOND: f64 = 20.0;
/// A request beyond that is answered after this time, so that a client that waits for answers is
/// slowed down and nobody is refused.
const DELAY: Duration = Duration::from_secs(1);
/// Requests of one address that are delayed at a time; more are refused.
const MAX_DELAYED: u32 = 128;
/// Addresses that are told apart; further ones share a rate.
const MAX_ADDRESSES: usize = 10_000;

/// The rates of all addresses.
#[derive(Clone, Default)]
pub struct AddressLimits(Arc<Inner>);

#[derive(Default)]
struct Inner {
    addresses: Mutex<HashMap<Option<AddressBlock>, AddressRate>>,
    delayed: AtomicU64,
    refused: AtomicU64,
}

/// A token bucket, and how many requests of its address are delayed.
struct AddressRate {
    left: f64,
    at: Instant,
    delayed: u32,
}

impl AddressRate {
    fn new(now: Instant) -> Self {
        Self { left: BURST, at: now, delayed: 0 }
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + since * PER_SECOND).min(BURST), now);
    }

    fn is_unused(&self) -> bool {
        self.delayed == 0 && self.left >= BURST
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    Now,
    Delayed,
    Refused,
}

impl AddressLimits {
    /// Returns when a request by this connection may be answered.
    ///
    /// # Errors
    /// When too many of its address are delayed already.
    pub async fn wait(&self, connection: Option<&Arc<OpenConnection>>) -> Result<(), TooMany> {
        // There is always a connection, but where a test calls the routes without a listener.
        let Some(connection) = connection else { return Ok(()) };
        let (turn, key) = self.turn(connection.from(), Instant::now());
        match turn {
            Turn::Now => Ok(()),
            Turn::Refused => {
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                Err(TooMany)
            }
            Turn::Delayed => {
                self.0.delayed.fetch_add(1, Ordering::Relaxed);
                let _ends = (Delayed { of: self, key }, connection.wait());
                tokio::time::sleep(DELAY).await;
                Ok(())
            }
        }
    }

    /// Requests that were delayed and refused so far.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        let Inner { delayed, refused, .. } = &*self.0;
        [("delayed", delayed.load(Ordering::Relaxed)), ("refused", refused.load(Ordering::Relaxed))]
    }

    /// Takes one request from the rate of `from`; returns the key of that rate.
    fn turn(&self, from: AddressBlock, now: Instant) -> (Turn, Option<AddressBlock>) {
        let mut addresses = locked(&self.0.addresses);
        let mut key = Some(from);
        if !addresses.contains_key(&key) && addresses.len() >= MAX_ADDRESSES {
            addresses.retain(|_, rate| {
                rate.refill(now);
                !rate.is_unused()
            });
            if addresses.len() >= MAX_ADDRESSES {
                key = None;
            }
        }
        let rate = addresses.entry(key).or_insert_with(|| AddressRate::new(now));
        rate.refill(now);
        let turn = if rate.left >= 1.0 {
            rate.left -= 1.0;
            Turn::Now
        } else if rate.delayed < MAX_DELAYED {
            rate.delayed += 1;
            Turn::Delayed
        } else {
            Turn::Refused
        };
        (turn, key)
    }
}

/// A request that is delayed; it is no longer once this is dropped.
struct Delayed<'l> {
    of: &'l AddressLimits,
    key: Option<AddressBlock>,
}

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        if let Some(rate) = locked(&self.of.0.addresses).get_mut(&self.key) {
            rate.delayed = rate.delayed.saturating_sub(1);
        }
    }
}

/// Too many requests of one address wait already.
#[derive(Debug)]
pub struct TooMany;

impl IntoResponse for TooMany {
    fn into_response(self) -> Response {
        let detail = "too many requests without a token from this address: try again later";
        let mut response = Problem::new(ProblemCode::TooManyRequests, detail).into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn block(last: u16) -> AddressBlock {
        let [high, low] = last.to_be_bytes();
        IpAddr::from([10, 0, high, low]).into()
    }

    #[test]
    fn an_address_has_a_burst_then_a_rate_then_a_queue() {
        let (limits, start) = (AddressLimits::default(), Instant::now());
        let turns = |count: usize, now| {
            let turns: Vec<_> = (0..count).map(|_| limits.turn(block(1), now).0).collect();
            [Turn::Now, Turn::Delayed, Turn::Refused]
                .map(|wanted| turns.iter().filter(|turn| **turn == wanted).count())
        };
        assert_eq!(turns(300, start), [100, 128, 72]);
        assert_eq!(limits.turn(block(2), start).0, Turn::Now, "another address has a rate of its own");
        assert_eq!(turns(30, start + Duration::from_secs(1)), [20, 0, 10]);
        drop(Delayed { of: &limits, key: Some(block(1)) });
        assert_eq!(turns(2, start + Duration::from_secs(1)), [0, 1, 1]);
    }

    #[test]
    fn more_addresses_than_are_told_apart_share_a_rate() {
        let (limits, start) = (AddressLimits::default(), Instant::now());
        let many = u16::try_from(MAX_ADDRESSES).unwrap();
        assert!((0..many).all(|last| limits.turn(block(last), start).1.is_some()));
        assert_eq!(limits.turn(block(many), start), (Turn::Now, None));
        assert!(limits.turn(block(many), start + Duration::from_secs(9)).1.is_some(), "the others are idle");
    }
}
