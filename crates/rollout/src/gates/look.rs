//! Looks at one gate.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_policy::check::{Check, PerCheck};
use tidegate_statistics::comparison::{
    Before, Estimate, Hits, MIN_BLOCKS, MIN_REQUESTS, Pair, QuantileRatio, Times as BlockTimes, TooLittle,
    detectable_difference, quantile, quantile_ratio, share_difference,
};
use tidegate_statistics::histogram::{Histogram, HistogramSum};
use tidegate_statistics::interval::{risk_of_test, share_bounds};

use super::describe::{self, milliseconds, percent, value};
use super::{GRACE_MS, GateResult, GateState, Unit, Verdict};
use crate::figures::{
    BlockFigures, CheckFigures, ClientBlock, Group, GroupFigures, Observed, PerGroup, StageFigures,
};
use crate::plan::{CONFIDENCE, Condition, Gate, LatencyLimit, MismatchLimit, ShareLimit, Times, span};

/// By how much a stage's requests grow from one test of a percentile to the next,
const LATENCY_GROWTH: f64 = 1.1;
/// of the difference of two shares,
const DIFFERENCE_GROWTH: f64 = 1.02;
/// and of one share, which must notice a sudden outage.
const SHARE_GROWTH: f64 = 1.005;
/// A comparison of percentiles is tested after so many slices at the latest, a share after one, but this often:
const LATENCY_SLICES: u64 = 5;
/// between these many milliseconds,
const LATENCY_WAIT_MS: (u64, u64) = (2_000, 300_000);
/// and of shares.
const SHARE_WAIT_MS: (u64, u64) = (1_000, 60_000);
/// Blocks of time to which older slices, which may be joined, are put together.
const TIME_BLOCKS: u32 = 40;

/// Looks at a gate. `before`: what it said last. `elapsed_ms`: since then.
#[must_use]
pub fn look(gate: &Gate, figures: &StageFigures, before: &GateState, elapsed_ms: u64) -> GateState {
    look_at(gate, figures, before, Test::IfDue { elapsed_ms })
}

/// Looks at a gate whose answer something is decided by: it is tested by the figures as they are now, due or not.
#[must_use]
pub fn look_now(gate: &Gate, figures: &StageFigures, before: &GateState) -> GateState {
    look_at(gate, figures, before, Test::Now)
}

/// Whether growing data is tested.
#[derive(Clone, Copy)]
enum Test {
    /// If there is enough more of it, or so much time has passed.
    IfDue {
        elapsed_ms: u64,
    },
    Now,
}

fn look_at(gate: &Gate, figures: &StageFigures, before: &GateState, when: Test) -> GateState {
    let elapsed_ms = match when {
        Test::IfDue { elapsed_ms } => elapsed_ms,
        Test::Now => 0,
    };
    let blank = Blank { name: describe::name(gate), kind: gate.condition.kind() };
    let result = match &gate.condition {
        Condition::Dropped { at_most } => {
            count(&blank, figures.observed.dropped, *at_most, "events were given up since the stage began")
        }
        Condition::Completeness { .. } | Condition::QueueDepth { .. } | Condition::Health { .. } => {
            let result = seen(&blank, &gate.condition, &figures.observed);
            let is_bad = result.verdict == Verdict::Fails;
            let bad_ms = if is_bad { before.bad_ms.saturating_add(elapsed_ms) } else { 0 };
            return GateState { bad_ms, ..before.clone() }.with(with_grace(result, bad_ms));
        }
        Condition::Mismatches { limit: MismatchLimit::Count(most), compared_at_least } => {
            mismatch_count(&blank, &View::of(gate, figures), *most, *compared_at_least)
        }
        tested => return look_tested(&blank, (gate, tested), figures, before, when),
    };
    before.clone().with(result)
}

/// Looks at a gate that is tested again and again while its data grows.
fn look_tested(
    blank: &Blank,
    (gate, condition): (&Gate, &Condition),
    figures: &StageFigures,
    before: &GateState,
    when: Test,
) -> GateState {
    let requests = figures.requests();
    let step = step(gate, figures, before.first_requests, requests);
    let mut state = before.clone();
    if let Test::IfDue { elapsed_ms } = when {
        state.untested_ms = state.untested_ms.saturating_add(elapsed_ms);
        // Figures that were lost are one more reason to look.
        let is_new = requests != before.tested_requests || gate.window_ms.is_some();
        let is_late = is_new && state.untested_ms >= longest_wait_ms(&gate.condition, figures);
        if before.tests > 0 && step <= before.step && requests >= before.tested_requests && !is_late {
            return state;
        }
    }
    let test = before.tests.saturating_add(1);
    let result = tested(blank, condition, &View::of(gate, figures), test);
    (state.tested_requests, state.step, state.untested_ms) = (requests, step, 0);
    // There was enough data for a test.
    if result.bounds.is_some() {
        state.tests = test;
        if state.first_requests == 0 {
            state.first_requests = requests;
        }
    }
    state.with(result)
}

/// The result of test number `test`; without bounds if there was too little data for one.
fn tested(blank: &Blank, condition: &Condition, view: &View<'_>, test: u32) -> GateResult {
    match condition {
        Condition::Latency { of, percentile, limit } => match limit {
            LatencyLimit::AtMost { us, confidence } => {
                absolute_latency(blank, view, (*of, percentile / 100.0), *us, (*confidence, test))
            }
            LatencyLimit::TimesControl { times, confidence } => {
                relative_latency(blank, view, (*of, percentile / 100.0), *times, (*confidence, test))
            }
        },
        Condition::Success { at_least } => {
            let treated = view.sum(Group::Treated, |figures| figures.succeeded);
            // A client that went away before it was answered is none of the gate's failures.
            let answered =
                view.sum(Group::Treated, |figures| figures.succeeded.saturating_add(figures.server_errors));
            let answered = Hits { count: answered.hits, ..treated };
            share(blank, answered, Limit::AtLeast(*at_least), (CONFIDENCE, test))
        }
        Condition::ServerErrors(limit) => {
            share_limit(blank, view, |figures| figures.server_errors, limit, test)
        }
        Condition::Denials(limit) => share_limit(blank, view, |figures| figures.denied, limit, test),
        Condition::HitRatio { check, at_least } => hit_ratio(blank, view, *check, *at_least, test),
        Condition::Mismatches { limit: MismatchLimit::Share(most), compared_at_least } => {
            mismatch_share(blank, view, *most, *compared_at_least, test)
        }
        _ => blank.result(Unit::Count, None, Limit::AtMost(0.0), 0),
    }
}

/// By how many steps the data has grown, after each of which it is tested: it depends on how much data there is, not on what
/// earlier tests said; in a window, on how many quarters of it have passed. `first`: the stage's requests at the first test,
/// 0 before it.
fn step(gate: &Gate, figures: &StageFigures, first: u64, requests: u64) -> u64 {
    match gate.window_ms {
        Some(window_ms) => {
            let quarter = (window_ms / figures.slice_ms.max(1) / 4).max(1);
            u64::from(figures.present) / quarter
        }
        None if first == 0 || requests < first => 0,
        None => {
            let growth = match &gate.condition {
                Condition::Latency { .. } => LATENCY_GROWTH,
                condition if condition.needs_control() => DIFFERENCE_GROWTH,
                _ => SHARE_GROWTH,
            };
            ((requests as f64 / first as f64).ln() / growth.ln()) as u64
        }
    }
}

/// After how many milliseconds without a test there is one, however little has come.
fn longest_wait_ms(condition: &Condition, figures: &StageFigures) -> u64 {
    let (slices, (least, most)) = match condition {
        Condition::Latency { .. } => (LATENCY_SLICES, LATENCY_WAIT_MS),
        _ => (1, SHARE_WAIT_MS),
    };
    figures.slice_ms.saturating_mul(slices).clamp(least, most)
}

/// The figures that a gate looks at.
struct View<'f> {
    slices: Vec<(u32, &'f PerGroup<GroupFigures>)>,
    clients: Vec<(u8, &'f PerGroup<GroupFigures>)>,
    /// What the groups measured before the stage, if that is known.
    before: Option<&'f BlockFigures>,
}

impl<'f> View<'f> {
    /// Of a gate with a window: the slices that end in it, and the clients of their time (to the beginning of a span). A
    /// window ends now, whether or not anything came.
    fn of(gate: &Gate, figures: &'f StageFigures) -> Self {
        let first = gate.window_ms.map_or(0, |window_ms| {
            let slices = window_ms.div_ceil(figures.slice_ms.max(1));
            figures.present.saturating_sub(u32::try_from(slices).unwrap_or(u32::MAX))
        });
        // What is older than all windows is in span 0, and so is everything if there are no spans.
        let span = if first == 0 { 0 } else { figures.spans.of(first) };
        let clients = figures.clients.range(ClientBlock { span, clients: 0 }..);
        Self {
            slices: figures.slices.range(first..).map(|(number, slice)| (*number, slice)).collect(),
            clients: clients.map(|(of, block)| (of.clients, block)).collect(),
            before: figures.before.as_deref(),
        }
    }

    /// What `of` says of the slices, put together to [`TIME_BLOCKS`] of equal length at most: what lasts for a while is in
    /// one, and older slices that were joined are no longer than others.
    fn times<T>(
        &self,
        of: impl Fn(&'f PerGroup<GroupFigures>) -> T,
        mut join: impl FnMut(&mut T, T),
    ) -> Vec<T> {
        let ends = self.slices.first().zip(self.slices.last());
        let (first, last) = ends.map_or((0, 0), |((first, _), (last, _))| (*first, *last));
        let each = (last - first).saturating_add(1).div_ceil(TIME_BLOCKS);
        let mut blocks: Vec<(u32, T)> = Vec::new();
        for (number, slice) in &self.slices {
            let at = (number - first) / each;
            match blocks.last_mut() {
                Some((block, sum)) if *block == at => join(sum, of(slice)),
                _ => blocks.push((at, of(slice))),
            }
        }
        blocks.into_iter().map(|(_, block)| block).collect()
    }

    /// What `of` says of the blocks of clients, each put together from all its spans.
    fn by_client<T: Default>(
        &self,
        of: impl Fn(&'f PerGroup<GroupFigures>) -> T,
        mut join: impl FnMut(&mut T, T),
    ) -> BTreeMap<u8, T> {
        let mut blocks = BTreeMap::<u8, T>::new();
        for (clients, block) in &self.clients {
            join(blocks.entry(*clients).or_default(), of(block));
        }
        blocks
    }

    /// Requests of a group, and how many of them `hits` says.
    fn sum(&self, group: Group, hits: impl Fn(&GroupFigures) -> u64) -> Hits {
        self.slices.iter().map(|(_, slice)| slice.get(group)).fold(Hits::default(), |sum, figures| Hits {
            hits: sum.hits.saturating_add(hits(figures)),
            count: sum.count.saturating_add(figures.requests),
        })
    }

    /// How checks of these groups were answered.
    fn checks(&self, groups: &[Group], check: Check) -> CheckFigures {
        let mut sum = PerCheck::<CheckFigures>::default();
        for (_, slice) in &self.slices {
            for group in groups {
                sum.get_mut(check).add(slice.get(*group).checks.get(check));
            }
        }
        *sum.get(check)
    }
}

/// A result without what it says.
struct Blank {
    name: String,
    kind: &'static str,
}

/// What a value is held against.
#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn value(self) -> f64 {
        match self {
            Self::AtMost(limit) | Self::AtLeast(limit) => limit,
        }
    }

    fn is_kept(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    /// How far `value` is from failing, from 1 over 0 to -1.
    fn room(self, unit: Unit, value: f64) -> f64 {
        let (room, all) = match self {
            // A ratio of 1 is what there is without any effect.
            Self::AtMost(limit) if unit == Unit::Times => (limit - value, limit - 1.0),
            Self::AtMost(limit) => (limit - value, limit),
            Self::AtLeast(limit) => (value - limit, 1.0 - limit),
        };
        if all > 0.0 { (room / all).clamp(-1.0, 1.0) } else { f64::from(i8::from(room >= 0.0)) * 2.0 - 1.0 }
    }
}

impl Blank {
    /// A result with a measured value, not decided.
    fn result(&self, unit: Unit, measured: Option<f64>, limit: Limit, requests: u64) -> GateResult {
        GateResult {
            name: self.name.clone(),
            kind: self.kind.to_owned(),
            verdict: Verdict::Undecided,
            is_met: measured.is_some_and(|measured| limit.is_kept(measured)),
            unit,
            measured,
            limit: limit.value(),
            is_minimum: matches!(limit, Limit::AtLeast(_)),
            bounds: None,
            control: None,
            room: measured.map(|measured| limit.room(unit, measured)),
            requests,
            says: String::new(),
        }
    }
}

/// Decides by bounds: those of a test, which may fail it, and those of the gate's confidence.
fn decide(
    result: &mut GateResult,
    limit: Limit,
    bounds_at: impl Fn(f64) -> (f64, f64),
    (confidence, test): (f64, u32),
) {
    let risk = 1.0 - confidence;
    let tested = bounds_at(risk_of_test(risk, test));
    let usual = bounds_at(risk);
    result.bounds = Some(usual);
    let (fails, holds) = match limit {
        Limit::AtMost(limit) => (tested.0 > limit, usual.1 <= limit),
        Limit::AtLeast(limit) => (tested.1 < limit, usual.0 >= limit),
    };
    result.verdict = match (fails, holds) {
        (true, _) => Verdict::Fails,
        (false, true) => Verdict::Holds,
        (false, false) => Verdict::Undecided,
    };
    result.is_met &= !fails;
}

fn times_of(of: Times, figures: &GroupFigures) -> &Histogram {
    match of {
        Times::Gate => &figures.gate,
        Times::Total => &figures.total,
    }
}

fn absolute_latency(
    blank: &Blank,
    view: &View<'_>,
    (of, at): (Times, f64),
    us: u64,
    test: (f64, u32),
) -> GateResult {
    let limit = Limit::AtMost(us as f64);
    let times = view.times(|slice| times_of(of, &slice.treated).clone(), |sum, more| sum.merge(&more));
    let mut all = HistogramSum::default();
    times.iter().for_each(|times| all.add(times.as_bytes()));
    let measured = all.quantile(at).map(|us| us as f64);
    let mut result = blank.result(Unit::Microseconds, measured, limit, all.count());
    match quantile(&times.iter().collect::<Vec<_>>(), at) {
        Ok(estimate) => {
            result = blank.result(Unit::Microseconds, Some(estimate.value), limit, all.count());
            decide(&mut result, limit, |risk| estimate.bounds(risk), test);
        }
        Err(too_little) => {
            let missing = match too_little {
                TooLittle::Requests { has, needs } => format!("{has} requests, {needs} are needed"),
                TooLittle::Times { has } | TooLittle::Clients { has } => {
                    format!("requests in {has} slices of time, {MIN_BLOCKS} are needed")
                }
            };
            result.says = format!("{}: {missing}", measured_says(&result));
            result.is_met = false;
            return result;
        }
    }
    result.says = format!("{}{}", measured_says(&result), between(&result));
    result
}

fn relative_latency(
    blank: &Blank,
    view: &View<'_>,
    (of, at): (Times, f64),
    times: f64,
    (confidence, test): (f64, u32),
) -> GateResult {
    let limit = Limit::AtMost(times);
    let pair = |block: &PerGroup<GroupFigures>| Pair {
        control: times_of(of, &block.control).clone(),
        treated: times_of(of, &block.treated).clone(),
    };
    let join = |sum: &mut Pair<Histogram>, more: Pair<Histogram>| {
        sum.control.merge(&more.control);
        sum.treated.merge(&more.treated);
    };
    let slices = view.times(pair, join);
    let mut by_client = view.by_client(pair, join);
    let mut by_client_before: BTreeMap<u8, Pair<Histogram>> = view
        .before
        .map(|before| before.clients.iter().map(|(clients, block)| (*clients, pair(block))).collect())
        .unwrap_or_default();
    if view.before.is_some() {
        // Of clients that were there at one time only, nothing is what there was at the other.
        for clients in by_client.keys().chain(by_client_before.keys()).copied().collect::<BTreeSet<u8>>() {
            by_client.entry(clients).or_default();
            by_client_before.entry(clients).or_default();
        }
    }
    let [clients, clients_before] =
        [by_client, by_client_before].map(|by| by.into_values().collect::<Vec<_>>());
    let slices_before: Vec<_> =
        view.before.map(|before| before.slices.values().map(pair).collect()).unwrap_or_default();
    let requests = slices.iter().map(|pair| pair.control.count().saturating_add(pair.treated.count())).sum();
    let [slices, clients, slices_before, clients_before] =
        [&slices, &clients, &slices_before, &clients_before].map(|blocks| borrowed(blocks));
    let before = view.before.map(|_| BlockTimes { slices: &slices_before, clients: &clients_before });
    match quantile_ratio(BlockTimes { slices: &slices, clients: &clients }, before, at) {
        Ok(QuantileRatio { estimate, measured, before }) => {
            let mut result = blank.result(Unit::Times, Some(estimate.value), limit, requests);
            result.control = Some(measured.control);
            decide(&mut result, limit, |risk| estimate.bounds(risk), (confidence, test));
            let detectable = estimate.detectable(times, risk_of_test(1.0 - confidence, test));
            let since = before.map_or_else(String::new, |Before { ratio, taken_off }| {
                let (ratio, taken_off) = (value(Unit::Times, ratio), percent(taken_off));
                format!(" without what differed between them before ({ratio}, {taken_off} of it)")
            });
            result.says = format!(
                "{} to {} of the control group: {}{since}{}; with so many requests over {detectable:.2} x would be seen",
                milliseconds(measured.treated),
                milliseconds(measured.control),
                value(Unit::Times, estimate.value),
                between(&result),
            );
            result
        }
        Err(too_little) => too_little_says(blank.result(Unit::Times, None, limit, requests), too_little),
    }
}

fn borrowed(blocks: &[Pair<Histogram>]) -> Vec<Pair<&Histogram>> {
    blocks.iter().map(Pair::borrowed).collect()
}

fn too_little_says(result: GateResult, too_little: TooLittle) -> GateResult {
    GateResult { says: too_little.to_string(), is_met: false, ..result }
}

fn measured_says(result: &GateResult) -> String {
    result.measured.map_or_else(|| "nothing measured".to_owned(), |measured| value(result.unit, measured))
}

fn between(result: &GateResult) -> String {
    result.bounds.map_or_else(String::new, |(low, high)| {
        format!(" ({} to {})", value(result.unit, low), value(result.unit, high))
    })
}

fn share(blank: &Blank, hits: Hits, limit: Limit, test: (f64, u32)) -> GateResult {
    let measured = (hits.count > 0).then(|| hits.hits as f64 / hits.count as f64);
    let mut result = blank.result(Unit::Share, measured, limit, hits.count);
    if measured.is_none() {
        result.says = "no requests yet".to_owned();
        return result;
    }
    // The bounds are exact, so a failure may be sure with any number of requests.
    decide(&mut result, limit, |risk| share_bounds(hits.hits, hits.count, risk), test);
    result.says = format!("{}, {} of {}{}", measured_says(&result), hits.hits, hits.count, between(&result));
    if hits.count < MIN_REQUESTS {
        result.is_met = false;
        if result.verdict == Verdict::Holds {
            result.verdict = Verdict::Undecided;
        }
        result.says.push_str(&format!("; {MIN_REQUESTS} are needed"));
    }
    result
}

fn share_limit(
    blank: &Blank,
    view: &View<'_>,
    hits: impl Fn(&GroupFigures) -> u64 + Copy,
    limit: &ShareLimit,
    test: u32,
) -> GateResult {
    match limit {
        ShareLimit::AtMost { share: limit, confidence } => {
            let limit = Limit::AtMost(*limit);
            share(blank, view.sum(Group::Treated, hits), limit, (*confidence, test))
        }
        ShareLimit::OverControl { by, confidence } => {
            let limit = Limit::AtMost(*by);
            let pair = |block: &PerGroup<GroupFigures>| {
                let of = |figures: &GroupFigures| Hits { hits: hits(figures), count: figures.requests };
                Pair { control: of(&block.control), treated: of(&block.treated) }
            };
            let join = |sum: &mut Pair<Hits>, more: Pair<Hits>| *sum = sum.plus(more);
            let times = view.times(pair, join);
            let clients: Vec<_> = view.by_client(pair, join).into_values().collect();
            let requests =
                times.iter().map(|pair| pair.control.count.saturating_add(pair.treated.count)).sum();
            match share_difference(&times, &clients) {
                Ok(estimate) => over_control(blank, view, hits, estimate, limit, (*confidence, test)),
                Err(too_little) => {
                    too_little_says(blank.result(Unit::Share, None, limit, requests), too_little)
                }
            }
        }
    }
}

fn over_control(
    blank: &Blank,
    view: &View<'_>,
    hits: impl Fn(&GroupFigures) -> u64 + Copy,
    estimate: Estimate,
    limit: Limit,
    (confidence, test): (f64, u32),
) -> GateResult {
    let [control, treated] = Group::ALL.map(|group| view.sum(group, hits));
    let requests = control.count.saturating_add(treated.count);
    let mut result = blank.result(Unit::Share, Some(estimate.value), limit, requests);
    result.control = Some(control.hits as f64 / (control.count as f64).max(1.0));
    decide(&mut result, limit, |risk| estimate.bounds(risk), (confidence, test));
    let risk = risk_of_test(1.0 - confidence, test);
    let detectable = detectable_difference(&estimate, Pair { control, treated }, limit.value(), risk);
    result.says = format!(
        "{} of {} to {} of {} in the control group: {} over it{}; with so many requests over {} would be seen",
        treated.hits,
        treated.count,
        control.hits,
        control.count,
        percent(estimate.value),
        between(&result),
        percent(detectable),
    );
    result
}

fn mismatch_count(blank: &Blank, view: &View<'_>, most: u64, compared_at_least: u64) -> GateResult {
    let sum = compared(view);
    let mut result =
        blank.result(Unit::Count, Some(sum.mismatched as f64), Limit::AtMost(most as f64), sum.compared);
    result.verdict = if sum.mismatched > most { Verdict::Fails } else { Verdict::Holds };
    with_mismatches(result, view, compared_at_least)
}

fn mismatch_share(
    blank: &Blank,
    view: &View<'_>,
    most: f64,
    compared_at_least: u64,
    test: u32,
) -> GateResult {
    let sum = compared(view);
    let hits = Hits { hits: sum.mismatched, count: sum.compared };
    let result = share(blank, hits, Limit::AtMost(most), (CONFIDENCE, test));
    with_mismatches(result, view, compared_at_least.max(MIN_REQUESTS))
}

fn compared(view: &View<'_>) -> CheckFigures {
    let mut sum = CheckFigures::default();
    Check::ALL.into_iter().for_each(|check| sum.add(&view.checks(&Group::ALL, check)));
    sum
}

/// Says which checks differ, and whether enough were compared.
fn with_mismatches(mut result: GateResult, view: &View<'_>, compared_at_least: u64) -> GateResult {
    let sum = compared(view);
    let by_check: Vec<String> = Check::ALL
        .into_iter()
        .map(|check| (check, view.checks(&Group::ALL, check).mismatched))
        .filter(|(_, mismatched)| *mismatched > 0)
        .map(|(check, mismatched)| format!("{mismatched} of {}", check.name()))
        .collect();
    result.says = format!("{} of {} compared checks differ", sum.mismatched, sum.compared);
    if !by_check.is_empty() {
        result.says.push_str(&format!(" ({})", by_check.join(", ")));
    }
    if sum.compared < compared_at_least && result.verdict != Verdict::Fails {
        result.verdict = Verdict::Undecided;
        result.is_met = false;
        result.says.push_str(&format!("; {compared_at_least} must be compared"));
    }
    result
}

fn hit_ratio(blank: &Blank, view: &View<'_>, check: Check, at_least: f64, test: u32) -> GateResult {
    let checks = view.checks(&[Group::Treated], check);
    let hits = Hits { hits: checks.cached, count: checks.answers() };
    let mut result = share(blank, hits, Limit::AtLeast(at_least), (CONFIDENCE, test));
    if hits.count > 0 {
        let others = format!(
            "; {} asked, {} from the tables as the service did not answer, {} not answered",
            checks.direct, checks.fallback, checks.unavailable
        );
        result.says.push_str(&others);
    }
    result
}

fn count(blank: &Blank, seen: u64, at_most: u64, what: &str) -> GateResult {
    let mut result = blank.result(Unit::Count, Some(seen as f64), Limit::AtMost(at_most as f64), 0);
    result.verdict = if seen > at_most { Verdict::Fails } else { Verdict::Holds };
    result.says = format!("{seen} {what}");
    result
}

/// What the service sees at the moment.
fn seen(blank: &Blank, condition: &Condition, observed: &Observed) -> GateResult {
    match condition {
        Condition::Completeness { at_least } => completeness(blank, *at_least, observed),
        Condition::QueueDepth { at_most } => count(blank, observed.queue_depth, *at_most, "events wait"),
        Condition::Health { gateways, recorder, tables_age_at_most_ms } => {
            health(blank, (*gateways, *recorder, *tables_age_at_most_ms), observed)
        }
        _ => blank.result(Unit::Count, None, Limit::AtMost(0.0), 0),
    }
}

fn completeness(blank: &Blank, at_least: f64, observed: &Observed) -> GateResult {
    let limit = Limit::AtLeast(at_least);
    let Some(completeness) = observed.completeness else {
        let result = blank.result(Unit::Share, None, limit, 0);
        return GateResult { says: "no event was numbered yet".to_owned(), ..result };
    };
    let mut result = blank.result(Unit::Share, Some(completeness.ratio), limit, 0);
    result.verdict = if limit.is_kept(completeness.ratio) { Verdict::Holds } else { Verdict::Fails };
    let kind = if completeness.exact {
        ""
    } else {
        " at most: some gateways ended without saying how many there were"
    };
    result.says = format!("{} of the events are stored{kind}", percent(completeness.ratio));
    result
}

fn health(
    blank: &Blank,
    (gateways, recorder, age_ms): (bool, bool, Option<u64>),
    observed: &Observed,
) -> GateResult {
    let mut wrong = Vec::new();
    if gateways {
        if observed.gateways == 0 {
            wrong.push("no gateway is there".to_owned());
        }
        if observed.lost > 0 {
            wrong.push(format!("{} gateways are lost", observed.lost));
        }
        if observed.lagging > 0 {
            wrong.push(format!("{} gateways lag", observed.lagging));
        }
    }
    if recorder && observed.recorder_absent {
        wrong.push("a gateway has no recorder".to_owned());
    }
    if let (Some(most), Some(age)) = (age_ms, observed.oldest_tables_ms)
        && age > most
    {
        wrong.push(format!("a gateway's tables are {} old", span(age)));
    }
    let mut result = blank.result(Unit::Count, Some(wrong.len() as f64), Limit::AtMost(0.0), 0);
    result.verdict = if wrong.is_empty() { Verdict::Holds } else { Verdict::Fails };
    result.says = if wrong.is_empty() { "well".to_owned() } else { wrong.join(", ") };
    // Without a gateway nobody knows of recorders and tables.
    if wrong.is_empty() && (observed.gateways == 0 || age_ms.is_some() && observed.oldest_tables_ms.is_none())
    {
        (result.verdict, result.is_met) = (Verdict::Undecided, false);
        result.says = "no gateway is there to look at".to_owned();
    }
    result
}

/// What is bad fails its gate only after [`GRACE_MS`].
fn with_grace(mut result: GateResult, bad_ms: u64) -> GateResult {
    if result.verdict == Verdict::Fails {
        if bad_ms < GRACE_MS {
            result.verdict = Verdict::Undecided;
            result.says.push_str(&format!("; fails if it stays so for {}", span(GRACE_MS)));
        } else {
            result.says.push_str(&format!(", for {}", span(bad_ms)));
        }
    }
    result
}
