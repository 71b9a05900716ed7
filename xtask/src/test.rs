//! `cargo xtask test`: everything that must hold before a change lands. docs/TESTING.md
//! says what takes how long.

use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tidegate_stack::chromium::{ChromiumBinaries, HOW_TO_INSTALL};
use tidegate_stack::process;

use crate::build::{self, Parts, Profile};
use crate::command::{cargo, execute, idle_cargo, line};
use crate::harness::{Counts, run_harness, tests};
use crate::{dist, filter, install};

/// Scenarios on a real Envoy that print what they have measured, and one in which a busy
/// machine has events under way that must not be: by themselves, when nothing else runs. All
/// others wait for states, at most a minute.
const ALONE: [&str; 4] = ["auto_bans::", "ban_latency::", "limits::", "trap::a_trapped_recorder_is_replaced"];

/// So many failed scenarios are run once more, by themselves: Envoy or a browser, services and
/// a database on a machine that others use may take longer than a test waits. What passes then
/// is named in the log and counted in the summary. More than these do not fail by chance.
const MOST_RUN_AGAIN: usize = 3;

/// Options of `test`.
#[derive(clap::Args)]
pub struct TestArgs {
    /// These steps only, and what they need; may be given several times.
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// As before a release: scenarios and containers run what ships, compiled with all
    /// optimization, the containers' in containers.
    #[arg(long)]
    release: bool,
}

/// A step, by the name that `--only` takes.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// rustfmt.
    Format,
    /// Unit and property tests of all crates, inputs of the fuzz targets, and the manifests.
    Unit,
    /// The API, with requests that Schemathesis makes of its OpenAPI document.
    Schemathesis,
    /// Scenarios on the emulated host.
    Sim,
    /// What ships: its size, and how long it delays Envoy's start.
    Dist,
    /// Scenarios on a real Envoy.
    Envoy,
    /// The dashboard's pages in a real Chromium.
    Browser,
    /// Clippy.
    Lints,
    /// docker-compose.yml.
    Compose,
}

/// Runs the steps, stops at the first that fails, and says what ran.
pub fn run(args: &TestArgs) -> Result<()> {
    let mut report = Report { lines: Vec::new() };
    // Cargo has become this process.
    report.add("building xtask", "", process::age().unwrap_or_default());
    let ended = steps(args, &mut report);
    report.print();
    if ended.is_ok() {
        println!("all passed");
    }
    ended
}

fn steps(args: &TestArgs, report: &mut Report) -> Result<()> {
    let wanted = |steps: &[Step]| args.only.is_empty() || steps.iter().any(|step| args.only.contains(step));
    if wanted(&[Step::Format]) {
        report.step("formatting", || quiet(&["fmt", "--all", "--check"]))?;
    }
    install::wasm_target()?;
    let stacks = wanted(&[Step::Dist, Step::Envoy, Step::Browser, Step::Compose]);
    // Beside the rest: what waits for the network, and the filter, of which the last stage
    // is one thread, in folders of cargo's of its own.
    let downloads = stacks.then(|| {
        Beside::start(|| {
            install::for_tests();
            Ok(())
        })
    });
    let filter = stacks.then(|| Beside::start(|| Ok((filter::build()?, build::other_filters()?))));
    if stacks || wanted(&[Step::Unit, Step::Schemathesis, Step::Sim]) {
        report.step("compiling programs and tests", compile)?;
    }
    if wanted(&[Step::Unit]) {
        report.step("unit and property tests", || {
            let targets = [
                "--lib",
                "--bins",
                "--test",
                "api",
                "--test",
                "routes",
                "--test",
                "inputs",
                "--test",
                "manifests",
            ];
            tests(workspace_tests(&targets), || {})
        })?;
    }
    if wanted(&[Step::Schemathesis]) {
        match install::schemathesis() {
            Ok(program) => report.step("requests by Schemathesis", || {
                let mut command = workspace_tests(&["--test", "api", "--", "schemathesis"]);
                command.env("TIDEGATE_SCHEMATHESIS", program);
                tests(command, || {})
            })?,
            Err(error) => println!("no Schemathesis, so its requests are skipped: {error:#}"),
        }
    }
    if wanted(&[Step::Sim]) {
        report
            .step("scenarios on the emulated host", || tests(workspace_tests(&["--test", "sim"]), || {}))?;
    }
    if let Some((filter, downloads)) = filter.zip(downloads) {
        downloads.finish(report, "downloads (beside)")?;
        let (filter, others) = filter.finish(report, "filters for wasm (beside)")?;
        let parts =
            if args.release { build::parts(Profile::Release)? } else { build::built(Profile::Dev, filter)? };
        with_parts(args, &wanted, report, &Scene { parts, others })?;
    } else if wanted(&[Step::Lints]) {
        report.step("lints", || lints().map(|()| Counts::default()))?;
    }
    Ok(())
}

/// All at once and of the whole workspace: a dependency has the same features in each
/// command after this one, and is compiled once.
fn compile() -> Result<Counts> {
    quiet(&["build", "--workspace", "--bins", "--tests"])
}

fn workspace_tests(targets: &[&str]) -> Command {
    let mut command = cargo(&["test", "--workspace"]);
    command.args(targets);
    command
}

/// What steps with an Envoy run.
struct Scene {
    parts: Parts,
    others: std::path::PathBuf,
}

impl Scene {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = workspace_tests(arguments);
        command.envs(self.parts.variables()).env("TIDEGATE_OTHER_FILTERS", &self.others);
        command
    }
}

fn with_parts(
    args: &TestArgs,
    wanted: &impl Fn(&[Step]) -> bool,
    report: &mut Report,
    scene: &Scene,
) -> Result<()> {
    if wanted(&[Step::Dist]) {
        report.step("what ships: size and start-up", || {
            dist::check(&scene.parts)?;
            Ok(Counts::default())
        })?;
    }
    let mut lints_beside = None;
    let lints = || Beside::start(lints);
    if wanted(&[Step::Envoy]) {
        let at_once = (thread::available_parallelism()?.get() + 1).to_string();
        let mut arguments = vec!["--show-output", "--test-threads", &at_once];
        arguments.extend(ALONE.iter().flat_map(|name| ["--skip", name]));
        report.step("scenarios on a real Envoy", || {
            // They wait most of the time. Clippy compiles in the same folder: not before cargo
            // has found the tests there.
            let compiled = || lints_beside = wanted(&[Step::Lints]).then(lints);
            scenarios(scene, "envoy", &arguments, compiled)
        })?;
    }
    if wanted(&[Step::Lints]) {
        lints_beside.unwrap_or_else(lints).finish(report, "lints (beside)")?;
    }
    if wanted(&[Step::Browser]) {
        browser(report, scene)?;
    }
    if wanted(&[Step::Envoy]) {
        let arguments = ["--nocapture", "--test-threads=1"];
        report.step("those that measure", || {
            scenarios(scene, "envoy", &[&arguments[..], &ALONE].concat(), || {})
        })?;
    }
    if wanted(&[Step::Compose]) {
        report.step("docker-compose.yml on a Docker engine", || {
            let mut command = scene.command(&["--test", "compose", "--", "--nocapture"]);
            if args.release {
                command.env("TIDEGATE_COMPOSE_FROM_SOURCE", "1");
            }
            tests(command, || {})
        })?;
    }
    Ok(())
}

/// Runs scenarios of the test program `target`, and once more those that failed, if they are few.
fn scenarios(scene: &Scene, target: &str, arguments: &[&str], compiled: impl FnOnce()) -> Result<Counts> {
    let of_target = ["--test", target, "--"];
    let first = run_harness(scene.command(&[&of_target, arguments].concat()), compiled)?;
    let failed: Vec<&str> = first.failed().iter().map(String::as_str).collect();
    if failed.is_empty() || failed.len() > MOST_RUN_AGAIN {
        return first.whole();
    }
    println!("\n=== failed, and run again by themselves: {}\n\n{}\n", failed.join(", "), first.messages());
    let by_themselves = ["--nocapture", "--test-threads=1", "--exact"];
    let second = tests(scene.command(&[&of_target, &by_themselves, &failed[..]].concat()), || {})?;
    ensure!(second.passed == failed.len() as u64, "not all that failed ran again");
    Ok(Counts { failed: 0, again: second.passed, ..first.counts() })
}

fn browser(report: &mut Report, scene: &Scene) -> Result<()> {
    if ChromiumBinaries::find().is_none() {
        println!("no Chromium, so pages in a real browser are skipped: {HOW_TO_INSTALL}");
        return Ok(());
    }
    report.step("pages in a real browser", || {
        scenarios(scene, "browser", &["--show-output", "--test-threads", "2"], || {})
    })
}

/// Clippy, on what of the processors others leave. What it says is shown if it finds something.
fn lints() -> Result<()> {
    let all = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    let wasm =
        ["clippy", "-p", "tidegate", "--lib", "--target", install::WASM_TARGET, "--", "-D", "warnings"];
    for arguments in [&all[..], &wasm] {
        let mut clippy = idle_cargo(arguments);
        let output = clippy.stdin(Stdio::null()).output().context("cannot run nice")?;
        ensure!(output.status.success(), "{}\n{}", line(&clippy), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Work on a thread of its own, while other steps run.
struct Beside<T> {
    begin: Instant,
    thread: JoinHandle<(Result<T>, Duration)>,
}

impl<T: Send + 'static> Beside<T> {
    fn start(work: impl FnOnce() -> Result<T> + Send + 'static) -> Self {
        let begin = Instant::now();
        Self { begin, thread: thread::spawn(move || (work(), begin.elapsed())) }
    }

    /// Waits for its end.
    fn finish(self, report: &mut Report, heading: &'static str) -> Result<T> {
        let (result, took) = self
            .thread
            .join()
            .unwrap_or_else(|_| (Err(anyhow!("a thread of xtask panicked")), self.begin.elapsed()));
        report.add(heading, if result.is_ok() { "ok" } else { "FAILED" }, took);
        result.with_context(|| format!("failed: {heading}"))
    }
}

/// What ran.
struct Report {
    lines: Vec<Line>,
}

/// Results of one heading.
struct Line {
    heading: &'static str,
    outcome: String,
    took: Duration,
}

impl Report {
    fn add(&mut self, heading: &'static str, outcome: &str, took: Duration) {
        self.lines.push(Line { heading, outcome: outcome.to_owned(), took });
    }

    fn step(&mut self, heading: &'static str, work: impl FnOnce() -> Result<Counts>) -> Result<()> {
        println!("\n=== {heading}");
        let begin = Instant::now();
        let result = work();
        let outcome = result.as_ref().map_or_else(|_| "FAILED".to_owned(), Counts::to_string);
        self.add(heading, &outcome, begin.elapsed());
        result.map(drop).with_context(|| format!("failed: {heading}"))
    }

    fn print(&self) {
        println!("\n=== what ran");
        let all = Line { heading: "all", outcome: String::new(), took: process::age().unwrap_or_default() };
        for step in self.lines.iter().chain([&all]) {
            let seconds = step.took.as_secs_f64();
            println!("  {:<40} {:<34} {seconds:>6.1} s", step.heading, step.outcome);
        }
    }
}

fn quiet(arguments: &[&str]) -> Result<Counts> {
    execute(&mut cargo(arguments))?;
    Ok(Counts::default())
}
