//! `tidegate geo`: the country table, by upload to a service, or in a database beside one, which sees the
//! change at once.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use form_urlencoded::Serializer;
use serde_json::{Value, json};

use super::BY;
use super::api_client::{ApiClient, Upload};
use super::output::{OutputArgs, applied, cell};
use super::token::PlaceArgs;
use crate::geo::{self, FileFormat};
use crate::store::Change;
use crate::store::sqlite::SqliteStore;

/// What to do with the country table.
#[derive(clap::Subcommand, Debug)]
pub enum GeoCommand {
    /// Replace the country table by files: mmdb of MaxMind, DB-IP or ipinfo, CSV of start,end,country or
    /// block,country, or MaxMind's CSV. On any error the table stays as it is.
    Import {
        /// The files, folders and zip archives, which together are the table: IPv4 and IPv6 may be separate.
        /// Several go to a service as one archive.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        place: PlaceArgs,
        /// Format of the files.
        #[arg(long, value_enum, default_value_t)]
        format: FileFormat,
    },
}

/// Runs the command.
///
/// # Errors
/// When a file is not right, or the service or database does not take it; then nothing was changed.
pub async fn run(command: GeoCommand) -> anyhow::Result<()> {
    let GeoCommand::Import { files, place, format } = command;
    if let Some(service) = place.service()? {
        return upload(&service, &files, format, place.output).await.context("nothing was changed");
    }
    let database = place.existing_database()?;
    let imported = geo::read(&files, format).context("nothing was changed")?;
    let said = imported.to_string();
    let answer = json!({
        "dry_run": false,
        "source": &imported.source,
        "ranges": { "v4": imported.v4, "v6": imported.v6 },
        "countries": imported.countries,
        "bytes": imported.table.len(),
        "left_out": imported.skipped.values().sum::<u64>(),
    });
    let change = Change::SetCountries { source: imported.source, table: imported.table };
    SqliteStore::commit_beside(database, &change, &BY.into())?;
    place.output.print(&answer, || said)
}

async fn upload(
    service: &ApiClient,
    files: &[PathBuf],
    format: FileFormat,
    output: OutputArgs,
) -> anyhow::Result<()> {
    let upload = match files {
        [file] if !file.is_dir() => Upload::of_file(file)?,
        several => Upload::of_bytes(geo::pack(several)?),
    };
    let name = geo::names(files);
    let mut query = Serializer::new(String::new());
    query.append_pair("name", &name).append_pair("wait_applied", "2s");
    query.extend_pairs(format.to_possible_value().map(|format| ("format", format.get_name().to_owned())));
    let answer = service.upload(&format!("/api/admin/geo?{}", query.finish()), upload, "source").await?;
    let of = |value: &Value| cell(value);
    let left_out = answer["left_out"].as_u64().filter(|count| *count > 0);
    let left_out =
        left_out.map(|count| format!("; left out, as of no known country: {count}")).unwrap_or_default();
    output.print(&answer, || {
        format!(
            "{}: {} IPv4 and {} IPv6 ranges of {} countries, {} bytes{left_out}; {}\n",
            of(&answer["source"]),
            of(&answer["ranges"]["v4"]),
            of(&answer["ranges"]["v6"]),
            of(&answer["countries"]),
            of(&answer["bytes"]),
            applied(&answer)
        )
    })
}
