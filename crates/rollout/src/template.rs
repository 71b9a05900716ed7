//! Plans that Tidegate has.

use serde_json::{Value, json};

use crate::plan::span;

/// The names of the plans that there are.
pub const TEMPLATES: [&str; 1] = ["guide"];
/// The highest speed.
pub const MAX_SPEED: u32 = 1_000_000;

const DAY_MS: u64 = 86_400_000;
/// A shorter hold has too few slices of time to compare anything.
const MIN_HOLD_MS: u64 = 2_000;
/// How long a stage may wait for data after its hold, at least, milliseconds.
const MIN_WAIT_MS: u64 = 300_000;
const DESCRIPTION: &str = "The phases of the rollout, in their order: first each is proven in shadow and on a tenth of the \
    clients, then each goes to half and to all. A day for each stage.";

/// The plan of docs/ROLLOUT.md as a document. `speed`, 1 to [`MAX_SPEED`], divides all times and numbers of requests, for
/// trying it out; what a comparison needs to say anything stays.
#[must_use]
pub fn guide(speed: u32) -> Value {
    let pace = Pace { speed: u64::from(speed.clamp(1, MAX_SPEED)) };
    let mut stages = vec![pace.baseline()];
    for phase in &PHASES {
        stages.extend(phase.shadow.map(|flag| pace.shadow(phase, flag)));
        stages.extend(phase.alone.iter().map(|alone| pace.share(alone, 10)));
    }
    for phase in &PHASES {
        stages.push(pace.share(&phase.together, 50));
        stages.push(pace.on(&phase.together));
    }
    json!({"name": "guide", "description": DESCRIPTION, "on_failure": "rollback", "stages": stages})
}

/// A phase of the guide.
struct Phase {
    together: FlagSet,
    /// Each of its flags at first: each chooses its clients by itself, so a tenth of them for two flags would leave a
    /// hundredth that has both.
    alone: &'static [FlagSet],
    /// The flag that has a shadow.
    shadow: Option<&'static str>,
}

/// Flags that are set together.
#[derive(Clone, Copy)]
struct FlagSet {
    name: &'static str,
    flags: &'static [&'static str],
    /// The check that they answer, and what share of the answers must come from the cache.
    hits: Option<(&'static str, f64)>,
}

const ROUTES: FlagSet =
    FlagSet { name: "1 routes", flags: &["enableRouteCache"], hits: Some(("route", 0.95)) };
const BANS: FlagSet = FlagSet { name: "2 bans", flags: &["enableIpBlacklistCache"], hits: Some(("ip", 0.9)) };
const GEO_RULES: FlagSet =
    FlagSet { name: "3 geo rules", flags: &["enableGeoRulesCache"], hits: Some(("geo", 0.9)) };
const IN_PARALLEL: FlagSet =
    FlagSet { name: "3 in parallel", flags: &["enableParallelExecution"], hits: None };
const BOTH: FlagSet = FlagSet {
    name: "3 geo rules, in parallel",
    flags: &["enableGeoRulesCache", "enableParallelExecution"],
    hits: GEO_RULES.hits,
};
const RECORDING: FlagSet = FlagSet { name: "4 recording", flags: &["enableAsyncRecording"], hits: None };

const PHASES: [Phase; 4] = [
    Phase { together: ROUTES, alone: &[ROUTES], shadow: Some("enableRouteCache") },
    Phase { together: BANS, alone: &[BANS], shadow: Some("enableIpBlacklistCache") },
    Phase { together: BOTH, alone: &[GEO_RULES, IN_PARALLEL], shadow: Some("enableGeoRulesCache") },
    Phase { together: RECORDING, alone: &[RECORDING], shadow: None },
];

/// Requests of a stage, at least, for a comparison of the 99th percentile: 1,000 in each group.
const LEAST_FOR_P99: u64 = 2_000;
/// A window in which a gate's 50 requests come even where there are few.
const LEAST_WINDOW_MS: u64 = 10_000;

/// How fast the plan is.
struct Pace {
    speed: u64,
}

impl Pace {
    fn hold_ms(&self) -> u64 {
        (DAY_MS / self.speed).max(MIN_HOLD_MS)
    }

    /// A number of requests, divided.
    fn requests(&self, at_normal_speed: u64, least: u64) -> u64 {
        (at_normal_speed / self.speed).max(least)
    }

    fn stage(&self, name: String, flags: Value, gates: Vec<Value>) -> Value {
        let hold_ms = self.hold_ms();
        let timeout_ms = (3 * hold_ms).max(hold_ms + MIN_WAIT_MS);
        json!({
            "name": name, "flags": flags, "hold": span(hold_ms), "timeout": span(timeout_ms),
            "min_requests": self.requests(10_000, 100), "gates": gates,
        })
    }

    /// What is measured before anything is on: everything is asked, and each response waits for its event.
    fn baseline(&self) -> Value {
        let flags = json!({
            "enableRouteCache": false, "enableIpBlacklistCache": false, "enableGeoRulesCache": false,
            "enableParallelExecution": false, "enableAsyncRecording": false,
        });
        self.stage("0 baseline".to_owned(), flags, self.always())
    }

    fn shadow(&self, phase: &Phase, flag: &str) -> Value {
        let mut gates = self.always();
        let compared = self.requests(1_000, 50);
        gates.push(json!({"mismatches": {"at_most": 0, "compared_at_least": compared}}));
        self.stage(format!("{}: shadow", phase.together.name), states(&[flag], &json!("shadow")), gates)
    }

    fn share(&self, of: &FlagSet, percent: u8) -> Value {
        let times = if percent < 50 { 1.15 } else { 1.1 };
        let mut gates = self.always();
        gates.extend(criteria(of));
        gates.push(json!({"latency": {"of": "total", "percentile": 95, "at_most_times_control": times}}));
        // Of a tenth of the clients, or in a plan for trying, it takes long to have as many as the 99th percentile needs.
        if percent >= 50 && self.requests(10_000, 100) >= LEAST_FOR_P99 {
            gates.push(json!({"latency": {"of": "total", "percentile": 99, "at_most_times_control": 1.25}}));
        }
        gates.push(json!({"server_errors": {"over_control_at_most": 0.005}}));
        gates.push(json!({"denials": {"over_control_at_most": 0.01}}));
        let flags = states(of.flags, &json!({"percent": percent}));
        self.stage(format!("{}: {percent} percent", of.name), flags, gates)
    }

    fn on(&self, of: &FlagSet) -> Value {
        let mut gates = self.always();
        gates.extend(criteria(of));
        self.stage(format!("{}: all", of.name), states(of.flags, &json!(true)), gates)
    }

    /// What must hold in every stage.
    fn always(&self) -> Vec<Value> {
        let hour_ms = (self.hold_ms() / 24).max(LEAST_WINDOW_MS.min(self.hold_ms()));
        vec![
            json!({"success": {"at_least": 0.999}}),
            json!({"success": {"at_least": 0.999}, "window": span(hour_ms)}),
            json!({"completeness": {"at_least": 0.995}}),
            json!({"dropped": {"at_most": 0}}),
            json!({"health": {"gateways": true, "recorder": true}}),
        ]
    }
}

/// The flags' own criteria.
fn criteria(of: &FlagSet) -> Vec<Value> {
    let mut gates = vec![json!({"latency": {"of": "total", "percentile": 95, "at_most": "130ms"}})];
    if let Some((check, at_least)) = of.hits {
        gates.push(json!({"hit_ratio": {"check": check, "at_least": at_least}}));
    }
    gates
}

fn states(flags: &[&str], state: &Value) -> Value {
    flags.iter().map(|flag| ((*flag).to_owned(), state.clone())).collect::<serde_json::Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use tidegate_policy::flags::{Flag, FlagState, Flags};

    #[test]
    fn the_guide_is_a_valid_plan_from_all_off_to_all_on_at_every_speed() {
        for speed in [0, 1, 2, 24, 1_000, 10_000, MAX_SPEED, u32::MAX] {
            let document = guide(speed);
            let plan = Plan::read("guide", &document).unwrap_or_else(|errors| panic!("{speed}: {errors:?}"));
            let end = plan.stages.iter().fold(Flags::default(), |flags, stage| stage.applied_to(&flags));
            assert_eq!(end, Flags::all_on(), "{speed}");
        }
    }

    #[test]
    fn the_guide_has_its_phases_in_their_order_with_their_criteria() {
        let plan = Plan::read("guide", &guide(1)).unwrap();
        let names: Vec<_> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "0 baseline",
                "1 routes: shadow",
                "1 routes: 10 percent",
                "2 bans: shadow",
                "2 bans: 10 percent",
                "3 geo rules, in parallel: shadow",
                "3 geo rules: 10 percent",
                "3 in parallel: 10 percent",
                "4 recording: 10 percent",
                "1 routes: 50 percent",
                "1 routes: all",
                "2 bans: 50 percent",
                "2 bans: all",
                "3 geo rules, in parallel: 50 percent",
                "3 geo rules, in parallel: all",
                "4 recording: 50 percent",
                "4 recording: all",
            ]
        );
        assert!(plan.stages.iter().all(|stage| stage.hold_ms == DAY_MS && stage.min_requests == 10_000));
        let gates =
            |stage: usize| plan.stages[stage].gates.iter().map(crate::gates::name).collect::<Vec<_>>();
        for (stage, criterion) in [
            (1, "mismatches at most 0"),
            (10, "total P95 at most 130ms"),
            (10, "success at least 99.9 %"),
            (0, "completeness at least 99.5 %"),
            (10, "hit ratio of route at least 95 %"),
            (12, "hit ratio of ip at least 90 %"),
            (14, "hit ratio of geo at least 90 %"),
        ] {
            assert!(
                gates(stage).iter().any(|gate| gate == criterion),
                "{criterion} not in {:?}",
                gates(stage)
            );
        }
        let fast = Plan::read("guide", &guide(10_000)).unwrap();
        assert!(fast.stages.iter().all(|stage| stage.hold_ms == 8_640 && stage.min_requests == 100));
        assert_eq!(fast.stages[2].flags, [(Flag::RouteCache, FlagState::Share(10))]);
    }
}
