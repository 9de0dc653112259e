//! What /proc tells of processes: the tests look at the daemon from outside.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Sends a signal; a process that is gone already is no error, for the races that tests make on purpose.
pub fn kill(pid: i32, signal: Signal) {
    match nix::sys::signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => panic!("cannot send {signal} to {pid}: {error}"),
    }
}

/// Sends a signal to a process group; a group that is gone already is no error.
pub fn kill_group(pgid: i32, signal: Signal) {
    match nix::sys::signal::killpg(Pid::from_raw(pgid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => panic!("cannot send {signal} to group {pgid}: {error}"),
    }
}

/// State, parent and process group of a process (`/proc/PID/stat`, proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R` running, `S` sleeping, `Z` dead but not reaped, …
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
}

/// `None` when there is no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(Stat { state, parent, group })
}

/// Whether the process runs: a zombie does not.
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

fn all() -> impl Iterator<Item = (i32, Stat)> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
}

/// The living children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    all().filter(|(_, stat)| stat.parent == pid && stat.state != 'Z').map(|(pid, _)| pid).collect()
}

/// The children of a process that ended and were not reaped.
pub fn zombies(pid: i32) -> Vec<i32> {
    all().filter(|(_, stat)| stat.parent == pid && stat.state == 'Z').map(|(pid, _)| pid).collect()
}

/// The living members of a process group.
pub fn group(pgid: i32) -> Vec<i32> {
    all().filter(|(_, stat)| stat.group == pgid && stat.state != 'Z').map(|(pid, _)| pid).collect()
}

/// What the open descriptors of a process refer to; empty when it is gone.
pub fn open_fds(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|to| to.display().to_string())
        .collect()
}

/// The threads of a process.
pub fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// A field of `/proc/PID/status`, without the unit.
pub fn status_field(pid: i32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().trim_end_matches(" kB").to_owned())
}

/// How often a process has waited: each wake-up of an idle process counts one.
pub fn voluntary_switches(pid: i32) -> u64 {
    status_field(pid, "voluntary_ctxt_switches").and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Resident memory in KiB; 0 when the process is gone.
pub fn resident_kib(pid: i32) -> u64 {
    status_field(pid, "VmRSS").and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The effective user id of a process.
pub fn effective_uid(pid: i32) -> Option<u32> {
    status_field(pid, "Uid")?.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a socket listens on this TCP port (state 0A in `/proc/net/tcp`), found without connecting to it.
pub fn listens(port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|path| {
        fs::read_to_string(path).unwrap_or_default().lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace();
            fields.nth(1).is_some_and(|local| local.ends_with(&suffix)) && fields.nth(1) == Some("0A")
        })
    })
}

/// The inode of the TCP socket between these two ports, as the process with the local port sees it.
pub fn socket_inode(local: u16, remote: u16) -> Option<u64> {
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|path| {
        fs::read_to_string(path).unwrap_or_default().lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let matches = fields.get(1)?.ends_with(&local) && fields.get(2)?.ends_with(&remote);
            matches.then(|| fields.get(9)?.parse().ok()).flatten()
        })
    })
}
