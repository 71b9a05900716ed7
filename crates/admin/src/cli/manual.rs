//! `tidegate completions` and `tidegate man`: what shells and `man` know of the commands.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::output::print_text;

/// Options of `tidegate completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Options of `tidegate man`.
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// The directory for the pages, `tidegate.1`, `tidegate-ban.1` and so on; it is created if it does
    /// not exist.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints the completions.
///
/// # Errors
/// When the output cannot be written.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tidegate", &mut script);
    print_text(&String::from_utf8_lossy(&script))
}

/// Writes the manual pages.
///
/// # Errors
/// When a file cannot be written.
pub fn man(args: &ManArgs) -> anyhow::Result<()> {
    write_pages(Cli::command(), &args.dir).with_context(|| format!("cannot write to {}", args.dir.display()))
}

fn write_pages(command: Command, dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)
}
