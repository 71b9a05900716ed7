//! What documents would change, and whether all that there is then is as right as if they had been
//! written one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::address::Prefix;
use tidegate_policy::flags::{Flag, FlagState};
use utoipa::ToSchema;

use super::manifests::{RequestedDocuments, Wanted};
use crate::api::admin::{
    auto_bans, backends, geo_rules, limits, listeners, pages, rollouts, routes, sources,
};
use crate::api::app_state::AppState;
use crate::api::body::MAX_PEOPLE_BODY;
use crate::api::named_documents::NamedDocument;
use crate::feed::Snapshot;
use crate::manifest::Kind;
use crate::problem::{ApiResult, FieldError, Problem, ProblemCode};
use crate::store::{Change, ChangedRows, DocumentKind, DocumentRow, StoreTable};
use crate::time;

/// How documents are to be applied.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Remove what is not among the documents, of the kinds that they have.
    pub prune: bool,
    /// Ban what is protected or allowed, too.
    pub force: bool,
    /// Show what changes, before and after.
    pub with_documents: bool,
}

/// What becomes of a document.
#[derive(Serialize, Debug, ToSchema)]
pub struct DocumentOutcome {
    kind: &'static str,
    name: String,
    /// `created`, `configured`, `unchanged`, `removed`, or `over` (an entry whose end has passed).
    outcome: &'static str,
    /// What was probably not intended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// The document before, in a dry run, if it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    before: Option<Value>,
    /// The document after, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    after: Option<Value>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct ApplyPlan {
    pub changes: Vec<Change>,
    /// Keys of the bans and the entries of the allow list that are written or removed.
    pub addresses: Vec<String>,
    /// The same of bans that apply at some hostnames or routes only.
    pub scoped: Vec<String>,
    /// Of each document, then of what is removed.
    pub results: Vec<DocumentOutcome>,
}

impl ApplyPlan {
    /// The plan for `documents`, with `before` as it is now.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn make(
        app: &AppState,
        documents: &RequestedDocuments,
        before: &Snapshot,
        wishes: Wishes,
    ) -> ApiResult<Self> {
        let mut planner = Planner {
            app,
            documents,
            before,
            wishes,
            rows: ChangedRows::default(),
            plan: Self::default(),
            disallowed: BTreeSet::new(),
            forced: BTreeSet::new(),
            results: BTreeMap::new(),
            removed: Vec::new(),
            errors: documents.errors.clone(),
        };
        planner.plan_all();
        // What is refused by itself is not among the rows; the rest is checked all the same, so that everything is
        // said at once.
        let rows = std::mem::take(&mut planner.rows);
        planner.plan.addresses = rows.ips.iter().map(|(key, _)| key.clone()).collect();
        planner.plan.scoped = rows.scoped.iter().map(|(key, _)| key.clone()).collect();
        match before.with(rows) {
            Ok(after) => planner.check_all(&after),
            Err(error) => {
                let detail = format!("these documents do not fit into a table: {error}");
                planner.refuse(vec![FieldError::field("/documents", "too_many", detail)]);
            }
        }
        planner.no_errors()?;
        let mut plan = planner.plan;
        plan.results.extend(planner.results.into_values());
        plan.results.extend(planner.removed);
        Ok(plan)
    }
}

/// A plan that is being made.
pub(super) struct Planner<'a> {
    pub(super) app: &'a AppState,
    pub(super) documents: &'a RequestedDocuments,
    pub(super) before: &'a Snapshot,
    pub(super) wishes: Wishes,
    /// The rows as they will be.
    pub(super) rows: ChangedRows,
    pub(super) plan: ApplyPlan,
    /// Entries of the allow list that are removed because the documents do not have them.
    pub(super) disallowed: BTreeSet<Prefix>,
    /// Places of the entries that are written whatever stands against them.
    pub(super) forced: BTreeSet<usize>,
    /// By the document's place.
    results: BTreeMap<usize, DocumentOutcome>,
    removed: Vec<DocumentOutcome>,
    errors: Vec<FieldError>,
}

impl<'a> Planner<'a> {
    fn plan_all(&mut self) {
        self.plan_documents::<listeners::DeclaredListeners>();
        self.plan_documents::<backends::Backends>();
        self.plan_documents::<geo_rules::GeoRuleDocuments>();
        self.plan_documents::<limits::Limits>();
        self.plan_documents::<pages::Pages>();
        self.plan_documents::<sources::BanSources>();
        self.plan_documents::<routes::Routes>();
        self.plan_documents::<auto_bans::AutoBanRules>();
        self.plan_documents::<rollouts::RolloutPlans>();
        self.addresses();
        self.flags();
    }

    fn check_all(&mut self, after: &Snapshot) {
        self.check::<listeners::DeclaredListeners>(after);
        self.check::<backends::Backends>(after);
        self.check::<geo_rules::GeoRuleDocuments>(after);
        self.check::<limits::Limits>(after);
        self.check::<pages::Pages>(after);
        self.check::<sources::BanSources>(after);
        self.check::<routes::Routes>(after);
        self.check::<auto_bans::AutoBanRules>(after);
        self.check::<rollouts::RolloutPlans>(after);
        self.check_addresses(after);
        let (from, to) = (self.before.listeners_by_name(), after.listeners_by_name());
        if self.errors.is_empty()
            && let Err(problem) = listeners::still_held(after, &from, &to)
        {
            self.refuse(vec![FieldError::field("/documents", problem.code().name(), problem.detail())]);
        }
    }

    fn no_errors(&mut self) -> ApiResult<()> {
        match std::mem::take(&mut self.errors) {
            errors if errors.is_empty() => Ok(()),
            errors => Err(Problem::fields(errors)),
        }
    }

    pub(super) fn refuse(&mut self, mut errors: Vec<FieldError>) {
        self.errors.append(&mut errors);
    }

    /// The documents of one kind, in their order.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &'a Wanted> + use<'a> {
        self.documents.wanted.iter().filter(move |one| one.kind == kind)
    }

    /// Whether what is not among the documents of this kind is to be removed.
    pub(super) fn is_pruned(&self, kind: Kind) -> bool {
        let is_given = || self.documents.kinds.contains(&kind) || self.of_kind(kind).next().is_some();
        // What is malformed may be what would be removed, and everything is refused anyway.
        self.wishes.prune && self.documents.errors.is_empty() && is_given()
    }

    /// Notes what becomes of `one`, which is `before` now. Returns whether it is to be written.
    pub(super) fn note(&mut self, one: &Wanted, before: Option<Value>) -> bool {
        let outcome = match &before {
            Some(before) if *before == one.manifest => "unchanged",
            Some(_) => "configured",
            None => "created",
        };
        let after = (outcome != "unchanged").then(|| one.manifest.clone());
        self.note_as(one, outcome, before, after);
        outcome != "unchanged"
    }

    pub(super) fn note_as(
        &mut self,
        one: &Wanted,
        outcome: &'static str,
        before: Option<Value>,
        after: Option<Value>,
    ) {
        let result = self.outcome(one.kind, one.name.clone(), outcome, before, after);
        self.results.insert(one.at, result);
    }

    /// Whether `one` is created or configured.
    pub(super) fn is_written(&self, one: &Wanted) -> bool {
        self.results.get(&one.at).is_some_and(|result| matches!(result.outcome, "created" | "configured"))
    }

    pub(super) fn note_removed(&mut self, kind: Kind, name: String, before: Value) {
        let result = self.outcome(kind, name, "removed", Some(before), None);
        self.removed.push(result);
    }

    fn outcome(
        &self,
        kind: Kind,
        name: String,
        outcome: &'static str,
        before: Option<Value>,
        after: Option<Value>,
    ) -> DocumentOutcome {
        let is_shown = self.wishes.with_documents && outcome != "unchanged";
        let [before, after] = [before, after].map(|document| document.filter(|_| is_shown));
        DocumentOutcome { kind: kind.name(), name, outcome, warnings: Vec::new(), before, after }
    }

    /// Plans the documents of one kind.
    fn plan_documents<R: NamedDocument>(&mut self) {
        let kind = R::MANIFEST;
        let quarantined = quarantined(self.before, R::KIND);
        let mut names = BTreeSet::new();
        for one in self.of_kind(kind) {
            names.insert(one.name.as_str());
            // Of one without a name only the rest is read.
            let name = if one.name.is_empty() { "unnamed" } else { one.name.as_str() };
            let text = match R::read(name, one.spec.clone()) {
                Ok((text, _)) if text.len() > MAX_PEOPLE_BODY => {
                    let detail = format!("a document may have {MAX_PEOPLE_BODY} bytes as JSON");
                    self.refuse(vec![one.error("", "too_long", detail)]);
                    continue;
                }
                Ok(_) if one.is_malformed => continue,
                Ok((text, _)) => text,
                Err(problem) => {
                    self.refuse(one.errors(&problem));
                    continue;
                }
            };
            let held = R::of(self.before).in_force.get(one.name.as_str());
            // A row that cannot be read is replaced, whatever holds in its place.
            let readable = held.filter(|info| !quarantined.contains_key(&info.name));
            let before = readable.map(|info| kind.of_answer(R::show(info)).1);
            if !self.note(one, before) {
                continue;
            }
            let created = held.and_then(|info| info.created()).unwrap_or_else(time::now);
            self.rows.documents[R::KIND].push((
                one.name.clone(),
                Some(DocumentRow {
                    name: one.name.clone(),
                    document: text.clone(),
                    created_at: Some(time::to_sql(created)),
                    updated_at: None,
                }),
            ));
            let name = one.name.clone();
            self.plan.changes.push(Change::PutDocument {
                kind: R::KIND,
                name,
                document: text,
                only_if: None,
            });
        }
        if self.is_pruned(kind) {
            self.prune::<R>(&names);
        }
    }

    /// Plans that the documents of one kind that are not among `names` are removed.
    fn prune<R: NamedDocument>(&mut self, names: &BTreeSet<&str>) {
        for (name, info) in R::of(self.before).in_force.iter().filter(|(name, _)| !names.contains(&***name)) {
            let name = name.to_string();
            self.rows.documents[R::KIND].push((name.clone(), None));
            let change = Change::DeleteDocument { kind: R::KIND, name: name.clone(), only_if: None };
            self.plan.changes.push(change);
            let (_, before) = R::MANIFEST.of_answer(R::show(info));
            self.note_removed(R::MANIFEST, name, before);
        }
    }

    /// Checks the documents of one kind together with all that there is then.
    fn check<R: NamedDocument>(&mut self, after: &Snapshot) {
        let quarantined = quarantined(after, R::KIND);
        for one in self.of_kind(R::MANIFEST) {
            if self.results.get(&one.at).is_none_or(|result| result.outcome == "unchanged") {
                continue;
            }
            let found = R::of(after).in_force.get(one.name.as_str());
            let Some(info) = found.filter(|info| !quarantined.contains_key(&info.name)) else {
                let why = quarantined.get(one.name.as_str()).map_or("it cannot be read", |why| why);
                self.refuse(vec![one.error("", "too_many", why)]);
                continue;
            };
            let problems = R::problems_in(&info.parsed, after).into_iter();
            self.refuse(problems.map(|wrong| one.error(&wrong.pointer, wrong.code, wrong.message)).collect());
            let warnings = R::written(self.app, after, &one.name, &info.parsed);
            if let Some(result) = self.results.get_mut(&one.at) {
                result.warnings = warnings;
            }
        }
        let kind = R::MANIFEST.name();
        for result in self.removed.iter_mut().filter(|result| result.kind == kind) {
            result.warnings = R::removed(after, &result.name);
            if let Err(problem) = R::check_removal(self.app, after, &result.name) {
                let detail = format!("{} `{}` would be removed: {}", R::NOUN, result.name, problem.detail());
                self.errors.push(FieldError::field("/documents", problem.code().name(), detail));
            }
        }
    }

    fn flags(&mut self) {
        for one in self.of_kind(Kind::Flags) {
            let set: Vec<(Flag, FlagState)> = match author::read_flags(&one.spec) {
                Ok(set) => set,
                Err(problems) => {
                    let problem = Problem::document(ProblemCode::InvalidFlag, problems);
                    self.refuse(one.errors(&problem));
                    continue;
                }
            };
            let now = |flag: Flag| (flag.name().to_owned(), author::write_state(self.before.flags.get(flag)));
            let before = Kind::Flags.manifest("", set.iter().map(|(flag, _)| now(*flag)).collect());
            if !one.is_malformed && self.note(one, Some(before)) {
                let text = |(flag, state): (Flag, FlagState)| {
                    (flag.name().to_owned(), author::write_state(&state).to_string())
                };
                self.plan.changes.push(Change::SetFlags { flags: set.into_iter().map(text).collect() });
            }
        }
    }
}

/// The rows of a kind in quarantine, and why.
fn quarantined(snapshot: &Snapshot, kind: DocumentKind) -> BTreeMap<Arc<str>, Arc<str>> {
    let rows = snapshot.quarantine().filter(|row| row.table == StoreTable::Documents(kind));
    rows.map(|row| (row.key, row.why)).collect()
}
