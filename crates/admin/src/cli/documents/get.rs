//! `get`: prints documents of the service, in a form that `apply` accepts.

use serde_json::{Value, json};

use super::difference::yaml;
use super::{CommandResult, field, list_path, not_found, path};
use crate::cli::api_client::{AccessArgs, ApiClient};
use crate::cli::output::{plain, plain_json, print_error_line, print_text};
use crate::manifest::Kind;

/// Options of `get`.
#[derive(clap::Args, Debug)]
pub struct GetArgs {
    /// Names of the documents; of routes with their namespace if it is not `default`: shop, or
    /// team-a/shop. All documents if none is given.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = DocumentFormat::Yaml)]
    output: DocumentFormat,
    #[command(flatten)]
    access: AccessArgs,
}

/// Format of the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum DocumentFormat {
    /// One YAML document per document.
    Yaml,
    /// The document if one name is given, else a `kind: List`.
    Json,
    /// One name per line.
    Name,
}

/// Prints the documents.
///
/// # Errors
/// When the service does not answer, or has no document of a given name; the others are printed.
pub async fn run(args: &GetArgs, kind: Kind) -> anyhow::Result<CommandResult> {
    let service = ApiClient::new(&args.access)?;
    let (found, missing) = match args.names.as_slice() {
        [] => (all(&service, kind).await?, Vec::new()),
        names => some(&service, kind, names).await?,
    };
    let single = args.names.len() == 1;
    print_text(&shown(found.into_iter().map(|one| kind.of_answer(one)).collect(), args.output, single)?)?;
    let missing = missing.join(", ");
    anyhow::ensure!(missing.is_empty(), "of the {} there is none of this name: {missing}", kind.plural());
    Ok(CommandResult::Done)
}

async fn all(service: &ApiClient, kind: Kind) -> anyhow::Result<Vec<Value>> {
    let found = service.list(&list_path(kind), &[]).await?;
    if found.is_empty() {
        print_error_line(format_args!("the service has no {}", kind.plural()));
    }
    Ok(found)
}

/// The documents of these names, and the names of which there is none.
async fn some<'n>(
    service: &ApiClient,
    kind: Kind,
    names: &'n [String],
) -> anyhow::Result<(Vec<Value>, Vec<&'n str>)> {
    let paths = names.iter().map(|name| path(kind, name)).collect::<anyhow::Result<Vec<_>>>()?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (name, path) in names.iter().zip(paths) {
        match service.get_if_exists(&path, field(kind), &not_found(kind)).await? {
            Some(document) => found.push(document),
            None => missing.push(name.as_str()),
        }
    }
    Ok((found, missing))
}

fn shown(mut found: Vec<(String, Value)>, form: DocumentFormat, single: bool) -> anyhow::Result<String> {
    Ok(match form {
        DocumentFormat::Yaml => {
            found.iter().map(|(_, document)| yaml(document)).collect::<Result<Vec<_>, _>>()?.join("---\n")
        }
        DocumentFormat::Name => found.iter().map(|(name, _)| format!("{}\n", plain(name))).collect(),
        DocumentFormat::Json => {
            let document = match (single, found.pop()) {
                (true, None) => return Ok(String::new()),
                (true, Some((_, document))) => document,
                (false, last) => {
                    let items: Vec<Value> = found.into_iter().chain(last).map(|(_, one)| one).collect();
                    json!({"apiVersion": "v1", "kind": "List", "items": items})
                }
            };
            format!("{}\n", plain_json(&serde_json::to_string_pretty(&document)?))
        }
    })
}
