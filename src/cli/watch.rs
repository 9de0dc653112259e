//! `status --watch`: the status, redrawn until Ctrl-C or until nobody reads it any more.
//!
//! The mapping shows what happens by itself, so a redraw costs the daemon nothing and asks it nothing. Only when main
//! has ended is its successor asked for, as long as it takes when a person watches.

use std::io::{self, Write};
use std::time::Duration;

use super::exit::{Exit, Failure};
use super::status::{Status, Totals};
use super::table::cut;
use super::text::{self, Room, bytes};

/// To the upper left corner.
const HOME: &str = "\x1b[H";
/// The whole screen.
const CLEAR: &str = "\x1b[2J";
/// What is left of a line that was longer before.
const END_OF_LINE: &str = "\x1b[K";
/// What is left of the screen.
const END_OF_SCREEN: &str = "\x1b[J";

/// What is watched.
pub trait Source {
    /// The status now.
    ///
    /// # Errors
    /// The daemon is gone.
    fn status(&mut self) -> Result<Status, Failure>;
}

impl<F: FnMut() -> Result<Status, Failure>> Source for F {
    fn status(&mut self) -> Result<Status, Failure> {
        self()
    }
}

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// Redrawn in place.
    Terminal {
        /// Columns.
        width: usize,
        /// Lines.
        height: usize,
        /// Whether long lists and names are shown as far as the screen goes.
        all: bool,
    },
    /// One after the other, into a file or a pipe.
    Paper(Room),
    /// One line of JSON each.
    Json,
}

/// Shows the status every `interval`, on the screen that `screen` finds each time: it may be resized.
///
/// # Errors
/// The daemon is gone and nobody is there to wait for it; [`Exit::Output`].
pub fn watch(
    source: &mut dyn Source,
    interval: Duration,
    screen: &dyn Fn() -> Screen,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut last: Option<Status> = None;
    let mut before = None;
    loop {
        let now = screen();
        let found = source.status();
        if let (Err(failure), Screen::Paper(_) | Screen::Json) = (&found, now) {
            return Err(failure.clone());
        }
        let gone = match found {
            Ok(status) => {
                before = last.replace(status);
                None
            }
            Err(failure) => Some(failure.message),
        };
        let shown = picture(last.as_ref(), before.as_ref(), gone.as_deref(), now);
        match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => return Err(Failure::new(Exit::Output, format!("cannot write the status: {e}"), "")),
        }
        std::thread::sleep(interval);
    }
}

/// What is written for one look.
fn picture(status: Option<&Status>, before: Option<&Status>, gone: Option<&str>, screen: Screen) -> String {
    match (status, screen) {
        (None, Screen::Terminal { .. }) => frame(gone.unwrap_or_default(), screen, true),
        (None, Screen::Paper(_) | Screen::Json) => String::new(),
        (Some(status), Screen::Json) => super::json_line(status),
        (Some(status), Screen::Paper(room)) => format!("{}\n", with_rates(status, before, None, room)),
        (Some(status), Screen::Terminal { width, height, all }) => {
            // What does not fit the screen is cut there; a list alone is not to fill it.
            let rows = if all { usize::MAX } else { height.saturating_sub(20).clamp(5, 20) };
            frame(&with_rates(status, before, gone, Room { width, rows }), screen, before.is_none())
        }
    }
}

/// The status with a second line about the time since the last look, or about why there is no newer.
fn with_rates(status: &Status, before: Option<&Status>, gone: Option<&str>, room: Room) -> String {
    let text = text::status(status, room);
    let (head, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let line = match (gone, before) {
        (Some(gone), _) => format!("process {} is gone: {gone}; trying again", status.main_pid),
        (None, Some(before)) => rates(status, before),
        (None, None) => String::new(),
    };
    if line.is_empty() { format!("{head}\n{rest}") } else { format!("{head}\n{line}\n{rest}") }
}

/// What happened in each second since `before`; empty when that was another daemon, or the same moment.
fn rates(now: &Status, before: &Status) -> String {
    let ms = now.uptime_ms.saturating_sub(before.uptime_ms);
    if ms == 0 || now.main_pid != before.main_pid {
        return String::new();
    }
    // Counters may have been cleared meanwhile: then this is less than the truth, once.
    let each = |of: fn(&Totals) -> u64| {
        let grown = u128::from(of(&now.totals).saturating_sub(of(&before.totals)));
        u64::try_from(grown * 1000 / u128::from(ms)).unwrap_or(u64::MAX)
    };
    format!(
        "per second: {} clients, {} queries, {} to servers, {} to clients, {} waits",
        each(|t| t.accepted),
        each(|t| t.ready),
        bytes(each(|t| t.bytes_to_server)),
        bytes(each(|t| t.bytes_to_client)),
        each(|t| t.waits),
    )
}

/// A text over what stands on the screen, without flicker: only what is left over is cleared.
fn frame(text: &str, screen: Screen, clear: bool) -> String {
    let Screen::Terminal { width, height, .. } = screen else { return text.to_owned() };
    let mut shown = String::from(if clear { CLEAR } else { "" });
    shown.push_str(HOME);
    // The last line stays free: a line's end there would scroll.
    for line in text.lines().take(height.saturating_sub(1)) {
        shown.push_str(&cut(line, width));
        shown.push_str(END_OF_LINE);
        shown.push_str("\r\n");
    }
    shown.push_str(END_OF_SCREEN);
    shown
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::collect::tests::{NOW_MS, busy};
    use super::*;

    const SCREEN: Screen = Screen::Terminal { width: 40, height: 6, all: false };

    fn status(uptime_ms: u64, ready: u64) -> Status {
        let mut status = Status::collect(&busy(), "1.2.3", NOW_MS, true);
        status.uptime_ms = uptime_ms;
        status.totals.ready = ready;
        status
    }

    /// Takes so many writes, and then the reader is gone.
    struct Reader {
        takes: usize,
        kind: io::ErrorKind,
        text: String,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.takes = self.takes.checked_sub(1).ok_or(self.kind)?;
            self.text.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn watched(
        source: &mut dyn Source,
        screen: Screen,
        takes: usize,
        kind: io::ErrorKind,
    ) -> (Result<(), Failure>, String) {
        let mut out = Reader { takes, kind, text: String::new() };
        let ended = watch(source, Duration::ZERO, &|| screen, &mut out);
        (ended, out.text)
    }

    #[test]
    fn it_ends_with_the_reader() {
        let mut source = || Ok(status(1000, 0));
        let (ended, text) = watched(&mut source, Screen::Json, 3, io::ErrorKind::BrokenPipe);
        assert_eq!((ended, text.lines().count()), (Ok(()), 3));
        for line in text.lines() {
            assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["main_pid"], 4242);
        }
        let (ended, _) = watched(&mut source, Screen::Json, 1, io::ErrorKind::StorageFull);
        assert_eq!(ended.unwrap_err().exit, Exit::Output);
    }

    #[test]
    fn a_person_sees_the_last_status_until_a_new_daemon_is_there_and_a_program_an_end() {
        let looks = |n: usize| match n {
            2 => Err(Failure::new(Exit::Unreachable, "cannot reach it", "")),
            _ => Ok(status(1000, 0)),
        };
        let mut n = 0;
        let mut source = || {
            n += 1;
            looks(n)
        };
        let wide = Screen::Terminal { width: 100, height: 50, all: false };
        let (ended, text) = watched(&mut source, wide, 3, io::ErrorKind::BrokenPipe);
        assert_eq!(ended, Ok(()));
        assert_eq!(text.matches("process 4242 is gone: cannot reach it; trying again").count(), 1);
        assert_eq!(text.matches("up 1.0 s").count(), 3, "{text}");
        let mut n = 0;
        let mut source = || {
            n += 1;
            looks(n)
        };
        let (ended, _) = watched(&mut source, Screen::Paper(Room::PAPER), 9, io::ErrorKind::BrokenPipe);
        assert_eq!(ended.unwrap_err().exit, Exit::Unreachable);
    }

    #[test]
    fn a_frame_stays_on_the_screen() {
        let text = picture(Some(&status(1000, 0)), None, None, SCREEN);
        assert!(text.starts_with("\x1b[2J\x1b[H"), "{text:?}");
        let lines: Vec<_> = text.split("\r\n").collect();
        assert_eq!(lines.len(), 6, "five lines and what clears the rest");
        assert!(lines[0].ends_with(": process 4242, …\x1b[K"), "{:?}", lines[0]);
        assert_eq!(lines[5], END_OF_SCREEN);
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let text = rates(&status(3000, 1400), &status(1000, 1000));
        assert_eq!(text, "per second: 0 clients, 200 queries, 0 B to servers, 0 B to clients, 0 waits");
        assert_eq!(rates(&status(3000, 0), &status(1000, 1000)).matches(" 0 queries").count(), 1, "cleared");
        assert_eq!(rates(&status(1000, 0), &status(1000, 0)), "");
    }
}
