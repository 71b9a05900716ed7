//! Histograms of times in the form in which they are stored: pairs of bucket and count, both as
//! differences in variable length. Two of them merge into one without loss.
//!
//! Buckets are those of HdrHistogram with 32 to a power of two: exact below 64 µs, beyond that no wider
//! than 1/32 of what is in them. A bucket is read as its middle, so a percentile is off by 1.6 % at
//! most ([`PRECISION`]). The crate `hdrhistogram` keeps all buckets of a histogram in memory (26 KB), and
//! does not say which bucket a value is in; a transaction of events changes some hundred histograms,
//! with a few values each, and an answer adds tens of thousands.

/// How far a percentile may be off, by its value.
pub const PRECISION: f64 = 1.0 / 64.0;
/// Bits of a value that its bucket keeps, besides the first one.
const BITS: u32 = 5;
/// Buckets to a power of two.
const PER_POWER: u64 = 1 << BITS;
/// The highest value that has a bucket of its own, microseconds: 12 days.
const HIGHEST: u64 = (1 << 40) - 1;

/// The bucket of a time in microseconds.
#[must_use]
pub fn bucket(us: u64) -> u16 {
    let us = us.min(HIGHEST);
    let shift = (u64::BITS - us.leading_zeros()).saturating_sub(BITS + 1);
    // At most 34 * 32 + 63.
    ((u64::from(shift) << BITS) + (us >> shift)) as u16
}

/// The lowest time of a bucket, and how many there are in it, microseconds.
#[must_use]
pub fn span(bucket: u16) -> (u64, u64) {
    let bucket = u64::from(bucket);
    match bucket >> BITS {
        0 | 1 => (bucket, 1),
        power => {
            let shift = power.saturating_sub(1).min(u64::from(u64::BITS - BITS - 1));
            (((bucket & (PER_POWER - 1)) + PER_POWER) << shift, 1 << shift)
        }
    }
}

/// The middle of a bucket, microseconds.
fn middle(bucket: u16) -> u64 {
    let (lowest, width) = span(bucket);
    lowest + width / 2
}

/// The pairs of a stored histogram, by bucket. Bytes that make no sense end it.
pub struct Pairs<'b> {
    bytes: &'b [u8],
    bucket: u64,
}

/// Reads a stored histogram.
#[must_use]
pub fn pairs(bytes: &[u8]) -> Pairs<'_> {
    Pairs { bytes, bucket: 0 }
}

impl Iterator for Pairs<'_> {
    type Item = (u16, u64);

    fn next(&mut self) -> Option<(u16, u64)> {
        self.bucket = self.bucket.checked_add(number(&mut self.bytes)?)?;
        Some((u16::try_from(self.bucket).ok()?, number(&mut self.bytes)?))
    }
}

/// Takes a number off the front, in groups of 7 bits, lowest first.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    // Nearly always one byte.
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        *bytes = rest;
        return Some(u64::from(first));
    }
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Writes a histogram from its pairs in the order of their buckets.
struct Writer {
    bytes: Vec<u8>,
    before: u16,
}

impl Writer {
    fn new(room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room), before: 0 }
    }

    fn pair(&mut self, bucket: u16, count: u64) {
        write_number(&mut self.bytes, u64::from(bucket - self.before));
        write_number(&mut self.bytes, count);
        self.before = bucket;
    }
}

/// The histogram of these buckets, one for each time.
#[must_use]
pub fn of_buckets(mut buckets: Vec<u16>) -> Vec<u8> {
    buckets.sort_unstable();
    let mut writer = Writer::new(buckets.len() * 2);
    for same in buckets.chunk_by(|one, other| one == other) {
        if let Some(bucket) = same.first() {
            writer.pair(*bucket, same.len() as u64);
        }
    }
    writer.bytes
}

/// The histogram of what is in both.
#[must_use]
pub fn merged(one: &[u8], other: &[u8]) -> Vec<u8> {
    if one.is_empty() || other.is_empty() {
        return [one, other].concat();
    }
    let mut writer = Writer::new(one.len() + other.len());
    let (mut ones, mut others) = (pairs(one).peekable(), pairs(other).peekable());
    loop {
        let bucket = match (ones.peek(), others.peek()) {
            (Some((one, _)), Some((other, _))) => *one.min(other),
            (Some((bucket, _)), None) | (None, Some((bucket, _))) => *bucket,
            (None, None) => return writer.bytes,
        };
        let count = |from: &mut std::iter::Peekable<Pairs<'_>>| {
            from.next_if(|(at, _)| *at == bucket).map_or(0, |(_, count)| count)
        };
        let sum = count(&mut ones).saturating_add(count(&mut others));
        writer.pair(bucket, sum);
    }
}

/// A histogram in its stored form. The default has nothing in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histogram(Vec<u8>);

impl Histogram {
    /// The histogram of these times, microseconds.
    #[must_use]
    pub fn of(times: impl IntoIterator<Item = u64>) -> Self {
        Self(of_buckets(times.into_iter().map(bucket).collect()))
    }

    /// The histogram that these bytes are.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Its bytes, as [`pairs`] reads them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds all that is in `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0 = merged(&self.0, &other.0);
    }

    /// How many times are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        pairs(&self.0).fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// As [`HistogramSum::quantile`].
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let mut sum = HistogramSum::default();
        sum.add(&self.0);
        sum.quantile(share)
    }
}

/// The sum of many histograms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HistogramSum {
    /// By bucket, up to the highest.
    counts: Vec<u64>,
}

impl HistogramSum {
    /// Adds a stored histogram.
    pub fn add(&mut self, bytes: &[u8]) {
        for (bucket, count) in pairs(bytes) {
            let bucket = usize::from(bucket);
            if bucket >= self.counts.len() {
                self.counts.resize(bucket + 1, 0);
            }
            if let Some(sum) = self.counts.get_mut(bucket) {
                *sum = sum.saturating_add(count);
            }
        }
    }

    /// Adds all that is in `other`.
    pub fn add_sum(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }

    /// How many times are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The lowest time that at least this share of all are not above, microseconds; `None`: there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut passed = 0u64;
        let reaches = |count: &u64| {
            passed = passed.saturating_add(*count);
            passed >= wanted
        };
        let bucket = self.counts.iter().position(reaches)?;
        Some(middle(bucket as u16))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..300, 0u64..5_000_000, 0..=HIGHEST]
    }

    proptest! {
        #[test]
        fn a_percentile_is_off_by_less_than_it_says(
            parts in prop::collection::vec(prop::collection::vec(time(), 0..60), 1..6), share in 0.0f64..=1.0,
        ) {
            let (mut whole, mut merged_parts) = (HistogramSum::default(), Vec::new());
            for part in &parts {
                let bytes = of_buckets(part.iter().map(|&us| bucket(us)).collect());
                merged_parts = merged(&merged_parts, &bytes);
                whole.add(&bytes);
            }
            let mut of_merged = HistogramSum::default();
            of_merged.add(&merged_parts);
            prop_assert_eq!(&of_merged, &whole);
            let mut times: Vec<u64> = parts.concat();
            times.sort_unstable();
            prop_assert_eq!(whole.count(), times.len() as u64);
            let rank = ((times.len() as f64 * share).ceil() as usize).max(1);
            match (whole.quantile(share), times.get(rank - 1)) {
                (Some(found), Some(&exact)) => {
                    let off = found.abs_diff(exact) as f64;
                    prop_assert!(off <= exact as f64 * PRECISION, "{found}, not {exact}");
                }
                (found, exact) => prop_assert_eq!(found.is_none(), exact.is_none()),
            }
        }

        #[test]
        fn any_bytes_are_read(one: Vec<u8>, other: Vec<u8>) {
            let _ = pairs(&one).count();
            // What makes no sense is left out.
            let both = merged(&one, &other);
            let _ = pairs(&both).count();
        }
    }
}
