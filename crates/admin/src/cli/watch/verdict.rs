//! Whether a watch saw a stable service: by which figure not, and since when.

use serde::Serialize;

use super::Targets;
use super::figures::{Figure, Measured, measured};
use super::look::{Look, counted};

/// What a watch comes to.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict {
    /// Whether every figure met its target at every look that could measure it, and requests were among what was
    /// measured.
    pub stable: bool,
    /// The first look.
    pub from: Option<String>,
    /// The last look.
    pub to: Option<String>,
    /// Looks that were taken.
    pub looks: usize,
    /// Of these, those that the service did not answer.
    pub failed: usize,
    /// Looks that were due while nobody watched. What happened meanwhile is in the next look's figures.
    pub not_taken: usize,
    /// Each figure.
    pub figures: Vec<FigureVerdict>,
    /// Why it was not stable, a sentence for each figure.
    pub because: Vec<String>,
}

/// What all looks say of one figure.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FigureVerdict {
    pub figure: Figure,
    /// Its target.
    pub target: String,
    /// Looks that could measure it.
    pub measured: usize,
    /// Of these, those at which it met its target.
    pub met: usize,
    /// The worst that it was; of what is no number, the first that missed.
    pub worst: Option<String>,
    /// When that was.
    pub worst_at: Option<String>,
    /// The look from which on it missed its target: the beginning of the last such time. `null`: it always met it.
    pub missed_since: Option<String>,
    /// The last look of that time; `null`: it lasted to the end.
    pub missed_until: Option<String>,
}

impl Verdict {
    /// Of these looks, out of so many that were due.
    pub fn of(looks: &[Look], due: usize, targets: &Targets) -> Self {
        let seen: Vec<(&str, Vec<Measured>)> = looks
            .iter()
            .enumerate()
            .map(|(at, look)| (look.at.as_str(), measured(look, counted(&looks[..at]), targets)))
            .collect();
        let figures = Figure::ALL.map(|figure| FigureVerdict::of(figure, &seen, targets));
        let mut because: Vec<String> = figures.iter().filter_map(FigureVerdict::sentence).collect();
        if !figures.iter().any(|one| one.figure.is_of_requests() && one.measured > 0) {
            because.push(
                "nothing was measured: no request was recorded, and no probe (--probe) was answered"
                    .to_owned(),
            );
        }
        Self {
            stable: because.is_empty(),
            from: looks.first().map(|look| look.at.clone()),
            to: looks.last().map(|look| look.at.clone()),
            looks: looks.len(),
            failed: looks.iter().filter(|look| look.failed.is_some()).count(),
            not_taken: due.saturating_sub(looks.len()),
            figures: figures.into(),
            because,
        }
    }
}

impl FigureVerdict {
    fn of(figure: Figure, seen: &[(&str, Vec<Measured>)], targets: &Targets) -> Self {
        let target = figure.target(targets);
        let of_it =
            seen.iter().filter_map(|(at, all)| Some((*at, all.iter().find(|one| one.figure == figure)?)));
        let of_it: Vec<(&str, &Measured)> = of_it.collect();
        let worst = of_it.iter().copied().reduce(|worst, one| {
            let is_worse = match (target, worst.1.number, one.1.number) {
                (Some(target), Some(worst), Some(one)) => one != worst && target.worse(worst, one) == one,
                _ => worst.1.met && !one.1.met,
            };
            if is_worse { one } else { worst }
        });
        let last_missed = of_it.iter().rposition(|(_, one)| !one.met);
        let first_missed = last_missed
            .map(|last| of_it[..last].iter().rposition(|(_, one)| one.met).map_or(0, |met| met + 1));
        let at = |index: usize| of_it.get(index).map(|(at, _)| (*at).to_owned());
        Self {
            figure,
            target: target.map_or_else(
                || if figure == Figure::Service { "answers" } else { "ok" }.to_owned(),
                |it| it.to_string(),
            ),
            measured: of_it.len(),
            met: of_it.iter().filter(|(_, one)| one.met).count(),
            worst: worst.map(|(_, one)| one.shown.clone()),
            worst_at: worst.map(|(at, _)| at.to_owned()),
            missed_since: first_missed.and_then(at),
            missed_until: last_missed.filter(|last| last + 1 < of_it.len()).and_then(at),
        }
    }

    /// Why the figure makes the verdict; `None`: it does not.
    fn sentence(&self) -> Option<String> {
        let since = self.missed_since.as_ref()?;
        let until = match &self.missed_until {
            Some(until) if until == since => format!("at {since}"),
            Some(until) => format!("last from {since} to {until}"),
            None => format!("since {since}, to the end"),
        };
        let (times, looks) = (self.measured - self.met, self.measured);
        let (name, target) = (self.figure.name(), &self.target);
        let worst = self.worst.as_deref().unwrap_or("-");
        let worst_at = self.worst_at.as_deref().unwrap_or("-");
        Some(format!(
            "{name} missed its target ({target}) at {times} of {looks} looks, {until}; worst at {worst_at}: {worst}"
        ))
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::super::look::{HealthSeen, Probe, Recording, Traffic};
    use super::*;
    use crate::cli::targets::{GatewayTargets, RequestTargets};

    pub fn guide() -> Targets {
        Targets {
            requests: RequestTargets { p50: 90.0, p95: 130.0, p99: 180.0, success: 99.9 },
            gateways: GatewayTargets { completeness: 99.5, route_hits: 95.0, ip_hits: 90.0 },
        }
    }

    /// A look at which all is well, with this P95.
    pub fn look(number: i64, p95_ms: f64) -> Look {
        let traffic = Traffic {
            requests: 1_000,
            p50_ms: Some(1.0),
            p95_ms: Some(p95_ms),
            p99_ms: Some(100.0),
            ..Traffic::default()
        };
        let counts = 1_000 * u64::try_from(number + 1).unwrap();
        Look {
            number,
            at: format!("2026-11-30T{number:02}:00:00Z"),
            health: Some(HealthSeen { status: "ok".to_owned(), ..HealthSeen::default() }),
            traffic: Some(traffic),
            recording: Some(Recording { numbered: counts, stored: counts, ..Recording::default() }),
            ..Look::default()
        }
    }

    fn away(number: i64) -> Look {
        Look {
            failed: Some("nobody answers".to_owned()),
            at: look(number, 1.0).at,
            number,
            ..Look::default()
        }
    }

    fn of(looks: &[Look]) -> Verdict {
        Verdict::of(looks, looks.len(), &guide())
    }

    fn figure(verdict: &Verdict, figure: Figure) -> &FigureVerdict {
        verdict.figures.iter().find(|one| one.figure == figure).unwrap()
    }

    #[test]
    fn a_service_is_stable_if_every_figure_held_at_every_look() {
        let looks: Vec<Look> = (0..5).map(|number| look(number, 10.0)).collect();
        let verdict = Verdict::of(&looks, 7, &guide());
        assert!(verdict.stable && verdict.because.is_empty(), "{verdict:?}");
        assert_eq!((verdict.looks, verdict.failed, verdict.not_taken), (5, 0, 2));
        let completeness = figure(&verdict, Figure::Completeness);
        assert_eq!(
            (completeness.measured, completeness.met),
            (4, 4),
            "it is of what comes between two looks"
        );
        assert_eq!(figure(&verdict, Figure::RouteHits).measured, 0, "the flag is off");
    }

    #[test]
    fn the_verdict_says_by_which_figure_and_since_when() {
        let p95 = [10.0, 140.0, 10.0, 150.0, 135.0];
        let looks: Vec<Look> = (0..).zip(p95).map(|(number, ms)| look(number, ms)).collect();
        let verdict = of(&looks);
        let not = figure(&verdict, Figure::P95);
        assert_eq!((not.met, not.worst.as_deref()), (2, Some("150.000 ms")));
        assert_eq!((&not.missed_since, &not.missed_until), (&Some(looks[3].at.clone()), &None));
        let [because] = &verdict.because[..] else { panic!("{verdict:?}") };
        assert!(
            because.contains("(< 130 ms) at 3 of 5 looks, since 2026-11-30T03:00:00Z, to the end"),
            "{because}"
        );
        let over = of(&[&looks[..], &[look(5, 10.0)]].concat());
        assert!(
            over.because[0].contains("last from 2026-11-30T03:00:00Z to 2026-11-30T04:00:00Z"),
            "{over:?}"
        );
        let once = of(&looks[..3]);
        assert!(once.because[0].contains("looks, at 2026-11-30T01:00:00Z;"), "{once:?}");
    }

    #[test]
    fn a_service_that_is_away_is_a_look_that_failed() {
        let verdict = of(&[look(0, 1.0), away(1), look(2, 1.0)]);
        assert_eq!((verdict.stable, verdict.failed), (false, 1));
        assert!(
            verdict.because[0].starts_with("service missed")
                && verdict.because[0].ends_with("nobody answers")
        );
        assert_eq!(
            figure(&verdict, Figure::Completeness).measured,
            1,
            "of what came between the looks around it"
        );
    }

    #[test]
    fn what_saw_no_request_says_nothing() {
        let idle = |number| Look { traffic: Some(Traffic::default()), ..look(number, 1.0) };
        let verdict = of(&[idle(0), idle(1)]);
        assert!(!verdict.stable && verdict.because[0].contains("nothing was measured"), "{verdict:?}");
        let probe = Probe { requests: 5, successes: 5, p50_ms: Some(1.0), ..Probe::default() };
        let probed = of(&[Look { probe: Some(probe.clone()), ..idle(0) }]);
        assert!(probed.stable, "{probed:?}");
        let failing = Probe { successes: 4, failed: Some("1 times 503".to_owned()), ..probe };
        let failing = of(&[Look { probe: Some(failing), ..idle(0) }]);
        assert!(failing.because[0].contains("80.000 % (1 times 503)"), "{failing:?}");
        assert!(!of(&[]).stable);
    }

    #[test]
    fn hits_count_while_their_flag_is_on() {
        use super::super::look::Checked;
        let with = |number: i64, on: bool, cache: u64| {
            let mut look = look(number, 1.0);
            look.flags.insert("enableRouteCache".to_owned(), on.into());
            let asked = 1_000 * u64::try_from(number).unwrap();
            look.recording.as_mut().unwrap().checks.insert("route".to_owned(), Checked { asked, cache });
            look
        };
        let verdict = of(&[with(0, false, 0), with(1, true, 0), with(2, true, 990), with(3, true, 1_890)]);
        let hits = figure(&verdict, Figure::RouteHits);
        assert_eq!((hits.measured, hits.met, hits.worst.as_deref()), (2, 1, Some("90.000 %")), "{verdict:?}");
    }

    proptest! {
        /// Not stable exactly if one of the looks is not well, and the sentence names the look at which that last began.
        #[test]
        fn one_bad_look_is_enough(well in prop::collection::vec(any::<bool>(), 1..24)) {
            let looks: Vec<Look> =
                (0..).zip(&well).map(|(number, well)| look(number, if *well { 1.0 } else { 500.0 })).collect();
            let verdict = of(&looks);
            prop_assert_eq!(verdict.stable, well.iter().all(|well| *well));
            let p95 = figure(&verdict, Figure::P95);
            prop_assert_eq!(p95.met, well.iter().filter(|well| **well).count());
            match well.iter().rposition(|well| !well) {
                None => prop_assert_eq!((&p95.missed_since, &p95.missed_until), (&None, &None)),
                Some(last) => {
                    let first = well[..last].iter().rposition(|well| *well).map_or(0, |met| met + 1);
                    prop_assert_eq!(p95.missed_since.as_ref(), Some(&looks[first].at));
                    let until = (last + 1 < well.len()).then(|| looks[last].at.clone());
                    prop_assert_eq!(&p95.missed_until, &until);
                }
            }
        }
    }
}
