//! `tidegate watch`: looks at a service and its gateways again and again, and says at the end whether they were stable.

mod figures;
mod journal;
mod look;
mod schedule;
mod text;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::api_args::span;
use super::api_client::{AccessArgs, ApiClient, RequestError};
use super::bench::load::{Load, LoadArgs};
use super::bench::url_under_load::{Host, ReachArgs, UrlUnderLoad, host, http_url};
use super::documents::CommandResult;
use super::output::{ReportArgs, ReportFormat, plain_json, print_line, print_text};
use super::targets::{GatewayTargets, RequestTargets};
use crate::time;
use figures::measured;
use journal::{Journal, WatchPlan};
use look::Look;
use schedule::Next;
use verdict::Verdict;

/// Options of `tidegate watch`.
#[derive(clap::Args, Debug)]
pub struct WatchArgs {
    /// How long from one look to the next, from 100ms.
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span)]
    every: String,
    /// How long in all, up to 90d and 100,000 looks; the first look is at once, and the last at the end.
    #[arg(long = "for", value_name = "SPAN", default_value = "24h", value_parser = span)]
    length: String,
    /// Where each look is added as a line of JSON. With a file that is there, the watch that began it goes on, or its
    /// verdict is printed if it is over.
    #[arg(long, value_name = "FILE")]
    save: PathBuf,
    /// A URL that is asked at each look as well, as http://127.0.0.1:10000/hello.
    #[arg(long, value_name = "URL", value_parser = http_url)]
    probe: Option<Url>,
    /// Requests of a probe, one after the other, up to 1,000.
    #[arg(long, value_name = "COUNT", default_value_t = 10, requires = "probe",
          value_parser = clap::value_parser!(u64).range(1..=1_000))]
    probe_requests: u64,
    /// The host that a probe asks for, in the place of its URL's.
    #[arg(long, value_name = "HOST", requires = "probe", value_parser = host)]
    probe_host: Option<Host>,
    /// Certificates (PEM) of the authorities of which one must have signed what the probe is shown.
    #[arg(long, value_name = "PATH", requires = "probe")]
    probe_ca: Option<PathBuf>,
    /// Say that the probe may ask another machine than this one: that it is yours, or that its owner agrees.
    #[arg(long, requires = "probe")]
    i_own_this: bool,
    #[command(flatten)]
    requests: RequestTargets,
    #[command(flatten)]
    gateways: GatewayTargets,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    output: ReportArgs,
}

/// The targets of figures.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    requests: RequestTargets,
    gateways: GatewayTargets,
}

/// How long a watch takes at most.
const LONGEST: Duration = Duration::from_secs(90 * 86_400);
/// The shortest time between two looks.
const SHORTEST_STEP: Duration = Duration::from_millis(100);
/// Looks of a watch, at most.
const MAX_LOOKS: u128 = 100_000;
/// How long a probe may go on beginning requests.
const PROBE_TIME: Duration = Duration::from_secs(30);

/// Runs `tidegate watch`.
///
/// # Errors
/// When the file cannot be written, is of another watch or form, or there is no token, or none that the service takes at
/// the first look. A service that is away is a look that failed.
pub async fn run(args: WatchArgs) -> anyhow::Result<CommandResult> {
    let client = ApiClient::new(&args.access)?;
    let mut journal = Journal::open(&args.save, args.plan(client.server())?)?;
    let probe = args.probe().await?;
    let schedule = journal.plan().schedule();
    let mut is_first = true;
    loop {
        match schedule.next(time::now(), journal.looks().last().map(|look| look.number)) {
            Next::Over => break,
            Next::Wait(span) => tokio::time::sleep(span).await,
            Next::Look(number) => {
                let since = journal.looks().last().map_or_else(|| schedule.before(), Look::moment);
                let (look, refusal) = look::take(&client, number, since, probe.as_ref()).await;
                if let Some(refusal) = refusal.filter(|_| is_first) {
                    return Err(refusal.into());
                }
                is_first = false;
                journal.add(look)?;
                args.say_last(&journal)?;
            }
        }
    }
    args.conclude(&journal)
}

impl WatchArgs {
    /// What is to be watched.
    fn plan(&self, server: &str) -> anyhow::Result<WatchPlan> {
        let span = |text: &str| time::parse_duration(text).unwrap_or_default();
        let (every, length) = (span(&self.every), span(&self.length));
        ensure!(every >= SHORTEST_STEP, "--every is at least 100ms");
        ensure!(length <= LONGEST, "--for is at most 90d");
        ensure!(
            every <= length,
            "--every is longer than --for: there would be one look, and nothing to compare it with"
        );
        ensure!(
            length.as_millis() / every.as_millis() < MAX_LOOKS,
            "these are over 100,000 looks: lengthen --every"
        );
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Ok(WatchPlan::new(
            (ms(every), ms(length)),
            server.to_owned(),
            self.probe.as_ref().map(Url::to_string),
            Targets { requests: self.requests, gateways: self.gateways },
        ))
    }

    async fn probe(&self) -> anyhow::Result<Option<Load>> {
        let Some(url) = &self.probe else { return Ok(None) };
        let reach = ReachArgs::plain(self.probe_host.clone(), self.probe_ca.clone(), self.i_own_this);
        let args = LoadArgs::in_turn(self.probe_requests, PROBE_TIME);
        Ok(Some(Load::new(UrlUnderLoad::new(url, &reach).await?, args)))
    }

    /// Prints the last look.
    fn say_last(&self, journal: &Journal) -> anyhow::Result<()> {
        let Some((look, before)) = journal.looks().split_last() else { return Ok(()) };
        match self.output.format() {
            ReportFormat::Table => {
                let measured = measured(look, look::counted(before), &journal.plan().targets);
                print_line(text::line(look, &measured))
            }
            ReportFormat::Json => print_line(plain_json(&serde_json::to_string(look)?)),
            ReportFormat::Markdown => Ok(()),
        }
    }

    /// Prints the verdict.
    fn conclude(&self, journal: &Journal) -> anyhow::Result<CommandResult> {
        let plan = journal.plan();
        let verdict = Verdict::of(journal.looks(), plan.schedule().looks(), &plan.targets);
        match self.output.format() {
            ReportFormat::Table => print_text(&text::verdict(&verdict))?,
            ReportFormat::Json => print_line(plain_json(&serde_json::to_string(&verdict)?))?,
            ReportFormat::Markdown => print_text(&text::page(plan, journal.looks(), &verdict))?,
        }
        Ok(if verdict.stable { CommandResult::Done } else { CommandResult::Different })
    }
}

/// A timestamp of the file; an invalid one, which reading the file refuses, is the beginning of time.
fn moment(text: &str) -> Timestamp {
    text.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Whether the service does not take the token, or not for this: what no later look will change.
fn is_refusal(error: &RequestError) -> bool {
    matches!(error, RequestError::NotAllowed(_))
}
