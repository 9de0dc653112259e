//! `[howdah]`: addresses, sockets, limits and paths.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::as_written::{Table, Text};
use super::problem::{Place, Report};
use super::valid::MaxStartups;

/// `sockaddr_un.sun_path` less the final NUL.
pub(super) const LONGEST_SOCKET_PATH: usize = 107;

/// All addresses to listen on; one that stands there twice is an error.
pub(super) fn addresses(table: &Table<'_>, port: u16, report: &mut Report<'_>) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for written in table.list("listen_addresses", report) {
        match parse_address(&written.text, port) {
            Some(found) => {
                for address in found {
                    add_address(table, &written, address, &mut addresses, report);
                }
            }
            None => {
                let message = "is not an address to listen on";
                table.refuse("listen_addresses", &written.place, message, report);
            }
        }
    }
    addresses
}

fn add_address(
    table: &Table<'_>,
    written: &Text,
    address: SocketAddr,
    addresses: &mut Vec<SocketAddr>,
    report: &mut Report<'_>,
) {
    let same_port = |it: &&SocketAddr| it.port() == address.port() && it.is_ipv4() == address.is_ipv4();
    let taken = addresses.iter().filter(same_port).find(|it| {
        // A wildcard address takes the port on every address of its family.
        **it == address || it.ip().is_unspecified() || address.ip().is_unspecified()
    });
    let key = table.path_of("listen_addresses");
    match taken {
        Some(taken) if *taken == address => {
            report.error_with_value(&key, &written.place, format!("{address} is listed twice"));
        }
        Some(taken) => {
            let message = format!("{address} and {taken} cannot both be listened on");
            report.error_with_value(&key, &written.place, message);
        }
        None => addresses.push(address),
    }
}

fn parse_address(text: &str, port: u16) -> Option<Vec<SocketAddr>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(vec![SocketAddr::new(address, port)]);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, own)) if own.bytes().all(|it| it.is_ascii_digit()) => {
            (host, own.parse().ok().filter(|it| *it > 0)?)
        }
        _ => (text, port),
    };
    let addresses: Vec<IpAddr> = match host {
        "*" => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        _ => match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            Some(v6) => vec![v6.parse::<Ipv6Addr>().ok()?.into()],
            None => vec![host.parse::<Ipv4Addr>().ok()?.into()],
        },
    };
    Some(addresses.into_iter().map(|it| SocketAddr::new(it, port)).collect())
}

/// Directories for Unix sockets whose names fit into a socket address.
pub(super) fn unix_directories(
    table: &Table<'_>,
    base: &Path,
    port: u16,
    report: &mut Report<'_>,
) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = Vec::new();
    for written in table.list("unix_socket_directories", report) {
        let key = table.path_of("unix_socket_directories");
        let directory = base.join(&written.text);
        let socket = directory.join(format!(".s.PGSQL.{port}"));
        if written.text.is_empty() {
            table.refuse("unix_socket_directories", &written.place, "is empty", report);
        } else if directories.contains(&directory) {
            report.error_with_value(&key, &written.place, "is listed twice");
        } else {
            check_socket_path(&key, &written.place, &socket, report);
            directories.push(directory);
        }
    }
    directories
}

/// Reports a path that no socket can have.
pub(super) fn check_socket_path(key: &str, place: &Place, path: &Path, report: &mut Report<'_>) {
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        let message = format!(
            "the socket's path {} has {length} bytes; accepted: at most {LONGEST_SOCKET_PATH}",
            path.display()
        );
        report.error(key, place, message);
    }
}

/// An octal mode in a string.
pub(super) fn permissions(table: &Table<'_>, report: &mut Report<'_>) -> u32 {
    const NAME: &str = "unix_socket_permissions";
    let Some(written) = table.text(NAME, report) else { return 0 };
    let octal = written.text.bytes().all(|it| (b'0'..=b'7').contains(&it));
    match u32::from_str_radix(&written.text, 8).ok().filter(|it| octal && *it <= 0o777) {
        Some(mode) => mode,
        None => {
            table.refuse(NAME, &written.place, "is not a mode", report);
            0
        }
    }
}

/// `auto`, a number, or sshd's `begin:rate:full`.
pub(super) fn max_startups(table: &Table<'_>, max_clients: u32, report: &mut Report<'_>) -> MaxStartups {
    let auto = MaxStartups { begin: (max_clients / 4 * 3).max(1), rate: 30, full: max_clients };
    let Some(written) = table.text("max_startups", report) else { return auto };
    match parse_max_startups(&written.text) {
        Some(limits) => limits,
        None if written.text == "auto" => auto,
        None => {
            table.refuse("max_startups", &written.place, "is not understood", report);
            auto
        }
    }
}

fn parse_max_startups(text: &str) -> Option<MaxStartups> {
    let number = |it: &str| -> Option<u32> {
        let digits = it.bytes().all(|byte| byte.is_ascii_digit());
        it.parse().ok().filter(|it| digits && (1..=1_000_000).contains(it))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let limits = match parts.as_slice() {
        [all] => MaxStartups { begin: number(all)?, rate: 100, full: number(all)? },
        [begin, rate, full] => {
            MaxStartups { begin: number(begin)?, rate: number(rate)?, full: number(full)? }
        }
        _ => return None,
    };
    (limits.begin <= limits.full && limits.rate <= 100).then_some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port_of_its_own() {
        let check = |text: &str, expected: &[&str]| {
            let found = parse_address(text, 6432).unwrap_or_default();
            assert_eq!(found.iter().map(SocketAddr::to_string).collect::<Vec<_>>(), expected, "{text}");
        };
        check("1.2.3.4", &["1.2.3.4:6432"]);
        check("1.2.3.4:6433", &["1.2.3.4:6433"]);
        check("::1", &["[::1]:6432"]);
        check("[::1]", &["[::1]:6432"]);
        check("[::1]:6433", &["[::1]:6433"]);
        check("*", &["0.0.0.0:6432", "[::]:6432"]);
        check("*:7000", &["0.0.0.0:7000", "[::]:7000"]);
        check("localhost", &["127.0.0.1:6432", "[::1]:6432"]);
        for wrong in
            ["", "db.example", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3", "[1.2.3.4]:5", ":5"]
        {
            check(wrong, &[]);
        }
    }

    #[test]
    fn max_startups_is_written_as_for_sshd() {
        let check = |text: &str, expected: Option<(u32, u32, u32)>| {
            let found = parse_max_startups(text).map(|it| (it.begin, it.rate, it.full));
            assert_eq!(found, expected, "{text}");
        };
        check("100:30:1000", Some((100, 30, 1000)));
        check("50", Some((50, 100, 50)));
        for wrong in ["", "0", "10:30", "10:0:20", "10:101:20", "30:10:20", "1:2:3:4", "+1", "a:b:c"] {
            check(wrong, None);
        }
    }
}
