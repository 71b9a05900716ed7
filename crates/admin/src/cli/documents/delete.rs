//! `delete`: removes documents of the service.

use anyhow::ensure;
use reqwest::Method;

use super::{CommandResult, path};
use crate::cli::api_args::ChangeArgs;
use crate::cli::api_client::RequestError;
use crate::cli::output::{applied, cell, print_error_line};
use crate::manifest::Kind;

/// Options of `delete`.
#[derive(clap::Args, Debug)]
pub struct DeleteArgs {
    /// Names of the documents; of routes with their namespace if it is not `default`.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Removes the documents, one after the other.
///
/// # Errors
/// When there is none of a name, or others need it; the others are removed.
pub async fn run(args: &DeleteArgs, kind: Kind) -> anyhow::Result<CommandResult> {
    let paths = args.names.iter().map(|name| path(kind, name)).collect::<anyhow::Result<Vec<_>>>()?;
    let client = args.change.api.client()?;
    let (mut done, mut refused, mut broken) = (Vec::new(), 0_usize, None);
    for (name, path) in args.names.iter().zip(paths) {
        match args.change.change(&client, Method::DELETE, &path, None).await {
            Ok(answer) => done.push(answer),
            Err(RequestError::Refused(refusal)) => {
                print_error_line(format_args!("tidegate: {name}: {}", refusal.explained()));
                refused += 1;
            }
            Err(unreachable) => {
                broken = Some(unreachable);
                break;
            }
        }
    }
    if !done.is_empty() {
        args.change
            .api
            .output
            .print_each(done, |answer| format!("{} deleted; {}\n", cell(&answer["name"]), applied(answer)))?;
    }
    if let Some(unreachable) = broken {
        return Err(unreachable.into());
    }
    ensure!(refused == 0, "not deleted: {refused} of {} {}", args.names.len(), kind.plural());
    Ok(CommandResult::Done)
}
