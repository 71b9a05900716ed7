//! List, read, write and remove named documents: one implementation for routes, geo rules,
//! backends and limits.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::ops::Bound;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use tidegate_author::DocumentError;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::app_state::AppState;
use super::conditions::{Conditions, etag};
use super::endpoints::Endpoints;
use super::openapi::about::{About, named};
use super::openapi::parameters::{CURSOR, DOCUMENTS, DRY_RUN, WAIT_APPLIED};
use super::query::{PathParam, QueryParams};
use super::wait_applied::{PendingWrite, TRIES, WriteResult};
use super::{body, cursor};
use crate::auth::Role;
use crate::feed::{Documents, ParsedDocument, Snapshot};
use crate::manifest::Kind;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{
    Author, Change, Committed, DocumentKind, StoreError, StoreTable, Unchanged, UnchangedRows,
};

/// Documents per page by default.
const DEFAULT_LIMIT: usize = 1_000;
/// Documents per page at most.
const MAX_LIMIT: usize = 10_000;

/// A kind of named documents in the API.
pub trait NamedDocument: Send + Sync + 'static {
    /// A document, parsed.
    type Content: Clone + Send + Sync + 'static;
    /// Its table in the store.
    const KIND: DocumentKind;
    /// Its name in a sentence.
    const NOUN: &str;
    /// What it is called in files, in the API's paths and as a schema.
    const MANIFEST: Kind = Kind::Document(Self::KIND);
    /// A valid one as JSON.
    const EXAMPLE: &str;
    /// The problems when others need it as it is.
    const CONFLICTS: &'static [ProblemCode] = &[];
    /// Whether documents may be in shadow.
    const HAS_SHADOW: bool = false;
    /// Whether an address may have a namespace before the name.
    const HAS_NAMESPACES: bool = false;
    /// The problem when there is no document of a name.
    const NOT_FOUND: ProblemCode;
    /// What [`check`](NamedDocument::check) looks at besides the document: it must be the same
    /// when the document is stored.
    const CHECK_READS: &'static [StoreTable];
    /// What [`check_removal`](NamedDocument::check_removal) looks at: the same for a removal.
    const REMOVAL_READS: &'static [StoreTable] = &[];

    /// The key of the document that an address names: `name`, or `namespace/name`.
    fn key(address: String) -> String {
        address
    }

    /// All documents of this kind.
    fn of(snapshot: &Snapshot) -> &Documents<Self::Content>;

    /// The same, to be changed.
    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<Self::Content>;

    /// The text to store for `document`, and its content, if it is valid by itself.
    fn read(name: &str, document: Value) -> ApiResult<(String, Self::Content)>;

    /// What is wrong with the content beside what `snapshot` has of other kinds.
    fn problems_in(_content: &Self::Content, _snapshot: &Snapshot) -> Vec<DocumentError> {
        Vec::new()
    }

    /// The text to store for `document`, and its content, if it is valid, also together with all
    /// that `snapshot` has.
    fn check(name: &str, document: Value, snapshot: &Snapshot) -> ApiResult<(String, Self::Content)>;

    /// The document as answers show it: with its name, which the stored document may lack.
    fn show(info: &ParsedDocument<Self::Content>) -> Value {
        let mut document = serde_json::from_str(&info.document).unwrap_or_default();
        if let Value::Object(fields) = &mut document {
            fields.insert("name".to_owned(), Value::from(&*info.name));
        }
        document
    }

    /// What answers show beside the documents, by name: how it goes with them. It is not of the document, nor
    /// of its `ETag`.
    fn states(_app: &AppState) -> impl Future<Output = ApiResult<HashMap<String, Value>>> + Send {
        ready(Ok(HashMap::new()))
    }

    /// What is shown though it has no document any more, by name: it is shown as long as something goes by it.
    fn without_document(
        _app: &AppState,
        _snapshot: &Snapshot,
    ) -> impl Future<Output = ApiResult<Vec<(String, Value)>>> + Send {
        ready(Ok(Vec::new()))
    }

    /// `document`, which is in shadow, as one that is enforced; `None`: it is not in shadow.
    fn enforced(_document: Value) -> Option<Value> {
        None
    }

    /// Warnings about a written document: what was probably not intended.
    fn written(app: &AppState, snapshot: &Snapshot, name: &str, says: &Self::Content) -> Vec<String>;

    /// Whether the document may be removed.
    fn check_removal(_context: &AppState, _world: &Snapshot, _name: &str) -> ApiResult<()> {
        Ok(())
    }

    /// Warnings after a removal.
    fn removed(_world: &Snapshot, _name: &str) -> Vec<String> {
        Vec::new()
    }
}

/// A page of documents.
#[derive(Serialize, Debug)]
struct DocumentPage {
    items: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The answer of a write.
#[derive(Serialize, Debug, ToSchema)]
struct WriteAnswer {
    /// The document's name; of a route its id.
    name: String,
    /// What `ETag` a GET answers now; absent after a removal.
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    /// Warnings: what was stored but probably not intended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(flatten)]
    written: WriteResult,
}

/// The path of the list.
pub fn path<R: NamedDocument>() -> String {
    format!("/api/admin/{}", R::MANIFEST.plural())
}

/// The paths of one kind.
pub fn routes<R: NamedDocument>() -> Endpoints {
    let noun = R::NOUN;
    let reads = About::new(format!("Answers a {noun}"))
        .answers_named(R::MANIFEST.name())
        .problems(&[R::NOT_FOUND])
        .conditional_get();
    let puts = About::new(format!("Makes or replaces a {noun}"))
        .query(&[&WAIT_APPLIED, &DRY_RUN])
        .takes_document(R::MANIFEST.name(), serde_json::from_str(R::EXAMPLE).unwrap_or_default())
        .answers::<WriteAnswer>()
        .problems(R::CONFLICTS)
        .conditional();
    let removes = About::new(format!("Removes a {noun}"))
        .query(&[&WAIT_APPLIED, &DRY_RUN])
        .answers::<WriteAnswer>()
        .problems(R::CONFLICTS)
        .problems(&[R::NOT_FOUND])
        .conditional();
    let document = |endpoints: Endpoints, path: &str| {
        endpoints
            .get(Role::Read, path, one::<R>)
            .about(reads.clone())
            .put(Role::Admin, path, put::<R>)
            .about(puts.clone())
            .delete(Role::Admin, path, delete::<R>)
            .about(removes.clone())
    };
    let lists = About::new(format!("Lists the {noun}s")).query(&[&DOCUMENTS, &CURSOR]).answers_json(json!({
        "type": "object",
        "required": ["items"],
        "properties": {"items": {"type": "array", "items": named(R::MANIFEST.name())}, "next": {"type": "string"}},
    }));
    let list = Endpoints::default().get(Role::Read, &path::<R>(), list::<R>).about(lists);
    let mut named = document(list, &format!("{}/{{name}}", path::<R>()));
    if R::HAS_SHADOW {
        let enforces = About::new(format!("Makes a {noun} in shadow an enforced one"))
            .query(&[&WAIT_APPLIED, &DRY_RUN])
            .answers::<WriteAnswer>()
            .problems(&[R::NOT_FOUND, ProblemCode::NotInShadow]);
        let path = format!("{}/{{name}}/enforce", path::<R>());
        named = named.post(Role::Admin, &path, enforce::<R>).about(enforces);
    }
    match R::HAS_NAMESPACES {
        true => document(named, &format!("{}/{{namespace}}/{{name}}", path::<R>())),
        false => named,
    }
}

/// Answers a page, in the order of names.
async fn list<R: NamedDocument>(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<DocumentPage>> {
    let params = QueryParams::read(&uri, &["limit", "cursor"])?;
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let after = params.get("cursor").map(cursor::read).transpose()?;
    let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let snapshot = app.in_force().await?;
    let mut rest = R::of(&snapshot).in_force.range::<_, str>((from, Bound::Unbounded)).peekable();
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let last = page.last().filter(|_| rest.peek().is_some());
    let next = last.map(|(name, _)| cursor::write(name));
    let mut states = R::states(&app).await?;
    let shown = |(name, info): &(&Arc<str>, &Arc<ParsedDocument<R::Content>>)| {
        with_state(R::show(info), states.remove(&***name))
    };
    let mut items: Vec<Value> = page.iter().map(shown).collect();
    if next.is_none() {
        let others = R::without_document(&app, &snapshot).await?;
        items.extend(others.into_iter().map(|(name, document)| with_state(document, states.remove(&name))));
    }
    Ok(Json(DocumentPage { items, next }))
}

/// Answers one document, as it was written.
async fn one<R: NamedDocument>(
    State(app): State<AppState>,
    PathParam(name): PathParam,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult<Response> {
    QueryParams::read(&uri, &[])?;
    let conditions = Conditions::read(&headers)?;
    let name = R::key(name);
    let snapshot = app.in_force().await?;
    let document = match R::of(&snapshot).in_force.get(name.as_str()) {
        Some(info) => R::show(info),
        None => {
            let others = R::without_document(&app, &snapshot).await?;
            let found = others.into_iter().find(|(other, _)| *other == name).map(|(_, document)| document);
            found.ok_or_else(|| not_found::<R>(&snapshot, &name))?
        }
    };
    let state = R::states(&app).await?.remove(&name);
    conditions.answer_as(&etag(&document), &with_state(document, state))
}

/// A document with how it goes with it.
fn with_state(mut document: Value, state: Option<Value>) -> Value {
    if let (Some(fields), Some(state)) = (document.as_object_mut(), state) {
        fields.insert("status".to_owned(), state);
    }
    document
}

/// The `ETag` of a document.
fn etag_of<R: NamedDocument>(snapshot: &Snapshot, name: &str) -> Option<String> {
    R::of(snapshot).in_force.get(name).map(|info| etag(&R::show(info)))
}

/// The problem when there is no document of this name: its row is in quarantine, or there is
/// none.
fn not_found<R: NamedDocument>(snapshot: &Snapshot, name: &str) -> Problem {
    let detail = match is_quarantined::<R>(snapshot, name) {
        true => {
            "a row of this name cannot be read; optimization/health says why under `quarantine`, and a PUT replaces it"
                .to_owned()
        }
        false => format!("there is no {} of this name; GET {} lists them", R::NOUN, path::<R>()),
    };
    Problem::new(R::NOT_FOUND, detail)
}

fn is_quarantined<R: NamedDocument>(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.quarantine().any(|row| row.table == StoreTable::Documents(R::KIND) && *row.key == *name)
}

/// Creates or replaces a document.
///
/// # Errors
/// When the document is invalid; then nothing was changed.
async fn put<R: NamedDocument>(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(name): PathParam,
    request: Request<Body>,
) -> ApiResult<Json<WriteAnswer>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let conditions = Conditions::read(request.headers())?;
    let write = PendingWrite::prepare(&app, &params)?;
    let name = R::key(name);
    let document = body::document(request).await?;
    let sent = Written::As(document);
    let stored = checked_and_stored::<R>(&app, &write, &author, &conditions, (&name, sent)).await?;
    written(&app, write, &author, name, stored).await
}

/// Makes a document in shadow an enforced one.
///
/// # Errors
/// When there is none, or it is not in shadow; then nothing was changed.
async fn enforce<R: NamedDocument>(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(name): PathParam,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult<Json<WriteAnswer>> {
    let name = R::key(name);
    let params = QueryParams::read(&uri, &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let conditions = Conditions::read(&headers)?;
    let write = PendingWrite::prepare(&app, &params)?;
    let enforced = |snapshot: &Snapshot| {
        let held =
            R::of(snapshot).in_force.get(name.as_str()).filter(|_| !is_quarantined::<R>(snapshot, &name));
        let held = held.ok_or_else(|| not_found::<R>(snapshot, &name))?;
        R::enforced(serde_json::from_str(&held.document).unwrap_or_default()).ok_or_else(|| {
            Problem::new(ProblemCode::NotInShadow, format!("the {} {name} is not in shadow", R::NOUN))
        })
    };
    let made = Written::Of(&enforced);
    let stored = checked_and_stored::<R>(&app, &write, &author, &conditions, (&name, made)).await?;
    written(&app, write, &author, name.clone(), stored).await
}

/// The answer about a document that was stored.
async fn written<R: NamedDocument>(
    app: &AppState,
    write: PendingWrite<'_>,
    author: &Author,
    name: String,
    Stored { committed, document, content }: Stored<R>,
) -> ApiResult<Json<WriteAnswer>> {
    if !write.is_dry_run() {
        tracing::info!(by = %author.name, kind = R::NOUN, name, seq = committed.seq, "written");
    }
    // As it was written, also where somebody else has written it since.
    let mut snapshot = app.current().await;
    R::of_mut(Arc::make_mut(&mut snapshot)).insert(&name, document, content.clone());
    let etag = etag_of::<R>(&snapshot, &name);
    let warnings = R::written(app, &snapshot, &name, &content);
    let written = write.written(committed).await;
    Ok(Json(WriteAnswer { name, etag, warnings, written }))
}

/// A document that was stored, or would be.
struct Stored<R: NamedDocument> {
    committed: Committed,
    document: String,
    content: R::Content,
}

/// That the row was not changed since `snapshot`.
fn row_unchanged<R: NamedDocument>(snapshot: &Snapshot, name: &str) -> UnchangedRows {
    let (table, since) = (StoreTable::Documents(R::KIND), snapshot.version.seq);
    UnchangedRows { table, keys: Some(vec![name.to_owned()]), since }
}

/// What is to be stored.
enum Written<'d> {
    /// This.
    As(Value),
    /// What this makes of what there is when it is stored.
    Of(&'d (dyn Fn(&Snapshot) -> ApiResult<Value> + Sync)),
}

/// Stores the document if it is valid together with those that exist when it is stored: of two
/// documents that fit only without the other, one is refused.
///
/// # Errors
/// When it is invalid, or other writes keep coming between check and commit.
async fn checked_and_stored<R: NamedDocument>(
    app: &AppState,
    write: &PendingWrite<'_>,
    author: &Author,
    conditions: &Conditions,
    (name, document): (&str, Written<'_>),
) -> ApiResult<Stored<R>> {
    let _alone = app.documents.lock().await;
    for _ in 0..TRIES {
        let snapshot = app.current().await;
        let only_if = Some(Unchanged { tables: R::CHECK_READS, since: snapshot.version.seq });
        let (sent, is_made) = match &document {
            Written::As(sent) => (sent.clone(), false),
            Written::Of(made) => (made(&snapshot)?, true),
        };
        let row = (is_made || conditions.are_given()).then(|| row_unchanged::<R>(&snapshot, name));
        let current = etag_of::<R>(&snapshot, name);
        let of = name.to_owned();
        let checked = spawn_blocking(move || R::check(&of, sent, &snapshot)).await;
        let (document, content) = checked.map_err(|_| Problem::stopping())??;
        conditions.check(current.as_deref())?;
        let (kind, name) = (R::KIND, name.to_owned());
        let change = Change::PutDocument { kind, name, document: document.clone(), only_if };
        let committed = write.commit_if(change, author, row).await?;
        if !committed.is_stale {
            return Ok(Stored { committed, document, content });
        }
    }
    Err(StoreError::Busy.into())
}

/// Removes a document.
///
/// # Errors
/// When there is none, or others need it; then nothing was changed.
async fn delete<R: NamedDocument>(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    PathParam(name): PathParam,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult<Json<WriteAnswer>> {
    let name = R::key(name);
    let params = QueryParams::read(&uri, &[WAIT_APPLIED.name, DRY_RUN.name])?;
    let conditions = Conditions::read(&headers)?;
    let write = PendingWrite::prepare(&app, &params)?;
    let committed = removed::<R>(&app, &write, &author, &conditions, &name).await?;
    let mut snapshot = app.current().await;
    if write.is_dry_run() {
        R::of_mut(Arc::make_mut(&mut snapshot)).in_force.remove(name.as_str());
    } else {
        tracing::info!(by = %author.name, kind = R::NOUN, name, seq = committed.seq, "removed");
    }
    let warnings = R::removed(&snapshot, &name);
    let written = write.written(committed).await;
    Ok(Json(WriteAnswer { name, etag: None, warnings, written }))
}

/// Removes it, if the documents that exist at that moment allow it.
async fn removed<R: NamedDocument>(
    app: &AppState,
    write: &PendingWrite<'_>,
    author: &Author,
    conditions: &Conditions,
    name: &str,
) -> ApiResult<Committed> {
    let _alone = app.documents.lock().await;
    for _ in 0..TRIES {
        let snapshot = app.current().await;
        R::check_removal(app, &snapshot, name)?;
        let current = etag_of::<R>(&snapshot, name);
        if current.is_some() {
            conditions.check(current.as_deref())?;
        }
        let only_if = (!R::REMOVAL_READS.is_empty())
            .then_some(Unchanged { tables: R::REMOVAL_READS, since: snapshot.version.seq });
        let row = conditions.are_given().then(|| row_unchanged::<R>(&snapshot, name));
        let change = Change::DeleteDocument { kind: R::KIND, name: name.to_owned(), only_if };
        let committed = write.commit_if(change, author, row).await?;
        if committed.rows > 0 {
            return Ok(committed);
        }
        if !committed.is_stale {
            return Err(not_found::<R>(&*app.current().await, name));
        }
    }
    Err(StoreError::Busy.into())
}
