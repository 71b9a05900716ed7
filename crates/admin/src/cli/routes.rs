//! `tidegate routes`: HTTPRoutes between files and a running service.

mod apply;
mod document;
mod files;
mod get;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// What to do with routes. They end with 0 when all is done, with 1 when a dry run
/// found differences, and with 2 when something went wrong.
#[derive(clap::Subcommand, Debug)]
pub enum RoutesCommand {
    /// Make or replace the HTTPRoutes of files: YAML or JSON, as kubectl takes it.
    /// All are read and checked before the first is written.
    Apply(apply::ApplyArgs),
    /// Print routes, in a form that `apply` takes back.
    Get(get::GetArgs),
}

/// How a command ended that did what it should.
enum CommandResult {
    Done,
    /// A dry run would have changed something.
    Different,
}

/// What a dry run that found differences ends with, as `diff` does.
const DIFFERENT: u8 = 1;
/// What anything else ends with, as wrong arguments do.
const FAILED: u8 = 2;

/// Does it.
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

/// The address of a route.
fn path(name: &str) -> String {
    format!("/api/admin/routes/{name}")
}

/// Prints `text`. A closed pipe (`| head`) must not end what
/// is under way, as it would with a `print!` that panics.
fn print_text(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A line on standard output.
fn print_line(line: impl Display) {
    print_text(&format!("{line}\n"));
}

/// A line on standard error, for a person.
fn print_error_line(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
