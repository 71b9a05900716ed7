//! `tidegate rollout`: rollouts, between files and a running service, and their runs.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use form_urlencoded::byte_serialize;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate_rollout::template;

use super::api_args::{ApiArgs, ChangeArgs};
use super::api_client::{ApiClient, RequestError};
use super::documents::{self, DocumentsCommand};
use super::output::{applied, cell, print_error_line, print_text, stream_text, table};
use super::{block_on, failure};
use crate::manifest::Kind;
use crate::store::DocumentKind;

const LIST: &str = "/api/admin/rollouts";
const KIND: Kind = Kind::Document(DocumentKind::Rollout);
/// How often `status --watch` asks.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// For how long `status --watch` goes on without an answer: a service that is started again is there by then.
const AWAY_TIME: Duration = Duration::from_secs(60);
/// Phases of a run that goes on.
const ACTIVE: [&str; 3] = ["running", "waiting_for_approval", "paused"];
/// A run that is watched ended otherwise than completed.
const NOT_COMPLETED: u8 = 3;

/// Commands for rollouts.
#[derive(clap::Subcommand, Debug)]
pub enum RolloutCommand {
    /// Begin a run of a rollout: of one that the service has, or of a file, which is applied before.
    Start {
        /// The rollout's name, or the file with it: YAML or JSON, as `apply` takes it; - is standard input.
        #[arg(value_name = "NAME|FILE")]
        what: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Print how the runs go. With --watch exits with 0 when the run has completed, with 3 when it ended otherwise, and with 1 when
    /// the service did not answer for a minute.
    Status(StatusArgs),
    /// Pause a run: flags stay, and nothing is decided.
    Pause(RunArgs),
    /// Go on with the stage of a paused run: its flags are set again, and it is measured and held anew.
    Resume(RunArgs),
    /// Let a run go on that waits for approval: from the stage that it is in when the command asks, or that --stage names, and
    /// from no other.
    Approve(ApproveArgs),
    /// End a run, and set the flags back to what they were before it; those that people have set since stay as they are.
    Abort(RunArgs),
    /// Print the report of the last run: every stage with what both groups measured, its gates and the decision, as a
    /// page of Markdown.
    Report {
        /// The rollout's name.
        name: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Print a plan that Tidegate has, as a document that `start` and `apply` take. Needs no service.
    Template(TemplateArgs),
    #[command(flatten)]
    Documents(DocumentsCommand),
}

/// Options of `tidegate rollout status`.
#[derive(clap::Args, Debug)]
pub struct StatusArgs {
    /// The rollout's name; all if none is given.
    name: Option<String>,
    /// Print each change of the run until it ends.
    #[arg(short, long, requires = "name")]
    watch: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Options of what is asked of a run.
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// The rollout's name.
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Options of `tidegate rollout approve`.
#[derive(clap::Args, Debug)]
pub struct ApproveArgs {
    /// The number of the stage that is approved, from 1, as `status` prints it.
    #[arg(long, value_name = "NUMBER")]
    stage: Option<u64>,
    #[command(flatten)]
    run: RunArgs,
}

/// Options of `tidegate rollout template`.
#[derive(clap::Args, Debug)]
pub struct TemplateArgs {
    /// Which plan: guide is that of docs/ROLLOUT.md.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(template::TEMPLATES))]
    name: String,
    /// All times, and numbers of requests, are divided by this, for trying: 1 to 1,000,000.
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    speed: u32,
}

/// Runs the command.
pub fn run(command: &RolloutCommand) -> ExitCode {
    let done = match command {
        RolloutCommand::Documents(command) => return documents::run(command, KIND),
        RolloutCommand::Status(args) => return status(args),
        RolloutCommand::Start { what, change } => block_on(start(what, change)),
        RolloutCommand::Pause(args) => block_on(ask(args, "pause", None)),
        RolloutCommand::Resume(args) => block_on(ask(args, "resume", None)),
        RolloutCommand::Approve(args) => block_on(approve(args)),
        RolloutCommand::Abort(args) => block_on(ask(args, "abort", None)),
        RolloutCommand::Report { name, api } => block_on(report(name, api)),
        RolloutCommand::Template(args) => print_template(args),
    };
    done.map_or_else(|error| failure(&error), |()| ExitCode::SUCCESS)
}

/// The path of a rollout.
fn path(name: &str) -> String {
    // In a path a blank is %20, and not +.
    let name: String = byte_serialize(name.as_bytes()).collect();
    format!("{LIST}/{}", name.replace('+', "%20"))
}

async fn start(what: &str, change: &ChangeArgs) -> anyhow::Result<()> {
    let client = change.api.client()?;
    let name = match what == "-" || is_file(what)? {
        true => apply(&client, what).await?,
        false => what.to_owned(),
    };
    let answer = change.change(&client, Method::POST, &format!("{}/start", path(&name)), None).await?;
    change.api.output.print(&answer, || said(&answer))
}

/// Whether a file is meant, and not a name.
fn is_file(what: &str) -> anyhow::Result<bool> {
    let looks_so = what.contains('/') || [".yaml", ".yml", ".json"].iter().any(|end| what.ends_with(end));
    if Path::new(what).is_file() {
        return Ok(true);
    }
    anyhow::ensure!(!looks_so, "there is no file {what}");
    Ok(false)
}

/// Applies the rollout of a file, unless it has a run that goes on, and returns its name.
async fn apply(client: &ApiClient, file: &str) -> anyhow::Result<String> {
    let (name, plan) = documents::one_of_file(Path::new(file), KIND)?;
    let before = client.get_if_exists(&path(&name), "name", "rollout_not_found").await?;
    let phase = before.as_ref().and_then(|before| before["status"]["phase"].as_str()).unwrap_or_default();
    anyhow::ensure!(
        !ACTIVE.contains(&phase),
        "the run of {name} is {}: abort it first. Its plan was not replaced",
        phase.replace('_', " ")
    );
    let written = client.request(Method::PUT, &path(&name), Some(&plan), "version").await?;
    for warning in written["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        print_error_line(format_args!("warning: {warning}"));
    }
    Ok(name)
}

/// Approves the stage that is named, or that the run is in now: if it has moved on meanwhile, that is an error.
async fn approve(ApproveArgs { stage, run: args }: &ApproveArgs) -> anyhow::Result<()> {
    let place = match stage {
        Some(stage) => json!({"stage": stage}),
        None => {
            let shown = args.change.api.get(&path(&args.name), "name").await?;
            let status = &shown["status"];
            match status.is_null() {
                true => Value::Null,
                false => json!({"run": status["run"], "stage": status["stage_number"]}),
            }
        }
    };
    ask(args, "approve", Some(&place)).await
}

async fn ask(args: &RunArgs, what: &str, place: Option<&Value>) -> anyhow::Result<()> {
    let client = args.change.api.client()?;
    let answer =
        args.change.change(&client, Method::POST, &format!("{}/{what}", path(&args.name)), place).await?;
    args.change.api.output.print(&answer, || said(&answer))
}

/// How a run goes after a change, for people.
fn said(answer: &Value) -> String {
    format!("{}; {}\n", line(&cell(&answer["name"]), &answer["status"]), applied(answer))
}

/// How a run goes, in a line.
fn line(name: &str, status: &Value) -> String {
    let text = |field: &str| cell(&status[field]);
    let mut line = format!(
        "{name}: run {} {}, stage {} of {} ({})",
        text("run"),
        phase(status),
        text("stage_number"),
        text("stages"),
        text("stage")
    );
    if let Some(reason) = status["reason"].as_str() {
        line.push_str(&format!(": {reason}"));
    }
    line
}

fn phase(status: &Value) -> String {
    match status["phase"].as_str() {
        Some(phase) => phase.replace('_', " "),
        None => "not started".to_owned(),
    }
}

fn status(args: &StatusArgs) -> ExitCode {
    let mut is_completed = true;
    let done = block_on(async {
        match &args.name {
            Some(name) if args.watch => is_completed = watch(name, &args.api).await?,
            Some(name) => {
                let answer = args.api.get(&path(name), "name").await?;
                args.api.output.print(&answer, || rows(std::slice::from_ref(&answer)))?;
            }
            None => {
                let all = args.api.client()?.list(LIST, &[]).await?;
                let answer = Value::from_iter([("items".to_owned(), Value::from(all.clone()))]);
                args.api.output.print(&answer, || rows(&all))?;
            }
        }
        Ok(())
    });
    match done {
        Ok(()) if is_completed => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(NOT_COMPLETED),
        Err(error) => failure(&error),
    }
}

/// A table of rollouts, and beneath it what those that go on wait for, and their gates.
fn rows(rollouts: &[Value]) -> String {
    const HEADINGS: [&str; 7] = ["name", "phase", "stage", "", "held", "requests", "reason"];
    let row = |rollout: &Value| {
        let status = &rollout["status"];
        let of = |field: &str| cell(&status[field]);
        let has_run = !status.is_null();
        let both =
            |one: String, other: String| if has_run { format!("{one} of {other}") } else { "-".to_owned() };
        [
            cell(&rollout["name"]),
            phase(status),
            both(of("stage_number"), of("stages")),
            of("stage"),
            both(span(&status["held_ms"]), span(&status["hold_ms"])),
            both(of("requests"), of("min_requests")),
            of("reason"),
        ]
    };
    let mut text = table(HEADINGS, rollouts.iter().map(row));
    let is_active = |rollout: &&Value| ACTIVE.iter().any(|phase| rollout["status"]["phase"] == *phase);
    for rollout in rollouts.iter().filter(is_active) {
        let (name, status) = (cell(&rollout["name"]), &rollout["status"]);
        if rollout["removed"] == true {
            text.push_str(&format!("{name}: its document was removed\n"));
        }
        for waits_for in status["waits_for"].as_array().into_iter().flatten() {
            text.push_str(&format!("{name} waits for: {}\n", cell(waits_for)));
        }
        for gate in status["gates"].as_array().into_iter().flatten() {
            let (gate_name, says) = (cell(&gate["name"]), cell(&gate["says"]));
            text.push_str(&format!("{name}: {}: {gate_name}: {says}\n", verdict(gate)));
        }
    }
    text
}

/// What a gate says, for people: of one that is not decided, whether it would do if nothing changed.
fn verdict(gate: &Value) -> String {
    match (gate["verdict"].as_str(), gate["is_met"].as_bool()) {
        (Some("undecided"), Some(true)) => "met so far".to_owned(),
        (Some("undecided"), _) => "not met".to_owned(),
        _ => cell(&gate["verdict"]),
    }
}

/// Milliseconds for people.
fn span(ms: &Value) -> String {
    let ms = ms.as_u64().unwrap_or_default();
    match ms / 1_000 {
        0 if ms > 0 => format!("{ms} ms"),
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

/// Prints each change of a run until it ends; returns whether it completed.
async fn watch(name: &str, api: &ApiArgs) -> anyhow::Result<bool> {
    let client = api.client()?;
    let mut printed = Vec::new();
    follow(&client, name, AWAY_TIME, |answer| {
        let now = changes(name, &answer["status"]);
        let new: Vec<&String> = now.iter().filter(|line| !printed.contains(*line)).collect();
        let at = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?;
        if api.output.is_table() {
            new.iter().try_for_each(|line| stream_text(&format!("{at} {line}\n")))?;
        } else if !new.is_empty() {
            stream_text(&api.output.text(answer, String::new)?)?;
        }
        printed = now;
        Ok(())
    })
    .await
}

/// Asks for a run until it ends: `each` gets every answer. The service may be away for `away` at a time once it has answered.
/// Returns whether the run completed.
async fn follow(
    client: &ApiClient,
    name: &str,
    away: Duration,
    mut each: impl FnMut(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let mut answered_at = None;
    loop {
        match client.request(Method::GET, &path(name), None, "name").await {
            Ok(answer) => {
                answered_at = Some(Instant::now());
                each(&answer)?;
                match answer["status"]["phase"].as_str() {
                    Some("completed") => return Ok(true),
                    Some(phase) if ACTIVE.contains(&phase) => {}
                    _ => return Ok(false),
                }
            }
            Err(RequestError::Unreachable(_))
                if answered_at.is_some_and(|at: Instant| at.elapsed() < away) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// What may change of a run, in lines.
fn changes(name: &str, status: &Value) -> Vec<String> {
    let gates = status["gates"].as_array().into_iter().flatten();
    let gate = |gate: &Value| format!("  {}: {}", cell(&gate["name"]), verdict(gate));
    std::iter::once(line(name, status)).chain(gates.map(gate)).collect()
}

async fn report(name: &str, api: &ApiArgs) -> anyhow::Result<()> {
    let target = format!("{}/report", path(name));
    if !api.output.is_table() {
        let answer = api.get(&target, "run").await?;
        return api.output.print(&answer, String::new);
    }
    let client: ApiClient = api.client()?;
    let mut page = Vec::new();
    let target = format!("{target}?format=markdown");
    client
        .download(Method::GET, &target, |bytes| {
            page.extend_from_slice(bytes);
            Ok(())
        })
        .await?;
    print_text(&String::from_utf8_lossy(&page))
}

fn print_template(args: &TemplateArgs) -> anyhow::Result<()> {
    let mut plan = template::guide(args.speed);
    let name = plan.as_object_mut().and_then(|fields| fields.remove("name"));
    let name = name.as_ref().and_then(Value::as_str).unwrap_or(&args.name);
    print_text(&documents::yaml(&KIND.manifest(name, plan))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::access::Server;

    /// A service that answers with these phases, one after the other, and with the last one from then on.
    async fn service(listener: tokio::net::TcpListener, phases: &'static [&'static str]) {
        let left = std::sync::Mutex::new(phases.iter());
        let answer = move || {
            let mut left = crate::lock::locked(&left);
            let phase = left.next().unwrap_or(&"completed");
            let body = axum::Json(json!({"name": "r", "status": {"phase": phase}}));
            // A connection that stays open would outlive the service.
            std::future::ready(([(axum::http::header::CONNECTION, "close")], body))
        };
        let app = axum::Router::new().route(
            "/api/admin/rollouts/r",
            axum::routing::get({
                let answer = std::sync::Arc::new(answer);
                move || answer()
            }),
        );
        let _ = axum::serve(listener, app).await;
    }

    #[tokio::test]
    async fn a_run_is_watched_while_its_service_starts_again() {
        let first = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = first.local_addr().unwrap();
        let client = ApiClient::of(&Server { url: format!("http://{address}"), ca_file: None }, "t").unwrap();
        let running = tokio::spawn(service(first, &["running"; 1_000]));
        let (mut seen, mut running) = (Vec::new(), Some(running));
        let ended = follow(&client, "r", Duration::from_secs(60), |answer| {
            seen.push(answer["status"]["phase"].as_str().unwrap_or_default().to_owned());
            if let Some(running) = running.take() {
                running.abort();
                tokio::spawn(async move {
                    // At the same address, once the first one is gone.
                    let again = loop {
                        match tokio::net::TcpListener::bind(address).await {
                            Ok(listener) => break listener,
                            Err(_) => tokio::task::yield_now().await,
                        }
                    };
                    service(again, &[]).await;
                });
            }
            Ok(())
        });
        assert!(ended.await.unwrap(), "it has completed");
        assert_eq!(seen, ["running", "completed"]);
        // One that never comes back is an error in the end, and one that was never there at once.
        let nobody = Server { url: "http://127.0.0.1:1".to_owned(), ca_file: None };
        let nobody = ApiClient::of(&nobody, "t").unwrap();
        assert!(follow(&nobody, "r", Duration::from_secs(60), |_| Ok(())).await.is_err());
    }

    #[test]
    fn what_goes_on_says_what_it_waits_for_and_what_has_ended_does_not() {
        let rollout = |name: &str, phase: &str| {
            json!({"name": name, "status": {"phase": phase, "waits_for": ["held 1s of 10s"], "gates": [
                {"verdict": "undecided", "is_met": true, "name": "success", "says": "all"},
                {"verdict": "undecided", "is_met": false, "name": "P95", "says": "too long"}]}})
        };
        let text = rows(&[rollout("a", "running"), rollout("b", "completed")]);
        let lines: Vec<&str> = text.lines().skip(3).collect();
        assert_eq!(
            lines,
            ["a waits for: held 1s of 10s", "a: met so far: success: all", "a: not met: P95: too long"]
        );
    }

    #[test]
    fn what_looks_like_a_file_and_is_none_is_no_name() {
        assert!(is_file("./nosuch.yaml").is_err() && is_file("nosuch.yml").is_err());
        assert!(!is_file("guide").unwrap());
    }
}
