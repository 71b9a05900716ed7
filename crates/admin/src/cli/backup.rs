//! `tidegate backup` and `tidegate restore`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use serde_json::json;

use super::BY;
use super::api_client::{AccessArgs, ApiClient, Upload};
use super::output::{applied, cell, print_line, table};
use super::token::PlaceArgs;
use crate::store::sqlite::SqliteStore;

/// Options of `tidegate backup`.
#[derive(clap::Args, Debug)]
pub struct BackupArgs {
    /// The file, which only its owner may read; it holds hashes of tokens, and addresses of clients.
    file: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    access: AccessArgs,
}

/// Options of `tidegate restore`.
#[derive(clap::Args, Debug)]
pub struct RestoreArgs {
    /// The backup.
    file: PathBuf,
    /// Say what would be changed, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Fetches a copy of a running service's database.
///
/// # Errors
/// When the service does not answer, the answer is no whole database, or the file cannot be written;
/// a file that was there before is left as it is.
pub async fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let file = &args.file;
    ensure!(args.force || !file.exists(), "{} exists: add --force to replace it", file.display());
    ensure!(file.is_file() || !file.exists(), "{} is no file that could be replaced", file.display());
    let client = ApiClient::new(&args.access)?;
    let mut partial = file.clone().into_os_string();
    partial.push(".part");
    let partial = Partial(partial.into());
    let mut target = partial.create().with_context(|| format!("cannot write {}", partial.0.display()))?;
    let write = |chunk: &[u8]| target.write_all(chunk).context("cannot write the backup");
    let bytes = client.download(Method::POST, "/api/admin/backup", write).await?;
    target.sync_all().context("write the backup")?;
    SqliteStore::check_backup(&partial.0).context("what the service sent is no backup")?;
    std::fs::rename(&partial.0, file).with_context(|| format!("cannot write {}", file.display()))?;
    print_line(format_args!("{}: {bytes} bytes", file.display()))
}

/// A file that is not whole yet, and is removed unless it becomes so.
struct Partial(PathBuf);

impl Partial {
    /// Creates it anew: one that is there already may be somebody else's, or a link elsewhere.
    fn create(&self) -> std::io::Result<File> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It has another name if all went well.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Puts what people wrote back from a backup.
///
/// # Errors
/// When the file is no backup, the service does not answer, or the database cannot be written; then
/// nothing was changed.
pub async fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let RestoreArgs { file, dry_run, place } = args;
    let answer = match place.service()? {
        Some(service) => {
            let upload = Upload::of_file(file)?;
            let target = format!("/api/admin/restore?dry_run={dry_run}&wait_applied=2s");
            service.upload(&target, upload, "dry_run").await.context("nothing was changed")?
        }
        // `backup` would have asked the service at its usual address.
        None if place.is_token_alone() => {
            bail!(
                "there is a token, and nothing says where to restore: name the service, --server URL, or a file, --db PATH"
            )
        }
        None => {
            let path = place.database();
            let restored = SqliteStore::restore_beside(&path, file, &BY.into(), *dry_run)
                .context("nothing was changed")?;
            json!({ "dry_run": dry_run, "database": path, "tables": restored })
        }
    };
    place.output.print(&answer, || match answer["tables"].as_array() {
        None => placed(&place.database(), *dry_run),
        Some(tables) => {
            let fields = ["table", "added", "changed", "removed"];
            let rows = tables.iter().map(|row| fields.map(|field| cell(&row[field])));
            let then = match (dry_run, answer.get("applied")) {
                (true, _) => "nothing was changed\n".to_owned(),
                (false, Some(_)) => format!("{}\n", applied(&answer)),
                (false, None) => String::new(),
            };
            format!("{}{then}", table(fields, rows))
        }
    })
}

fn placed(path: &Path, dry_run: bool) -> String {
    let verb = if dry_run { "would become" } else { "is now" };
    format!("there was no database {}: the whole backup {verb} it\n", path.display())
}
