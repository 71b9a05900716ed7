//! `tidegate geo`: the country table. Works beside a running service, which sees the change at
//! once.

use std::path::PathBuf;

use anyhow::Context;

use super::BY;
use super::token::DatabaseArg;
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
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        db: DatabaseArg,
        /// Format of the files.
        #[arg(long, value_enum, default_value_t)]
        format: FileFormat,
    },
}

/// Runs the command.
pub fn run(command: GeoCommand) -> anyhow::Result<()> {
    let GeoCommand::Import { files, db, format } = command;
    let imported = geo::read(&files, format).context("nothing was changed")?;
    let said = imported.to_string();
    let change = Change::SetCountries { source: imported.source, table: imported.table };
    SqliteStore::commit_beside(&db.path, &change, &BY.into())?;
    print!("{said}");
    Ok(())
}
