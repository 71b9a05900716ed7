//! `bench gate`: Envoy's processor time per request, without and with filters.

mod cases;
mod competitors;
mod report;
mod slices;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidegate_stack::Programs;

use crate::rounds::say;
use cases::{CaseName, Starter};
use slices::Meter;

/// The processor of every Envoy, and the one of everything else.
const ENVOY_CPU: u32 = 0;
const OTHER_CPU: u32 = 1;

/// Options of `bench gate`.
#[derive(clap::Args)]
pub struct GateArgs {
    /// Slices of load that each case is measured in.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(2..=1_000))]
    slices: u32,
    /// What to measure beside Envoy without a filter, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "second-bare,noop,gate,limited")]
    cases: Vec<CaseName>,
    /// Another build of the filter, by a name of one's own: every case of the gate is measured with it, too,
    /// and set beside the build of this checkout. May be given several times.
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_module)]
    wasm: Vec<Module>,
    /// Send requests on to the demo backend, instead of having Envoy answer 200
    /// itself: the whole way, and noisier.
    #[arg(long)]
    upstream: bool,
}

/// A build of the filter.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Module {
    name: String,
    file: PathBuf,
}

fn parse_module(text: &str) -> Result<Module, String> {
    let (name, file) = text.split_once('=').ok_or("write NAME=FILE")?;
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
    if !is_name(name) {
        return Err(format!("`{name}` is no name: letters, digits and `-`"));
    }
    // The Envoys are started in this folder or another one.
    let file = PathBuf::from(file).canonicalize().map_err(|error| format!("{file}: {error}"))?;
    Ok(Module { name: name.to_owned(), file })
}

/// Runs it.
pub fn run(args: &GateArgs, programs: &Programs) -> Result<()> {
    pin_rest()?;
    let mut starter = Starter::new(programs, args.upstream)?;
    let mut bare = starter.bare()?;
    let mut cases = starter.all(&args.cases, &args.wasm)?;
    say(format_args!(
        "{} cases, {} slices each: {}",
        cases.len(),
        args.slices,
        told(slices::duration(args.slices, &cases))
    ));
    let mut meter = Meter::start(OTHER_CPU)?;
    for slice in 1..=args.slices {
        if slice % 10 == 1 {
            say(format_args!("slice {slice} of {}", args.slices));
        }
        meter.measure_round(&mut bare, &mut cases)?;
    }
    report::print(args, &bare, &cases);
    for case in &cases {
        case.check_recorded()?;
    }
    Ok(())
}

fn told(duration: Duration) -> String {
    format!("about {} s", duration.as_secs())
}

/// This program, and with it all that it starts from now on, on a processor of
/// their own; each Envoy is put on the other one.
pub fn pin_rest() -> Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    ensure!(processors > 1, "this needs two processors: one for Envoy, one for what asks it");
    let pid = std::process::id().to_string();
    let output = Command::new("taskset")
        .args(["-a", "-c", "-p", &OTHER_CPU.to_string(), &pid])
        .output()
        .context("cannot run taskset (of util-linux)")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_a_name_and_a_file_that_is_there() {
        let file = std::env::current_exe().unwrap();
        let module = parse_module(&format!("before={}", file.display())).unwrap();
        assert_eq!((module.name.as_str(), module.file), ("before", file.canonicalize().unwrap()));
        for wrong in ["before", "=x", "a b=x", "before=/nowhere/at.wasm"] {
            assert!(parse_module(wrong).is_err(), "{wrong}");
        }
    }
}
