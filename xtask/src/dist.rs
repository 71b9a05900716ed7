//! What ships: `dist/` at the top of the repository.
//!
//! | file | what |
//! | --- | --- |
//! | `tidegate.wasm` | the filter |
//! | `tidegate` | the admin service, for Linux with glibc |
//! | `man/`, `completions/` | manual pages of the admin service's commands, and what shells know of them |
//! | `oci/image/`, `oci/artifact/` | the filter for registries, in the two forms that control planes take |
//! | `*.cdx.json` | what each of the two programs is made of |
//! | `SHA256SUMS` | of all other files |
//!
//! The same sources and toolchain give the same bytes, whenever and wherever they
//! are built: nothing here has a date, a random number or the name of a folder.

mod manual;
mod oci;
mod release;
mod sbom;
mod service;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidegate_stack::Programs;
use tidegate_stack::envoy::time_to_ready;
use tidegate_stack::programs::repository;

use crate::build::{self, Parts, Profile};
use release::Release;

/// What the module may weigh, in bytes. With the proxy-wasm crate the filter had some 497,000,
/// without it 449,000: the tables of the crate's traits name every helper that a filter might
/// call, so those stay, called or not. Some 18,000 more are answers that a person can read,
/// hosts that cannot be read, queries compared decoded and routes of namespaces; 15,000 more
/// are listeners, pages of denials, addresses that Envoy cannot read, and failures that are
/// told of in a later callback; 2,500 are entries in shadow, and 8,000 bans of some hostnames and
/// routes: their tables, and where a request is in them. 4,500 are flags that are limited to gateways,
/// hostnames and routes: reading them, and the route of a request before its checks. 30,000 bytes take
/// Envoy some 20 ms longer to start.
const SIZE_LIMIT: usize = 577_000;
/// How much later Envoy may be ready because of it.
const START_LIMIT: Duration = Duration::from_millis(500);

/// `cargo xtask dist`: builds, assembles, and starts Envoy with the filter.
pub fn run() -> Result<()> {
    let parts = build::parts(Profile::Release)?;
    let release = assemble(&parts)?;
    let dir = repository().join("dist");
    release.write(&dir)?;
    for (path, bytes) in release.files().filter(|(path, _)| !path.contains("blobs/")) {
        println!("{:>10} bytes  {}", bytes.len(), dir.join(path).display());
    }
    start_up(&parts.programs)
}

/// What would ship of these parts is within its limits; nothing is written.
pub fn check(parts: &Parts) -> Result<()> {
    assemble(parts)?;
    start_up(&parts.programs)
}

/// All that ships, of programs that are built.
fn assemble(Parts { programs, compiled }: &Parts) -> Result<Release> {
    let version = env!("CARGO_PKG_VERSION");
    let wasm = read(&programs.wasm)?;
    let size = wasm.len();
    ensure!(size <= SIZE_LIMIT, "the filter has {size} bytes, which is over its limit of {SIZE_LIMIT}");
    println!("the filter has {size} bytes ({compiled} as compiled; limit {SIZE_LIMIT})");
    let service = read(&programs.admin)?;
    match service::oldest_glibc(&service)? {
        Some(glibc) => println!("the admin service needs glibc {glibc} or newer"),
        None => println!("the admin service needs no glibc"),
    }
    let mut release = Release::default();
    release.add("tidegate.wasm.cdx.json", sbom::of(&sbom::FILTER, version)?);
    release.add("tidegate.cdx.json", sbom::of(&sbom::SERVICE, version)?);
    for (form, dir) in [(oci::Form::Image, "oci/image"), (oci::Form::Artifact, "oci/artifact")] {
        for (path, bytes) in oci::layout(form, &wasm, version)? {
            release.add(&format!("{dir}/{path}"), bytes);
        }
    }
    for (path, bytes) in manual::of(&programs.admin)? {
        release.add(&path, bytes);
    }
    release.add("tidegate.wasm", wasm);
    release.add("tidegate", service);
    Ok(release)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Starts Envoy with and without the filter and compares.
fn start_up(programs: &Programs) -> Result<()> {
    let dir = repository().join("target/dist/startup");
    let fastest = |filter| {
        // The fastest of three: what another process does meanwhile is not the filter's.
        let times = (0..3).map(|_| time_to_ready(programs, filter, &dir)).collect::<Result<Vec<_>>>()?;
        times.into_iter().min().context("no start at all")
    };
    let (with, without) = (fastest(true)?, fastest(false)?);
    let more = with.saturating_sub(without);
    println!(
        "Envoy is ready in {:.2} s with the filter, {:.2} s without: {:.2} s more",
        with.as_secs_f64(),
        without.as_secs_f64(),
        more.as_secs_f64()
    );
    if more > START_LIMIT {
        println!("warning: that is over the goal of {:.1} s", START_LIMIT.as_secs_f64());
    }
    Ok(())
}
