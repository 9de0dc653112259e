//! What the daemon's own command line prints: the sample configuration, and what is wrong with one.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config;

/// Prints a text. A reader that has had enough (`| head`) is no failure.
#[must_use]
pub fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "howdah: cannot write: {e}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Reads a configuration and tells everything that is wrong with it.
#[must_use]
pub fn check(path: &Path) -> ExitCode {
    match config::load(path) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                let _ = writeln!(io::stderr(), "warning: {warning}");
            }
            print(&format!("{}: the configuration is valid\n", path.display()))
        }
        Err(errors) => {
            let _ = writeln!(io::stderr(), "{errors}");
            ExitCode::FAILURE
        }
    }
}
