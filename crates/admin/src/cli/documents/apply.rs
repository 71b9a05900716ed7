//! `apply` and `diff`: documents of files to the service, all of them or none.

use std::time::Duration;

use anyhow::{Context, bail};
use form_urlencoded::Serializer;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::CommandResult;
use super::difference::unified_diff;
use super::files::{self, FileDocument, FileDocuments, FileSelection};
use crate::api::query::MAX_WAIT_APPLIED;
use crate::cli::api_client::{AccessArgs, ApiClient, FieldProblem, ProblemReply, RequestError};
use crate::cli::output::{plain, print_error_line, print_line, print_text};
use crate::manifest::Kind;
use crate::time;

/// Options of `apply` and `diff`.
#[derive(clap::Args, Debug)]
pub struct DiffArgs {
    #[command(flatten)]
    from: FileSelection,
    /// Also remove what the files do not have, of the kinds that they have; of those that they have an
    /// empty list of (`kind: GeoRuleList`, as `export` writes it) everything. Bans of lists stay.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    access: AccessArgs,
}

/// Options of `apply`.
#[derive(clap::Args, Debug)]
pub struct ApplyArgs {
    #[command(flatten)]
    what: DiffArgs,
    /// Show what would change, as a unified diff of YAML, and change nothing. Exits with 1 if
    /// something would.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait until every gateway enforces the documents, up to 30s; 0s:
    /// not at all.
    #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = wait)]
    wait: Duration,
}

/// Options of `tidegate apply`.
#[derive(clap::Args, Debug)]
pub struct ApplyAllArgs {
    #[command(flatten)]
    apply: ApplyArgs,
    /// Ban although a network is protected, or on the allow list.
    #[arg(long)]
    force: bool,
}

fn wait(text: &str) -> Result<Duration, String> {
    match time::parse_duration(text) {
        Some(span) if span <= MAX_WAIT_APPLIED => Ok(span),
        Some(_) => Err(format!("at most {} s", MAX_WAIT_APPLIED.as_secs())),
        None => Err(time::DURATION_FORM.to_owned()),
    }
}

/// The service's answer.
#[derive(Deserialize)]
struct ApplyReply {
    results: Vec<DocumentReply>,
    applied: Option<AppliedGateways>,
}

/// What became of a document, or would.
#[derive(Deserialize)]
struct DocumentReply {
    kind: String,
    name: String,
    outcome: String,
    #[serde(default)]
    warnings: Vec<String>,
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Deserialize)]
struct AppliedGateways {
    gateways: usize,
    of: usize,
    lost: usize,
}

impl ApplyAllArgs {
    /// Applies documents of all kinds, or shows what that would change.
    ///
    /// # Errors
    /// As [`ApplyArgs::run`].
    pub async fn run(&self) -> anyhow::Result<CommandResult> {
        self.apply.run(&Kind::ALL, self.force).await
    }
}

impl ApplyArgs {
    /// Applies the documents, which are of `kinds`, or shows what that would change.
    ///
    /// # Errors
    /// When anything is wrong with any of them: all of it is said, and nothing was changed.
    pub async fn run(&self, kinds: &[Kind], force: bool) -> anyhow::Result<CommandResult> {
        if self.dry_run {
            return self.what.show(kinds, force).await;
        }
        let wanted = files::read(&self.what.from, kinds)?;
        let reply = self.what.send(&wanted, &[("force", force)], Some(self.wait)).await?;
        for (at, result) in reply.results.iter().enumerate() {
            print_line(format_args!("{} {}", plain(&result.called(kinds)), plain(&result.outcome)))?;
            warn(&wanted.documents, at, result);
        }
        if let Some(applied) = reply.applied.filter(|_| !self.wait.is_zero()) {
            print_error_line(applied.said());
        }
        Ok(CommandResult::Done)
    }
}

impl DiffArgs {
    /// Shows what applying the documents, which are of `kinds`, would change.
    ///
    /// # Errors
    /// As [`ApplyArgs::run`].
    pub async fn run(&self, kinds: &[Kind]) -> anyhow::Result<CommandResult> {
        self.show(kinds, false).await
    }

    async fn show(&self, kinds: &[Kind], force: bool) -> anyhow::Result<CommandResult> {
        let wanted = files::read(&self.from, kinds)?;
        let reply = self.send(&wanted, &[("force", force), ("dry_run", true)], None).await?;
        for (at, result) in reply.results.iter().enumerate() {
            let location = wanted
                .documents
                .get(at)
                .map_or("not in the files".to_owned(), |one| one.location.to_string());
            let name = result.called(kinds);
            let diff = unified_diff(&name, result.before.as_ref(), &location, result.after.as_ref())?;
            print_text(&diff)?;
            warn(&wanted.documents, at, result);
        }
        let count = |outcome: &str| reply.results.iter().filter(|one| one.outcome == outcome).count();
        let changes = ["created", "configured", "removed"].map(|outcome| (outcome, count(outcome)));
        let told = changes.iter().filter(|(outcome, count)| *outcome != "removed" || *count > 0);
        let told: Vec<_> = told.map(|(outcome, count)| format!("{outcome}: {count}")).collect();
        print_error_line(format_args!(
            "nothing was changed; would be {}, unchanged: {}",
            told.join(", "),
            count("unchanged")
        ));
        let is_same = changes.iter().all(|(_, count)| *count == 0);
        Ok(if is_same { CommandResult::Done } else { CommandResult::Different })
    }

    async fn send(
        &self,
        wanted: &FileDocuments,
        wishes: &[(&str, bool)],
        wait: Option<Duration>,
    ) -> anyhow::Result<ApplyReply> {
        let mut query = Serializer::new(String::new());
        let wishes = wishes.iter().copied().chain([("prune", self.prune)]).filter(|(_, wish)| *wish);
        query.extend_pairs(wishes.map(|(name, _)| (name, "true")));
        query.extend_pairs(wait.map(|wait| ("wait_applied", format!("{}ms", wait.as_millis()))));
        let target = format!("/api/admin/apply?{}", query.finish());
        let documents: Vec<&Value> = wanted.documents.iter().map(|one| &one.document).collect();
        let kinds: Vec<&str> = wanted.listed.iter().map(|kind| kind.name()).collect();
        let body = json!({ "documents": documents, "kinds": kinds });
        match ApiClient::new(&self.access)?.request(Method::POST, &target, Some(&body), "results").await {
            Ok(answer) => ApplyReply::deserialize(&answer)
                .with_context(|| format!("of what was applied the service says {answer}")),
            Err(RequestError::Refused(refusal)) => {
                bail!(
                    "nothing was changed, for not everything is right:\n{}",
                    located(&wanted.documents, &refusal)
                )
            }
            Err(unreachable) => Err(unreachable.into()),
        }
    }
}

fn warn(wanted: &[FileDocument], at: usize, result: &DocumentReply) {
    let place = wanted.get(at).map_or_else(|| result.name.clone(), |one| one.location.to_string());
    for warning in &result.warnings {
        print_error_line(format_args!("{place}: warning: {warning}"));
    }
}

/// All errors of a refusal, a line each, with file and line where they are about a document.
fn located(wanted: &[FileDocument], refusal: &ProblemReply) -> String {
    let line = |pointer: &str, detail: &str, code: &str| {
        let rest = pointer.strip_prefix("/documents/")?;
        let (at, pointer) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let one = wanted.get(at.parse::<usize>().ok()?)?;
        Some(one.location.problem_line(pointer, detail, code))
    };
    // The service checks kind by kind; people read a file from its beginning.
    let mut errors: Vec<&FieldProblem> = refusal.errors.iter().collect();
    let place = |wrong: &FieldProblem| -> Option<usize> {
        wrong.pointer.as_deref()?.strip_prefix("/documents/")?.split('/').next()?.parse().ok()
    };
    errors.sort_by_key(|wrong| place(wrong));
    let lines = errors.into_iter().map(|wrong| {
        let located = line(wrong.pointer.as_deref().unwrap_or_default(), &wrong.detail, &wrong.code);
        located.unwrap_or_else(|| format!("{} ({})", wrong.detail, wrong.code))
    });
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() { refusal.to_string() } else { lines.join("\n") }
}

impl DocumentReply {
    /// Its name, with its kind if others are of other kinds.
    fn called(&self, kinds: &[Kind]) -> String {
        match (kinds, self.name.as_str()) {
            ([_], name) => name.to_owned(),
            (_, "") => self.kind.clone(),
            (_, name) => format!("{}/{name}", self.kind),
        }
    }
}

impl AppliedGateways {
    /// How many gateways enforce what was written.
    fn said(&self) -> String {
        let Self { gateways, of, lost } = self;
        if (*of, *lost) == (0, 0) {
            return "no gateway has reported to the service yet".to_owned();
        }
        let lost = match lost {
            0 => String::new(),
            lost => format!("; {lost} more not heard of for over 3 s"),
        };
        format!("enforced by {gateways} of {of} gateways{lost}")
    }
}
