//! Runs as they are stored: what can be read of one that was written by another version or is damaged, what people set
//! beside it, and what a backup has of one.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tidegate_author::{read_flag, write_state};
use tidegate_policy::flags::{Flag, FlagState, Flags};

use super::step::Change;
use super::{Cause, Current, Decision, Now, Phase, RUN_VERSION, Reason, Run, SetByHand, Step};
use crate::plan::{OnFailure, Plan};

/// The field of a stored run with the flags that people have set.
const SET_BY_HAND: &str = "set_by_hand";

/// Reads the stored run of the rollout `name`. What cannot be read is a run too, of what is known of it: one that goes on is
/// paused, and can be aborted, which sets the flags back as far as it is known what they were.
///
/// `is_active`: whether the database says that it goes on. `revision`: its number, if that is not known.
#[must_use]
pub fn read_stored(name: &str, state: &str, is_active: bool, revision: u64) -> Run {
    read(state, is_active).unwrap_or_else(|why| {
        let known: Value = serde_json::from_str(state).unwrap_or_default();
        what_is_known(name, &known, is_active, revision, &why)
    })
}

fn read(state: &str, is_active: bool) -> Result<Run, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let told = |error: serde_json::Error| error.to_string();
    let Versioned { version } = serde_json::from_str(state).map_err(told)?;
    if version != RUN_VERSION {
        return Err(format!("it is of version {version}, and this program reads version {RUN_VERSION}"));
    }
    let run: Run = serde_json::from_str(state).map_err(told)?;
    match run.phase.is_active() == is_active {
        true => Ok(run),
        false => Err(format!(
            "it says that it is {}, and the database that it {}",
            run.phase.name(),
            if is_active { "goes on" } else { "has ended" }
        )),
    }
}

/// A run of what is known of it.
fn what_is_known(name: &str, known: &Value, is_active: bool, revision: u64, why: &str) -> Run {
    let before = flags_before(known);
    let flags_before =
        before.iter().fold(Flags::default(), |flags, (flag, state)| flags.with(*flag, state.clone()));
    let plan = plan_of_flags(name, known, &before);
    let says = match plan.flags().is_empty() {
        true => format!(
            "what the database has of this run cannot be read ({why}), nor what flags were before it: an abort ends it and leaves them as they are"
        ),
        false => format!(
            "what the database has of this run cannot be read ({why}): an abort ends it and sets the flags back"
        ),
    };
    let ended = || field::<Phase>(known, "phase").filter(|phase| !phase.is_active());
    let phase = match is_active {
        true => Phase::Paused { by: None, reason: Reason { cause: Cause::Unreadable, says } },
        false => ended().unwrap_or_else(|| Phase::Aborted { by: "somebody".to_owned() }),
    };
    Run {
        version: RUN_VERSION,
        number: field(known, "number").unwrap_or(revision),
        plan,
        started_by: field(known, "started_by").unwrap_or_default(),
        began_ms: field(known, "began_ms").unwrap_or_default(),
        ended_ms: field(known, "ended_ms"),
        phase,
        stage: 0,
        flags_before_stage: flags_before.clone(),
        expected_flags: flags_before.clone(),
        flags_before,
        set_by_hand: members(known, SET_BY_HAND),
        current: Current::default(),
        history: members(known, "history"),
        notes: members(known, "notes"),
    }
}

/// Flags of which it is known what they were before the run.
fn flags_before(known: &Value) -> Vec<(Flag, FlagState)> {
    let state =
        |flag: Flag| Some((flag, read_flag(flag, known.get("flags_before")?.get(flag.name())?).ok()?));
    Flag::ALL.into_iter().filter_map(state).collect()
}

/// A plan of one stage, with those flags of the run's that are known from before; nobody goes by it.
fn plan_of_flags(name: &str, known: &Value, before: &[(Flag, FlagState)]) -> Plan {
    let plan = known.get("plan").cloned().unwrap_or_default();
    let stages = plan.get("stages").and_then(Value::as_array).into_iter().flatten();
    let set: Vec<&Value> = stages.filter_map(|stage| stage.get("flags")).collect();
    let is_set = |flag: Flag| set.iter().any(|flags| flags.get(flag.name()).is_some());
    let flags = before.iter().filter(|(flag, _)| is_set(*flag));
    let flags: Map<String, Value> =
        flags.map(|(flag, state)| (flag.name().to_owned(), write_state(state))).collect();
    let mut document = json!({"name": name, "stages": [{"name": "unknown", "flags": flags, "hold": "0ms"}]});
    let without_webhooks = document.clone();
    if let (Some(fields), Some(webhooks)) = (document.as_object_mut(), plan.get("webhooks")) {
        fields.insert("webhooks".to_owned(), webhooks.clone());
    }
    let read =
        [document, without_webhooks].into_iter().find_map(|document| serde_json::from_value(document).ok());
    read.unwrap_or_else(|| Plan {
        name: name.to_owned(),
        description: String::new(),
        on_failure: OnFailure::default(),
        webhooks: Vec::new(),
        stages: Vec::new(),
    })
}

fn field<T: DeserializeOwned>(known: &Value, name: &str) -> Option<T> {
    known.get(name).and_then(|value| serde_json::from_value(value.clone()).ok())
}

/// The members of a list that can be read.
fn members<T: DeserializeOwned>(known: &Value, name: &str) -> Vec<T> {
    let list = known.get(name).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|value| serde_json::from_value(value.clone()).ok()).collect()
}

/// The stored run with flags that `by` sets beside it, whether or not that changes any; `None`: it is no JSON object.
#[must_use]
pub fn note_set_by_hand(state: &str, by: &str, flags: &[&str]) -> Option<String> {
    let mut state: Map<String, Value> = serde_json::from_str(state).ok()?;
    let before: Vec<SetByHand> =
        state.get(SET_BY_HAND).and_then(|list| serde_json::from_value(list.clone()).ok()).unwrap_or_default();
    // Who has set one last is named for it.
    let mut all: Vec<SetByHand> = before
        .into_iter()
        .map(|set| SetByHand {
            flags: set.flags.into_iter().filter(|flag| !flags.contains(&flag.as_str())).collect(),
            ..set
        })
        .filter(|set| !set.flags.is_empty())
        .collect();
    let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    all.push(SetByHand { by: Some(by.to_owned()), flags });
    state.insert(SET_BY_HAND.to_owned(), serde_json::to_value(all).ok()?);
    serde_json::to_string(&state).ok()
}

/// What becomes of a run in a database that is put back from a backup: nobody knows what has happened since, or whether this
/// is the database of the same gateways, so it waits for a person. `None`: it does not go on anyway.
#[must_use]
pub fn restored(run: &Run, now_ms: u64) -> Option<Step> {
    if !matches!(run.phase, Phase::Running | Phase::WaitingForApproval) {
        return None;
    }
    let now = Now { ms: now_ms, flags: run.expected_flags.clone() };
    let mut change = Change::of(run, &now);
    let says = "the database was put back from a backup that was taken while this ran".to_owned();
    change.record(Decision::Paused, &says, None, None);
    change.pause(None, Reason { cause: Cause::Restored, says });
    Some(change.into_step())
}
