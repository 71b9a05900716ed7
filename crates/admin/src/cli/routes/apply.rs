//! `tidegate routes apply`: writes routes from files to the service.

use std::time::Duration;

use anyhow::Context;
use reqwest::Method;
use reqwest::header::{HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde::Deserialize;
use serde_json::Value;
use tidegate_author::{self as author, DocumentError, Listeners};

use super::document::{canonical, unified_diff};
use super::files::{self, RouteDocument, Sources};
use super::{CommandResult, path};
use crate::api::query::MAX_WAIT_APPLIED;
use crate::cli::api_client::{AccessArgs, ApiClient, ProblemReply, RequestError};
use crate::cli::output::{print_error_line, print_line, print_text};
use crate::time;

/// Options of `tidegate routes apply`.
#[derive(clap::Args, Debug)]
pub struct ApplyArgs {
    #[command(flatten)]
    from: Sources,
    #[command(flatten)]
    access: AccessArgs,
    /// Show what would change, as a unified diff of YAML, and change nothing. Exits with 1 if
    /// something would.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait until every gateway enforces the routes, up to 30s; 0s:
    /// not at all.
    #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = wait)]
    wait: Duration,
}

fn wait(text: &str) -> Result<Duration, String> {
    match time::parse_duration(text) {
        Some(span) if span <= MAX_WAIT_APPLIED => Ok(span),
        Some(_) => Err(format!("at most {} s", MAX_WAIT_APPLIED.as_secs())),
        None => Err(time::DURATION_FORM.to_owned()),
    }
}

/// The service's answer to a written route.
#[derive(Deserialize)]
struct WriteReply {
    #[serde(default)]
    warnings: Vec<String>,
}

/// The part of an answer about the gateways.
#[derive(Deserialize)]
struct WarmupReply {
    applied: AppliedGateways,
    behind: Vec<String>,
}

#[derive(Deserialize)]
struct AppliedGateways {
    gateways: usize,
    of: usize,
    lost: usize,
}

/// Applies the routes, or shows what that would change.
///
/// # Errors
/// When a document is invalid: then nothing was changed. Or when a route could not be written:
/// which were written and which not was printed.
pub async fn run(args: &ApplyArgs) -> anyhow::Result<CommandResult> {
    let wanted = files::read(&args.from)?;
    let service = ApiClient::new(&args.access)?;
    if args.dry_run {
        return dry_run(&service, &wanted).await;
    }
    let applied = write_all(&service, &wanted).await;
    if applied.is_ok() && !args.wait.is_zero() {
        wait_for_gateways(&service, args.wait).await?;
    }
    applied.map(|()| CommandResult::Done)
}

/// Writes the routes one after the other. A refused route does not prevent the others from being
/// written.
async fn write_all(service: &ApiClient, wanted: &[RouteDocument]) -> anyhow::Result<()> {
    let mut missed: Vec<&str> = Vec::new();
    for (at, route) in wanted.iter().enumerate() {
        match write(service, route).await {
            Ok(outcome) => print_line(format_args!("{} {outcome}", route.id)),
            Err(RequestError::Refused(refusal)) => {
                refused(route, &refusal);
                missed.push(&route.id);
            }
            Err(RequestError::Unreachable(why)) => {
                print_error_line(format_args!("{}: {why}", route.location));
                // Those after it would fail in the same way.
                missed.extend(wanted.iter().skip(at).map(|route| route.id.as_str()));
                break;
            }
        }
    }
    let (all, done) = (wanted.len(), wanted.len().saturating_sub(missed.len()));
    anyhow::ensure!(
        missed.is_empty(),
        "{done} of {all} routes are applied; not, or not known to be: {}",
        missed.join(", ")
    );
    Ok(())
}

/// Writes a route, and returns what was done with it, in kubectl's words.
async fn write(service: &ApiClient, route: &RouteDocument) -> Result<&'static str, RequestError> {
    let path = path(&route.id);
    // So that what somebody else writes in between is not overwritten.
    let (outcome, condition) = match service.get_tagged(&path, "route_not_found").await? {
        Some((held, tag)) => match canonical(held) == route.document {
            true => return Ok("unchanged"),
            false => ("configured", tag.map(|tag| (IF_MATCH, tag))),
        },
        None => ("created", Some((IF_NONE_MATCH, HeaderValue::from_static("*")))),
    };
    let (answer, _) = service.request_if(Method::PUT, &path, Some(&route.document), condition).await?;
    let WriteReply { warnings } =
        WriteReply::deserialize(answer).unwrap_or(WriteReply { warnings: Vec::new() });
    for warning in warnings {
        print_error_line(format_args!("{}: warning: {warning}", route.location));
    }
    Ok(outcome)
}

fn refused(route: &RouteDocument, refusal: &ProblemReply) {
    if refusal.is("precondition_failed") {
        return print_error_line(format_args!(
            "{}: somebody else has written this route since this command read it, and that was not overwritten: \
             --dry-run shows what is different now; apply again if it is to be as in the file",
            route.location
        ));
    }
    let named = refusal.errors.iter().filter(|wrong| wrong.pointer.is_some());
    let lines: Vec<_> = named
        .map(|wrong| {
            route.location.problem_line(
                wrong.pointer.as_deref().unwrap_or_default(),
                &wrong.detail,
                &wrong.code,
            )
        })
        .collect();
    match lines.is_empty() {
        true => print_error_line(format_args!("{}: {refusal}", route.location)),
        false => lines.iter().for_each(print_error_line),
    }
}

/// Waits for the gateways, once for all routes, and prints how many enforce them.
async fn wait_for_gateways(service: &ApiClient, wait: Duration) -> anyhow::Result<()> {
    let target = format!("/api/admin/optimization/warmup?wait={}ms", wait.as_millis());
    let answer = service.request(Method::POST, &target, None).await;
    let answer = answer.context("the routes are applied, but whether gateways enforce them is not known")?;
    let WarmupReply { applied: AppliedGateways { gateways, of, lost }, behind } =
        WarmupReply::deserialize(&answer)
            .with_context(|| format!("the routes are applied; of the gateways the service says {answer}"))?;
    if of == 0 && lost == 0 {
        print_error_line("no gateway has reported to the service yet");
        return Ok(());
    }
    print_error_line(format_args!("enforced by {gateways} of {of} gateways"));
    if !behind.is_empty() {
        print_error_line(format_args!("warning: not within the time by: {}", behind.join(", ")));
    }
    if lost > 0 {
        print_error_line(format_args!("warning: {lost} more not heard of for over 3 s"));
    }
    Ok(())
}

/// Shows what would change.
///
/// # Errors
/// When the service would refuse one of the routes.
async fn dry_run(service: &ApiClient, wanted: &[RouteDocument]) -> anyhow::Result<CommandResult> {
    let refused = not_held(wanted, &listeners(service).await?);
    let (mut created, mut configured) = (0usize, 0usize);
    for route in wanted {
        let held = service.get_if_exists(&path(&route.id), "route_not_found").await;
        let held = held.with_context(|| route.location.to_string())?.map(canonical);
        match &held {
            Some(held) if *held == route.document => continue,
            Some(_) => configured = configured.saturating_add(1),
            None => created = created.saturating_add(1),
        }
        let location = route.location.to_string();
        print_text(&unified_diff(&route.id, held.as_ref(), &location, &route.document)?);
    }
    let changes = created.saturating_add(configured);
    let unchanged = wanted.len().saturating_sub(changes);
    print_error_line(format_args!(
        "nothing was changed; would be created: {created}, configured: {configured}, unchanged: {unchanged}"
    ));
    anyhow::ensure!(refused.is_empty(), "would be refused:\n{}", refused.join("\n"));
    Ok(if changes == 0 { CommandResult::Done } else { CommandResult::Different })
}

/// The listeners of the service.
async fn listeners(service: &ApiClient) -> anyhow::Result<Listeners> {
    let documents = service.list("/api/admin/listeners", &[]).await?;
    let read = |document: Value| {
        let name = document["name"].as_str().unwrap_or_default().to_owned();
        let listener = author::read_listener(&name, &document).ok()?;
        Some((name, listener))
    };
    Ok(documents.into_iter().filter_map(read).collect())
}

/// What the service would say of routes that cannot be held to their listeners, a line each.
fn not_held(wanted: &[RouteDocument], listeners: &Listeners) -> Vec<String> {
    let problems = |route: &RouteDocument| {
        let read = author::read(&route.document).ok()?;
        let line = |one: DocumentError| route.location.problem_line(&one.pointer, &one.message, one.code);
        Some(read.listener_problems(listeners).into_iter().map(line).collect::<Vec<_>>())
    };
    wanted.iter().filter_map(problems).flatten().collect()
}
