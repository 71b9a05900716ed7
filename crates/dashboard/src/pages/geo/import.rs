//! Replacing the country table by a file that was sent.

use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use serde::Deserialize;

use super::country_table::COUNTRIES;
use super::list;
use super::rules::PATH;
use crate::api::{ApiError, FieldError, Problem, Write, encoded};
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::query::PageQuery;
use crate::redirect::see_other;
use crate::show::number::grouped;

/// The API's answer.
#[derive(Deserialize)]
struct Imported {
    source: String,
    ranges: ImportedRanges,
    countries: u64,
    left_out: u64,
    applied: Option<Applied>,
}

#[derive(Deserialize)]
struct ImportedRanges {
    v4: u64,
    v6: u64,
}

#[derive(Deserialize)]
struct Applied {
    gateways: u64,
    of: u64,
}

/// Reads the form, and has the API read the file.
pub async fn import(State(dashboard): State<Dashboard>, request: Request) -> Result<Response, PageError> {
    let (visitor, sent) = COUNTRIES.read(&dashboard, request).await?;
    let query = PageQuery::default();
    if sent.file.is_empty() {
        return list::show(&visitor, &query, Some(&no_file())).await;
    }
    let format = match sent.fields.get("format").map(String::as_str) {
        None | Some("") => String::new(),
        Some(format) => format!("&format={}", encoded(format)),
    };
    let path = format!("geo?name={}{format}&wait_applied=2s", encoded(&sent.name));
    let write = Write::bytes(Method::POST, path, "application/octet-stream", sent.file);
    match visitor.api.send(write).await {
        Ok(answer) => {
            let imported: Imported =
                serde_json::from_value(answer).map_err(|error| ApiError::Form(error.to_string()))?;
            visitor.note(notice(&imported));
            Ok(see_other(PATH))
        }
        Err(ApiError::Problem(problem)) if problem.status != 401 => {
            list::show(&visitor, &query, Some(&problem)).await
        }
        Err(error) => Err(error.into()),
    }
}

fn no_file() -> Problem {
    let detail = "Choose a file.".to_owned();
    Problem {
        status: 422,
        code: "invalid_field".to_owned(),
        title: "There is no file".to_owned(),
        detail: String::new(),
        errors: vec![FieldError { pointer: None, parameter: Some("file".to_owned()), detail }],
    }
}

fn notice(imported: &Imported) -> String {
    let Imported { source, ranges, countries, left_out, applied } = imported;
    let [v4, v6, countries] = [ranges.v4, ranges.v6, *countries].map(grouped);
    let left_out = match left_out {
        0 => String::new(),
        left_out => format!(" {} were left out, as of no known country.", grouped(*left_out)),
    };
    let applied = match applied {
        Some(Applied { gateways, of }) if *of > 0 => format!(" {gateways} of {of} gateways have it."),
        _ => String::new(),
    };
    format!(
        "The country table is {source}: {v4} ranges of IPv4 and {v6} of IPv6, of {countries} countries.{left_out}{applied}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_imported_is_told() {
        let answer = json!({"dry_run": false, "source": "a.csv", "ranges": {"v4": 1_200, "v6": 0}, "countries": 3,
                            "bytes": 9, "left_out": 2, "applied": {"gateways": 1, "of": 2, "lost": 0}});
        assert_eq!(
            notice(&serde_json::from_value(answer).unwrap()),
            "The country table is a.csv: 1,200 ranges of IPv4 and 0 of IPv6, of 3 countries. 2 were left out, as of no \
             known country. 1 of 2 gateways have it."
        );
    }
}
