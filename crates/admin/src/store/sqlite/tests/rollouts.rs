//! Runs of rollouts: steps of two drivers, a locked database, flags that others set, and figures that are exact.

use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::flags::{Flags, Mode, Modes};
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};
use tidegate_rollout::figures::{Group, GroupFigures, PerGroup, StageFigures};
use tidegate_rollout::plan::Plan;
use tidegate_rollout::run::{self as machine, Cause, Now, Phase};

use super::support::{foreign_connection, test_store, test_store_with};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::tests::support::{batch_of, open, post_of, put, remove};
use crate::store::{
    Author, Change, Committed, DocumentKind, MeasuredStage, Measuring, NewNotice, NoticeTry, RecordedBefore,
    RolloutStep, Store, StoreError,
};

const FLAG: &str = "enableRouteCache";
/// When the stage began: the events of tests come later.
const BEGAN_MS: u64 = 1_795_456_801_000;

fn stage(number: u32) -> MeasuredStage {
    MeasuredStage {
        run: 1,
        number,
        slice_ms: 1_000,
        spans: tidegate_rollout::figures::Spans::default(),
        shared_flags: vec![FLAG.to_owned()],
        scoped_flags: Vec::new(),
        next_shares: Vec::new(),
        before: RecordedBefore::default(),
    }
}

/// A step of the rollout `r` that follows this revision and sets the flag from one state to another.
fn step(follows: u64, flags: Option<(&str, &str)>) -> RolloutStep {
    let flag = |state: &str| vec![(FLAG.to_owned(), state.to_owned())];
    RolloutStep {
        name: "r".to_owned(),
        follows,
        state: format!("{{\"after\":{follows}}}"),
        is_active: true,
        expected_flags: flags.map(|(from, _)| flag(from)).unwrap_or_default(),
        set_flags: flags.map(|(_, to)| flag(to)).unwrap_or_default(),
        measuring: Measuring::Keep,
        notices: Vec::new(),
        summary: None,
    }
}

async fn commit(store: &SqliteStore, step: RolloutStep) -> Committed {
    store.commit(Change::StepRollout(Arc::new(step)), &"rollouts/r".into()).await.unwrap()
}

async fn flag(store: &SqliteStore) -> Option<String> {
    let rows = store.rollouts().await.unwrap();
    rows.flags.into_iter().find(|(name, _)| name == FLAG).map(|(_, value)| value)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_drivers_one_makes_the_step() {
    let home = test_store();
    let tenth = r#"{"percent":10}"#;
    let notice = NewNotice { id: "a".into(), webhook: "{}".into(), body: "{}".into() };
    let first = RolloutStep {
        notices: vec![notice.clone()],
        summary: Some(r#"{"says":"began"}"#.to_owned()),
        measuring: Measuring::Begin(stage(1)),
        ..step(0, Some(("false", tenth)))
    };
    let done = commit(&home.store, first.clone()).await;
    assert!(!done.is_stale && done.rows > 0, "{done:?}");
    // The other one, by what it read before; nothing of it is written.
    let late = RolloutStep { set_flags: vec![(FLAG.to_owned(), "true".to_owned())], ..first };
    assert!(commit(&home.store, late).await.is_stale);
    let rows = home.store.rollouts().await.unwrap();
    let [run] = rows.runs.as_slice() else { panic!("{rows:?}") };
    assert_eq!((run.revision, run.state.as_str(), run.is_active), (1, "{\"after\":0}", true));
    assert_eq!((run.entered_seq, run.measured.clone()), (done.seq, Some(stage(1))));
    assert_eq!(flag(&home.store).await.as_deref(), Some(tenth));
    let notices = home.store.next_notices().await.unwrap();
    assert_eq!(notices.iter().map(|one| (&one.notice, one.tries)).collect::<Vec<_>>(), [(&notice, 0)]);
    // Another rollout does not begin while this one runs.
    let other = RolloutStep { name: "s".to_owned(), ..step(0, None) };
    assert!(commit(&home.store, other.clone()).await.is_stale);
    let ended = RolloutStep { is_active: false, measuring: Measuring::End, ..step(1, None) };
    assert!(!commit(&home.store, ended).await.is_stale);
    assert!(!commit(&home.store, other).await.is_stale);
    let audit = home.store.audit(crate::store::AuditFilter::default(), 9).await.unwrap();
    let told: Vec<_> =
        audit.iter().map(|row| (row.kind.as_str(), row.name.as_str(), row.actor.as_str())).collect();
    assert_eq!(told, [("rollout-step", "r", "rollouts/r"), ("flag", FLAG, "rollouts/r")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_goes_only_by_the_flags_that_it_was_decided_by() {
    let home = test_store();
    let by: Author = "alice".into();
    commit(&home.store, step(0, Some(("false", "\"shadow\"")))).await;
    let set = |state: &str| Change::SetFlags { flags: vec![(FLAG.to_owned(), state.to_owned())] };
    home.store.commit(set("true"), &by).await.unwrap();
    assert!(commit(&home.store, step(2, Some(("\"shadow\"", "{\"percent\":1}")))).await.is_stale);
    // By another program as well, and whatever it wrote.
    for (value, held) in
        [("{\"percent\": 7}", "{\"percent\":7}"), ("what", "false"), ("\"shadow\"", "\"shadow\"")]
    {
        foreign_connection(&home.path).execute("UPDATE flags SET value = ?1", [value]).unwrap();
        assert!(commit(&home.store, step(2, Some(("true", "false")))).await.is_stale, "{value}");
        let expected = RolloutStep {
            expected_flags: vec![(FLAG.to_owned(), held.to_owned())],
            ..step(home.store.rollouts().await.unwrap().runs[0].revision, None)
        };
        let is_last = value == "\"shadow\"";
        assert!(!is_last || !commit(&home.store, expected).await.is_stale, "{value}");
    }
    // Whatever the flags are: this is how a run is aborted.
    assert!(
        !commit(
            &home.store,
            RolloutStep { set_flags: step(0, Some(("", "false"))).set_flags, ..step(3, None) }
        )
        .await
        .is_stale
    );
    assert_eq!(flag(&home.store).await.as_deref(), Some("false"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_another_program_has_the_lock_a_step_is_refused_as_a_whole() {
    let home = test_store_with(Options { busy_for: Duration::from_millis(50), ..Options::default() });
    let held = foreign_connection(&home.path);
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let asked = step(0, Some(("false", "true")));
    let refused = home.store.commit(Change::StepRollout(Arc::new(asked.clone())), &"rollouts/r".into()).await;
    assert_eq!(refused, Err(StoreError::Busy));
    held.execute_batch("ROLLBACK").unwrap();
    assert_eq!(home.store.rollouts().await.unwrap().runs, []);
    assert!(!commit(&home.store, asked).await.is_stale);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_of_an_active_run_stays_and_takes_all_with_it_later() {
    let home = test_store();
    let by = "alice".into();
    home.store.commit(put(DocumentKind::Rollout, "r", "{}"), &by).await.unwrap();
    let notice = NewNotice { id: "a".into(), webhook: "{}".into(), body: "{}".into() };
    commit(
        &home.store,
        RolloutStep { notices: vec![notice], measuring: Measuring::Begin(stage(1)), ..step(0, None) },
    )
    .await;
    home.store.append(post_of(vec![batch_of(1, vec![request(1, Mode::Cached, 9)])])).await.unwrap();
    assert!(home.store.commit(remove(DocumentKind::Rollout, "r"), &by).await.unwrap().is_stale);
    commit(&home.store, RolloutStep { is_active: false, ..step(1, None) }).await;
    assert_eq!(home.store.commit(remove(DocumentKind::Rollout, "r"), &by).await.unwrap().rows, 1);
    assert_eq!(home.store.rollouts().await.unwrap().runs, []);
    // That it ended is still to be told.
    assert_eq!(home.store.next_notices().await.unwrap().len(), 1);
    assert_eq!(home.store.stage_figures("r", 1, 1).await.unwrap(), StageFigures::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_webhook_gets_its_notices_in_their_order() {
    let home = test_store();
    let notice = |id: &str, to: &str| NewNotice {
        id: id.into(),
        webhook: format!("{{\"url\":\"{to}\"}}"),
        body: "{}".into(),
    };
    let notices = vec![notice("b", "x"), notice("a", "x"), notice("c", "y")];
    commit(&home.store, RolloutStep { notices, ..step(0, None) }).await;
    let next = async || {
        let next = home.store.next_notices().await.unwrap();
        let mut next: Vec<_> = next
            .into_iter()
            .map(|one| (one.notice.id, one.tries, one.waiting, one.next_try_ms == i64::MAX))
            .collect();
        next.sort();
        next
    };
    let tried = async |id: &str, tried| {
        let change = Change::NoteNoticeTry { id: id.to_owned(), tried };
        home.store.commit(change, &"r".into()).await.unwrap();
        next().await
    };
    let one = |id: &str, tries, waiting, is_later| (id.to_owned(), tries, waiting, is_later);
    assert_eq!(next().await, [one("a", 0, 2, false), one("c", 0, 1, false)]);
    // What comes after one that was not taken waits for it.
    let later = NoticeTry::Failed { next_try_ms: i64::MAX };
    assert_eq!(tried("a", later).await, [one("a", 1, 2, true), one("c", 0, 1, false)]);
    // Something new is a reason to try at once.
    commit(&home.store, RolloutStep { notices: vec![notice("d", "x")], ..step(1, None) }).await;
    assert_eq!(next().await, [one("a", 1, 3, false), one("c", 0, 1, false)]);
    assert_eq!(tried("a", NoticeTry::Done).await, [one("b", 0, 2, false), one("c", 0, 1, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_people_set_are_noted_in_the_run_that_goes_on_whether_or_not_they_change() {
    let home = test_store();
    let by: Author = "alice".into();
    commit(&home.store, step(0, None)).await;
    let set = |state: &str| Change::SetFlags { flags: vec![(FLAG.to_owned(), state.to_owned())] };
    assert!(home.store.commit(set("false"), &by).await.unwrap().rows > 0);
    let run = home.store.active_rollout().await.unwrap().runs.remove(0);
    assert_eq!(run.revision, 2);
    let state: serde_json::Value = serde_json::from_str(&run.state).unwrap();
    assert_eq!(state["set_by_hand"], serde_json::json!([{"by": "alice", "flags": [FLAG]}]));
    // A step that was decided before is refused.
    assert!(commit(&home.store, step(1, None)).await.is_stale);
    assert!(!commit(&home.store, RolloutStep { is_active: false, ..step(2, None) }).await.is_stale);
    // Without a run nothing is noted.
    home.store.commit(set("true"), &by).await.unwrap();
    assert_eq!(home.store.active_rollout().await.unwrap().runs, []);
    assert_eq!(home.store.rollouts().await.unwrap().runs[0].revision, 3);
}

/// A request with tables of this sequence number, of a client of its own.
fn request(number: u64, route: Mode, tables_seq: u64) -> TrafficEvent {
    let client = std::net::Ipv4Addr::from_bits(0x0b00_0000 + u32::try_from(number).unwrap());
    TrafficEvent {
        number,
        time_ms: BEGAN_MS + number * 100,
        client: Some(client.into()),
        status: Some(if number.is_multiple_of(10) { 503 } else { 200 }),
        duration_us: Some(2_000),
        gate_us: Some(50),
        verdict: VerdictCode::Allow,
        tables_seq,
        modes: Some(Modes { route, ..Modes::default() }),
        answered: PerCheck { route: Answered::Direct, ..PerCheck::default() },
        ..TrafficEvent::default()
    }
}

/// Requests and answers from the cache or not of both groups; the same by slices and by blocks of clients.
fn counted(figures: &StageFigures) -> [(u64, u64, u64); 2] {
    let whole = figures.whole();
    let mut by_client = StageFigures::default();
    for (index, groups) in figures.clients.values().enumerate() {
        for group in Group::ALL {
            let block = tidegate_rollout::figures::Block::Slice(u32::try_from(index).unwrap());
            by_client.add(block, group, groups.get(group));
        }
    }
    assert_eq!(by_client.whole(), whole, "by clients as by time");
    Group::ALL.map(|group| {
        let of = whole.get(group);
        assert_eq!((of.total.count(), of.gate.count()), (of.requests, of.requests));
        (of.requests, of.server_errors, of.checks.get(Check::Route).direct)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_the_stage_are_counted_once_by_slice_client_and_group() {
    let home = test_store();
    let entered =
        commit(&home.store, RolloutStep { measuring: Measuring::Begin(stage(1)), ..step(0, None) }).await;
    let seq = entered.seq;
    let figures = async || home.store.stage_figures("r", 1, 1).await.unwrap();
    let events = |numbers: std::ops::RangeInclusive<u64>, seq| -> Vec<TrafficEvent> {
        let mode = |number: u64| if number.is_multiple_of(4) { Mode::Cached } else { Mode::Direct };
        numbers.map(|number| request(number, mode(number), seq)).collect()
    };
    let post = post_of(vec![batch_of(1, events(1..=40, seq))]);
    home.store.append(post.clone()).await.unwrap();
    let first = [(30, 2, 30), (10, 2, 10)];
    let found = figures().await;
    // One post comes in one slice, whatever the times of its events are.
    assert_eq!((counted(&found), found.slices.len(), found.slice_ms), (first, 1, 1_000));
    // A batch that comes twice, and one of which some are new.
    home.store.append(post).await.unwrap();
    home.store.append(post_of(vec![batch_of(1, events(31..=50, seq))])).await.unwrap();
    let second = [(38, 3, 38), (12, 2, 12)];
    assert_eq!(counted(&figures().await), second);
    // What began with older tables does not count, nor what Envoy refused.
    if seq > 0 {
        home.store.append(post_of(vec![batch_of(2, events(1..=9, seq - 1))])).await.unwrap();
    }
    let refused = TrafficEvent { modes: None, ..request(1, Mode::Direct, seq) };
    home.store.append(post_of(vec![batch_of(3, vec![refused])])).await.unwrap();
    assert_eq!(counted(&figures().await), second);
    // An open event counts once its end is there.
    let mut event = open(4, 1);
    event.event = request(1, Mode::Cached, seq);
    home.store.open_event(crate::store::tests::support::gateway(1), event).await.unwrap();
    assert_eq!(counted(&figures().await), second);
    home.store.append(post_of(vec![batch_of(4, vec![request(1, Mode::Cached, seq)])])).await.unwrap();
    let third = [(38, 3, 38), (13, 2, 13)];
    assert_eq!(counted(&figures().await), third);
    // The next measurement begins with nothing, and nothing is counted while none is.
    let next =
        commit(&home.store, RolloutStep { measuring: Measuring::Begin(stage(2)), ..step(1, None) }).await;
    home.store.append(post_of(vec![batch_of(5, events(1..=3, next.seq))])).await.unwrap();
    assert_eq!(figures().await, StageFigures::default(), "earlier ones go");
    assert_eq!(counted(&home.store.stage_figures("r", 1, 2).await.unwrap()), [(3, 0, 3), (0, 0, 0)]);
    commit(&home.store, RolloutStep { measuring: Measuring::End, ..step(2, None) }).await;
    home.store.append(post_of(vec![batch_of(6, events(1..=3, next.seq))])).await.unwrap();
    assert_eq!(counted(&home.store.stage_figures("r", 1, 2).await.unwrap()), [(3, 0, 3), (0, 0, 0)]);
    // Those of an earlier run go.
    let other = MeasuredStage { run: 2, ..stage(1) };
    commit(&home.store, RolloutStep { measuring: Measuring::Begin(other), ..step(3, None) }).await;
    assert_eq!(home.store.stage_figures("r", 1, 2).await.unwrap(), StageFigures::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_database_made_of_a_backup_a_run_waits_for_a_person() {
    let home = test_store();
    let by: Author = "alice".into();
    let document = serde_json::json!({"stages": [{"name": "a", "flags": {FLAG: true}, "hold": "1h"}]});
    let plan = Plan::read("r", &document).unwrap();
    let run = machine::start(&plan, None, "ann", &Now { ms: BEGAN_MS, flags: Flags::default() }).unwrap().run;
    let notice = NewNotice { id: "a".into(), webhook: "{}".into(), body: "{}".into() };
    let begun = RolloutStep {
        state: serde_json::to_string(&run).unwrap(),
        notices: vec![notice],
        measuring: Measuring::Begin(stage(1)),
        ..step(0, None)
    };
    commit(&home.store, begun).await;
    let dir = tempfile::tempdir().unwrap();
    let (file, to) = (dir.path().join("backup.db"), dir.path().join("new.db"));
    let mut copy = home.store.backup(&by).await.unwrap();
    std::io::copy(&mut copy, &mut std::fs::File::create(&file).unwrap()).unwrap();
    SqliteStore::restore_beside(&to, &file, &by, false).unwrap();
    let conn = foreign_connection(&to);
    let (state, active, measured): (String, bool, Option<String>) = conn
        .query_row("SELECT state, active, measured FROM rollout_runs", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    let run = machine::read_stored("r", &state, active, 1);
    let Phase::Paused { reason, .. } = &run.phase else { panic!("{:?}", run.phase) };
    assert_eq!((reason.cause, measured), (Cause::Restored, None));
    let waiting: u32 = conn.query_row("SELECT count(*) FROM rollout_notices", [], |row| row.get(0)).unwrap();
    assert_eq!(waiting, 0, "that is told already, or no more true");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_the_groups_of_the_next_stage_as_well() {
    let home = test_store();
    let next_shares = vec![(FLAG.to_owned(), 50)];
    let shadow = MeasuredStage { shared_flags: Vec::new(), next_shares, ..stage(1) };
    let seq =
        commit(&home.store, RolloutStep { measuring: Measuring::Begin(shadow), ..step(0, None) }).await.seq;
    let events = (1..=200).map(|number| request(number, Mode::Shadow, seq)).collect();
    home.store.append(post_of(vec![batch_of(1, events)])).await.unwrap();
    let found = home.store.stage_figures("r", 1, 1).await.unwrap();
    assert_eq!(counted(&found).map(|(requests, ..)| requests), [0, 200]);
    let ahead = |groups: &mut dyn Iterator<Item = &PerGroup<GroupFigures>>| {
        groups.fold([0, 0], |[control, treated], of| {
            [control + of.control.total.count(), treated + of.treated.total.count()]
        })
    };
    let by_slice = ahead(&mut found.ahead.slices.values());
    assert_eq!(by_slice, ahead(&mut found.ahead.clients.values()));
    assert!(by_slice.iter().sum::<u64>() == 200 && by_slice.iter().all(|count| *count > 50), "{by_slice:?}");
    assert_eq!(found.ahead.slices.len(), found.slices.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_later_events_have_overtaken_is_missing() {
    let home = test_store();
    let missing = async || home.store.recording().await.unwrap().missing;
    let of = |first: u64, last: u64| {
        let events = (first..=last).map(|number| request(number, Mode::Direct, 1)).collect();
        post_of(vec![batch_of(1, events)])
    };
    let mut on_the_way = of(1, 10);
    on_the_way.batches[0].numbered_hi = 25;
    home.store.append(on_the_way).await.unwrap();
    assert_eq!(missing().await, 0);
    home.store.append(of(21, 30)).await.unwrap();
    assert_eq!(missing().await, 10);
    home.store.append(of(11, 18)).await.unwrap();
    assert_eq!(missing().await, 2);
}
