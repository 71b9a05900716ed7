//! `tidegate pages`: HTML pages of denials, between files and a running service.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate_policy::decide::Reason;
use tidegate_policy::pages::BUILT_IN;

use super::api_client::{AccessArgs, ApiClient, RequestError};
use super::documents::DocumentsCommand;
use super::output::{print_error_line, print_text};

/// Commands for the pages that people see whose request was denied.
#[derive(clap::Subcommand, Debug)]
pub enum PagesCommand {
    #[command(flatten)]
    Html(HtmlCommand),
    /// Pages as documents of files, as `tidegate export pages` writes them.
    #[command(subcommand)]
    Documents(DocumentsCommand),
}

/// Commands for the HTML of a page.
#[derive(clap::Subcommand, Debug)]
pub enum HtmlCommand {
    /// Create or replace the page for a reason.
    Set {
        #[command(flatten)]
        page: PageArgs,
        /// The HTML, with placeholders such as {{request_id}}; - is standard input.
        file: PathBuf,
    },
    /// Print the HTML for a reason: of the service's page, else the built-in one.
    Get(PageArgs),
    /// Remove the page for a reason: gateways answer with the built-in one again.
    Delete(PageArgs),
}

/// The page for one reason, of one service.
#[derive(clap::Args, Debug)]
pub struct PageArgs {
    /// Why the request was denied.
    #[arg(value_parser = PossibleValuesParser::new(Reason::ALL.map(Reason::code)))]
    reason: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// Runs the command.
pub fn run(command: &HtmlCommand) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            HtmlCommand::Set { page, file } => {
                let html = read(file).with_context(|| format!("cannot read {}", file.display()))?;
                let answer = page.request(Method::PUT, Some(&json!({ "html": html }))).await?;
                for warning in answer["warnings"].as_array().into_iter().flatten() {
                    print_error_line(format_args!("warning: {}", warning.as_str().unwrap_or_default()));
                }
                Ok(())
            }
            HtmlCommand::Get(page) => {
                let client = ApiClient::new(&page.access)?;
                let found = client.get_if_exists(&page.path(), "html", "page_not_found").await?;
                let html = found.as_ref().and_then(|page| page["html"].as_str()).unwrap_or(BUILT_IN);
                print_text(html)
            }
            HtmlCommand::Delete(page) => page.request(Method::DELETE, None).await.map(drop),
        }
    })
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut html = String::new();
    std::io::stdin().read_to_string(&mut html).map(|_| html)
}

impl PageArgs {
    fn path(&self) -> String {
        format!("/api/admin/pages/{}", self.reason)
    }

    async fn request(&self, method: Method, body: Option<&Value>) -> anyhow::Result<Value> {
        let answer = ApiClient::new(&self.access)?.request(method, &self.path(), body, "version").await;
        answer.map_err(|error| match error {
            RequestError::Refused(refusal) => {
                anyhow::anyhow!("nothing was changed: {}", refusal.explained())
            }
            other => other.into(),
        })
    }
}
