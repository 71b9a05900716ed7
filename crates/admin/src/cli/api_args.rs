//! Options of the commands that use the API of a running service.

use reqwest::Method;
use serde_json::Value;

use super::api_client::{AccessArgs, ApiClient, RequestError};
use super::output::OutputArgs;
use crate::time;

/// Where the service is, and the format of the output.
#[derive(clap::Args, Debug)]
pub struct ApiArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// Format of the output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A span of time, as the API takes it.
pub fn span(text: &str) -> Result<String, String> {
    match time::parse_duration(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(time::DURATION_FORM.to_owned()),
    }
}

/// Of a change: how long to wait until all gateways enforce it.
#[derive(clap::Args, Debug)]
pub struct ChangeArgs {
    /// How long to wait until every gateway enforces the change, up to 30s; 0s: not at all.
    #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = span)]
    wait: String,
    /// Where the service is, and the format of the output.
    #[command(flatten)]
    pub api: ApiArgs,
}

impl ApiArgs {
    /// A client of the service.
    ///
    /// # Errors
    /// When there is no token.
    pub fn client(&self) -> anyhow::Result<ApiClient> {
        ApiClient::new(&self.access)
    }

    /// The answer, which has this `field`, to a request without a body.
    ///
    /// # Errors
    /// When there is no answer, or it is a problem.
    pub async fn get(&self, target: &str, field: &str) -> anyhow::Result<Value> {
        Ok(self.client()?.request(Method::GET, target, None, field).await?)
    }
}

impl ChangeArgs {
    /// How long to wait until every gateway enforces the change.
    pub fn wait(&self) -> &str {
        &self.wait
    }

    /// Makes a change at `path`, and waits as long as was asked for.
    ///
    /// # Errors
    /// When there is no answer, or it is a problem.
    pub async fn change(
        &self,
        client: &ApiClient,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, RequestError> {
        client.request(method, &self.target(path), body, "version").await
    }

    /// A path with the query that says how long to wait.
    pub fn target(&self, path: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        format!("{path}?{}", query.append_pair("wait_applied", &self.wait).finish())
    }
}
