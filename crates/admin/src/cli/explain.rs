//! `tidegate explain`.

use reqwest::Url;
use serde_json::Value;

use super::api_args::ApiArgs;
use super::output::cell;

/// Options of `tidegate explain`.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// The request's URL, as http://shop.example.com/cart?id=7.
    #[arg(value_parser = url)]
    url: Url,
    /// Its method.
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// A header line, NAME:VALUE; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "LINE")]
    headers: Vec<String>,
    /// The client's country, where gateways have it from a header.
    #[arg(long, value_name = "CODE")]
    country: Option<String>,
    /// The listener by which the request comes.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

fn url(text: &str) -> Result<Url, String> {
    let url =
        text.parse().ok().filter(|url: &Url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| "write a URL, as http://shop.example.com/cart?id=7".to_owned())
}

/// Prints what would become of a request, and why.
///
/// # Errors
/// When the service does not answer, or there is no such request.
pub async fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let answer = args.api.get(&format!("/api/admin/explain?{}", args.query()), "decision").await?;
    args.api.output.print(&answer, || text(&answer["decision"]))
}

impl ExplainArgs {
    fn query(&self) -> String {
        let url = &self.url;
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
        let path = url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("method", &self.method).append_pair("host", &host).append_pair("path", &path);
        // A listener says itself how requests come.
        if self.listener.is_none() {
            query.append_pair("scheme", url.scheme());
        }
        let given = [("ip", &self.ip), ("country", &self.country), ("listener", &self.listener)];
        for (name, value) in given {
            query.extend_pairs(value.iter().map(|value| (name, value)));
        }
        query.extend_pairs(self.headers.iter().map(|line| ("header", line)));
        query.finish()
    }
}

/// What is known of the decision, a line for each field.
fn text(decision: &Value) -> String {
    let known = decision.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    known.map(|(name, value)| format!("{name}: {}\n", cell(value))).collect()
}
