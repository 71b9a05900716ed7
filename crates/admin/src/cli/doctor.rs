//! `tidegate doctor`.

use anyhow::bail;
use reqwest::Method;
use serde_json::{Value, json};

use super::api_args::ApiArgs;
use super::api_client::RequestError;
use super::output::cell;
use crate::finding::FindingCode;

/// Prints what the service finds, or that it does not answer, and what mends it.
///
/// # Errors
/// When anything is wrong.
pub async fn run(api: &ApiArgs) -> anyhow::Result<()> {
    let answer = match api.client()?.request(Method::GET, "/api/admin/doctor", None, "findings").await {
        Ok(answer) => answer,
        Err(RequestError::Unreachable(why)) => {
            json!({ "status": "error", "findings": [FindingCode::ServiceAway.says(why)] })
        }
        Err(refused) => return Err(refused.into()),
    };
    api.output.print(&answer, || text(&answer))?;
    let wrong = found(&answer).filter(|finding| finding["severity"] != "note").count();
    match wrong {
        0 => Ok(()),
        1 => bail!("1 thing is wrong"),
        wrong => bail!("{wrong} things are wrong"),
    }
}

fn found(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["findings"].as_array().into_iter().flatten()
}

/// The findings, each with what mends it in a line of its own.
fn text(answer: &Value) -> String {
    let one = |finding: &Value| {
        let mend = finding["mend"].as_str().filter(|mend| !mend.is_empty());
        let mend = mend.map(|mend| format!("         {mend}\n")).unwrap_or_default();
        let [severity, code, detail] = ["severity", "code", "detail"].map(|field| cell(&finding[field]));
        format!("{severity:8} {code}: {detail}\n{mend}")
    };
    let findings: String = found(answer).map(one).collect();
    if findings.is_empty() { "all is well\n".to_owned() } else { findings }
}
