//! `howdah-cli`: asks a running daemon over its management socket, and shows what it answers.
//!
//! Results go to the standard output, messages to the standard error; [`Exit`] says how it ended. The status is read
//! from the daemon's shared segment, mapped for reading only, so that looking costs the pool nothing.

#![forbid(unsafe_code)]

mod arguments;
mod collect;
mod daemon;
mod endpoint;
mod exit;
mod status;
mod suggest;
mod table;
mod text;
mod watch;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;

use clap::Parser;
use clap::error::ErrorKind;
use serde::Serialize;
use serde_json::{Value, json};

pub use arguments::Arguments;
pub use daemon::{check, print};
pub use exit::{Exit, Failure};
pub use status::Status;

use crate::management::client::ask;
use crate::management::{Reply, Request};
use crate::segment::Segment;
use crate::sys::clock::monotonic_ms;
use crate::sys::{signals, terminal};
use arguments::{StatusArguments, Verb};
use text::Room;
use watch::Screen;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    ExitCode::from(run(std::env::args_os(), std::env::var_os(endpoint::VARIABLE), &mut out, &mut err).code())
}

/// The program with its surroundings as arguments: `words` with its own name first, the environment's socket.
pub fn run(
    words: impl IntoIterator<Item = OsString>,
    variable: Option<OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let words: Vec<OsString> = words.into_iter().collect();
    let typed: Vec<String> = words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let as_json = typed.iter().any(|word| word == "--json");
    let done = match Arguments::try_parse_from(words) {
        Ok(arguments) => obey(&arguments, variable, out),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            write_out(out, &e.render().to_string())
        }
        Err(e) => Err(suggest::explain(&e, &typed)),
    };
    match done {
        Ok(()) => Exit::Done,
        Err(failure) => {
            // Nobody is left to tell when this fails.
            let _ = err.write_all(message(&failure, as_json).as_bytes());
            failure.exit
        }
    }
}

fn obey(arguments: &Arguments, variable: Option<OsString>, out: &mut dyn Write) -> Result<(), Failure> {
    let socket = endpoint::find(arguments.socket.as_deref(), arguments.config.as_deref(), variable)?;
    let daemon = Daemon { socket, timeout: arguments.timeout };
    if let Verb::Status(how) = &arguments.verb {
        return show(&daemon, *how, arguments.json, out);
    }
    match daemon.ask(&arguments.verb.request())? {
        Answer::Done { text, .. } if !arguments.json => write_out(out, &lines(&text)),
        Answer::Done { json, .. } => write_out(out, &pretty(&json)),
        Answer::Segment { .. } => Err(unexpected()),
    }
}

/// Where the daemon is, and how patient the operator is.
struct Daemon {
    socket: PathBuf,
    timeout: std::time::Duration,
}

/// A reply that is no refusal.
enum Answer {
    Done { text: String, json: Value },
    Segment { version: String, segment: Segment },
}

impl Daemon {
    fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        match ask(&self.socket, request, self.timeout)? {
            (Reply::Refused { message, hint }, _) => Err(Failure::new(Exit::Refused, message, hint)),
            (Reply::Done { text, json }, _) => {
                let json =
                    if json.is_empty() { json!({}) } else { json.parse().map_err(|_| unexpected())? };
                Ok(Answer::Done { text, json })
            }
            (Reply::Segment { version }, Some(descriptor)) => {
                Ok(Answer::Segment { version, segment: Segment::open_read_only(descriptor)? })
            }
            (Reply::Segment { .. }, None) => Err(unexpected()),
        }
    }

    fn segment(&self) -> Result<(String, Segment), Failure> {
        match self.ask(&Request::Status)? {
            Answer::Segment { version, segment } => Ok((version, segment)),
            Answer::Done { .. } => Err(unexpected()),
        }
    }
}

fn unexpected() -> Failure {
    let hint = "howdah-cli and howdah are to be of the same version; see `howdah-cli --version`";
    Failure::new(Exit::Protocol, "howdah sent an answer to another question", hint)
}

fn show(daemon: &Daemon, how: StatusArguments, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let details = how.what.is_some();
    if let Some(interval) = how.watch {
        let mut open = None;
        let mut look = || look(daemon, &mut open, details);
        return watch::watch(&mut look, interval, &|| screen(how.all, as_json), out);
    }
    let (version, segment) = daemon.segment()?;
    let status = Status::collect(&segment, &version, monotonic_ms(), details);
    if as_json {
        return write_out(out, &pretty(&json_value(&status)));
    }
    let room = match (how.all, terminal_size()) {
        (true, _) => Room::ENDLESS,
        (false, Some((width, _))) => Room { width: width.max(Room::PAPER.width), ..Room::PAPER },
        (false, None) => Room::PAPER,
    };
    write_out(out, &text::status(&status, room))
}

/// The status of the daemon that runs now: another one when the one that was mapped has ended.
fn look(daemon: &Daemon, open: &mut Option<(String, Segment)>, details: bool) -> Result<Status, Failure> {
    let is_there = |segment: &Segment| is_running(segment.header().main_pid.load(Relaxed));
    let (version, segment) = match open.take().filter(|(_, segment)| is_there(segment)) {
        Some(mapped) => open.insert(mapped),
        None => open.insert(daemon.segment()?),
    };
    Ok(Status::collect(segment, version, monotonic_ms(), details))
}

/// Whether the process runs: one that has ended may wait long for a parent that asks after it.
fn is_running(pid: i32) -> bool {
    let is_zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(stat.rsplit_once(") ")?.1.starts_with(['Z', 'X']))
    };
    signals::is_alive(pid) && !is_zombie().unwrap_or(false)
}

fn screen(all: bool, as_json: bool) -> Screen {
    match terminal_size() {
        _ if as_json => Screen::Json,
        Some((width, height)) => Screen::Terminal { width, height, all },
        None => Screen::Paper(if all { Room::ENDLESS } else { Room::PAPER }),
    }
}

fn terminal_size() -> Option<(usize, usize)> {
    let out = io::stdout();
    out.is_terminal().then(|| terminal::size(out.as_fd()).unwrap_or((80, 24)))
}

/// Writes a result. A reader that has seen enough is no error.
fn write_out(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Output, format!("cannot write the result: {e}"), ""))
        }
        _ => Ok(()),
    }
}

/// A text of the daemon, whole lines, harmless to a terminal.
fn lines(text: &str) -> String {
    text.lines().map(|line| table::clean(line) + "\n").collect()
}

fn message(failure: &Failure, as_json: bool) -> String {
    let Failure { exit, message, hint } = failure;
    if as_json {
        let error =
            json!({ "kind": exit.name(), "exit_code": exit.code(), "message": message, "hint": hint });
        return escape(&json!({ "error": error }).to_string()) + "\n";
    }
    let mut text = lines(message);
    if !hint.is_empty() {
        text.push_str(&lines(&format!("hint: {hint}")));
    }
    format!("howdah-cli: {text}")
}

fn pretty(json: &Value) -> String {
    escape(&format!("{json:#}")) + "\n"
}

/// One line.
fn json_line(status: &Status) -> String {
    escape(&json_value(status).to_string()) + "\n"
}

fn json_value(value: &impl Serialize) -> Value {
    // Numbers, texts and lists of them: nothing that JSON does not have.
    serde_json::to_value(value).unwrap_or_default()
}

/// JSON whose texts cannot command a terminal: control characters that JSON allows are written as escapes.
fn escape(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() && c != '\n' {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use crate::management::server::Session;
    use crate::sys::user::current_uid;

    use super::*;

    /// Runs a command line against a daemon that gives `reply`; what it was asked, and the output and errors.
    fn with_daemon(words: &str, reply: Reply) -> (Exit, String, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("howdah.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            stream.set_nonblocking(true).unwrap();
            let mut session = Session::new(stream.into(), current_uid()).unwrap();
            loop {
                let mut polled = [PollFd::new(session.as_fd(), PollFlags::POLLIN)];
                assert!(poll(&mut polled, PollTimeout::from(20_000u16)).unwrap() > 0, "a request comes");
                if session.on_readable().unwrap().is_some() {
                    break;
                }
            }
            let segment = collect::tests::busy();
            let fd = segment.memory().read_only_descriptor().unwrap();
            let with_it = matches!(reply, Reply::Segment { .. }).then(|| fd.as_fd());
            session.reply(&reply, with_it).unwrap();
        });
        let ended = command(words, Some(path.into()));
        daemon.join().unwrap();
        ended
    }

    fn command(words: &str, variable: Option<OsString>) -> (Exit, String, String) {
        let words = std::iter::once("howdah-cli").chain(words.split_whitespace()).map(OsString::from);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(words, variable, &mut out, &mut err);
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn what_is_done_is_shown_as_text_or_json() {
        let reply =
            || Reply::done("howdah 1.2.3 is up\nand \x1b[31mwell", &json!({ "version": "1.2.3\u{9b}" }));
        let (exit, out, err) = with_daemon("ping", reply());
        assert_eq!(
            (exit, out.as_str(), err.as_str()),
            (Exit::Done, "howdah 1.2.3 is up\nand ?[31mwell\n", "")
        );
        let (exit, out, _) = with_daemon("--json ping", reply());
        assert_eq!((exit, out.as_str()), (Exit::Done, "{\n  \"version\": \"1.2.3\\u009b\"\n}\n"));
        let (_, out, _) =
            with_daemon("clear --json", Reply::Done { text: String::new(), json: String::new() });
        assert_eq!(out, "{}\n");
    }

    #[test]
    fn the_status_is_read_from_the_segment() {
        let segment = || Reply::Segment { version: "1.2.3".into() };
        let (exit, out, _) = with_daemon("status", segment());
        assert!(exit == Exit::Done && out.starts_with("howdah 1.2.3 is running: process 4242"), "{out}");
        let (_, out, _) = with_daemon("status details --json", segment());
        let json: Value = out.parse().unwrap();
        assert_eq!((&json["slots"]["in_use"], &json["details"]["pools"][0]["size"]), (&json!(2), &json!(2)));
    }

    #[test]
    fn each_failure_has_its_exit_code_and_says_why() {
        let cases = [
            (
                "flush",
                Reply::refused("no such database", "see status"),
                Exit::Refused,
                "no such database\nhint: see status\n",
            ),
            ("status", Reply::done("", &json!({})), Exit::Protocol, "another question"),
            ("ping", Reply::Segment { version: String::new() }, Exit::Protocol, "another question"),
            (
                "ping",
                Reply::Done { text: String::new(), json: "{".into() },
                Exit::Protocol,
                "another question",
            ),
        ];
        for (words, reply, expected, part) in cases {
            let (exit, out, err) = with_daemon(words, reply);
            assert_eq!((exit, out.as_str()), (expected, ""), "{words}");
            assert!(err.starts_with("howdah-cli: ") && err.contains(part), "{words}: {err}");
        }
        for (words, expected, part) in [
            (
                "ping",
                Exit::Unreachable,
                "cannot reach howdah at /none/howdah.sock: no such file\nhint: is it running?",
            ),
            ("flsh", Exit::Usage, "did you mean `flush`?"),
            ("", Exit::Usage, "Usage"),
            ("-c /none/howdah.toml ping", Exit::Usage, "/none/howdah.toml: cannot be read"),
        ] {
            let (exit, out, err) = command(words, Some("/none/howdah.sock".into()));
            assert_eq!((exit, out.as_str()), (expected, ""), "{words}");
            assert!(err.contains(part), "{words}: {err}");
        }
    }

    #[test]
    fn a_process_that_has_ended_does_not_run() {
        let mut child =
            std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(is_running(pid) && is_running(i32::try_from(std::process::id()).unwrap()));
        drop(child.stdin.take());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while is_running(pid) {
            assert!(std::time::Instant::now() < deadline, "the child ends and is not asked after");
            thread::yield_now();
        }
        assert!(signals::is_alive(pid), "it is still in the kernel's table");
        child.wait().unwrap();
        assert!(!is_running(0) && !is_running(-1));
    }

    #[test]
    fn failures_are_json_for_programs() {
        let (_, out, err) = command("--json ping", Some("/none/howdah.sock".into()));
        let error: Value = err.parse().unwrap();
        assert_eq!(
            (&error["error"]["kind"], &error["error"]["exit_code"]),
            (&json!("unreachable"), &json!(3))
        );
        assert_eq!(out, "");
    }

    #[test]
    fn help_and_version_are_results() {
        let (exit, out, err) = command("--version", None);
        assert_eq!((exit, err.as_str()), (Exit::Done, ""));
        assert_eq!(out, format!("howdah-cli {}\n", env!("CARGO_PKG_VERSION")));
        for words in ["--help", "flush --help", "conf --help", "conf set -h"] {
            let (exit, out, _) = command(words, None);
            assert_eq!(exit, Exit::Done, "{words}");
            assert!(out.contains("Usage"), "{words}: {out}");
        }
    }

    #[test]
    fn the_help_tells_every_exit_code() {
        let (_, help, _) = command("--help", None);
        let help = help.split("Exit codes:").nth(1).unwrap();
        for exit in Exit::ALL {
            assert!(help.contains(&format!("{} ", exit.code())), "{exit:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
        struct Broken(io::ErrorKind);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for (kind, expected) in
            [(io::ErrorKind::BrokenPipe, Exit::Done), (io::ErrorKind::StorageFull, Exit::Output)]
        {
            let words = ["howdah-cli", "--help"].map(OsString::from);
            assert_eq!(run(words, None, &mut Broken(kind), &mut Vec::new()), expected);
        }
    }
}
