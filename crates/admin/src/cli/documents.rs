//! Documents between files and a running service: `tidegate routes`, `geo-rules`, `limits`, `backends`,
//! `listeners` and `pages`, and `tidegate apply` of all kinds.

pub mod apply;
pub mod delete;
mod difference;
pub mod edit;
pub mod enforce;
mod files;
pub mod get;
mod meant;

use std::path::Path;
use std::process::ExitCode;

use form_urlencoded::byte_serialize;
use serde_json::Value;
use tidegate_author as author;

use super::output::print_error_line;
use crate::manifest::Kind;
use crate::store::DocumentKind;
use files::FileSelection;

pub use difference::yaml;

/// Commands for the documents of one kind. They exit with 0 when all is done, with 1 when there are
/// differences (`diff`, `apply --dry-run`), and with 2 on errors.
#[derive(clap::Subcommand, Debug)]
pub enum DocumentsCommand {
    /// Create or replace the documents of files: YAML or JSON, as for kubectl. All of them, or none.
    Apply(apply::ApplyArgs),
    /// Show by lines what `apply` would change.
    Diff(apply::DiffArgs),
    /// Print documents, in a form that `apply` accepts.
    Get(get::GetArgs),
    /// Change a document in the editor ($VISUAL, $EDITOR, vi), unless somebody else has changed it meanwhile.
    Edit(edit::EditArgs),
    /// Remove documents.
    Delete(delete::DeleteArgs),
}

/// Result of a command that succeeded.
pub enum CommandResult {
    Done,
    /// Something is different, or would be.
    Different,
}

/// Exit status when there are differences, as of `diff`.
const DIFFERENT: u8 = 1;
/// Exit status of every error, as of wrong arguments.
const FAILED: u8 = 2;

/// Runs the command on documents of `kind`.
pub fn run(command: &DocumentsCommand, kind: Kind) -> ExitCode {
    exit(async {
        match command {
            DocumentsCommand::Apply(args) => args.run(&[kind], false).await,
            DocumentsCommand::Diff(args) => args.run(&[kind]).await,
            DocumentsCommand::Get(args) => get::run(args, kind).await,
            DocumentsCommand::Edit(args) => edit::run(args, kind).await,
            DocumentsCommand::Delete(args) => delete::run(args, kind).await,
        }
    })
}

/// Runs a command, and turns its result into an exit status.
pub fn exit(command: impl Future<Output = anyhow::Result<CommandResult>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(command)) {
        Ok(CommandResult::Done) => ExitCode::SUCCESS,
        Ok(CommandResult::Different) => ExitCode::from(DIFFERENT),
        Err(error) => {
            print_error_line(format_args!("tidegate: {error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

/// The name and the document of the only document of `kind` in a file; `-` is standard input.
///
/// # Errors
/// When there is none, or several, or it cannot be read.
pub fn one_of_file(path: &Path, kind: Kind) -> anyhow::Result<(String, Value)> {
    let read = files::read(&FileSelection::of_file(path), &[kind])?;
    if !read.wrong.is_empty() {
        return Err(files::refusal(read.wrong));
    }
    let mut documents = read.documents.into_iter();
    match (documents.next(), documents.next()) {
        (Some(mut one), None) => Ok((one.name, one.document["spec"].take())),
        _ => anyhow::bail!("{} must have one document of the kind {}", path.display(), kind.name()),
    }
}

/// The URL path of the list of a kind.
pub fn list_path(kind: Kind) -> String {
    format!("/api/admin/{}", kind.plural())
}

/// The URL path of a document; of a route by its id.
fn path(kind: Kind, name: &str) -> anyhow::Result<String> {
    let name = match kind {
        Kind::Document(DocumentKind::Route) => {
            author::read_route_id(name).ok_or_else(|| anyhow::anyhow!("{name}: {}", author::ROUTE_ID_FORM))?
        }
        // In a path a blank is %20, and not +.
        _ => byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20"),
    };
    Ok(format!("{}/{name}", list_path(kind)))
}

/// A field that every document of a kind has.
fn field(kind: Kind) -> &'static str {
    match kind {
        Kind::Document(DocumentKind::Route) => "spec",
        _ => "name",
    }
}

/// The code of the problem when there is no document of a name.
fn not_found(kind: Kind) -> String {
    match kind {
        Kind::Document(kind) => format!("{}_not_found", kind.name().replace('-', "_")),
        _ => String::new(),
    }
}
