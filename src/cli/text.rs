//! The status as people read it.

use std::fmt::Write;

use super::status::{ClientRow, Details, PoolRow, ServerRow, SlotRow, Status, Totals};
use super::table::{Column, Table};

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Columns.
    pub width: usize,
    /// Lines of each list.
    pub rows: usize,
}

impl Room {
    /// Where nothing else is known.
    pub const PAPER: Room = Room { width: 100, rows: 20 };
    /// For `--all`.
    pub const ENDLESS: Room = Room { width: usize::MAX, rows: usize::MAX };
}

/// The whole text, ending with a line's end.
#[must_use]
pub fn status(status: &Status, room: Room) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = summary(status, &mut out);
    let _ = totals(&status.totals, &mut out);
    out.push('\n');
    servers(&status.servers, room, &mut out);
    if let Some(d) = &status.details {
        details(d, room, &mut out);
    }
    out
}

fn summary(status: &Status, out: &mut String) -> std::fmt::Result {
    let phase = match status.phase {
        "graceful" => "is stopping gracefully",
        "stopping" => "is stopping",
        _ => "is running",
    };
    let (version, pid, epoch) = (super::table::clean(&status.version), status.main_pid, status.config_epoch);
    let uptime = duration(status.uptime_ms);
    writeln!(out, "howdah {version} {phase}: process {pid}, up {uptime}, configuration {epoch}\n")?;
    let (c, s, p, w) = (&status.clients, &status.slots, &status.pools, &status.waiting);
    let states = [
        ("active", c.active),
        ("waiting", c.waiting),
        ("startup", c.startup),
        ("closing", c.closing),
        ("gone", c.gone),
        ("child", c.child),
    ];
    writeln!(out, "Clients  {:>6} of {:<6}  {}", c.connected, c.max, list(&states))?;
    let states = [
        ("in_use", s.in_use),
        ("free", s.free),
        ("not_init", s.not_init),
        ("init", s.init),
        ("gracefully", s.gracefully),
        ("flush", s.flush),
        ("idle_check", s.idle_check),
    ];
    writeln!(out, "Slots    {:>6} of {:<6}  {}", s.connections, s.max, list(&states))?;
    writeln!(out, "Pools    {:>6} of {:<6}  {}", p.used, p.max, list(&[("disabled", p.disabled)]))?;
    match w.clients {
        0 => writeln!(out, "Waiting       0\n"),
        n => {
            let pools = if w.pools == 1 { "pool" } else { "pools" };
            writeln!(
                out,
                "Waiting  {n:>6} in {} {pools}, the longest for {}\n",
                w.pools,
                duration(w.longest_ms)
            )
        }
    }
}

/// What is not zero, and the first whatever it is.
fn list(counts: &[(&str, u64)]) -> String {
    let shown = counts.iter().enumerate().filter(|(i, (_, count))| *i == 0 || *count > 0);
    shown.map(|(_, (name, count))| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn totals(t: &Totals, out: &mut String) -> std::fmt::Result {
    writeln!(out, "Since the start, or the last clear")?;
    writeln!(
        out,
        "  clients      {} accepted, {} refused, {} workers crashed",
        t.accepted, t.refused, t.crashed
    )?;
    writeln!(
        out,
        "  connections  {} opened, {} closed, {} failed to open",
        t.opened, t.closed, t.open_failures
    )?;
    let average = microseconds(t.waited_us.checked_div(t.waits).unwrap_or(0));
    let (claims, waits, late) = (t.claims, t.waits, t.wait_timeouts);
    writeln!(out, "  claims       {claims}, {waits} waited ({average} on average), {late} timed out")?;
    let (up, down) = (bytes(t.bytes_to_server), bytes(t.bytes_to_client));
    writeln!(
        out,
        "  traffic      {up} to servers, {down} to clients, {} queries in {} sessions",
        t.ready, t.sessions
    )
}

fn servers(servers: &[ServerRow], room: Room, out: &mut String) {
    let mut table = Table::new(&[
        Column::name("SERVER"),
        Column::name("HOST"),
        Column::number("PORT"),
        Column::number("VERSION"),
        Column::number("CONNECTIONS"),
        Column::number("MAX"),
        Column::number("ADDRESSES"),
        Column::word("LOOKED UP"),
        Column::word("NOTE"),
    ]);
    for s in servers {
        let note =
            s.resolve_failed_ago_ms.filter(|failed| s.resolved_ago_ms.is_none_or(|good| *failed <= good));
        table.row([
            s.name.clone(),
            s.host.clone(),
            s.port.to_string(),
            optional(s.major_version),
            s.connections.to_string(),
            s.max_connections.map_or_else(|| "-".to_owned(), |max| max.to_string()),
            if s.addresses == 0 { String::new() } else { s.addresses.to_string() },
            s.resolved_ago_ms.map_or_else(String::new, |ms| format!("{} ago", duration(ms))),
            note.map_or_else(String::new, |ms| format!("no address found, {} ago", duration(ms))),
        ]);
    }
    section("server", servers.len(), servers.len(), &table, room, out);
}

fn details(details: &Details, room: Room, out: &mut String) {
    let list = |name, all: usize, table: Table, out: &mut String| {
        out.push('\n');
        section(name, all, all.min(room.rows), &table, room, out);
    };
    list("pool", details.pools.len(), pools(first(&details.pools, room)), out);
    list("slot in use or free", details.slots.len(), slots(first(&details.slots, room)), out);
    list("client", details.clients.len(), clients(first(&details.clients, room)), out);
}

fn first<T>(rows: &[T], room: Room) -> &[T] {
    rows.get(..room.rows).unwrap_or(rows)
}

fn section(name: &str, all: usize, shown: usize, table: &Table, room: Room, out: &mut String) {
    if all == 0 {
        out.push_str(&format!("No {name}\n"));
        return;
    }
    table.render(room.width, out);
    if shown < all {
        out.push_str(&format!("… {} more (--all shows them)\n", all - shown));
    }
}

fn pools(rows: &[PoolRow]) -> Table {
    let mut table = Table::new(&[
        Column::number("POOL"),
        Column::name("DATABASE"),
        Column::name("USER"),
        Column::name("SERVER"),
        Column::number("SIZE"),
        Column::number("USED"),
        Column::number("FREE"),
        Column::number("WAITING"),
        Column::number("LONGEST"),
        Column::number("CLAIMS"),
        Column::number("WAITS"),
        Column::number("AVERAGE"),
        Column::number("TIMEOUTS"),
        Column::word("NOTE"),
    ]);
    for p in rows {
        table.row([
            p.pool.to_string(),
            p.database.clone(),
            p.user.clone(),
            optional(p.server.as_ref()),
            if p.min_size == 0 { p.size.to_string() } else { format!("{}-{}", p.min_size, p.size) },
            p.used.to_string(),
            p.free.to_string(),
            p.waiting.to_string(),
            if p.waiting == 0 { String::new() } else { duration(p.longest_wait_ms) },
            p.claims.to_string(),
            p.waits.to_string(),
            if p.waits == 0 {
                String::new()
            } else {
                microseconds(p.waited_us.checked_div(p.waits).unwrap_or(0))
            },
            if p.wait_timeouts == 0 { String::new() } else { p.wait_timeouts.to_string() },
            pool_note(p),
        ]);
    }
    table
}

fn pool_note(p: &PoolRow) -> String {
    let mut notes = Vec::new();
    if p.disabled {
        notes.push("disabled".to_owned());
    }
    if p.changing > 0 {
        notes.push(format!("{} opening or closing", p.changing));
    }
    if let Some(ms) = p.failed_ago_ms {
        notes.push(format!("cannot connect: {} times, last {} ago", p.open_failures, duration(ms)));
    } else if p.open_failures > 0 {
        notes.push(format!("{} failed to open", p.open_failures));
    }
    notes.join("; ")
}

fn slots(rows: &[SlotRow]) -> Table {
    let mut table = Table::new(&[
        Column::number("SLOT"),
        Column::word("STATE"),
        Column::name("DATABASE"),
        Column::name("USER"),
        Column::number("WORKER"),
        Column::number("BACKEND"),
        Column::number("AGE"),
        Column::number("IDLE"),
        Column::number("SESSIONS"),
        Column::number("TO SERVER"),
        Column::number("TO CLIENT"),
        Column::word("NOTE"),
    ]);
    for s in rows {
        table.row([
            s.slot.to_string(),
            s.state.to_owned(),
            optional(s.database.as_ref()),
            optional(s.user.as_ref()),
            optional(s.worker_pid),
            optional(s.backend_pid),
            s.age_ms.map_or_else(String::new, duration),
            s.idle_ms.map_or_else(String::new, duration),
            s.sessions.to_string(),
            bytes(s.bytes_to_server),
            bytes(s.bytes_to_client),
            if s.unpooled { "not pooled".to_owned() } else { String::new() },
        ]);
    }
    table
}

fn clients(rows: &[ClientRow]) -> Table {
    let mut table = Table::new(&[
        Column::number("CLIENT"),
        Column::word("STATE"),
        Column::number("FOR"),
        Column::number("PID"),
        Column::name("USER"),
        Column::name("DATABASE"),
        Column::name("ADDRESS"),
        Column::name("APPLICATION"),
        Column::number("SLOT"),
        Column::number("CONNECTED"),
    ]);
    for c in rows {
        table.row([
            c.client.to_string(),
            c.state.to_owned(),
            duration(c.state_ms),
            c.pid.to_string(),
            c.user.clone(),
            c.database.clone(),
            match (&c.address, c.port) {
                (None, _) => String::new(),
                (Some(address), None) => address.clone(),
                (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
                (Some(address), Some(port)) => format!("{address}:{port}"),
            },
            c.application_name.clone(),
            optional(c.slot),
            duration(c.connected_ms),
        ]);
    }
    table
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// `850 ms`, `12.3 s`, `4m 05s`, `3h 12m`, `5d 03h`.
#[must_use]
pub fn duration(ms: u64) -> String {
    let (s, tenth) = (ms / 1000, ms % 1000 / 100);
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s}.{tenth} s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `850 us`, `12.3 ms`, and longer as [`duration`] has it.
fn microseconds(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => duration(us / 1000),
    }
}

/// `850 B`, `12.3 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(power) = count.checked_ilog2().map(|log| log / 10).filter(|power| *power > 0) else {
        return format!("{count} B");
    };
    let unit = usize::try_from(power - 1).ok().and_then(|at| UNITS.get(at)).unwrap_or(&"EiB");
    let shift = power * 10;
    let tenths = (count >> (shift - 10) & 1023) * 10 / 1024;
    format!("{}.{tenths} {unit}", count >> shift)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::collect::tests::{NOW_MS, busy};
    use super::*;

    fn shown(with_details: bool, room: Room) -> String {
        status(&Status::collect(&busy(), "1.2.3", NOW_MS, with_details), room)
    }

    #[test]
    fn the_summary_reads_like_this() {
        let expected = "\
howdah 1.2.3 is running: process 4242, up 1h 00m, configuration 1

Clients       4 of 16      active 2, waiting 1, startup 1, gone 1
Slots         3 of 8       in_use 2, free 1, not_init 5
Pools         2 of 4       disabled 1
Waiting       1 in 1 pool, the longest for 1.5 s

Since the start, or the last clear
  clients      120 accepted, 0 refused, 0 workers crashed
  connections  0 opened, 0 closed, 0 failed to open
  claims       200, 7 waited (1.7 ms on average), 0 timed out
  traffic      3.0 MiB to servers, 9.0 MiB to clients, 150 queries in 30 sessions

SERVER   HOST      PORT  VERSION  CONNECTIONS  MAX
primary  10.0.0.1  5432       15            3   50
";
        assert_eq!(shown(false, Room::PAPER), expected);
    }

    #[test]
    fn the_details_read_like_this() {
        let expected = "
POOL  DATABASE  USER  SERVER   SIZE  USED  FREE  WAITING  LONGEST  CLAIMS  WAITS  AVERAGE  NOTE
   0  shop      web   primary     2     2     0        1    1.5 s     100      4   1.5 ms
   1  books     amy   primary     5     0     1        0              100      3   2.0 ms  disabled

SLOT  STATE   DATABASE  USER  WORKER  BACKEND      AGE    IDLE  SESSIONS  TO SERVER  TO CLIENT
   0  in_use  shop      web     5000      777  10m 00s                10    1.0 MiB    3.0 MiB
   1  in_use  shop      web     5001      777  10m 00s                10    1.0 MiB    3.0 MiB
   2  free    books     amy               777  10m 00s  30.0 s        10    1.0 MiB    3.0 MiB

CLIENT  STATE      FOR   PID  USER  DATABASE  ADDRESS            APPLICATION  SLOT  CONNECTED
     2  waiting  1.5 s  5002  web   shop      192.168.0.7:40000  psql                  1m 00s
     0  active   1.5 s  5000  web   shop      192.168.0.7:40000  psql            0     1m 00s
     1  active   1.5 s  5001  web   shop      192.168.0.7:40000  psql            1     1m 00s
     3  startup  1.5 s  5003                  local              psql                  1m 00s
     5  gone     1.5 s  5005  amy   books     192.168.0.7:40000  psql                  1m 00s
";
        let text = shown(true, Room::PAPER);
        assert!(text.ends_with(expected), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn long_lists_are_cut_and_say_so() {
        let text = shown(true, Room { width: 100, rows: 2 });
        assert!(text.contains("… 1 more (--all shows them)\n\nCLIENT"), "{text}");
        assert!(text.ends_with("… 3 more (--all shows them)\n"), "{text}");
        assert!(!shown(true, Room::ENDLESS).contains("more (--all"));
    }

    #[test]
    fn an_empty_daemon_has_a_status_too() {
        let segment =
            crate::segment::Segment::create(crate::segment::Dimensions { slots: 1, clients: 1, pools: 1 })
                .unwrap();
        let text = status(&Status::collect(&segment, "1.2.3", 0, true), Room::PAPER);
        assert!(text.contains("Waiting       0\n"), "{text}");
        assert!(text.ends_with("No server\n\nNo pool\n\nNo slot in use or free\n\nNo client\n"), "{text}");
    }

    #[test]
    fn quantities_are_short() {
        for (ms, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (59_999, "59.9 s"),
            (60_000, "1m 00s"),
            (3_599_999, "59m 59s"),
            (3_600_000, "1h 00m"),
            (86_400_000, "1d 00h"),
            (u64::MAX, "213503982334d 14h"),
        ] {
            assert_eq!(duration(ms), expected);
        }
        for (us, expected) in [(7, "7 us"), (1_500, "1.5 ms"), (2_000_000, "2.0 s")] {
            assert_eq!(microseconds(us), expected);
        }
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
