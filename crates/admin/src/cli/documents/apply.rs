//! `apply` and `diff`: documents of files to the service, all of them or none.

use std::time::Duration;

use anyhow::Context;
use form_urlencoded::Serializer;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::CommandResult;
use super::difference::unified_diff;
use super::files::{self, FileDocument, FileDocuments, FileSelection, LocatedError};
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
        let wanted = self.what.read(kinds).await?;
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

    /// The documents, if all of them can be read.
    async fn read(&self, kinds: &[Kind]) -> anyhow::Result<FileDocuments> {
        let mut wanted = files::read(&self.from, kinds)?;
        if self.prune {
            // Anything may stand in them: what they have would be removed as if it were not there.
            let unread = wanted.unread.drain(..);
            wanted
                .wrong
                .extend(unread.map(|one| one.saying("--prune needs every file of a directory readable")));
        }
        if wanted.wrong.is_empty() { Ok(wanted) } else { Err(self.all_errors(wanted).await) }
    }

    async fn show(&self, kinds: &[Kind], force: bool) -> anyhow::Result<CommandResult> {
        let wanted = self.read(kinds).await?;
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
        match Self::ask(&ApiClient::new(&self.access)?, wanted, &target).await {
            Ok(answer) => ApplyReply::deserialize(&answer)
                .with_context(|| format!("of what was applied the service says {answer}")),
            Err(RequestError::Refused(refusal)) => match located(&wanted.documents, &refusal) {
                errors if errors.is_empty() => Err(RequestError::Refused(refusal).into()),
                errors => Err(files::refusal(errors)),
            },
            Err(unreachable) => Err(unreachable.into()),
        }
    }

    async fn ask(client: &ApiClient, wanted: &FileDocuments, target: &str) -> Result<Value, RequestError> {
        let documents: Vec<&Value> = wanted.documents.iter().map(|one| &one.document).collect();
        let kinds: Vec<&str> = wanted.listed.iter().map(|kind| kind.name()).collect();
        let body = json!({ "documents": documents, "kinds": kinds });
        client.request(Method::POST, target, Some(&body), "results").await
    }

    /// All that is wrong, where some documents cannot be read: with what the service would say of the others, so
    /// that it is mended in one go.
    async fn all_errors(&self, mut wanted: FileDocuments) -> anyhow::Error {
        let mut errors = std::mem::take(&mut wanted.wrong);
        let not_checked = |why: &dyn std::fmt::Display| {
            print_error_line(format_args!("what can be read was not checked by the service: {why}"));
        };
        match ApiClient::new(&self.access) {
            _ if wanted.documents.is_empty() => {}
            Err(error) => not_checked(&error),
            // Not pruned: what was not read is not gone.
            Ok(client) => match Self::ask(&client, &wanted, "/api/admin/apply?dry_run=true").await {
                Ok(_) => {}
                Err(RequestError::Refused(refusal)) => {
                    errors.extend(located(&wanted.documents, &refusal));
                }
                Err(error) => not_checked(&error),
            },
        }
        files::refusal(errors)
    }
}

fn warn(wanted: &[FileDocument], at: usize, result: &DocumentReply) {
    let place = wanted.get(at).map_or_else(|| result.name.clone(), |one| one.location.to_string());
    for warning in &result.warnings {
        print_error_line(format_args!("{place}: warning: {warning}"));
    }
}

/// All errors of a refusal, with file and line where they are about a document. Those that are about all come
/// first.
fn located(wanted: &[FileDocument], refusal: &ProblemReply) -> Vec<LocatedError> {
    let located = |wrong: &FieldProblem| {
        let rest = wrong.pointer.as_deref()?.strip_prefix("/documents/")?;
        let (at, pointer) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let one = wanted.get(at.parse::<usize>().ok()?)?;
        Some(one.location.error(pointer, &wrong.detail, &wrong.code))
    };
    let of_all = |wrong: &FieldProblem| LocatedError::of_all(format!("{} ({})", wrong.detail, wrong.code));
    refusal.errors.iter().map(|wrong| located(wrong).unwrap_or_else(|| of_all(wrong))).collect()
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
