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
pub enum Command {
    /// Make or replace the HTTPRoutes of files: YAML or JSON, as kubectl takes it.
    /// All are read and checked before the first is written.
    Apply(apply::Args),
    /// Print routes, in a form that `apply` takes back.
    Get(get::Args),
}

/// How a command ended that did what it should.
enum End {
    Done,
    /// A dry run would have changed something.
    Different,
}

/// What a dry run that found differences ends with, as `diff` does.
const DIFFERENT: u8 = 1;
/// What anything else ends with, as wrong arguments do.
const FAILED: u8 = 2;

/// Does it.
pub fn run(command: &Command) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            match command {
                Command::Apply(args) => apply::run(args).await,
                Command::Get(args) => get::run(args).await,
            }
        })
    });
    match done {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Different) => ExitCode::from(DIFFERENT),
        Err(error) => {
            note(format_args!("tidegate: {error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

/// The address of a route.
fn path(name: &str) -> String {
    format!("/api/admin/routes/{name}")
}

/// Prints `text`. Whoever read it may have gone (`| head`): that must not end what
/// is under way, as it would with a `print!` that panics.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A line on standard output.
fn say(line: impl Display) {
    print(&format!("{line}\n"));
}

/// A line on standard error, for a person.
fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
