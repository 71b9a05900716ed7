//! The steps of `tidegate-load gateways`, each with its figures.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_policy::version::Version;
use tidegate_stack::http::Method;
use tidegate_stack::wait;

use crate::gateways::{Counts, Gateways};
use crate::report::{figure, head, megabytes, say, spread};
use crate::service::{Service, Usage, own_cpu};

/// The longest that all gateways may take for anything.
const PATIENCE: Duration = Duration::from_secs(300);

/// Options.
#[derive(clap::Args, Debug, Clone)]
pub struct GatewaysArgs {
    /// How many gateways.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub count: u32,
    /// Bans one after the other, each timed until the last gateway enforces it.
    #[arg(long, default_value_t = 50)]
    pub bans: u32,
    /// How long the service is watched at rest, and then with bans, in seconds.
    #[arg(long, default_value_t = 20)]
    pub watch: u64,
    /// Bans a second meanwhile.
    #[arg(long, default_value_t = 10)]
    pub rate: u32,
    /// Addresses of the list that makes all gateways need a new table of bans; 0: none is imported.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(0..=2_000_000))]
    pub list: u32,
    /// The admin service's program. By default the one beside this program.
    #[arg(long)]
    pub tidegate: Option<PathBuf>,
    /// Where its database and log are; emptied first.
    #[arg(long, default_value = "target/load")]
    pub dir: PathBuf,
}

/// What a run has come to, for its test.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Figures {
    /// Bans that the last gateway was seen to enforce.
    pub bans: usize,
    /// Tables that gateways downloaded when they came back to a restarted service.
    pub downloads_after_restart: u64,
    /// Tables that a gateway downloaded that came newly when the list was there.
    pub downloads_of_newcomer: u64,
    /// Answers that a gateway could not apply, and bases that it folded wrongly.
    pub bad_answers: u64,
}

/// The service and its gateways.
struct Load<'a> {
    args: &'a GatewaysArgs,
    service: Service,
    gateways: Gateways,
    /// Single bans so far: each is of another address.
    banned: Mutex<u32>,
}

/// Runs all steps, and prints their figures as tables in Markdown.
///
/// # Errors
/// The service does not start, or gateways do not follow it.
pub fn run(args: &GatewaysArgs) -> Result<Figures> {
    let program = match &args.tidegate {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("tidegate"),
    };
    raise_descriptors()?;
    let processors = std::thread::available_parallelism().map_or(0, NonZero::get);
    say(format_args!("{processors} processors, load average {}", load_average()));
    let service = Service::start(&program, &args.dir)?;
    let gateways = Gateways::start(args.count, service.feed(), service.gateway_token())?;
    let mut load = Load { args, service, gateways, banned: Mutex::new(0) };
    load.connect()?;
    load.rest()?;
    let bans = load.single_bans()?;
    load.many_bans()?;
    let downloads_after_restart = load.restart()?;
    if args.list > 0 {
        load.list()?;
    }
    let downloads_of_newcomer = load.newcomer()?;
    let counts = load.gateways.progress().counts();
    let bad_answers = Counts::get(&counts.bad_answers) + Counts::get(&counts.misfolds);
    say(format_args!("\nAnswers that a gateway could not apply: {bad_answers}."));
    Ok(Figures { bans, downloads_after_restart, downloads_of_newcomer, bad_answers })
}

/// Two descriptors for each gateway, and the service as many: as many as this process may have. A child has them, too.
fn raise_descriptors() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("the limit of open files")
}

impl Load<'_> {
    /// All gateways come at once, and hold nothing.
    fn connect(&self) -> Result<()> {
        let began = Instant::now();
        let version = self.settle()?;
        head(format_args!("{} gateways come at once", self.args.count));
        figure("until the last enforces all tables", format_args!("{:.2} s", began.elapsed().as_secs_f64()));
        figure("version", version);
        self.print_usage(None)
    }

    /// Nothing happens.
    fn rest(&self) -> Result<()> {
        let watched = Duration::from_secs(self.args.watch);
        head(format_args!("At rest, {} s", self.args.watch));
        self.watched(|| {
            let end = Instant::now() + watched;
            wait::until("the time is over", watched * 2, || Ok((Instant::now() >= end).then_some(())))
        })
    }

    /// Bans one after the other; returns how many.
    fn single_bans(&self) -> Result<usize> {
        let (mut answers, mut gateways, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.args.bans {
            self.gateways.progress().note_times();
            answers.push(self.ban()?);
            let times = self.gateways.progress().take_times();
            ensure!(times.len() >= self.args.count as usize, "only {} gateways enforce a ban", times.len());
            last.extend(times.iter().max());
            gateways.extend(times);
        }
        head(format_args!("{} bans, one after the other", self.args.bans));
        figure("a gateway enforces it", spread(&gateways));
        figure("the last gateway enforces it", spread(&last));
        figure("the caller has the last ack (`wait_applied`)", spread(&answers));
        Ok(last.len())
    }

    /// So many bans a second, whether or not the one before is enforced everywhere.
    fn many_bans(&self) -> Result<()> {
        let GatewaysArgs { watch, rate, .. } = *self.args;
        head(format_args!("{rate} bans a second, {watch} s"));
        let bans = u32::try_from(watch).unwrap_or(u32::MAX).saturating_mul(rate);
        let (times, late, lost) = (Mutex::new(Vec::new()), AtomicU32::new(0), AtomicU64::new(0));
        let answers = Counts::get(&self.gateways.progress().counts().answers);
        self.watched(|| {
            std::thread::scope(|scope| {
                let began = Instant::now();
                let ban = || -> Result<()> {
                    let began = Instant::now();
                    let answer = self.post_ban()?;
                    match self.applied(&answer) {
                        true => lock(&times)?.push(began.elapsed()),
                        false => drop(late.fetch_add(1, Ordering::Relaxed)),
                    }
                    lost.fetch_max(answer["applied"]["lost"].as_u64().unwrap_or_default(), Ordering::Relaxed);
                    Ok(())
                };
                let callers: Vec<_> = (0..bans)
                    .map(|number| {
                        let due = began + Duration::from_secs(1) / rate.max(1) * number;
                        // The pace of the load, no wait for a state.
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        scope.spawn(ban)
                    })
                    .collect();
                callers.into_iter().try_for_each(|caller| caller.join().unwrap_or_else(|_| Ok(())))
            })
        })?;
        let answers = Counts::get(&self.gateways.progress().counts().answers) - answers;
        figure("answers with news per gateway", format_args!("{:.1}", ratio(answers, self.args.count)));
        figure("the caller has the last ack (`wait_applied`)", spread(&lock(&times)?));
        figure("bans that not all had acked within 25 s", late.into_inner());
        figure("gateways called lost at most", lost.into_inner());
        Ok(())
    }

    /// The service is killed and started again; returns how many tables gateways downloaded.
    fn restart(&mut self) -> Result<u64> {
        let counts = self.gateways.progress().counts();
        let before = [&counts.bytes, &counts.downloads, &counts.connects].map(Counts::get);
        let _ = self.gateways.progress().take_most_connects();
        let began = Instant::now();
        self.service.kill();
        self.service.restart()?;
        let up = began.elapsed();
        self.settle()?;
        let back = began.elapsed();
        let counts = self.gateways.progress().counts();
        let after = [&counts.bytes, &counts.downloads, &counts.connects].map(Counts::get);
        let [bytes, downloads, connects] = [0, 1, 2].map(|at: usize| after[at] - before[at]);
        head("The service is killed and started again");
        figure("until it is healthy", format_args!("{:.2} s", up.as_secs_f64()));
        figure("until all gateways ack a new ban", format_args!("{:.2} s", back.as_secs_f64()));
        figure("tables downloaded", downloads);
        figure("bytes of all answers", megabytes(bytes));
        figure("connections opened", connects);
        figure("most of them within 100 ms", self.gateways.progress().take_most_connects());
        self.print_usage(None)?;
        Ok(downloads)
    }

    /// A list that makes all gateways need a new base of bans. They fold it from changes as far as these fit into an
    /// answer, and else download it.
    fn list(&self) -> Result<()> {
        let lines = self.args.list;
        let text = (0..lines).fold(String::new(), |mut text, number| {
            // A `String` takes everything.
            let _ = writeln!(text, "{}", Ipv4Addr::from_bits((20 << 24) + number * 3));
            text
        });
        let counts = self.gateways.progress().counts();
        let before = [&counts.bytes, &counts.downloads, &counts.failures].map(Counts::get);
        head(format_args!("A list of {lines} addresses"));
        self.watched(|| {
            let began = Instant::now();
            self.gateways.progress().note_times();
            let answer = self.service.post_text("/api/admin/bans/import?source=load&mode=replace", text)?;
            figure("until it is stored", format_args!("{:.1} s", began.elapsed().as_secs_f64()));
            ensure!(answer["added"] == lines, "not all were added: {answer}");
            wait::until("all gateways enforce the list", PATIENCE, || {
                let all = self.gateways.progress().with_bans(lines.into());
                Ok((all == self.args.count as usize).then_some(()))
            })?;
            let took = began.elapsed().as_secs_f64();
            figure("until the last gateway enforces it", format_args!("{took:.1} s"));
            figure("a gateway enforces a part or all of it", spread(&self.gateways.progress().take_times()));
            Ok(())
        })?;
        let after = [&counts.bytes, &counts.downloads, &counts.failures].map(Counts::get);
        figure("tables downloaded", after[1] - before[1]);
        figure("bytes of all answers", megabytes(after[0] - before[0]));
        figure("calls that failed", after[2] - before[2]);
        Ok(())
    }

    /// One more gateway, which holds nothing; returns how many tables it downloaded.
    fn newcomer(&self) -> Result<u64> {
        let began = Instant::now();
        let newcomer = Gateways::start(1, self.service.feed(), self.service.gateway_token())?;
        let bans = u64::from(self.args.list) + u64::from(self.args.bans);
        wait::until("a new gateway enforces all bans", PATIENCE, || {
            Ok((newcomer.progress().with_bans(bans) == 1).then_some(()))
        })?;
        head("A gateway more, which holds nothing");
        figure("until it enforces all tables", format_args!("{:.2} s", began.elapsed().as_secs_f64()));
        let counts = newcomer.progress().counts();
        figure("bytes of all answers", megabytes(Counts::get(&counts.bytes)));
        Ok(Counts::get(&counts.downloads))
    }

    /// Waits until all gateways have acked a ban; its version.
    fn settle(&self) -> Result<Version> {
        wait::until("all gateways follow the service", PATIENCE, || {
            let answer = self.post_ban()?;
            let all = self.applied(&answer);
            Ok(if all { Some(version(&answer)?) } else { None })
        })
    }

    /// Bans another address; how long it took until the last gateway had acked it.
    fn ban(&self) -> Result<Duration> {
        let began = Instant::now();
        let answer = self.post_ban()?;
        ensure!(self.applied(&answer), "not every gateway has acked a ban: {}", answer["applied"]);
        let took = began.elapsed();
        let at = self.gateways.progress().at(version(&answer)?);
        ensure!(at == self.args.count as usize, "acked by all, and only {at} enforce it");
        Ok(took)
    }

    fn post_ban(&self) -> Result<Value> {
        let number = {
            let mut banned = lock(&self.banned)?;
            *banned += 1;
            *banned
        };
        let ban = json!({ "ip": Ipv4Addr::from_bits((11 << 24) + number) });
        self.service.api(Method::POST, "/api/admin/optimization/ip/ban?wait_applied=25s", Some(&ban))
    }

    fn applied(&self, answer: &Value) -> bool {
        let applied = &answer["applied"];
        applied["gateways"] == self.args.count && applied["of"] == self.args.count
    }

    /// Does `step`, and prints what the service used for it.
    fn watched(&self, step: impl FnOnce() -> Result<()>) -> Result<()> {
        self.service.forget_peak()?;
        let (before, own, began) = (self.service.usage()?, own_cpu()?, Instant::now());
        step()?;
        let (own, over) = (own_cpu()?.saturating_sub(own), began.elapsed());
        self.print_usage(Some((before, over)))?;
        // On the same processors: where both together take all there are, the service would have been quicker alone.
        figure("the gateways' own processor time, of one processor", share(own, over));
        Ok(())
    }

    /// Prints memory, and processor time since `before` and over how long.
    fn print_usage(&self, before: Option<(Usage, Duration)>) -> Result<()> {
        let now = self.service.usage()?;
        figure("the service's memory", megabytes(now.memory));
        figure("at most", megabytes(now.peak));
        let (cpu, over) = match before {
            Some((before, over)) => (now.cpu.saturating_sub(before.cpu), Some(over)),
            None => (now.cpu, None),
        };
        figure("its processor time", format_args!("{:.2} s", cpu.as_secs_f64()));
        if let Some(over) = over {
            figure("of one processor", share(cpu, over));
        }
        Ok(())
    }
}

fn share(part: Duration, of: Duration) -> String {
    format!("{:.1} %", 100.0 * part.as_secs_f64() / of.as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(part: u64, of: u32) -> f64 {
    part as f64 / f64::from(of)
}

fn lock<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| anyhow::anyhow!("a caller panicked"))
}

/// Average number of processes that ran or waited for a processor, over the last minute.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().next().unwrap_or("unknown").to_owned()
}

/// The version of an answer to a write.
fn version(answer: &Value) -> Result<Version> {
    let text = answer["version"].as_str().context("no version in the answer")?;
    text.parse().ok().with_context(|| format!("no version: {text}"))
}
