//! `edit`: a document of the service in the editor, and back if nobody else has changed it meanwhile.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use reqwest::header::{HeaderValue, IF_MATCH};
use serde_json::Value;

use super::difference::yaml;
use super::files::{self, FileDocuments, FileSelection};
use super::{CommandResult, field, not_found, path};
use crate::cli::api_args::ChangeArgs;
use crate::cli::api_client::{ApiClient, RequestError};
use crate::cli::output::{applied, cell, print_line};
use crate::manifest::Kind;
use crate::store::DocumentKind;

/// The editor, unless the environment names one.
const EDITOR: &str = "vi";

/// Options of `edit`.
#[derive(clap::Args, Debug)]
pub struct EditArgs {
    /// Name of the document; of a route with its namespace if it is not `default`.
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Writes what the editor leaves, unless that is what was there.
///
/// # Errors
/// When there is no document of the name, what is left is not right, or somebody else has changed it since.
/// Then nothing was changed, and the text stays in a file that the message names.
pub async fn run(args: &EditArgs, kind: Kind) -> anyhow::Result<CommandResult> {
    let EditArgs { name, change } = args;
    let target = path(kind, name)?;
    let service = change.api.client()?;
    let found = service.get_tagged(&target, field(kind), &not_found(kind)).await?;
    let (held, tag) = found.with_context(|| format!("there is no {} `{name}`", kind.name()))?;
    let (name, held) = kind.of_answer(held);
    let text = yaml(&held)?;
    let draft = Draft::create(&text)?;
    draft.edit()?;
    if std::fs::read_to_string(&draft.0).is_ok_and(|left| left == text) {
        draft.remove();
        print_line("not changed")?;
        return Ok(CommandResult::Done);
    }
    let put = async {
        let document = draft.document(kind, &name)?;
        write(&service, &change.target(&target), &document, tag).await
    };
    let answer = put
        .await
        .with_context(|| format!("nothing was changed; what you wrote is in {}", draft.0.display()))?;
    draft.remove();
    change
        .api
        .output
        .print(&answer, || format!("{} changed; {}\n", cell(&answer["name"]), applied(&answer)))?;
    Ok(CommandResult::Done)
}

/// Writes the document if it is still the one with this tag.
async fn write(
    service: &ApiClient,
    target: &str,
    document: &Value,
    tag: Option<HeaderValue>,
) -> anyhow::Result<Value> {
    let condition = tag.map(|tag| (IF_MATCH, tag));
    match service.request_if(Method::PUT, target, Some(document), "version", condition).await {
        Err(RequestError::Refused(refusal)) if refusal.is("precondition_failed") => {
            bail!("somebody else has changed the document meanwhile: `diff -f` shows what is different now")
        }
        answered => Ok(answered?.0),
    }
}

/// The file that is edited.
struct Draft(PathBuf);

impl Draft {
    /// Only its owner may read it.
    fn create(text: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("tidegate-{}.yaml", std::process::id()));
        let cannot = || format!("cannot write {}", path.display());
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).with_context(cannot)?;
        file.write_all(text.as_bytes()).with_context(cannot)?;
        Ok(Self(path))
    }

    /// Runs the editor, which may have arguments, as git does.
    fn edit(&self) -> anyhow::Result<()> {
        let var = |name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
        let editor = var("VISUAL").or_else(|| var("EDITOR")).unwrap_or_else(|| EDITOR.to_owned());
        let command = format!("{editor} \"$1\"");
        let ended =
            Command::new("sh").args(["-c", &command, "sh"]).arg(&self.0).status().context("cannot run sh")?;
        if !ended.success() {
            self.remove();
            bail!("nothing was changed: the editor `{editor}` failed ({ended})");
        }
        Ok(())
    }

    /// The one document of the file, as the API takes it.
    fn document(&self, kind: Kind, name: &str) -> anyhow::Result<Value> {
        let FileDocuments { documents: mut read, wrong, .. } =
            files::read(&FileSelection::of_file(&self.0), &[kind])?;
        if !wrong.is_empty() {
            return Err(files::refusal(wrong));
        }
        let (Some(one), true) = (read.pop(), read.is_empty()) else {
            bail!("there must be one document, {} `{name}`", kind.name())
        };
        ensure!(one.name == name, "the name must stay `{name}`: `apply` makes a new document");
        Ok(match kind {
            Kind::Document(DocumentKind::Route) => one.document,
            _ => one.document["spec"].clone(),
        })
    }

    fn remove(&self) {
        // It may be gone: the editor had it.
        let _ = std::fs::remove_file(&self.0);
    }
}
