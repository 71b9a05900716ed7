//! The command line. Every option of `serve` can also be an environment variable.

mod api_client;
mod geo;
mod health;
mod logging;
mod pages;
mod routes;
mod serve;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tidegate's admin service: bans, routes and recording for Envoy gateways.
#[derive(Parser, Debug)]
#[command(name = "tidegate", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the service until SIGTERM or SIGINT.
    Serve(serve::ServeArgs),
    /// Exit with 0 if a service answers that it is alive, otherwise with 1: for health checks
    /// without curl. Needs no token.
    Health(health::HealthArgs),
    /// Create, list and revoke API tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Import the country table, which says which country an address is in.
    #[command(subcommand)]
    Geo(geo::GeoCommand),
    /// Apply HTTPRoutes from files to a running service, and print those that it has.
    #[command(subcommand)]
    Routes(routes::RoutesCommand),
    /// Set, print and remove the HTML pages that people see whose request was denied.
    #[command(subcommand)]
    Pages(pages::PagesCommand),
}

impl Cli {
    /// Runs the command. Errors are printed on standard error.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Serve(args) => serve::run(&args),
            Command::Health(args) => health::run(&args),
            Command::Token(command) => token::run(&command),
            Command::Geo(command) => geo::run(command),
            Command::Pages(command) => pages::run(&command),
            Command::Routes(command) => return routes::run(&command),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tidegate: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
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
