//! The `tidegate` binary: see `tidegate --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate_admin::cli::main()
}
