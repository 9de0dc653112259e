//! Log lines: one write per line, tagged with process, client and slot in one place.
//!
//! Every process of the daemon writes to the same descriptor, opened for appending; a line is written with one call, so
//! lines of different processes do not mix. Levels: error: the operator must act; warn: degraded, goes on; info: life
//! cycle; debug: a line per session; trace: more. Never a password, never query text.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, Record};

use crate::config::{LogConfig, LogFormat, LogTarget};
use crate::segment::ClientIndex;

/// The client that this process serves, stored plus one; 0: none.
static CLIENT: AtomicU32 = AtomicU32::new(0);

/// Whether lines are JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// Where lines go: shared with `env_logger`, which owns a handle to it.
static SINK: Mutex<Sink> = Mutex::new(Sink::Stderr);

thread_local! {
    /// Set while a line is formatted, for the syslog priority.
    static LEVEL: Cell<Level> = const { Cell::new(Level::Info) };
}

enum Sink {
    Stderr,
    Syslog(UnixDatagram),
    File(File),
}

/// Starts logging. Called once, by main before it forks, or by a program that has no children.
///
/// # Errors
/// The log file cannot be opened, or there is no syslog daemon.
pub fn start(config: &LogConfig) -> io::Result<()> {
    reopen(config)?;
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Trace)
        .target(env_logger::Target::Pipe(Box::new(ToSink)))
        .format(|out, record| {
            LEVEL.set(record.level());
            if AS_JSON.load(Relaxed) {
                writeln!(out, "{}", json_line(record))
            } else {
                writeln!(out, "{}", text_line(record))
            }
        })
        .try_init()
        .map_err(io::Error::other)?;
    log::set_max_level(config.level);
    Ok(())
}

/// Opens the target again (after the file was rotated, or the configuration changed) and sets level and format.
///
/// # Errors
/// The log file cannot be opened, or there is no syslog daemon; the old target stays.
pub fn reopen(config: &LogConfig) -> io::Result<()> {
    let sink = match &config.target {
        LogTarget::Stderr => Sink::Stderr,
        LogTarget::File(path) => Sink::File(open_file(path)?),
        LogTarget::Syslog => {
            let socket = UnixDatagram::unbound()?;
            socket.connect("/dev/log")?;
            Sink::Syslog(socket)
        }
    };
    if let Ok(mut current) = SINK.lock() {
        *current = sink;
    }
    AS_JSON.store(config.format == LogFormat::Json, Relaxed);
    log::set_max_level(config.level);
    Ok(())
}

fn open_file(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|e| io::Error::new(e.kind(), format!("cannot open log file {}: {e}", path.display())))
}

/// Tags the lines of this process with its client.
pub fn set_client(client: ClientIndex) {
    CLIENT.store(client.stored(), Relaxed);
}

fn text_line(record: &Record<'_>) -> String {
    format!(
        "{} {} {}[{}]{}: {}",
        timestamp(SystemTime::now()),
        record.level().as_str().to_ascii_lowercase(),
        role(),
        std::process::id(),
        client().map_or_else(String::new, |c| format!(" client={c}")),
        one_line(&record.args().to_string()),
    )
}

fn json_line(record: &Record<'_>) -> String {
    let mut line = serde_json::json!({
        "time": timestamp(SystemTime::now()),
        "level": record.level().as_str().to_ascii_lowercase(),
        "role": role(),
        "pid": std::process::id(),
        "message": record.args().to_string(),
    });
    if let (Some(object), Some(client)) = (line.as_object_mut(), client()) {
        object.insert("client".to_owned(), client.0.into());
    }
    line.to_string()
}

fn client() -> Option<ClientIndex> {
    ClientIndex::from_stored(CLIENT.load(Relaxed))
}

fn role() -> &'static str {
    if client().is_some() { "worker" } else { "howdah" }
}

/// Names come from clients: they must not be able to forge lines.
fn one_line(text: &str) -> String {
    if text.contains(|c: char| c.is_control()) {
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    } else {
        text.to_owned()
    }
}

/// `2026-01-02 03:04:05.678 UTC`.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03} UTC",
        since.subsec_millis()
    )
}

/// Days since 1970-01-01 to year, month and day, in the Gregorian calendar (Howard Hinnant's `civil_from_days`).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Writes whole lines to the sink. A line that cannot be written is lost: nobody waits for a log.
struct ToSink;

impl Write for ToSink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Ok(mut sink) = SINK.lock() {
            let _ = match &mut *sink {
                Sink::Stderr => io::stderr().write_all(line),
                Sink::File(file) => file.write_all(line),
                Sink::Syslog(socket) => socket.send(&syslog_packet(line)).map(|_| ()),
            };
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `<priority>howdah[pid]: message`, facility "daemon" (RFC 3164).
fn syslog_packet(line: &[u8]) -> Vec<u8> {
    let severity = match LEVEL.get() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let mut packet = format!("<{}>howdah[{}]: ", 3 * 8 + severity, std::process::id()).into_bytes();
    packet.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timestamps_are_civil_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00.000 UTC"),
            (951_827_696, "2000-02-29 12:34:56.000 UTC"),
            (1_798_761_599, "2026-12-31 23:59:59.000 UTC"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        assert_eq!(one_line("a\nfake\r\x1b"), "a fake  ");
    }
}
