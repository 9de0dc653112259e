//! `[[hba]]`: from the words of pg_hba.conf to rules.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::as_written::Table;
use super::problem::Report;
use crate::auth::hba::{AddressMatch, ConnectionType, DatabaseMatch, HbaRule, Method, Network, UserMatch};

/// All rules, or those that hold when none is written: everyone from everywhere, with scram-sha-256.
pub(super) fn rules(tables: &[Table<'_>], report: &mut Report<'_>) -> Vec<HbaRule> {
    if tables.is_empty() {
        return [ConnectionType::Local, ConnectionType::Host].map(usual_rule).to_vec();
    }
    tables.iter().map(|table| rule(table, report)).collect()
}

fn usual_rule(connection: ConnectionType) -> HbaRule {
    HbaRule {
        connection,
        databases: vec![DatabaseMatch::All],
        users: vec![UserMatch::All],
        address: AddressMatch::All,
        method: Method::ScramSha256,
    }
}

fn rule(table: &Table<'_>, report: &mut Report<'_>) -> HbaRule {
    let connection = connection_type(table, report);
    HbaRule {
        // A rule whose type is wrong is not complained about for its address as well.
        address: connection.map_or(AddressMatch::All, |it| address(table, it, report)),
        connection: connection.unwrap_or(ConnectionType::Local),
        databases: databases(table, report),
        users: users(table, report),
        method: method(table, report),
    }
}

fn connection_type(table: &Table<'_>, report: &mut Report<'_>) -> Option<ConnectionType> {
    const TLS: &str = "is not available: this version has no TLS to clients";
    let place = table.place_of("type");
    let unavailable = ["hostssl", "hostgssenc", "hostnogssenc"];
    if let Some(written) = table.written_text("type").filter(|it| unavailable.contains(&it.as_str())) {
        let message = if written == "hostssl" { TLS } else { "is not available: there is no GSSAPI" };
        table.refuse("type", &place, message, report);
        return None;
    }
    match table.word("type", report) {
        "local" => Some(ConnectionType::Local),
        "host" => Some(ConnectionType::Host),
        "hostnossl" => Some(ConnectionType::HostNoSsl),
        _ => None,
    }
}

fn method(table: &Table<'_>, report: &mut Report<'_>) -> Method {
    let unavailable =
        ["gss", "sspi", "ident", "peer", "ldap", "radius", "cert", "pam", "bsd"].map(Some).to_vec();
    let written = table.written_text("method");
    if unavailable.contains(&written.as_deref()) {
        let message = "is a method of PostgreSQL that howdah does not have";
        table.refuse("method", &table.place_of("method"), message, report);
        return Method::Reject;
    }
    match table.word("method", report) {
        "trust" => Method::Trust,
        "password" => Method::Password,
        "md5" => Method::Md5,
        "scram-sha-256" => Method::ScramSha256,
        _ => Method::Reject,
    }
}

fn databases(table: &Table<'_>, report: &mut Report<'_>) -> Vec<DatabaseMatch> {
    names(table, "database", report, |name| match name {
        "all" => DatabaseMatch::All,
        "sameuser" => DatabaseMatch::SameUser,
        "replication" => DatabaseMatch::Replication,
        _ => match quoted(name) {
            Some(exact) => DatabaseMatch::Exact(exact.to_owned()),
            None => DatabaseMatch::Pattern(name.to_owned()),
        },
    })
}

fn users(table: &Table<'_>, report: &mut Report<'_>) -> Vec<UserMatch> {
    names(table, "user", report, |name| match name {
        "all" => UserMatch::All,
        _ => match quoted(name) {
            Some(exact) => UserMatch::Exact(exact.to_owned()),
            None => UserMatch::Pattern(name.to_owned()),
        },
    })
}

fn names<T>(table: &Table<'_>, key: &str, report: &mut Report<'_>, read: impl Fn(&str) -> T) -> Vec<T> {
    let written = table.list(key, report);
    if written.is_empty() && report.is_sound(&table.path_of(key)) {
        table.refuse(key, &table.place_of(key), "matches nothing", report);
    }
    for name in &written {
        if let Some(message) = unsupported(key, &name.text) {
            table.refuse(key, &name.place, message, report);
        }
    }
    written.iter().map(|it| read(&it.text)).collect()
}

/// What pg_hba.conf allows in a name and howdah cannot do.
fn unsupported(key: &str, name: &str) -> Option<&'static str> {
    match name {
        "" => Some("is empty"),
        "samerole" | "samegroup" if key == "database" => Some("needs roles, which only PostgreSQL knows"),
        _ if name.starts_with('+') && key == "user" => Some("needs roles, which only PostgreSQL knows"),
        _ if name.starts_with('@') => Some("would read another file; write the names in an array"),
        _ if name.starts_with('/') => Some("is a regular expression, which is not supported"),
        _ if name.contains(',') && quoted(name).is_none() => Some("holds a comma; write an array of names"),
        _ => None,
    }
}

/// A name in double quotes loses its special meaning, as in pg_hba.conf.
fn quoted(name: &str) -> Option<&str> {
    name.strip_prefix('"')?.strip_suffix('"').filter(|it| !it.is_empty())
}

fn address(table: &Table<'_>, connection: ConnectionType, report: &mut Report<'_>) -> AddressMatch {
    let key = table.path_of("address");
    let written = match (table.text("address", report), connection) {
        (Some(written), ConnectionType::Local) => {
            report.error_with_value(&key, &written.place, "is not allowed with type = \"local\"");
            return AddressMatch::All;
        }
        (None, ConnectionType::Local) => return AddressMatch::All,
        (None, _) => {
            if report.is_sound(&key) {
                let message = format!("is missing; accepted: \"all\", or for example {SAMPLE}");
                report.error(&key, &table.place, message);
            }
            return AddressMatch::All;
        }
        (Some(written), _) => written,
    };
    match written.text.as_str() {
        "all" => AddressMatch::All,
        "samehost" => AddressMatch::SameHost(interfaces(true)),
        "samenet" => AddressMatch::SameNet(interfaces(false)),
        text => match parse_network(text) {
            Ok(network) => AddressMatch::Network(network),
            Err(message) => {
                table.refuse("address", &written.place, &message, report);
                AddressMatch::All
            }
        },
    }
}

const SAMPLE: &str = "\"10.0.0.0/8\"";

fn parse_network(text: &str) -> Result<Network, String> {
    let address = |it: &str| it.trim().parse::<IpAddr>();
    let not_an_address = || "is not an address; host names are not supported".to_owned();
    if let Some((host, bits)) = text.split_once('/') {
        let host = address(host).map_err(|_| not_an_address())?;
        let bits = bits.parse().ok().filter(|_| bits.bytes().all(|it| it.is_ascii_digit()));
        return bits.and_then(|it| Network::new(host, it)).ok_or_else(|| "has too many bits".to_owned());
    }
    if let Some((host, mask)) = text.split_once(char::is_whitespace) {
        let host = address(host).map_err(|_| not_an_address())?;
        let mask = address(mask).map_err(|_| "has a mask that is not an address".to_owned())?;
        return Network::with_mask(host, mask).ok_or_else(|| "has a mask that does not fit".to_owned());
    }
    let host = address(text).map_err(|_| not_an_address())?;
    let bits = if host.is_ipv4() { 32 } else { 128 };
    Err(format!("has no /bits; did you mean \"{host}/{bits}\"?"))
}

/// The addresses of this machine, alone or with their networks.
fn interfaces(alone: bool) -> Vec<Network> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address_of = |storage: nix::sys::socket::SockaddrStorage| -> Option<IpAddr> {
        let v4 = storage.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
    };
    interfaces
        .filter_map(|interface| {
            let address = address_of(interface.address?)?;
            if alone {
                return Network::new(address, if address.is_ipv4() { 32 } else { 128 });
            }
            Network::with_mask(address, address_of(interface.netmask?)?)
        })
        .collect()
}
