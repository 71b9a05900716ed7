//! What can be said of the difference between two groups of requests, and of one group's percentile.
//!
//! Requests are not independent: one client's are alike, and so are those of one minute. So they come in blocks, once by
//! time and once by client, and how much a figure varies is seen from drawing whole blocks again, with replacement (block
//! bootstrap). Blocks are drawn for both groups together, so what changes for both with time changes nothing between
//! them. Blocks of clients are needed because who is in which group does not change: a control group in which one client
//! has half of the requests differs from the other group all the time, which no block of time shows.
//!
//! The two variances are put together as for errors that are clustered in two ways: one plus the other, less that of
//! independent requests, and never less than either (Cameron, Gelbach, Miller: Robust inference with multiway
//! clustering, 2011). Bounds are Student's, with a degree of freedom less than there are blocks of the kind that has fewer.
//!
//! Where the same clients were measured before, when nothing was different for the two groups, what differed then is taken
//! off: all of it (difference in differences), or as much of it as explains what differs now. That share is the regression of now on before over
//! blocks of clients that are drawn again (Deng, Xu, Kohavi, Walker: Improving the sensitivity of online controlled experiments by utilizing
//! pre-experiment data, 2013), from 0, if before says nothing of now, to 1. Clients' own levels, which make most of the
//! difference between two groups of few clients, are the same before and now, and go.

use fastrand::Rng;

use crate::histogram::Histogram;
use crate::interval::standard_errors;
use crate::quantile_blocks::QuantileBlocks;

/// Blocks of each kind, with requests of each group, that a comparison needs: with fewer their variance is a guess.
pub const MIN_BLOCKS: usize = 8;
/// Requests above the percentile that each group needs.
pub const MIN_ABOVE: u64 = 10;
/// Requests that each group needs at all.
pub const MIN_REQUESTS: u64 = 50;
/// Blocks of time at most; more are joined with their neighbours, so that what lasts for a while is in one.
const MAX_TIME_BLOCKS: usize = 40;
/// How often all blocks are drawn again.
const ROUNDS: u32 = 400;
/// Shorter times count as this, microseconds: below, the clock and the scheduler are what is measured.
pub const FLOOR_US: f64 = 100.0;

/// One value of each group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pair<T> {
    /// Of the control group.
    pub control: T,
    /// Of the treated.
    pub treated: T,
}

/// A figure, and how sure it is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    /// The figure: a ratio or a time, or a difference of shares.
    pub value: f64,
    /// Its standard error; of its logarithm, if it is a ratio or a time.
    pub error: f64,
    /// How many degrees of freedom that has.
    pub freedom: f64,
    scale: Scale,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Scale {
    Linear,
    Logarithmic,
}

impl Estimate {
    /// Lower and upper bound, each wrong with this risk.
    #[must_use]
    pub fn bounds(&self, risk: f64) -> (f64, f64) {
        (self.moved(-1.0, risk), self.moved(1.0, risk))
    }

    /// The smallest value that such data would show to be over `limit` with this risk.
    #[must_use]
    pub fn detectable(&self, limit: f64, risk: f64) -> f64 {
        Self { value: limit, ..*self }.moved(1.0, risk)
    }

    fn moved(&self, direction: f64, risk: f64) -> f64 {
        let by = direction * standard_errors(risk, self.freedom) * self.error;
        match self.scale {
            Scale::Linear => self.value + by,
            Scale::Logarithmic => self.value * by.exp(),
        }
    }
}

/// Why nothing can be said yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TooLittle {
    /// A group has fewer requests than are needed.
    Requests {
        /// So many it has, the smaller one,
        has: u64,
        /// and so many are needed.
        needs: u64,
    },
    /// A group's requests are in too few blocks of time.
    Times {
        /// So many it has of [`MIN_BLOCKS`].
        has: usize,
    },
    /// A group has requests of too few clients.
    Clients {
        /// In so many blocks of clients it has some, of [`MIN_BLOCKS`]; it has at least so many clients.
        has: usize,
    },
}

impl std::fmt::Display for TooLittle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Requests { has, needs } => {
                write!(f, "{has} requests in the smaller group, {needs} are needed")
            }
            Self::Times { has } => {
                write!(f, "requests of both groups in {has} slices of time, {MIN_BLOCKS} are needed")
            }
            Self::Clients { has } => write!(
                f,
                "requests of {has} blocks of clients in the smaller group, {MIN_BLOCKS} are needed: of so few clients nobody \
                 can say whether they or the flag make the difference"
            ),
        }
    }
}

/// Times of two groups, in blocks of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Times<'h> {
    /// By time.
    pub slices: &'h [Pair<&'h Histogram>],
    /// By client. Before and now the same clients are in the same block.
    pub clients: &'h [Pair<&'h Histogram>],
}

/// How the percentiles of two groups differ.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct QuantileRatio {
    /// How many times the control group's percentile the treated group's is, without what differed before.
    pub estimate: Estimate,
    /// Both groups' percentiles now.
    pub measured: Pair<f64>,
    /// What differed before; `None`: it is not known, or says nothing of now.
    pub before: Option<Before>,
}

/// What differed between two groups before.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Before {
    /// How many times the control group's percentile the treated group's was.
    pub ratio: f64,
    /// How much of it, as a logarithm, is taken off: over 0, to 1.
    pub taken_off: f64,
}

/// How many times the control group's percentile the treated group's is. `before`: the times of the same clients when
/// nothing was different for the two groups, if they are known; if they are too few, they are left out. `share`: of the
/// percentile, 0.95 for P95.
///
/// # Errors
/// There is too little data.
pub fn quantile_ratio(
    now: Times<'_>,
    before: Option<Times<'_>>,
    share: f64,
) -> Result<QuantileRatio, TooLittle> {
    let now = Ratio::of(now, share)?;
    let before = before.and_then(|before| Ratio::of(before, share).ok());
    let Some(before) = before.filter(|before| before.clients.blocks() == now.clients.blocks()) else {
        let of_clients = now.clients.variance(share);
        return Ok(now.without(None, of_clients));
    };
    let moments = redrawn(now.clients.blocks(), now.seed, |weights| {
        Some([now.clients.log_ratio(share, weights)?, before.clients.log_ratio(share, weights)?])
    });
    let taken_off = (moments.covariance / moments.variances[1].max(1e-12)).clamp(0.0, 1.0);
    let of_clients = moments.variances[0] - 2.0 * taken_off * moments.covariance
        + taken_off.powi(2) * moments.variances[1];
    Ok(now.without(Some((&before, taken_off)), of_clients))
}

/// Two groups' percentiles in one span of time.
struct Ratio {
    clients: Pair<QuantileBlocks>,
    measured: Pair<f64>,
    /// Variances of the logarithm of their ratio: of blocks of time that are drawn again, and if requests were
    /// independent.
    of_time: f64,
    independent: f64,
    freedom: f64,
    seed: u64,
}

impl Ratio {
    fn of(of: Times<'_>, share: f64) -> Result<Self, TooLittle> {
        let slices = joined(of.slices);
        let by_time = Pair::of_blocks(slices.iter().map(Pair::borrowed));
        let clients = Pair::of_blocks(of.clients.iter().copied());
        let counts = |blocks: &Pair<QuantileBlocks>| Pair {
            control: blocks.control.counts().to_vec(),
            treated: blocks.treated.counts().to_vec(),
        };
        let (time_counts, client_counts) = (counts(&by_time), counts(&clients));
        let above = (MIN_ABOVE as f64 / (1.0 - share).max(1e-6)).ceil() as u64;
        check_enough(&time_counts, &client_counts, above.max(MIN_REQUESTS))?;
        let none = TooLittle::Requests { has: 0, needs: MIN_REQUESTS };
        let all = vec![1; slices.len()];
        let groups = [&by_time.control, &by_time.treated];
        Ok(Self {
            measured: by_time.quantiles(share, &all).ok_or(none)?,
            of_time: by_time.variance(share),
            independent: groups.into_iter().map(|group| independent_variance(group, share, &all)).sum(),
            freedom: freedom(&[&time_counts, &client_counts]),
            seed: by_time.seed(),
            clients,
        })
    }

    fn value(&self) -> f64 {
        self.measured.treated / self.measured.control
    }

    /// The ratio without this share of what differed before. `of_clients`: its variance when blocks of clients are drawn
    /// again.
    fn without(&self, before: Option<(&Self, f64)>, of_clients: f64) -> QuantileRatio {
        let before = before.filter(|(_, taken_off)| *taken_off > 0.0);
        let squared = before.map_or(0.0, |(_, taken_off)| taken_off.powi(2));
        let of =
            |part: fn(&Self) -> f64| part(self) + squared * before.map_or(0.0, |(before, _)| part(before));
        let error = two_way(of(|of| of.of_time), of_clients, of(|of| of.independent)).sqrt();
        let off = before.map_or(1.0, |(before, taken_off)| before.value().powf(taken_off));
        let freedom = before.map_or(self.freedom, |(before, _)| self.freedom.min(before.freedom));
        QuantileRatio {
            estimate: Estimate { value: self.value() / off, error, freedom, scale: Scale::Logarithmic },
            measured: self.measured,
            before: before.map(|(before, taken_off)| Before { ratio: before.value(), taken_off }),
        }
    }
}

/// One group's percentile, microseconds, from its times by block of time.
///
/// # Errors
/// There is too little data to say how sure it is.
pub fn quantile(times: &[&Histogram], share: f64) -> Result<Estimate, TooLittle> {
    let pairs: Vec<_> = times.iter().map(|times| Pair { control: *times, treated: *times }).collect();
    let times = joined(&pairs);
    let blocks = QuantileBlocks::new(times.iter().map(|pair| &pair.treated));
    let has = filled(blocks.counts());
    let all = vec![1; times.len()];
    let needs = ((1.0 / (1.0 - share).max(1e-6)).ceil() as u64).max(MIN_REQUESTS);
    let requests = blocks.count(&all);
    if requests < needs {
        return Err(TooLittle::Requests { has: requests, needs });
    }
    if has < MIN_BLOCKS {
        return Err(TooLittle::Times { has });
    }
    let none = TooLittle::Requests { has: 0, needs };
    let value = blocks.quantile(share, &all).ok_or(none)?.max(1.0);
    let log = |weights: &[u64]| Some(blocks.quantile(share, weights)?.max(1.0).ln());
    let of_time = redrawn_variance(times.len(), blocks.count(&all), log);
    let independent = independent_variance(&blocks, share, &all);
    Ok(Estimate {
        value,
        error: of_time.max(independent).sqrt(),
        freedom: (has as f64 - 1.0).max(1.0),
        scale: Scale::Logarithmic,
    })
}

/// Requests, and how many of them are of some kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// Of the kind.
    pub hits: u64,
    /// All.
    pub count: u64,
}

/// By how much the treated group's share is over the control group's.
///
/// # Errors
/// There is too little data.
pub fn share_difference(times: &[Pair<Hits>], clients: &[Pair<Hits>]) -> Result<Estimate, TooLittle> {
    let counts = |blocks: &[Pair<Hits>]| Pair {
        control: blocks.iter().map(|block| block.control.count).collect(),
        treated: blocks.iter().map(|block| block.treated.count).collect::<Vec<_>>(),
    };
    let each = times.len().div_ceil(MAX_TIME_BLOCKS).max(1);
    let times: Vec<_> = times.chunks(each).map(sum_of).collect();
    let (time_counts, client_counts) = (counts(&times), counts(clients));
    check_enough(&time_counts, &client_counts, MIN_REQUESTS)?;
    let whole = sum_of(&times);
    let independent = whole.control.variance() + whole.treated.variance();
    // Blocks of clients may be of a little more time than those of time: each kind is held against its own sum.
    let of_clients = linear_variance(clients, &sum_of(clients));
    let variance = two_way(linear_variance(&times, &whole), of_clients, independent);
    Ok(Estimate {
        value: whole.treated.share() - whole.control.share(),
        error: variance.max(independent).sqrt(),
        freedom: freedom(&[&time_counts, &client_counts]),
        scale: Scale::Linear,
    })
}

/// The smallest difference that so many requests would show to be over `limit` with this risk, `estimate` being what they
/// show: [`Estimate::detectable`] for shares, of which larger ones vary more.
#[must_use]
pub fn detectable_difference(estimate: &Estimate, whole: Pair<Hits>, limit: f64, risk: f64) -> f64 {
    let now = whole.control.variance() + whole.treated.variance();
    let variance_with = |over: f64| {
        let count = whole.treated.count as f64;
        let hits = ((whole.control.share() + over).clamp(0.0, 1.0) * count) as u64;
        whole.control.variance() + Hits { hits, ..whole.treated }.variance()
    };
    // It grows from step to step, less each time.
    (0..50).fold(limit, |over, _| {
        let error = estimate.error * (variance_with(over) / now).sqrt();
        Estimate { error, ..*estimate }.detectable(limit, risk)
    })
}

fn sum_of(blocks: &[Pair<Hits>]) -> Pair<Hits> {
    blocks.iter().fold(Pair::default(), |sum, block| sum.plus(*block))
}

impl Pair<Hits> {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { control: self.control.plus(other.control), treated: self.treated.plus(other.treated) }
    }
}

impl Hits {
    fn plus(self, other: Self) -> Self {
        Self { hits: self.hits.saturating_add(other.hits), count: self.count.saturating_add(other.count) }
    }

    fn share(self) -> f64 {
        if self.count == 0 { 0.0 } else { self.hits as f64 / self.count as f64 }
    }

    /// Of the share, if requests were independent; of 0 of n it is not 0 (Agresti and Caffo's one more of each).
    fn variance(self) -> f64 {
        let n = self.count as f64 + 2.0;
        let p = (self.hits as f64 + 1.0) / n;
        p * (1.0 - p) / n
    }
}

/// The variance of the difference of two shares from blocks: the sum of squares of what each block adds to it. A block with
/// much of a group's requests has pulled the share towards itself, so it is held against the others' (the jackknife).
fn linear_variance(blocks: &[Pair<Hits>], whole: &Pair<Hits>) -> f64 {
    let adds = |block: Hits, whole: Hits| {
        let weight = block.count as f64 / (whole.count as f64).max(1.0);
        let off = (block.hits as f64 - whole.share() * block.count as f64) / (whole.count as f64).max(1.0);
        off / (1.0 - weight).max(0.1)
    };
    let used = blocks.iter().filter(|block| block.control.count + block.treated.count > 0);
    let squares: Vec<f64> = used
        .map(|block| (adds(block.treated, whole.treated) - adds(block.control, whole.control)).powi(2))
        .collect();
    squares.iter().sum::<f64>() * small_sample(squares.len())
}

/// Few blocks vary more than they show.
fn small_sample(blocks: usize) -> f64 {
    if blocks < 2 { 1.0 } else { blocks as f64 / (blocks as f64 - 1.0) }
}

fn two_way(one: f64, other: f64, independent: f64) -> f64 {
    (one + other - independent).max(one).max(other)
}

impl Pair<Histogram> {
    /// The same by reference.
    #[must_use]
    pub fn borrowed(&self) -> Pair<&Histogram> {
        Pair { control: &self.control, treated: &self.treated }
    }
}

impl Pair<QuantileBlocks> {
    fn of_blocks<'h>(blocks: impl Iterator<Item = Pair<&'h Histogram>> + Clone) -> Self {
        Self {
            control: QuantileBlocks::new(blocks.clone().map(|block| block.control)),
            treated: QuantileBlocks::new(blocks.map(|block| block.treated)),
        }
    }

    fn quantiles(&self, share: f64, weights: &[u64]) -> Option<Pair<f64>> {
        Some(Pair {
            control: self.control.quantile(share, weights)?.max(FLOOR_US),
            treated: self.treated.quantile(share, weights)?.max(FLOOR_US),
        })
    }

    fn log_ratio(&self, share: f64, weights: &[u64]) -> Option<f64> {
        let drawn = self.quantiles(share, weights)?;
        Some((drawn.treated / drawn.control).ln())
    }

    fn blocks(&self) -> usize {
        self.control.counts().len()
    }

    /// The same data are drawn in the same way.
    fn seed(&self) -> u64 {
        let all = vec![1; self.blocks()];
        self.control.count(&all) ^ self.treated.count(&all).rotate_left(32)
    }

    /// The variance of the logarithm of the ratio, when blocks are drawn again.
    fn variance(&self, share: f64) -> f64 {
        redrawn_variance(self.blocks(), self.seed(), |weights| self.log_ratio(share, weights))
    }
}

/// The variance of what `of` says when blocks are drawn again, with replacement, as many as there are.
fn redrawn_variance(blocks: usize, seed: u64, of: impl Fn(&[u64]) -> Option<f64>) -> f64 {
    let [variance, _] = redrawn(blocks, seed, |weights| of(weights).map(|value| [value, 0.0])).variances;
    variance
}

/// How two figures vary when blocks are drawn again.
struct Moments {
    variances: [f64; 2],
    covariance: f64,
}

/// How the two figures that `of` says vary when blocks are drawn again, with replacement, as many as there are.
fn redrawn(blocks: usize, seed: u64, of: impl Fn(&[u64]) -> Option<[f64; 2]>) -> Moments {
    let mut random = Rng::with_seed(seed);
    let (mut count, mut means, mut squares, mut products) = (0.0, [0.0; 2], [0.0; 2], 0.0);
    for _ in 0..ROUNDS {
        let mut weights = vec![0u64; blocks];
        for _ in 0..blocks {
            if let Some(weight) = weights.get_mut(random.usize(..blocks)) {
                *weight += 1;
            }
        }
        let Some(values) = of(&weights).filter(|values| values.iter().all(|value| value.is_finite())) else {
            continue;
        };
        // Welford's sums of squares and of products.
        count += 1.0;
        let [one, other] = values;
        let [mean, other_mean] = means;
        let (off, other_off) = (one - mean, other - other_mean);
        means = [mean + off / count, other_mean + other_off / count];
        let [mean, other_mean] = means;
        squares = [squares[0] + off * (one - mean), squares[1] + other_off * (other - other_mean)];
        products += off * (other - other_mean);
    }
    if count < 2.0 {
        return Moments { variances: [f64::INFINITY; 2], covariance: 0.0 };
    }
    let scaled = |sum: f64| sum / (count - 1.0) * small_sample(blocks);
    Moments { variances: squares.map(scaled), covariance: scaled(products) }
}

/// The variance of the logarithm of a percentile, if requests were independent: half the distance between the
/// percentiles that are one standard error of the share away (Woodruff).
fn independent_variance(group: &QuantileBlocks, share: f64, all: &[u64]) -> f64 {
    let error = (share * (1.0 - share) / (group.count(all) as f64).max(1.0)).sqrt();
    let at = |share| group.quantile(share, all).map(|time: f64| time.max(FLOOR_US).ln());
    match (at(share - error), at(share + error)) {
        (Some(low), Some(high)) => ((high - low) / 2.0).powi(2),
        _ => f64::INFINITY,
    }
}

/// One less than the number of blocks with requests, of the kind and group that has fewest.
fn freedom(kinds: &[&Pair<Vec<u64>>]) -> f64 {
    let groups = kinds.iter().flat_map(|counts| [&counts.control, &counts.treated]);
    let fewest = groups.map(|counts| filled(counts)).min().unwrap_or_default();
    (fewest as f64 - 1.0).max(1.0)
}

fn filled(counts: &[u64]) -> usize {
    counts.iter().filter(|count| **count > 0).count()
}

fn check_enough(times: &Pair<Vec<u64>>, clients: &Pair<Vec<u64>>, needs: u64) -> Result<(), TooLittle> {
    let sum = |counts: &[u64]| counts.iter().fold(0u64, |sum, count| sum.saturating_add(*count));
    let has = sum(&times.control).min(sum(&times.treated));
    if has < needs {
        return Err(TooLittle::Requests { has, needs });
    }
    let both = times.control.iter().zip(&times.treated);
    let has = both.filter(|(control, treated)| **control > 0 && **treated > 0).count();
    if has < MIN_BLOCKS {
        return Err(TooLittle::Times { has });
    }
    let has = filled(&clients.control).min(filled(&clients.treated));
    if has < MIN_BLOCKS { Err(TooLittle::Clients { has }) } else { Ok(()) }
}

/// Blocks of time, joined with their neighbours until there are no more than [`MAX_TIME_BLOCKS`].
fn joined(blocks: &[Pair<&Histogram>]) -> Vec<Pair<Histogram>> {
    let each = blocks.len().div_ceil(MAX_TIME_BLOCKS).max(1);
    let join = |blocks: &[Pair<&Histogram>]| {
        let mut sum = Pair::<Histogram>::default();
        for block in blocks {
            sum.control.merge(block.control);
            sum.treated.merge(block.treated);
        }
        sum
    };
    blocks.chunks(each).map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of a normal distribution's logarithm, a median of 20 ms.
    fn times(random: &mut Rng, count: usize, level: f64) -> Histogram {
        let mut time = || {
            let (one, other) = (1.0 - random.f64(), random.f64());
            let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
            (20_000.0 * (level + 0.3 * normal).exp()) as u64
        };
        Histogram::of((0..count).map(|_| time()))
    }

    fn blocks(count: usize, mut make: impl FnMut(usize) -> Pair<Histogram>) -> Vec<Pair<Histogram>> {
        (0..count).map(&mut make).collect()
    }

    fn borrowed(blocks: &[Pair<Histogram>]) -> Vec<Pair<&Histogram>> {
        blocks.iter().map(Pair::borrowed).collect()
    }

    /// By slice of time, and by block of clients.
    type Measured = (Vec<Pair<Histogram>>, Vec<Pair<Histogram>>);

    fn ratio_of(
        slices: &[Pair<Histogram>],
        clients: &[Pair<Histogram>],
        share: f64,
    ) -> Result<(Estimate, Pair<f64>), TooLittle> {
        let now = Times { slices: &borrowed(slices), clients: &borrowed(clients) };
        quantile_ratio(now, None, share).map(|found| (found.estimate, found.measured))
    }

    #[test]
    fn a_ratio_is_that_of_the_groups_and_as_sure_as_independent_requests_make_it() {
        let mut random = Rng::with_seed(1);
        let slower = 1.3f64.ln();
        let blocks = blocks(40, |_| Pair {
            control: times(&mut random, 200, 0.0),
            treated: times(&mut random, 200, slower),
        });
        let (estimate, measured) = ratio_of(&blocks, &blocks, 0.95).unwrap();
        // The 95th percentile is 1.645 standard deviations over the median.
        let p95 = 20_000.0 * (0.3f64 * 1.645).exp();
        assert!((measured.control / p95 - 1.0).abs() < 0.03, "{measured:?}");
        assert!((estimate.value / 1.3 - 1.0).abs() < 0.04, "{estimate:?}");
        // Of 8,000 in each group: 0.3 * sqrt(0.05 * 0.95 * 2 / 8,000) / 0.1031, the density at 1.645.
        assert!((0.007..0.016).contains(&estimate.error), "{estimate:?}");
        let (low, high) = estimate.bounds(0.001);
        assert!(low > 1.2 && high < 1.4 && estimate.detectable(1.2, 0.001) < 1.3, "{low} {high}");
        assert_eq!(ratio_of(&blocks, &blocks, 0.95).unwrap().0, estimate);
    }

    #[test]
    fn what_changes_with_time_for_both_changes_nothing_and_clients_of_their_own_pace_make_it_unsure() {
        let mut random = Rng::with_seed(2);
        let drifting = blocks(40, |block| {
            let level = (block as f64 / 6.0).sin();
            Pair { control: times(&mut random, 200, level), treated: times(&mut random, 200, level) }
        });
        let alike = blocks(64, |_| Pair {
            control: times(&mut random, 125, 0.0),
            treated: times(&mut random, 125, 0.0),
        });
        let paces = blocks(64, |block| {
            let level = ((block * 37 % 64) as f64 / 32.0) - 1.0;
            Pair { control: times(&mut random, 125, level), treated: times(&mut random, 125, -level) }
        });
        let error = |clients: &[Pair<Histogram>]| ratio_of(&drifting, clients, 0.5).unwrap().0.error;
        assert!(error(&alike) < 0.1, "{}", error(&alike));
        assert!(error(&paces) > 1.5 * error(&alike), "{} {}", error(&paces), error(&alike));
    }

    #[test]
    fn what_differed_before_is_taken_off_as_far_as_it_explains_what_differs_now() {
        let mut random = Rng::with_seed(4);
        // Clients of their own pace: 64 blocks, in which the two groups differ.
        let paces: Vec<[f64; 2]> = (0..64).map(|_| [(); 2].map(|()| 0.8 * (random.f64() - 0.5))).collect();
        let mut measure = |slower: f64, paces: &[[f64; 2]]| {
            // In each of 16 slices of time some of every client's, so that slices are alike.
            let (mut slices, mut clients) =
                (vec![Pair::<Histogram>::default(); 16], vec![Pair::<Histogram>::default(); 64]);
            for (block, [control, treated]) in paces.iter().enumerate() {
                for slice in &mut slices {
                    let control = times(&mut random, 13, *control);
                    let treated = times(&mut random, 13, treated + slower.ln());
                    for to in [&mut *slice, &mut clients[block]] {
                        to.control.merge(&control);
                        to.treated.merge(&treated);
                    }
                }
            }
            (slices, clients)
        };
        let (before, now) = (measure(1.0, &paces), measure(1.3, &paces));
        let others: Vec<[f64; 2]> = paces.iter().map(|[one, other]| [*other, -*one]).collect();
        let unlike = measure(1.0, &others);
        let ratio = |before: Option<&Measured>| {
            let (slices, clients) = (borrowed(&now.0), borrowed(&now.1));
            let of_before = before.map(|before| (borrowed(&before.0), borrowed(&before.1)));
            let before = of_before.as_ref().map(|(slices, clients)| Times { slices, clients });
            quantile_ratio(Times { slices: &slices, clients: &clients }, before, 0.5).unwrap()
        };
        let (plain, better, other) = (ratio(None), ratio(Some(&before)), ratio(Some(&unlike)));
        let taken_off = better.before.unwrap().taken_off;
        assert!(taken_off > 0.8 && plain.before.is_none(), "{better:?}");
        assert!(better.estimate.error < 0.6 * plain.estimate.error, "{better:?} {plain:?}");
        assert!((better.estimate.value / 1.3).ln().abs() < 4.0 * better.estimate.error, "{better:?}");
        assert!(better.estimate.bounds(0.001).0 > 1.1, "{better:?}");
        // What says nothing of now changes next to nothing.
        assert!(other.estimate.error <= 1.05 * plain.estimate.error, "{other:?} {plain:?}");
        assert_eq!(better.measured, plain.measured);
        // Too little of before is left out.
        let few = (before.0[..3].to_vec(), before.1.clone());
        assert_eq!(ratio(Some(&few)), plain);
    }

    #[test]
    fn a_percentile_of_one_group_is_within_its_bounds() {
        let mut random = Rng::with_seed(3);
        let histograms: Vec<_> = (0..30).map(|_| times(&mut random, 100, 0.0)).collect();
        let estimate = quantile(&histograms.iter().collect::<Vec<_>>(), 0.5).unwrap();
        let (low, high) = estimate.bounds(0.001);
        assert!(low < 20_000.0 && 20_000.0 < high && high - low < 3_000.0, "{low} {high}");
        assert_eq!(
            quantile(&histograms.iter().take(7).collect::<Vec<_>>(), 0.5),
            Err(TooLittle::Times { has: 7 })
        );
        assert_eq!(quantile(&[], 0.5), Err(TooLittle::Requests { has: 0, needs: 50 }));
    }

    #[test]
    fn the_smallest_difference_of_shares_that_is_seen_is_one_that_is_seen() {
        let blocks = |hits: f64| {
            let of = |hits| Hits { hits, count: 10_000 };
            vec![Pair { control: of(10), treated: of((hits * 10_000.0) as u64) }; 20]
        };
        let (limit, risk) = (0.005, 1e-8);
        let estimate = share_difference(&blocks(0.001), &blocks(0.001)).unwrap();
        let over = detectable_difference(&estimate, sum_of(&blocks(0.001)), limit, risk);
        let of_these_hits = estimate.detectable(limit, risk);
        assert!(over - limit > 1.5 * (of_these_hits - limit), "more hits vary more: {over} {of_these_hits}");
        let low = |over: f64| {
            let blocks = blocks(0.001 + over);
            share_difference(&blocks, &blocks).unwrap().bounds(risk).0
        };
        assert!(low(over + 0.000_2) > limit && low(over - 0.000_2) < limit, "{over}");
        let few = detectable_difference(&estimate, Pair::default(), limit, risk);
        assert!(few.is_finite(), "{few}");
    }

    #[test]
    fn a_difference_of_shares_is_as_sure_as_its_blocks_are_alike() {
        let pair = |control, treated| Pair {
            control: Hits { hits: control, count: 1_000 },
            treated: Hits { hits: treated, count: 1_000 },
        };
        let steady = vec![pair(10, 30); 20];
        let estimate = share_difference(&steady, &steady).unwrap();
        assert!((estimate.value - 0.02).abs() < 1e-12);
        // sqrt(0.01 * 0.99 / 20,000 + 0.03 * 0.97 / 20,000)
        assert!((estimate.error - 0.001_396).abs() < 1e-5, "{estimate:?}");
        // All of one block: it may be chance, whatever the number.
        let burst: Vec<_> = (0..20).map(|block| pair(10, if block == 7 { 410 } else { 10 })).collect();
        let estimate = share_difference(&burst, &steady).unwrap();
        assert!((estimate.value - 0.02).abs() < 1e-12 && estimate.bounds(0.01).0 < 0.0, "{estimate:?}");
        assert_eq!(share_difference(&steady[..7], &steady), Err(TooLittle::Times { has: 7 }));
        assert_eq!(share_difference(&steady, &steady[..3]), Err(TooLittle::Clients { has: 3 }));
    }
}
