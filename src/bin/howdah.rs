//! The daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Howdah, a PostgreSQL connection pooler: one elephant, many riders.
#[derive(Parser)]
#[command(
    name = "howdah",
    version,
    after_help = "Signals: SIGTERM, SIGINT stop at once; SIGTRAP stops when the last client has left; SIGHUP reads the \
                  configuration again; SIGABRT writes a core dump. To a worker: SIGQUIT ends that client's session.\n\n\
                  Exit codes: 0 stopped or checked, 1 cannot start or the configuration has mistakes, 2 wrong usage.\n\n\
                  Start with: howdah --print-default-config > howdah.toml; howdah --check -c howdah.toml"
)]
struct Arguments {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", required_unless_present = "print_default_config")]
    config: Option<PathBuf>,
    /// Read the configuration, tell every mistake in it, and end
    #[arg(long)]
    check: bool,
    /// Print a configuration file with every key, its default and what it means, and end
    #[arg(long, conflicts_with_all = ["config", "check"])]
    print_default_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(path) = arguments.config else {
        return howdah::cli::print(&howdah::config::default_config_text());
    };
    if arguments.check {
        return howdah::cli::check(&path);
    }
    match howdah::main_process::run(&path, howdah::worker::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("howdah: {e}");
            ExitCode::FAILURE
        }
    }
}
