//! Rollups as a week of traffic leaves them, for the benchmark of their answers.

#![cfg_attr(
    not(feature = "made-statistics"),
    expect(dead_code, reason = "tests need the random numbers only")
)]

use rusqlite::Connection;

use super::{Figures, KnownKeys, RollupKey, SPANS, add};
use tidegate_statistics::histogram;

/// Seconds of a week.
const WEEK: i64 = 7 * 86_400;

/// Random numbers, always the same ones (xorshift64*).
pub(in super::super) struct Random(pub(in super::super) u64);

impl Random {
    /// A number below `below`.
    pub(in super::super) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % below.max(1)
    }

    /// A time in microseconds, of three powers of two up and down from some 10 ms, most of them in the middle.
    pub(in super::super) fn time(&mut self) -> u64 {
        let power = 10 + self.below(3) + self.below(3) + self.below(3);
        (1 << power) + self.below(1 << power)
    }
}

/// Writes the rollups of `requests` requests of `keys` keys in the week before `now` (Unix seconds): minutes for
/// the last `minutes_for` seconds, hours for the last `hours_for`, days before that. Returns the number of rows.
pub(in super::super) fn week(
    conn: &mut Connection,
    now: i64,
    (minutes_for, hours_for): (i64, i64),
    (keys, requests): (u64, u64),
) -> rusqlite::Result<u64> {
    let transaction = conn.transaction()?;
    let (mut random, mut known, mut rows) = (Random(1), KnownKeys::default(), 0);
    let turn = |age: i64, span: i64| (now - age).div_euclid(span) * span;
    let (hours, minutes) = (turn(hours_for, SPANS[2]), turn(minutes_for, SPANS[1]));
    let parts = [(SPANS[2], now - WEEK, hours), (SPANS[1], hours, minutes), (SPANS[0], minutes, now)];
    for (span, from, to) in parts {
        let of_each = requests / keys * span as u64 / WEEK as u64;
        for at in (from.div_euclid(span) * span..to).step_by(span as usize) {
            for key in 0..keys {
                let key = known.place(&transaction, (span, at), key_of(key))?;
                let mut times = || (0..of_each).map(|_| histogram::bucket(random.time())).collect();
                let figures = Figures {
                    requests: of_each,
                    bytes_in: of_each * 100,
                    bytes_out: of_each * 10_000,
                    checked: of_each,
                    cached: of_each,
                    duration: histogram::of_buckets(times()),
                    upstream: histogram::of_buckets(times()),
                    gate: histogram::of_buckets(times()),
                };
                add(&transaction, (span, at, key), &figures)?;
                rows += 1;
            }
        }
    }
    transaction.commit()?;
    Ok(rows)
}

fn key_of(number: u64) -> RollupKey {
    let is_denied = number % 10 == 9;
    RollupKey {
        route: format!("route-{}", number / 10),
        template: format!("/part-{}/{{id}}", number % 5),
        host: "shop.example".to_owned(),
        method: if number.is_multiple_of(2) { "GET" } else { "POST" }.to_owned(),
        class: if is_denied { 4 } else { 2 },
        verdict: if is_denied { "deny" } else { "allow" }.to_owned(),
        reason: if is_denied { "ip_banned" } else { "" }.to_owned(),
    }
}
