//! The service killed (`kill -9`) at each step of what a transition of a run writes, and what it does when it is started
//! again: it goes on or goes back, forgets nothing, and has a report.
//!
//! The steps are those of one transaction, so that a service killed in it has done nothing. It is held there from
//! outside: a trigger at the row that a step writes begins a query that has no end.

use std::process::Stdio;
use std::sync::atomic::AtomicBool;

use super::*;

/// What changes the state of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transition {
    /// It begins.
    Start,
    /// It goes to its next stage.
    Next,
    /// A gate fails.
    Back,
    /// Somebody aborts it.
    Abort,
}

/// Where the service is when it is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    /// Another program has locked the database, and the step waits to be written.
    BeforeItIsWritten,
    /// The flags are written, the decision is not.
    FlagsAreWritten,
    /// The audit is, the run's state is not.
    AuditIsWritten,
    /// The run's state is, the notices are not.
    StateIsWritten,
    /// All is written and not committed.
    NoticesAreWritten,
    /// It is committed, and the webhook has not answered yet.
    NoticeIsPending,
}

const MOMENTS: [Moment; 6] = [
    Moment::BeforeItIsWritten,
    Moment::FlagsAreWritten,
    Moment::AuditIsWritten,
    Moment::StateIsWritten,
    Moment::NoticesAreWritten,
    Moment::NoticeIsPending,
];

impl Transition {
    /// The phase and the place of the stage after it, and what the flag is then.
    fn after(self) -> (&'static str, u32, Value) {
        match self {
            Self::Start => ("running", 0, json!({"percent": 50})),
            Self::Next => ("running", 1, json!(true)),
            Self::Back => ("rolled_back", 0, json!(false)),
            Self::Abort => ("aborted", 0, json!(false)),
        }
    }

    /// Whether this is the state after it. A run that has begun may wait for approval by then.
    fn is_done(self, state: Option<&RunState>) -> bool {
        let (phase, stage, flag) = self.after();
        let is_after = |(of_phase, of_stage, of_flag): &RunState| {
            let is_phase = of_phase == phase || self == Self::Start && of_phase == "waiting_for_approval";
            is_phase && (*of_stage, of_flag) == (stage, &flag)
        };
        state.is_some_and(is_after)
    }

    /// The type of its last notice.
    fn notice(self) -> &'static str {
        match self {
            Self::Start | Self::Next => "rollout.stage_entered",
            Self::Back => "rollout.rolled_back",
            Self::Abort => "rollout.aborted",
        }
    }

    /// What is asked for to bring it about; of [`Self::Back`] nothing, as the gate does.
    fn command(self) -> Option<&'static str> {
        match self {
            Self::Start => Some("start"),
            Self::Next => Some("approve"),
            Self::Back => None,
            Self::Abort => Some("abort"),
        }
    }
}

impl Moment {
    /// The row at which the transaction of `transition` is held: table, event, condition.
    fn row(self, transition: Transition) -> Option<(&'static str, String)> {
        let (phase, stage, flag) = transition.after();
        match self {
            Self::BeforeItIsWritten | Self::NoticeIsPending => None,
            Self::FlagsAreWritten => Some(("flags", format!("json(new.value) = json('{flag}')"))),
            Self::AuditIsWritten => Some(("audit", "new.what = 'rollout-step'".to_owned())),
            Self::StateIsWritten => {
                let is = |field: &str| format!("json_extract(new.state, '$.{field}')");
                let (of_phase, of_stage) = (is("phase.name"), is("stage"));
                Some(("rollout_runs", format!("{of_phase} = '{phase}' AND {of_stage} = {stage}")))
            }
            Self::NoticesAreWritten => {
                let wanted = transition.notice();
                Some(("rollout_notices", format!("json_extract(new.body, '$.type') = '{wanted}'")))
            }
        }
    }
}

/// Phase, place of the stage, and flag.
type RunState = (String, u32, Value);

/// Holds the transaction that writes such a row in a query without an end.
fn hold(conn: &rusqlite::Connection, (table, condition): (&str, String)) {
    conn.execute_batch(
        "CREATE VIEW without_end AS WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)
           SELECT count(*) AS x FROM n",
    )
    .unwrap();
    for event in ["INSERT", "UPDATE"] {
        let trigger = format!(
            "CREATE TRIGGER held_{event} AFTER {event} ON {table} WHEN {condition} BEGIN SELECT x FROM without_end; END"
        );
        conn.execute_batch(&trigger).unwrap();
    }
}

/// Takes back what [`hold`] did.
fn release(conn: &rusqlite::Connection) {
    conn.execute_batch(
        "DROP TRIGGER IF EXISTS held_INSERT; DROP TRIGGER IF EXISTS held_UPDATE; DROP VIEW IF EXISTS without_end",
    )
    .unwrap();
}

fn connect(dir: &Path) -> rusqlite::Connection {
    let conn = rusqlite::Connection::open(dir.join("tidegate.db")).unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    conn
}

/// Waits until somebody has been in one write transaction for longer than any other takes.
async fn is_held(conn: &rusqlite::Connection) {
    conn.busy_timeout(Duration::ZERO).unwrap();
    let mut refused = 0;
    until("a transaction is held", async || {
        match conn.execute_batch("BEGIN IMMEDIATE") {
            Ok(()) => {
                conn.execute_batch("ROLLBACK").unwrap();
                refused = 0;
            }
            Err(_) => refused += 1,
        }
        (refused > 100).then_some(())
    })
    .await;
}

/// A webhook that answers or not.
#[derive(Clone, Default)]
struct Hook {
    is_silent: Arc<AtomicBool>,
    got: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Hook {
    async fn listen(&self) -> String {
        let take = async |State(hook): State<Self>, body: String| {
            let body: Value = serde_json::from_str(&body).unwrap();
            hook.got.lock().unwrap().push(body["type"].as_str().unwrap_or_default().to_owned());
            if hook.is_silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            StatusCode::NO_CONTENT
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    async fn is_told(&self, notice: &str) {
        until(notice, async || self.got.lock().unwrap().iter().any(|got| got == notice).then_some(())).await;
    }
}

/// A service in a directory, its traffic, and its webhook.
struct Scene {
    dir: tempfile::TempDir,
    gateway: String,
    numbers: Arc<AtomicU64>,
    fails: Arc<AtomicBool>,
    hook: Hook,
    plan: Value,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made =
            tidegate(dir.path(), &["token", "create", "--name", "edge", "--scope", "gateway"]).output();
        let gateway = printed(&made.unwrap()).trim().to_owned();
        let hook = Hook::default();
        let url = hook.listen().await;
        let plan = json!({
            "webhooks": [{"url": url, "allow_private": true}],
            "stages": [
                stage("half", json!({"percent": 50}), json!({"approve": true, "min_requests": 100})),
                stage("all", json!(true), json!({"hold": "1h"})),
            ],
        });
        Self { dir, gateway, numbers: Arc::new(AtomicU64::new(1)), fails: Arc::default(), hook, plan }
    }

    async fn run(&self) -> (Process, Traffic) {
        // It warns of every trigger that comes and goes.
        let process = Process::start_with(self.dir.path(), &["--log", "error"], Stdio::inherit()).await;
        let urls = (process.people.clone(), process.gateways.clone());
        let tokens = (process.token.clone(), self.gateway.clone());
        let fails = Arc::clone(&self.fails);
        let traffic = traffic_to(urls, tokens, Arc::clone(&self.numbers), move |event| {
            let is_cached = event.modes.is_some_and(|modes| modes.route == Mode::Cached);
            if is_cached && fails.load(Ordering::Relaxed) {
                event.status = Some(503);
            }
        });
        (process, traffic)
    }

    /// Brings a run to where `transition` begins.
    async fn prepare(&self, process: &Process, transition: Transition) {
        self.fails.store(false, Ordering::Relaxed);
        let status = ask(process, Method::GET, "").await.json()["status"].clone();
        if ["running", "waiting_for_approval", "paused"].map(Value::from).contains(&status["phase"]) {
            ask(process, Method::POST, "/abort").await.ok();
        }
        put(process, &self.plan).await;
        if transition == Transition::Start {
            return;
        }
        ask(process, Method::POST, "/start").await.ok();
        until("its gates hold", async || {
            let status = ask(process, Method::GET, "").await.ok()["status"].clone();
            (status["phase"] == "waiting_for_approval").then_some(())
        })
        .await;
    }

    /// Kills the service at `moment` of `transition`, and looks at what it left.
    async fn kill(&self, transition: Transition, moment: Moment) {
        let (mut process, traffic) = self.run().await;
        self.prepare(&process, transition).await;
        let before = state(self.dir.path());
        let conn = connect(self.dir.path());
        match moment.row(transition) {
            Some(row) => hold(&conn, row),
            None if moment == Moment::BeforeItIsWritten && transition != Transition::Back => {
                conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            }
            None => self.hook.is_silent.store(true, Ordering::Relaxed),
        }
        self.fails.store(transition == Transition::Back, Ordering::Relaxed);
        let asks = transition.command().map(|command| {
            let request = client().post(format!("{}{ROLLOUT}/{command}", process.people));
            tokio::spawn(request.bearer_auth(&process.token).send())
        });
        match moment {
            Moment::NoticeIsPending => {
                until("it is committed", async || {
                    transition.is_done(state(self.dir.path()).as_ref()).then_some(())
                })
                .await;
            }
            // What a gate decides by comes while nothing is locked: any moment of the first half second will do.
            Moment::BeforeItIsWritten => tokio::time::sleep(Duration::from_millis(300)).await,
            _ => is_held(&connect(self.dir.path())).await,
        }
        process.signal("-KILL");
        process.end().await;
        drop(traffic);
        if let Some(asks) = asks {
            let _ = asks.await;
        }
        drop(conn);
        let conn = connect(self.dir.path());
        release(&conn);
        self.hook.is_silent.store(false, Ordering::Relaxed);
        self.hook.got.lock().unwrap().clear();
        let now = state(self.dir.path());
        let is_done = transition.is_done(now.as_ref());
        match moment {
            Moment::NoticeIsPending => assert!(is_done, "{transition:?} {moment:?}: {now:?}"),
            Moment::BeforeItIsWritten if transition == Transition::Back => {
                assert!(is_done || now == before, "{transition:?} {moment:?}: {now:?}");
            }
            _ => assert_eq!(now, before, "{transition:?} {moment:?}"),
        }
    }

    /// Starts the service again: what was committed is told, and what was not comes about.
    async fn goes_on(&self, transition: Transition, moment: Moment) {
        let (mut process, traffic) = self.run().await;
        let what = format!("{transition:?} {moment:?}");
        if moment != Moment::NoticeIsPending
            && let Some(command) = transition.command()
        {
            until(&what, async || {
                (ask(&process, Method::POST, &format!("/{command}")).await.status == 200).then_some(())
            })
            .await;
        }
        self.hook.is_told(transition.notice()).await;
        until(&what, async || transition.is_done(state(self.dir.path()).as_ref()).then_some(())).await;
        let report = ask(&process, Method::GET, "/report").await.ok();
        let decided = match transition {
            Transition::Start => Value::Null,
            Transition::Next => json!("passed"),
            Transition::Back | Transition::Abort => json!(transition.after().0),
        };
        assert_eq!(report["stages"][0]["decision"], decided, "{what}: {report}");
        assert_eq!(report["notes"][0]["kind"], "started", "{what}: {report}");
        drop(traffic);
        process.signal("-TERM");
        process.end().await;
    }
}

async fn ask(process: &Process, method: Method, path: &str) -> Answered {
    let request = client().request(method, format!("{}{ROLLOUT}{path}", process.people));
    Answered::to(request.bearer_auth(&process.token)).await
}

async fn put(process: &Process, plan: &Value) {
    let request = client().put(format!("{}{ROLLOUT}", process.people)).bearer_auth(&process.token);
    Answered::to(request.body(plan.to_string())).await.ok();
}

/// Phase, place of the stage and flag in the database; `None`: there was no run.
fn state(dir: &Path) -> Option<RunState> {
    let conn = connect(dir);
    let rows = |query: &str| -> Option<String> { conn.query_row(query, [], |row| row.get(0)).ok() };
    let run: Value = serde_json::from_str(&rows("SELECT state FROM rollout_runs")?).unwrap();
    let flag = rows("SELECT value FROM flags WHERE name = 'enableRouteCache'");
    let flag = flag.map_or(Value::Bool(false), |flag| serde_json::from_str(&flag).unwrap());
    let stage = run["stage"].as_u64().and_then(|stage| u32::try_from(stage).ok()).unwrap();
    Some((run["phase"]["name"].as_str().unwrap().to_owned(), stage, flag))
}

async fn killed_at_every_moment(transition: Transition) {
    let scene = Scene::new().await;
    for moment in MOMENTS {
        scene.kill(transition, moment).await;
        scene.goes_on(transition, moment).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_begins_a_run_has_begun_or_can_be() {
    killed_at_every_moment(Transition::Start).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_two_stages_a_run_is_in_one_of_them() {
    killed_at_every_moment(Transition::Next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_on_its_way_back_a_run_goes_back_and_says_why() {
    killed_at_every_moment(Transition::Back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_is_aborted_a_run_goes_on_or_is_aborted() {
    killed_at_every_moment(Transition::Abort).await;
}
