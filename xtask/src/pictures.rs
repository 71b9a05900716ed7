//! `cargo xtask pictures`: pictures of all pages of the dashboard, as a browser shows them.

use anyhow::{Result, ensure};
use tidegate_stack::chromium::{ChromiumBinaries, HOW_TO_INSTALL};

use crate::build::{self, Profile};
use crate::command::{cargo, execute};

/// Options of `pictures`.
#[derive(clap::Args)]
pub struct PicturesArgs {
    /// Also make the small ones of docs/pictures anew.
    #[arg(long)]
    docs: bool,
    /// For how many seconds requests come before the pictures are taken: charts have a step for each minute.
    #[arg(long, default_value_t = 150)]
    traffic: u64,
}

/// Starts a stack, fills it, and takes pictures into target/ui.
pub fn run(args: &PicturesArgs) -> Result<()> {
    ensure!(ChromiumBinaries::find().is_some(), "no Chromium: {HOW_TO_INSTALL}");
    let parts = build::parts(Profile::Dev)?;
    let mut command = cargo(&["test", "--workspace", "--test", "browser", "--"]);
    command.args(["--ignored", "--exact", "--nocapture", "pictures::pictures"]);
    command.envs(parts.variables()).env("TIDEGATE_PICTURES_TRAFFIC_SECONDS", args.traffic.to_string());
    if args.docs {
        command.env("TIDEGATE_PICTURES_FOR_DOCS", "1");
    }
    execute(&mut command)
}
