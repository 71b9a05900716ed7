//! `tidegate routes`: HTTPRoutes between files and a running service.

mod apply;
mod document;
mod files;
mod get;

use std::process::ExitCode;

use super::output::print_error_line;

/// Commands for routes. They exit with 0 when all is done, with 1 when a dry run found
/// differences, and with 2 on errors.
#[derive(clap::Subcommand, Debug)]
pub enum RoutesCommand {
    /// Create or replace the HTTPRoutes of files: YAML or JSON, as for kubectl. All are read and
    /// checked before the first is written.
    Apply(apply::ApplyArgs),
    /// Print routes, in a form that `apply` accepts.
    Get(get::GetArgs),
}

/// Result of a command that succeeded.
enum CommandResult {
    Done,
    /// A dry run would have changed something.
    Different,
}

/// Exit status of a dry run that found differences, as of `diff`.
const DIFFERENT: u8 = 1;
/// Exit status of every error, as of wrong arguments.
const FAILED: u8 = 2;

/// Runs the command.
pub fn run(command: &RoutesCommand) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            match command {
                RoutesCommand::Apply(args) => apply::run(args).await,
                RoutesCommand::Get(args) => get::run(args).await,
            }
        })
    });
    match done {
        Ok(CommandResult::Done) => ExitCode::SUCCESS,
        Ok(CommandResult::Different) => ExitCode::from(DIFFERENT),
        Err(error) => {
            print_error_line(format_args!("tidegate: {error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

/// The URL path of a route, by its id.
fn path(id: &str) -> String {
    format!("/api/admin/routes/{id}")
}
