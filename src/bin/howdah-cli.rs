//! The command line: manages a running howdah.

use std::process::ExitCode;

fn main() -> ExitCode {
    howdah::cli::main()
}
