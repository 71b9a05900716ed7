//! `tidegate dashboard`: a link that signs in.

use reqwest::Method;

use super::api_args::ApiArgs;
use super::output::cell;

/// Options of `tidegate dashboard`.
#[derive(clap::Args, Debug)]
pub struct DashboardArgs {
    /// How a browser reaches the service, if not as `--server` says: from outside of a container, for example.
    #[arg(long, value_name = "URL")]
    browser: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Prints a link to the dashboard that signs in once, with the token of this command.
///
/// # Errors
/// When the service does not answer.
pub async fn run(args: &DashboardArgs) -> anyhow::Result<()> {
    let client = args.api.client()?;
    let answer = client.request(Method::POST, "/api/admin/sign-in-links", None, "path").await?;
    let address = args.browser.as_deref().unwrap_or_else(|| client.server()).trim_end_matches('/');
    args.api.output.print(&answer, || {
        format!(
            "{address}{}\nIt signs in once, until {}.\n",
            cell(&answer["path"]),
            cell(&answer["expires_at"])
        )
    })
}
