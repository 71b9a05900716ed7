//! `enforce`: documents in shadow are enforced from now on.

use anyhow::ensure;
use reqwest::Method;
use serde_json::Value;

use super::{CommandResult, DocumentsCommand, exit, path};
use crate::cli::api_args::ChangeArgs;
use crate::cli::api_client::RequestError;
use crate::cli::output::{applied, cell, print_error_line};
use crate::manifest::Kind;

/// Commands for documents that may be in shadow.
#[derive(clap::Subcommand, Debug)]
pub enum ShadowDocumentsCommand {
    #[command(flatten)]
    Documents(DocumentsCommand),
    /// Enforce documents that are in shadow, and leave all else in them as it is.
    Enforce(EnforceArgs),
}

/// Options of `enforce`.
#[derive(clap::Args, Debug)]
pub struct EnforceArgs {
    /// Names of the documents.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Runs the command on documents of `kind`.
pub fn run(command: &ShadowDocumentsCommand, kind: Kind) -> std::process::ExitCode {
    match command {
        ShadowDocumentsCommand::Documents(command) => super::run(command, kind),
        ShadowDocumentsCommand::Enforce(args) => exit(enforce(args, kind)),
    }
}

/// Enforces the documents, one after the other.
///
/// # Errors
/// When there is none of a name, or it is not in shadow; the others are enforced.
pub async fn enforce(args: &EnforceArgs, kind: Kind) -> anyhow::Result<CommandResult> {
    let client = args.change.api.client()?;
    let (mut done, mut refused) = (Vec::new(), 0_usize);
    for name in &args.names {
        let path = format!("{}/enforce", path(kind, name)?);
        match args.change.change(&client, Method::POST, &path, None).await {
            Ok(answer) => done.push(answer),
            Err(RequestError::Refused(refusal)) => {
                print_error_line(format_args!("tidegate: {name}: {}", refusal.explained()));
                refused += 1;
            }
            Err(unreachable) => return Err(unreachable.into()),
        }
    }
    if !done.is_empty() {
        let said = |answer: &Value| format!("{} is enforced; {}\n", cell(&answer["name"]), applied(answer));
        args.change.api.output.print_each(done, said)?;
    }
    ensure!(refused == 0, "not enforced: {refused} of {} {}", args.names.len(), kind.plural());
    Ok(CommandResult::Done)
}
