//! The command line. Every option of `serve` can also be an environment variable.

mod access;
mod addresses;
mod api_args;
mod api_client;
mod audit;
mod auto_bans;
mod backup;
mod bans;
mod bench;
mod context;
mod contexts;
mod dashboard;
mod doctor;
mod documents;
mod events;
mod explain;
mod export;
mod flags;
mod gateways;
mod geo;
mod health;
mod init;
mod logging;
mod manual;
mod output;
mod pages;
mod rollout;
mod serve;
mod settings;
mod sources;
mod stats;
mod status;
mod targets;
mod tls_args;
mod tls_error;
mod token;
mod toml_file;
mod transfer_progress;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::manifest::Kind;
use crate::store::{COMMAND_LINE, DocumentKind};
use output::{NoReader, print_error_line};
use settings::{Parsed, Settings};

/// The author in the audit of what commands write into a database.
const BY: &str = COMMAND_LINE;

/// Tidegate's admin service: bans, routes and recording for Envoy gateways.
#[derive(Parser, Debug)]
#[command(name = "tidegate", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Create the database with a first token of the role `admin`, and print the token once.
    Init(init::InitArgs),
    /// Run the service until SIGTERM or SIGINT.
    Serve(serve::ServeArgs),
    /// Print the settings that `serve` would have with these options, as a file for its `--config`,
    /// and where each comes from.
    Config(serve::ServeArgs),
    /// Exit with 0 if a service answers that it is alive, otherwise with 1: for health checks
    /// without curl. Needs no token.
    Health(health::HealthArgs),
    /// Print whether anything is wrong with a service and its gateways; exit with 1 if so.
    Status(api_args::ApiArgs),
    /// Print a link that signs in to the dashboard once, with the token of this command.
    Dashboard(dashboard::DashboardArgs),
    /// Say in sentences what is wrong with a service and its gateways, or will be, and which command
    /// mends it. Exits with 1 if anything is; notes are nothing wrong.
    Doctor(api_args::ApiArgs),
    /// Print how complete the record of requests is.
    Recording(api_args::ApiArgs),
    /// Print, set and watch the flags of the rollout.
    #[command(subcommand)]
    Flags(flags::FlagsCommand),
    /// Ban addresses or blocks.
    Ban(addresses::BanArgs),
    /// Remove the bans of exactly these addresses or blocks.
    Unban(addresses::UnbanArgs),
    /// Print, import and export the bans, and enforce those in shadow.
    #[command(subcommand)]
    Bans(bans::BansCommand),
    /// Put addresses or blocks on the allow list: they skip bans and geo rules.
    Allow(addresses::AllowArgs),
    /// Remove exactly these addresses or blocks from the allow list.
    Disallow(addresses::RemoveArgs),
    /// Print the allow list.
    #[command(subcommand)]
    AllowList(addresses::ListCommand),
    /// Print recorded requests, newest first, or as they come; or write them as CSV or JSON lines.
    Events(events::EventsArgs),
    /// Print what requests there were, and how long they took.
    #[command(subcommand)]
    Stats(stats::StatsCommand),
    /// Print the most frequent addresses, countries, paths, reasons, user agents, rules or limits, or
    /// what entries in shadow would have denied most.
    Top(stats::TopArgs),
    /// Measure a gate with a load, compare two measurements, or a gate with its backend. Exits with 1 when
    /// there was no answer or a target is missed, and with 2 on errors.
    Bench(bench::BenchArgs),
    /// Look at a service and its gateways again and again, and say at the end whether they were stable. Exits
    /// with 1 when they were not, and with 2 on errors.
    Watch(watch::WatchArgs),
    /// Print what would become of a request, and why.
    Explain(explain::ExplainArgs),
    /// Print the connected gateways, and what each enforces.
    Gateways(api_args::ApiArgs),
    /// Make every gateway load all tables anew.
    Refresh(gateways::ProgressArgs),
    /// Wait until every gateway enforces what is in the database.
    Warmup(gateways::ProgressArgs),
    /// Fetch a copy of a running service's whole database.
    Backup(backup::BackupArgs),
    /// Put bans, allow list, documents, flags and countries back from a backup: through a running service,
    /// or in a database, also beside a service, which follows; where there is no database yet, the whole
    /// backup becomes it.
    Restore(backup::RestoreArgs),
    /// Services that the command line knows by a name: address, token and authority.
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Print the completions for a shell: `source <(tidegate completions bash)`.
    Completions(manual::CompletionsArgs),
    /// Write the manual pages.
    Man(manual::ManArgs),
    /// Create, list and revoke API tokens, in a database or through a running service.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// List the audit, newest first, or verify that it is whole.
    Audit(audit::AuditArgs),
    /// Import the country table, which says which country an address is in.
    #[command(subcommand)]
    Geo(geo::GeoCommand),
    /// Print what people wrote as files that `apply` takes, as CSV, or as SQL that `sqlite3` executes.
    Export(export::ExportArgs),
    /// Apply documents of all kinds from files to a running service: all of them, or none. Exits with 1
    /// when a dry run found differences, and with 2 on errors.
    Apply(documents::apply::ApplyAllArgs),
    /// Show by lines what `apply` would change. Exits with 1 if anything would, and with 2 on errors.
    Diff(documents::apply::DiffArgs),
    /// HTTPRoutes, between files and a running service.
    #[command(subcommand)]
    Routes(documents::DocumentsCommand),
    /// Geo rules, which say which countries are allowed.
    #[command(subcommand)]
    GeoRules(documents::enforce::ShadowDocumentsCommand),
    /// Limits, which say how many requests are allowed.
    #[command(subcommand)]
    Limits(documents::enforce::ShadowDocumentsCommand),
    /// Backends: upstreams that Envoy's configuration does not have.
    #[command(subcommand)]
    Backends(documents::DocumentsCommand),
    /// Listeners, which routes are held to by their parentRefs.
    #[command(subcommand)]
    Listeners(documents::DocumentsCommand),
    /// Automatic bans: rules that ban who sends too many requests of a kind.
    #[command(subcommand)]
    AutoBans(auto_bans::AutoBansCommand),
    /// Set, print and remove the HTML pages that people see whose request was denied.
    #[command(subcommand)]
    Pages(pages::PagesCommand),
    /// Sources of bans: lists that the service fetches again and again, and CrowdSec.
    #[command(subcommand)]
    Sources(sources::SourcesCommand),
    /// Rollouts of flags that run by themselves: stages, gates over what requests measured, and the way back.
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
}

/// Runs the program's command line. Errors are printed on standard error.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    match settings::parse(&args) {
        Ok(Parsed { cli, settings }) => cli.run(settings.as_ref()),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) => error.exit(),
            Err(error) => failure(&error),
        },
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    if error.is::<NoReader>() {
        return ExitCode::SUCCESS;
    }
    print_error_line(format_args!("tidegate: {error:#}"));
    ExitCode::FAILURE
}

impl Cli {
    fn run(self, settings: Option<&Settings>) -> ExitCode {
        let done = match self.command {
            Command::Status(api) => block_on(status::status(&api)),
            Command::Dashboard(args) => block_on(dashboard::run(&args)),
            Command::Doctor(api) => block_on(doctor::run(&api)),
            Command::Recording(api) => block_on(status::recording(&api)),
            Command::Flags(command) => block_on(flags::run(&command)),
            Command::Ban(args) => block_on(addresses::ban(&args)),
            Command::Unban(args) => block_on(addresses::unban(&args)),
            Command::Bans(command) => return bans::run(&command),
            Command::Allow(args) => block_on(addresses::allow(&args)),
            Command::Disallow(args) => block_on(addresses::disallow(&args)),
            Command::AllowList(addresses::ListCommand::List(api)) => {
                block_on(addresses::list(&api, "allowed"))
            }
            Command::Events(args) => block_on(events::run(&args)),
            Command::Stats(command) => block_on(stats::run(&command)),
            Command::Top(args) => block_on(stats::top(&args)),
            Command::Bench(args) => return documents::exit(bench::run(args)),
            Command::Watch(args) => return documents::exit(watch::run(args)),
            Command::Explain(args) => block_on(explain::run(&args)),
            Command::Gateways(api) => block_on(gateways::list(&api)),
            Command::Refresh(args) => block_on(gateways::refresh(&args)),
            Command::Warmup(args) => block_on(gateways::warmup(&args)),
            Command::Backup(args) => block_on(backup::backup(&args)),
            Command::Restore(args) => block_on(backup::restore(&args)),
            Command::Context(command) => context::run(&command),
            Command::Export(args) => block_on(export::run(&args)),
            Command::Completions(args) => manual::completions(&args),
            Command::Man(args) => manual::man(&args),
            Command::Init(args) => init::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Config(_) => settings.map_or(Ok(()), Settings::print),
            Command::Health(args) => health::run(&args),
            Command::Token(command) => token::run(&command),
            Command::Audit(args) => block_on(audit::run(&args)),
            Command::Geo(command) => block_on(geo::run(command)),
            Command::Pages(pages::PagesCommand::Documents(command)) => {
                return documents::run(&command, Kind::Document(DocumentKind::Page));
            }
            Command::AutoBans(auto_bans::AutoBansCommand::List(api)) => block_on(auto_bans::list(&api)),
            Command::AutoBans(auto_bans::AutoBansCommand::Documents(command)) => {
                return documents::enforce::run(&command, Kind::Document(DocumentKind::AutoBan));
            }
            Command::Pages(pages::PagesCommand::Html(command)) => pages::run(&command),
            Command::Sources(command) => return sources::run(&command),
            Command::Rollout(command) => return rollout::run(&command),
            Command::Apply(args) => return documents::exit(args.run()),
            Command::Diff(args) => return documents::exit(args.run(&Kind::ALL)),
            Command::Routes(command) => return documents::run(&command, Kind::Document(DocumentKind::Route)),
            Command::GeoRules(command) => {
                return documents::enforce::run(&command, Kind::Document(DocumentKind::GeoRule));
            }
            Command::Limits(command) => {
                return documents::enforce::run(&command, Kind::Document(DocumentKind::Limit));
            }
            Command::Backends(command) => {
                return documents::run(&command, Kind::Document(DocumentKind::Backend));
            }
            Command::Listeners(command) => {
                return documents::run(&command, Kind::Document(DocumentKind::Listener));
            }
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure(&error),
        }
    }
}

/// Runs a command that asks a service.
fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// `docs/CLI.md` below its line with this mark is made by this test, when it runs with
    /// `TIDEGATE_WRITE_DOCS=1`.
    #[test]
    fn the_reference_is_what_the_commands_say() {
        const MARK: &str = "<!-- What follows is made from the program. -->\n";
        let path =
            std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../docs/CLI.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let (head, reference) = page.split_once(MARK).expect("the page has the mark");
        let options = clap_markdown::MarkdownOptions::new().show_footer(false).show_table_of_contents(false);
        let made = clap_markdown::help_markdown_custom::<Cli>(&options.title("Reference".to_owned()));
        // One title to a page, and lists without headings of their own.
        let line = |line: &str| match line.strip_prefix("###### ") {
            Some(list) => format!("{list}\n"),
            None => format!("{}\n", line.replacen("# ", "## ", 1)),
        };
        let made: String = made.trim().lines().map(line).collect();
        if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
            std::fs::write(path, format!("{head}{MARK}\n{made}")).unwrap();
        } else {
            assert!(
                reference.trim() == made.trim(),
                "run this test with TIDEGATE_WRITE_DOCS=1, and look at the page"
            );
        }
    }

    #[test]
    fn every_option_of_serve_is_an_environment_variable_too() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for option in serve.get_arguments() {
            let env = option.get_env().map(|env| env.to_string_lossy().into_owned());
            let want = format!("TIDEGATE_{}", option.get_id().as_str().to_uppercase());
            assert_eq!(env, Some(want), "{}", option.get_id());
        }
    }
}
