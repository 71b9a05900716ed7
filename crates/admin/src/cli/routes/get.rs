//! `tidegate routes get`: prints routes of the service, in a form that `apply` accepts.

use serde_json::{Value, json};
use tidegate_author as author;

use super::document::{canonical, yaml};
use super::{CommandResult, path};
use crate::cli::api_client::{AccessArgs, ApiClient};
use crate::cli::output::{print_error_line, print_text};

/// Options of `tidegate routes get`.
#[derive(clap::Args, Debug)]
pub struct GetArgs {
    /// Names of the routes, with their namespace if it is not `default`: shop, or team-a/shop; all
    /// routes if none is given.
    #[arg(value_name = "NAME", value_parser = name)]
    names: Vec<String>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Yaml)]
    output: OutputFormat,
    #[command(flatten)]
    access: AccessArgs,
}

/// Format of the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum OutputFormat {
    /// One YAML document per route.
    Yaml,
    /// The route if one name is given, else a `kind: List`.
    Json,
    /// One name per line.
    Name,
}

/// The id of a route, which can be used in a URL path without encoding.
fn name(text: &str) -> Result<String, String> {
    author::read_route_id(text).ok_or_else(|| author::ROUTE_ID_FORM.to_owned())
}

/// The id of the route that a valid document is.
fn id(route: &Value) -> String {
    let of = |field| route["metadata"][field].as_str();
    author::route_id(of("namespace"), of("name").unwrap_or_default())
}

/// Prints the routes.
///
/// # Errors
/// When the service does not answer, or has no route of a given name; the others are printed.
pub async fn run(args: &GetArgs) -> anyhow::Result<CommandResult> {
    let service = ApiClient::new(&args.access)?;
    let (routes, missing) = match args.names.as_slice() {
        [] => (all(&service).await?, Vec::new()),
        names => some(&service, names).await?,
    };
    let single = args.names.len() == 1;
    print_text(&shown(routes.into_iter().map(canonical).collect(), args.output, single)?);
    anyhow::ensure!(missing.is_empty(), "there is no route of this name: {}", missing.join(", "));
    Ok(CommandResult::Done)
}

async fn all(service: &ApiClient) -> anyhow::Result<Vec<Value>> {
    let routes = service.list("/api/admin/routes", &[]).await?;
    if routes.is_empty() {
        print_error_line("the service has no routes");
    }
    Ok(routes)
}

/// The routes of these names, and the names of which there is none.
async fn some<'n>(service: &ApiClient, names: &'n [String]) -> anyhow::Result<(Vec<Value>, Vec<&'n str>)> {
    let (mut routes, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match service.get_if_exists(&path(name), "route_not_found").await? {
            Some(route) => routes.push(route),
            None => missing.push(name.as_str()),
        }
    }
    Ok((routes, missing))
}

fn shown(mut routes: Vec<Value>, form: OutputFormat, single: bool) -> anyhow::Result<String> {
    Ok(match form {
        OutputFormat::Yaml => routes.iter().map(yaml).collect::<Result<Vec<_>, _>>()?.join("---\n"),
        OutputFormat::Name => routes.iter().map(|route| format!("{}\n", id(route))).collect(),
        OutputFormat::Json => {
            let document = match (single, routes.pop()) {
                (true, None) => return Ok(String::new()),
                (true, Some(route)) => route,
                (false, last) => {
                    routes.extend(last);
                    json!({"apiVersion": "v1", "kind": "List", "items": routes})
                }
            };
            format!("{}\n", serde_json::to_string_pretty(&document)?)
        }
    })
}
