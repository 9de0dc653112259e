//! The command line: what may be typed, and the help.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Parser, Subcommand, ValueEnum};

use crate::config::parse_duration;
use crate::management::{FlushMode, Request, ShutdownMode};

const AFTER_HELP: &str = "\
Which daemon: --socket PATH, else the management_socket of -c FILE, else the environment's HOWDAH_SOCKET,
else /run/howdah/howdah.sock. The socket is open to root and to the user that howdah runs as.

Exit codes: 0 done, 1 refused by the daemon, 2 wrong command line, 3 cannot reach the daemon,
4 not a howdah of this version, 5 no answer in time, 6 the result cannot be written.

Examples:
  howdah-cli ping
  howdah-cli -c /etc/howdah/howdah.toml status details
  howdah-cli status --watch
  howdah-cli --json status | jq .clients.waiting
  howdah-cli flush gracefully shop";

/// Manages a running howdah.
#[derive(Debug, Parser)]
#[command(name = "howdah-cli", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
#[command(about = "Manages a running howdah, the PostgreSQL connection pooler")]
pub struct Arguments {
    /// Find the daemon by its configuration file
    #[arg(short, long, value_name = "FILE", global = true, conflicts_with = "socket")]
    pub config: Option<PathBuf>,
    /// Find the daemon by its management socket
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,
    /// Answer in JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// How long the answer may take: 500ms, 5s, 1min
    #[arg(long, value_name = "TIME", global = true, default_value = "5s", value_parser = parse_time)]
    pub timeout: Duration,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Tell whether the daemon answers
    #[command(after_help = "Example:\n  howdah-cli ping && echo up")]
    Ping,
    /// Show what the pool does: clients, slots, pools, totals
    #[command(after_help = STATUS_HELP)]
    Status(StatusArguments),
    /// Close server connections, to be opened anew when they are needed
    #[command(after_help = FLUSH_HELP)]
    Flush {
        /// Which connections
        #[arg(value_enum, default_value = "gracefully", hide_possible_values = true)]
        mode: FlushMode,
        /// Of the pools of this database only, as clients name it [default: all]
        database: Option<String>,
    },
    /// Stop the daemon
    #[command(after_help = SHUTDOWN_HELP)]
    Shutdown {
        /// How
        #[arg(value_enum, default_value = "gracefully", hide_possible_values = true)]
        mode: ShutdownMode,
    },
    /// Let clients use a database again
    #[command(after_help = "Examples:\n  howdah-cli enable shop\n  howdah-cli enable         all databases")]
    Enable {
        /// The database, as clients name it [default: all]
        database: Option<String>,
    },
    /// Let no new client use a database; those that are there go on
    #[command(after_help = "Examples:\n  howdah-cli disable shop\n  howdah-cli disable        all databases")]
    Disable {
        /// The database, as clients name it [default: all]
        database: Option<String>,
    },
    /// Set the statistics to zero
    #[command(after_help = "Example:\n  howdah-cli clear")]
    Clear,
    /// Read, show or change the daemon's configuration
    #[command(subcommand, after_help = CONF_HELP)]
    Conf(ConfVerb),
    /// Make the daemon use another server of its configuration
    #[command(after_help = "Example:\n  howdah-cli switch-to standby")]
    SwitchTo {
        /// The server's name: NAME of [servers.NAME] in the configuration
        server: String,
    },
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfVerb {
    /// Read the configuration's files again; a wrong file changes nothing
    #[command(after_help = "Example:\n  howdah-cli conf reload")]
    Reload,
    /// Show the value in force of one key
    #[command(
        after_help = "Examples:\n  howdah-cli conf get log.level\n  howdah-cli --json conf get howdah.max_clients"
    )]
    Get {
        /// The key, with dots between tables
        key: String,
    },
    /// Change one key until the next reload or restart; the file stays as it is
    #[command(after_help = "Example:\n  howdah-cli conf set log.level debug")]
    Set {
        /// The key, with dots between tables
        key: String,
        /// The value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Show which files the configuration was read from
    #[command(after_help = "Example:\n  howdah-cli conf ls")]
    Ls,
}

/// What to show.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct StatusArguments {
    /// `details`: every pool, slot and client too
    #[arg(value_enum, hide_possible_values = true)]
    pub what: Option<StatusWhat>,
    /// Long lists whole
    #[arg(long)]
    pub all: bool,
    /// Redraw every so many seconds until Ctrl-C [default: 2]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = parse_seconds)]
    pub watch: Option<Duration>,
}

/// How much of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusWhat {
    /// Everything.
    Details,
}

const STATUS_HELP: &str = "\
Reading the status costs the daemon nothing: it hands its shared memory over, to read from.
Counters grow from the daemon's start, or from the last `clear`.

Examples:
  howdah-cli status
  howdah-cli status details --all
  howdah-cli status details --watch 1     live, redrawn every second
  howdah-cli --json status details | jq '.details.pools[] | select(.waiting > 0)'
  howdah-cli --json status --watch 10     one line of JSON every ten seconds";

const FLUSH_HELP: &str = "\
Modes:
  idle        close connections that nobody uses
  gracefully  close those too that are in use, when they come back [default]
  all         close all now: clients that use one are cut off

Examples:
  howdah-cli flush
  howdah-cli flush idle
  howdah-cli flush gracefully shop";

const CONF_HELP: &str = "\
Keys are those of the configuration file, with dots between tables.

Examples:
  howdah-cli conf reload
  howdah-cli conf get log.level";

const SHUTDOWN_HELP: &str = "\
Modes:
  gracefully  turn new clients away and end with the last client [default]
  immediate   tell all clients, cut them off and end
  cancel      call a graceful shutdown off

Examples:
  howdah-cli shutdown
  howdah-cli shutdown immediate";

impl Verb {
    /// What to ask the daemon.
    #[must_use]
    pub fn request(&self) -> Request {
        match self {
            Verb::Ping => Request::Ping,
            Verb::Status(_) => Request::Status,
            Verb::Flush { mode, database } => Request::Flush { mode: *mode, database: one(database) },
            Verb::Shutdown { mode } => Request::Shutdown { mode: *mode },
            Verb::Enable { database } => Request::Enable { database: one(database) },
            Verb::Disable { database } => Request::Disable { database: one(database) },
            Verb::Clear => Request::Clear,
            Verb::Conf(ConfVerb::Reload) => Request::ConfReload,
            Verb::Conf(ConfVerb::Get { key }) => Request::ConfGet { key: key.clone() },
            Verb::Conf(ConfVerb::Set { key, value }) => {
                Request::ConfSet { key: key.clone(), value: value.clone() }
            }
            Verb::Conf(ConfVerb::Ls) => Request::ConfLs,
            Verb::SwitchTo { server } => Request::SwitchTo { server: server.clone() },
        }
    }
}

/// `*` stands for all databases, as it does in pgagroal.
fn one(database: &Option<String>) -> Option<String> {
    database.clone().filter(|name| name != "*")
}

impl ValueEnum for FlushMode {
    fn value_variants<'a>() -> &'a [Self] {
        &FlushMode::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for ShutdownMode {
    fn value_variants<'a>() -> &'a [Self] {
        &ShutdownMode::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("nothing is that fast".to_owned()),
        Ok(time) => Ok(time),
        Err(e) => Err(e.to_string()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    match number.parse::<f64>().map(Duration::try_from_secs_f64) {
        Ok(Ok(interval))
            if interval >= Duration::from_millis(100) && interval <= Duration::from_secs(86_400) =>
        {
            Ok(interval)
        }
        Ok(_) => Err("from 0.1 to 86400 seconds".to_owned()),
        Err(_) => Err(format!("write seconds, or nothing for 2; {text:?} goes before --watch")),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::management::client::DEFAULT_TIMEOUT;

    fn request(words: &str) -> Request {
        let words = std::iter::once("howdah-cli").chain(words.split_whitespace());
        Arguments::try_parse_from(words).unwrap_or_else(|e| panic!("{e}")).verb.request()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        let default = Arguments::try_parse_from(["howdah-cli", "ping"]).unwrap().timeout;
        assert_eq!(default, DEFAULT_TIMEOUT);
    }

    #[test]
    fn every_verb_asks_what_it_says() {
        let (some, none) = (Some("shop".to_owned()), None::<String>);
        let cases = [
            ("ping", Request::Ping),
            ("status", Request::Status),
            ("status details", Request::Status),
            ("flush", Request::Flush { mode: FlushMode::Gracefully, database: none.clone() }),
            ("flush idle", Request::Flush { mode: FlushMode::Idle, database: none.clone() }),
            ("flush all shop", Request::Flush { mode: FlushMode::All, database: some.clone() }),
            ("flush all *", Request::Flush { mode: FlushMode::All, database: none.clone() }),
            ("shutdown", Request::Shutdown { mode: ShutdownMode::Gracefully }),
            ("shutdown immediate", Request::Shutdown { mode: ShutdownMode::Immediate }),
            ("shutdown cancel", Request::Shutdown { mode: ShutdownMode::Cancel }),
            ("enable", Request::Enable { database: none.clone() }),
            ("disable shop", Request::Disable { database: some }),
            ("disable *", Request::Disable { database: none }),
            ("clear", Request::Clear),
            ("conf reload", Request::ConfReload),
            ("conf get log.level", Request::ConfGet { key: "log.level".into() }),
            ("conf set a.b -1", Request::ConfSet { key: "a.b".into(), value: "-1".into() }),
            ("conf ls", Request::ConfLs),
            ("switch-to standby", Request::SwitchTo { server: "standby".into() }),
        ];
        for (words, expected) in cases {
            assert_eq!(request(words), expected, "{words}");
        }
    }

    #[test]
    fn every_verb_has_help_with_an_example() {
        fn check(command: &mut clap::Command, path: &str) {
            let help = command.render_help().to_string();
            assert!(help.contains("Example"), "{path}:\n{help}");
            let names: Vec<_> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
            for name in names {
                check(command.find_subcommand_mut(&name).unwrap(), &format!("{path} {name}"));
            }
        }
        let mut command = Arguments::command();
        command.build();
        check(&mut command, "howdah-cli");
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("500ms", Ok(500)),
            ("5s", Ok(5000)),
            ("1min 30s", Ok(90_000)),
            ("5", Err("did you mean \"5s\"?")),
            ("0", Err("nothing is that fast")),
            ("0s", Err("nothing is that fast")),
            ("5 parsecs", Err("is not a unit")),
            ("99999999999999999999s", Err("too large")),
        ] {
            match (parse_time(text), expected) {
                (Ok(time), Ok(ms)) => assert_eq!(time, Duration::from_millis(ms), "{text}"),
                (Err(e), Err(part)) => assert!(e.contains(part), "{text}: {e}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
        for (text, ok) in
            [("1", true), ("0.5", true), ("2s", true), ("0", false), ("inf", false), ("NaN", false)]
        {
            assert_eq!(parse_seconds(text).is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn watch_takes_an_optional_number() {
        for (words, expected) in
            [("status", None), ("status --watch", Some(2)), ("status details --watch 7", Some(7))]
        {
            let words = std::iter::once("howdah-cli").chain(words.split_whitespace());
            let Verb::Status(status) = Arguments::try_parse_from(words).unwrap().verb else {
                panic!("status")
            };
            assert_eq!(status.watch, expected.map(Duration::from_secs));
        }
    }
}
