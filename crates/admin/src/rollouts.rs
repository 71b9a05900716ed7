//! Rollouts that run: the one driver of runs, by which people's commands and the looks of the service become steps.
//!
//! What is decided is decided by [`tidegate_rollout`]; here a run is read from the database, shown what its stage
//! measured, and its step is committed if nothing that it was decided by has changed meanwhile. Steps follow each
//! other one at a time, in this service and, by the run's revision, in the database.

mod observe;
pub mod webhooks;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_author as author;
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_rollout::figures::StageFigures;
use tidegate_rollout::plan::Plan;
use tidegate_rollout::run::{self as machine, Command, Look, NoteKind, Now, Phase, Refusal, Run, Step};
use tokio::sync::Notify;

use crate::feed::Feed;
use crate::gateways::Gateways;
use crate::lock::locked;
use crate::sources::Sources;
use crate::store::{
    Author, Change, Committed, MeasuredStage, Measuring, NewNotice, ROLLOUTS, RecordedBefore, RolloutRow,
    RolloutRows, RolloutStep, Store, StoreError, time_text,
};
use observe::Observer;
use webhooks::{Webhook, Webhooks};

/// Attempts to carry out what a person asks for, when others change the run or the flags meanwhile.
const TRIES: usize = 5;
/// Looks at the audit for who has set a flag, and the pause between two.
const AUDIT_TRIES: usize = 5;
const AUDIT_RETRY: Duration = Duration::from_millis(50);

/// The runs of this service. A clone is another handle.
#[derive(Clone)]
pub struct Rollouts(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    feed: Feed,
    gateways: Gateways,
    /// They have the directory that secrets of webhooks are in.
    sources: Sources,
    /// Held while a run makes a step.
    turn: tokio::sync::Mutex<()>,
    /// The run that was looked at or stepped last, as it is after that.
    latest: Mutex<Option<Latest>>,
    /// Rung when a run begins or goes on.
    bell: Notify,
    webhooks: Webhooks,
    /// What happened to runs since the service began.
    notes: [AtomicU64; NOTE_KINDS.len()],
}

/// What can happen to a run, in the order of metrics.
pub const NOTE_KINDS: [NoteKind; 11] = [
    NoteKind::Started,
    NoteKind::StageEntered,
    NoteKind::GateFailed,
    NoteKind::WaitingForApproval,
    NoteKind::Approved,
    NoteKind::Paused,
    NoteKind::Resumed,
    NoteKind::StageRolledBack,
    NoteKind::RolledBack,
    NoteKind::Aborted,
    NoteKind::Completed,
];

/// A run as this service has it in memory: what a look changes is not always stored.
struct Latest {
    revision: u64,
    run: Arc<Run>,
    looked_at: Instant,
    observer: Observer,
}

/// A run as it is at one moment.
#[derive(Clone)]
pub struct CurrentRun {
    /// Its row.
    pub row: RolloutRow,
    /// Its state.
    pub run: Arc<Run>,
}

/// Why a command is not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommandError {
    /// The rollout has had no run.
    #[error("this rollout has had no run")]
    NoRun,
    /// The run of another rollout is active.
    #[error("the rollout `{0}` runs: there is one run at a time")]
    OtherActive(String),
    /// It cannot be done now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a person asks of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// What is to be done.
    pub command: Command,
    /// Of the run of this number; `None`: of whichever it is.
    pub run: Option<u64>,
    /// While it is in its stage of this number, from 1; `None`: in whichever it is.
    pub stage: Option<usize>,
}

/// A step that was committed.
pub struct Done {
    /// The transaction.
    pub committed: Committed,
    /// The run after it.
    pub run: Arc<Run>,
}

/// All runs, and the flags, at one moment.
struct Seen {
    runs: Vec<RolloutRow>,
    flags: Flags,
}

impl Seen {
    async fn now(store: &dyn Store) -> Result<Self, StoreError> {
        Ok(Self::of(store.rollouts().await?))
    }

    /// Only the run that goes on: a look need not read all states.
    async fn active_now(store: &dyn Store) -> Result<Self, StoreError> {
        Ok(Self::of(store.active_rollout().await?))
    }

    fn of(rows: RolloutRows) -> Self {
        // A flag whose row cannot be read is off, as for gateways.
        let state = |(name, value): &(String, String)| {
            let flag = Flag::named(name)?;
            let value: Value = serde_json::from_str(value).ok()?;
            Some((flag, author::read_flag(flag, &value).ok()?))
        };
        let states = rows.flags.iter().filter_map(state);
        let flags = states.fold(Flags::default(), |flags, (flag, state)| flags.with(flag, state));
        Self { runs: rows.runs, flags }
    }

    fn named(&self, name: &str) -> Option<&RolloutRow> {
        self.runs.iter().find(|row| row.name == name)
    }

    fn active(&self) -> Option<&RolloutRow> {
        self.runs.iter().find(|row| row.is_active)
    }

    fn moment(&self) -> Now {
        Now { ms: time_text::now_ms().max(0).unsigned_abs(), flags: self.flags.clone() }
    }
}

impl Rollouts {
    /// The runs that the database behind `store` has.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, feed: Feed, gateways: Gateways, sources: Sources) -> Self {
        Self(Arc::new(Inner {
            store,
            feed,
            gateways,
            sources,
            turn: tokio::sync::Mutex::default(),
            latest: Mutex::default(),
            bell: Notify::new(),
            webhooks: Webhooks::default(),
            notes: Default::default(),
        }))
    }

    /// Sends the notices that wait until the task is aborted.
    pub async fn send_notices(&self) {
        webhooks::follow(self).await;
    }

    /// What came of notices to webhooks.
    #[must_use]
    pub fn webhooks(&self) -> &Webhooks {
        &self.0.webhooks
    }

    /// How often each of [`NOTE_KINDS`] happened since the service began.
    #[must_use]
    pub fn note_counts(&self) -> [(NoteKind, u64); NOTE_KINDS.len()] {
        std::array::from_fn(|at| (NOTE_KINDS[at], self.0.notes[at].load(Ordering::Relaxed)))
    }

    /// The run that has not ended, as it was at the last look.
    #[must_use]
    pub fn active(&self) -> Option<Arc<Run>> {
        let latest = locked(&self.0.latest);
        latest.as_ref().map(|latest| Arc::clone(&latest.run)).filter(|run| run.phase.is_active())
    }

    /// Flags were set by hand: the run that goes on is looked at now, and pauses.
    pub fn flags_were_set(&self) {
        self.0.bell.notify_one();
    }

    /// Waits until a run begins or goes on.
    pub async fn begun(&self) {
        self.0.bell.notified().await;
    }

    /// The last run of each rollout, as it is now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn runs(&self) -> Result<Vec<CurrentRun>, StoreError> {
        let seen = Seen::now(&*self.0.store).await?;
        Ok(seen.runs.into_iter().map(|row| CurrentRun { run: self.run_of(&row), row }).collect())
    }

    /// The last run of one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn run(&self, name: &str) -> Result<Option<CurrentRun>, StoreError> {
        let seen = Seen::now(&*self.0.store).await?;
        let Some(row) = seen.named(name) else { return Ok(None) };
        Ok(Some(CurrentRun { run: self.run_of(row), row: row.clone() }))
    }

    /// The run of a row: what is in memory of it, if that is of the same revision. If it cannot be read: what is known of it.
    fn run_of(&self, row: &RolloutRow) -> Arc<Run> {
        if let Some(latest) = &*locked(&self.0.latest)
            && (latest.run.plan.name.as_str(), latest.revision) == (row.name.as_str(), row.revision)
        {
            return Arc::clone(&latest.run);
        }
        let mut run = machine::read_stored(&row.name, &row.state, row.is_active, row.revision);
        if row.measured.is_some() {
            run.current.entered_seq = Some(row.entered_seq);
        }
        Arc::new(run)
    }

    /// Looks at the run that has not ended, and makes its step; answers its phase, `None` if there is no such run.
    ///
    /// # Errors
    /// When the database cannot be read or takes no step: then nothing was changed.
    pub async fn look(&self) -> Result<Option<Phase>, StoreError> {
        let _turn = self.0.turn.lock().await;
        let seen = Seen::active_now(&*self.0.store).await?;
        let Some(row) = seen.active() else {
            locked(&self.0.latest).take_if(|latest| latest.run.phase.is_active());
            return Ok(None);
        };
        let run = self.run_of(row);
        let (elapsed, mut observer) = self.observer(row, &run);
        let look = Look {
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            figures: observer.figures(&self.0, row, &run).await?.unwrap_or_default(),
            changed_by: changed_by(&*self.0.store, &run, &seen.flags).await?,
        };
        let (looked_at, now) = (Instant::now(), seen.moment());
        // Comparing two groups takes some milliseconds.
        let looked = tokio::task::spawn_blocking({
            let run = Arc::clone(&run);
            move || machine::look(&run, &look, &now)
        });
        let step =
            looked.await.map_err(|error| StoreError::Failed(format!("a look ended early: {error}")))?;
        if !step.must_store {
            let phase = step.run.phase.clone();
            let run = Arc::new(step.run);
            *locked(&self.0.latest) = Some(Latest { revision: row.revision, run, looked_at, observer });
            return Ok(Some(phase));
        }
        let by = Author::from(format!("{ROLLOUTS}{}", row.name).as_str());
        let done = self.commit(Some(row), step, (&by, observer)).await?;
        // If somebody was faster, the next look sees it.
        Ok(Some(done.map_or_else(|| run.phase.clone(), |done| done.run.phase.clone())))
    }

    /// How long ago the last look was, and what was observed by then; of another measurement: nothing. It stays what it is
    /// until a look or a step is done, so that one that fails or is refused changes nothing.
    fn observer(&self, row: &RolloutRow, run: &Run) -> (Duration, Observer) {
        let latest = locked(&self.0.latest);
        let same = latest.as_ref().filter(|latest| {
            latest.run.plan.name == row.name
                && (latest.run.number, latest.run.current.measurement)
                    == (run.number, run.current.measurement)
        });
        same.map_or_else(Default::default, |latest| (latest.looked_at.elapsed(), latest.observer.clone()))
    }

    /// Begins a run of `plan`.
    ///
    /// # Errors
    /// When one is active, or the database takes nothing.
    pub async fn start(&self, plan: &Plan, by: &Author) -> Result<Done, CommandError> {
        let _turn = self.0.turn.lock().await;
        for _ in 0..TRIES {
            let seen = Seen::now(&*self.0.store).await?;
            if let Some(other) = seen.active().filter(|row| row.name != plan.name) {
                return Err(CommandError::OtherActive(other.name.clone()));
            }
            let row = seen.named(&plan.name);
            let before = row.map(|row| self.run_of(row));
            let step = machine::start(plan, before.as_deref(), &by.name, &seen.moment())?;
            if let Some(done) = self.commit(row, step, (by, Observer::default())).await? {
                return Ok(done);
            }
        }
        Err(StoreError::Busy.into())
    }

    /// Carries out what a person asks of the last run of a rollout.
    ///
    /// # Errors
    /// When there is none, it cannot be done now, or the database takes nothing.
    pub async fn command(&self, name: &str, asked: Asked, by: &Author) -> Result<Done, CommandError> {
        let _turn = self.0.turn.lock().await;
        for _ in 0..TRIES {
            let seen = Seen::now(&*self.0.store).await?;
            let row = seen.named(name).ok_or(CommandError::NoRun)?;
            let run = self.run_of(row);
            run.check_place(asked.run, asked.stage)?;
            let (_, mut observer) = self.observer(row, &run);
            let figures = observer.figures(&self.0, row, &run).await?;
            let step = machine::command(&run, asked.command, &by.name, figures.as_ref(), &seen.moment())?;
            if let Some(done) = self.commit(Some(row), step, (by, observer)).await? {
                return Ok(done);
            }
        }
        Err(StoreError::Busy.into())
    }

    /// What the present measurement of a run has counted, and what is observed; `None`: nothing is measured.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn figures(&self, of: &CurrentRun) -> Result<Option<StageFigures>, StoreError> {
        // The driver's own window of what is missing stays as it is.
        let (_, mut observer) = self.observer(&of.row, &of.run);
        observer.figures(&self.0, &of.row, &of.run).await
    }

    /// What the last measurement of a run has counted, whether or not it goes on.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn counted(&self, of: &CurrentRun) -> Result<StageFigures, StoreError> {
        let CurrentRun { row, run } = of;
        self.0.store.stage_figures(&row.name, run.number, run.current.measurement).await
    }

    /// Commits a step that follows `row`. `None`: something that it was decided by has changed meanwhile.
    async fn commit(
        &self,
        row: Option<&RolloutRow>,
        step: Step,
        (by, observer): (&Author, Observer),
    ) -> Result<Option<Done>, StoreError> {
        let measuring = measuring(&*self.0.store, &step).await?;
        let Step { mut run, enters, set_flags, required_flags, notices, summary, .. } = step;
        let says = |summary: String| {
            let stage = run.stage().map(|stage| stage.name.clone());
            json!({"run": run.number, "phase": run.phase.name(), "stage": stage, "says": summary}).to_string()
        };
        let follows = row.map_or(0, |row| row.revision);
        let change = RolloutStep {
            name: run.plan.name.clone(),
            follows,
            state: serde_json::to_string(&run).map_err(|error| StoreError::Failed(error.to_string()))?,
            is_active: run.phase.is_active(),
            expected_flags: required_flags.map(|flags| all_states(&flags)).unwrap_or_default(),
            set_flags: states(set_flags),
            measuring,
            notices: new_notices(&run.plan, follows, &notices)?,
            summary: summary.map(says),
        };
        let (told, is_news) = (!change.notices.is_empty(), change.summary.is_some());
        let committed = self.0.store.commit(Change::StepRollout(Arc::new(change)), by).await?;
        if committed.is_stale {
            return Ok(None);
        }
        if enters {
            run.current.entered_seq = Some(committed.seq);
        }
        let (rollout, phase) = (run.plan.name.as_str(), run.phase.name());
        let stage = run.stage().map_or("", |stage| stage.name.as_str());
        // Others only write down how long it was held.
        if is_news {
            tracing::info!(rollout, run = run.number, phase, stage, by = %by.name, seq = committed.seq, "a rollout's step");
        }
        for notice in &notices {
            self.count(&notice.kind);
        }
        if told {
            self.0.webhooks.ring();
        }
        let run = Arc::new(run);
        let (revision, looked_at) = (follows.saturating_add(1), Instant::now());
        *locked(&self.0.latest) = Some(Latest { revision, run: Arc::clone(&run), looked_at, observer });
        if matches!(run.phase, Phase::Running | Phase::WaitingForApproval) {
            self.0.bell.notify_one();
        }
        Ok(Some(Done { committed, run }))
    }

    fn count(&self, kind: &str) {
        let at = NOTE_KINDS.iter().position(|known| kind.ends_with(&format!(".{}", known.name())));
        if let Some(count) = at.and_then(|at| self.0.notes.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Flags as the store takes them.
fn states(flags: impl IntoIterator<Item = (Flag, FlagState)>) -> Vec<(String, String)> {
    let text =
        |(flag, state): (Flag, FlagState)| (flag.name().to_owned(), author::write_state(&state).to_string());
    flags.into_iter().map(text).collect()
}

fn all_states(flags: &Flags) -> Vec<(String, String)> {
    states(Flag::ALL.map(|flag| (flag, flags.get(flag).clone())))
}

/// What is measured after a step.
async fn measuring(store: &dyn Store, step: &Step) -> Result<Measuring, StoreError> {
    let run = &step.run;
    let Some(stage) = run.stage().filter(|_| step.enters) else {
        let goes_on = matches!(run.phase, Phase::Running | Phase::WaitingForApproval);
        return Ok(if goes_on { Measuring::Keep } else { Measuring::End });
    };
    let recorded = store.recording().await?;
    let next = run.plan.shares_after(run.stage);
    let names = |flags: &mut dyn Iterator<Item = Flag>| flags.map(|flag| flag.name().to_owned()).collect();
    Ok(Measuring::Begin(MeasuredStage {
        run: run.number,
        number: run.current.measurement,
        slice_ms: stage.slice_ms(),
        spans: stage.spans(),
        shared_flags: names(&mut stage.shared_flags()),
        scoped_flags: names(&mut stage.scoped_flags()),
        next_shares: next.into_iter().map(|(flag, percent)| (flag.name().to_owned(), percent)).collect(),
        before: RecordedBefore::of(&recorded),
    }))
}

/// Who has set the flags that are not as the run expects them, as far as that is known: what other programs wrote is in the
/// audit a moment later.
async fn changed_by(
    store: &dyn Store,
    run: &Run,
    flags: &Flags,
) -> Result<BTreeMap<Flag, String>, StoreError> {
    let differs = |flag: &Flag| run.expected_flags.get(*flag) != flags.get(*flag);
    let changed: Vec<Flag> = Flag::ALL.into_iter().filter(differs).collect();
    let mut found = BTreeMap::new();
    for look in 0..AUDIT_TRIES {
        for &flag in &changed {
            if let Some(who) = last_set_by(store, flag, flags).await? {
                found.insert(flag, who);
            }
        }
        if found.len() == changed.len() {
            break;
        }
        if look + 1 < AUDIT_TRIES {
            tokio::time::sleep(AUDIT_RETRY).await;
        }
    }
    Ok(found)
}

/// Who has set a flag to what it is, by what the audit has now.
async fn last_set_by(store: &dyn Store, flag: Flag, flags: &Flags) -> Result<Option<String>, StoreError> {
    let last = store.last_change("flag", flag.name()).await?;
    let now = author::write_state(flags.get(flag));
    let is_it = |after: &String| serde_json::from_str::<Value>(after).is_ok_and(|after| after == now);
    Ok(last.filter(|row| row.after.as_ref().is_some_and(is_it)).map(|row| row.actor))
}

/// Each notice for each webhook.
fn new_notices(plan: &Plan, follows: u64, notices: &[machine::Notice]) -> Result<Vec<NewNotice>, StoreError> {
    let failed = |error: serde_json::Error| StoreError::Failed(error.to_string());
    let mut all = Vec::new();
    for (place, notice) in notices.iter().enumerate() {
        let body = serde_json::to_string(notice).map_err(failed)?;
        for webhook in &plan.webhooks {
            let webhook = Webhook {
                url: webhook.url.clone(),
                secret_file: webhook.secret_file.clone(),
                allow_insecure: webhook.allow_insecure,
                allow_private: webhook.allow_private,
            };
            let webhook = serde_json::to_string(&webhook).map_err(failed)?;
            all.push(NewNotice { id: new_id(follows, place)?, webhook, body: body.clone() });
        }
    }
    Ok(all)
}

/// An id that no other notice has: after those of the rollout's earlier steps, and of the same step before it.
fn new_id(follows: u64, place: usize) -> Result<String, StoreError> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Failed(format!("no random bytes: {error}")))?;
    Ok(format!("msg_{follows:012x}{place:02x}{}", hex::encode(bytes)))
}
