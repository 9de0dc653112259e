//! What one key alone cannot tell: the rules between keys, sections and the users file, in one place.
//!
//! An error is what cannot work. A warning is what works but is hardly meant.
#![forbid(unsafe_code)]

use super::problem::Report;
use super::valid::{Config, PoolRule};
use super::validate::Tables;
use super::{as_written::Table, route::FALLBACK};
use crate::auth::hba::{AddressMatch, ConnectionType, HbaRule, Method};
use crate::auth::secret::Secret;

/// Checks everything; the users have been read.
pub(super) fn check(config: &Config, tables: &Tables<'_>, report: &mut Report<'_>) {
    check_presence(config, tables, report);
    check_limits(config, tables, report);
    check_pools(config, tables, report);
    check_minimum_sizes(config, tables, report);
    check_databases(config, tables, report);
    check_hba(config, tables, report);
    check_users(config, tables, report);
}

/// Something to listen on and somewhere to go.
fn check_presence(config: &Config, tables: &Tables<'_>, report: &mut Report<'_>) {
    if tables.servers.is_empty() && report.is_sound("servers") {
        let message = "there is no server; write a section [servers.main] with host = \"...\"";
        report.error("servers", &None, message);
    }
    let listen = tables.howdah.path_of("listen_addresses");
    let sound = report.is_sound(&listen) && report.is_sound("howdah.unix_socket_directories");
    if sound && config.listen_addresses.is_empty() && config.unix_socket_directories.is_empty() {
        let message = "is empty, and so is unix_socket_directories: no client could connect";
        report.error(&listen, &tables.howdah.place_near("listen_addresses"), message);
    }
}

fn check_limits(config: &Config, tables: &Tables<'_>, report: &mut Report<'_>) {
    let howdah = &tables.howdah;
    if config.max_clients < config.max_connections {
        let message = format!(
            "is {}, less than max_connections, {}: the other server connections could never be used",
            config.max_clients, config.max_connections
        );
        report.warning("howdah.max_clients", &howdah.place_near("max_clients"), message);
    }
    for (table, server) in tables.servers.iter().zip(&config.servers) {
        if let Some(limit) = server.max_connections.filter(|it| *it > config.max_connections) {
            let key = table.path_of("max_connections");
            let message = format!(
                "is {limit}, more than [howdah] max_connections, {}, which holds as well",
                config.max_connections
            );
            report.warning(&key, &table.place_near("max_connections"), message);
        }
    }
}

/// Sizes, rules that can never match, and names that look like pg_hba.conf's.
fn check_pools(config: &Config, tables: &Tables<'_>, report: &mut Report<'_>) {
    for (number, (table, rule)) in tables.pools.iter().zip(&config.pools).enumerate() {
        check_size(config, table, rule, report);
        let earlier = config.pools.iter().take(number).position(|it| covers(it, rule));
        if let Some(earlier) = earlier {
            let message = format!("can never match: pools.{earlier} takes all that it would match");
            report.warning(&table.path, &table.place, message);
        }
        for (key, patterns) in [("database", &rule.databases), ("user", &rule.users)] {
            if patterns.iter().any(|it| it.0 == "all") {
                let message =
                    format!("\"all\" is only the {key} of that name here; for every {key} write \"*\"");
                report.warning(&table.path_of(key), &table.place_near(key), message);
            }
        }
        let known = |rule: &PoolRule| {
            config.databases.iter().any(|it| {
                it.name == FALLBACK || rule.databases.iter().any(|pattern| pattern.matches(&it.name))
            })
        };
        if !config.databases.is_empty() && !known(rule) {
            let message = "matches no [databases.NAME]";
            report.warning(&table.path_of("database"), &table.place_near("database"), message);
        }
    }
}

fn covers(earlier: &PoolRule, later: &PoolRule) -> bool {
    later.databases.iter().all(|it| earlier.databases.iter().any(|mine| mine.covers(it)))
        && later.users.iter().all(|it| earlier.users.iter().any(|mine| mine.covers(it)))
}

fn check_size(config: &Config, table: &Table<'_>, rule: &PoolRule, report: &mut Report<'_>) {
    let key = table.path_of("size");
    let limits_sound = report.is_sound("howdah.max_connections") && report.is_sound(&key);
    if rule.size > config.max_connections && limits_sound {
        let message = format!("is more than [howdah] max_connections, {}", config.max_connections);
        report.error_with_value(&key, &table.place_near("size"), message);
    }
    let minimum = table.path_of("min_size");
    if !report.is_sound(&minimum) || rule.min_size == 0 {
        return;
    }
    let place = table.place_near("min_size");
    if rule.min_size > rule.size && limits_sound {
        report.error_with_value(&minimum, &place, format!("is more than size, {}", rule.size));
    }
    if !rule.databases.iter().chain(&rule.users).all(|it| it.is_exact()) {
        let message = "needs a database and a user without \"*\": for which would connections be opened?";
        report.error_with_value(&minimum, &place, message);
    }
}

/// All minimum sizes together must find room.
fn check_minimum_sizes(config: &Config, tables: &Tables<'_>, report: &mut Report<'_>) {
    let mut total = 0usize;
    for (table, rule) in tables.pools.iter().zip(&config.pools) {
        let pools = rule.databases.len().saturating_mul(rule.users.len());
        let size = usize::try_from(rule.min_size).unwrap_or(usize::MAX);
        let before = total;
        total = total.saturating_add(pools.saturating_mul(size));
        let limit = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
        let key = table.path_of("min_size");
        let sound = report.is_sound(&key) && report.is_sound("howdah.max_connections");
        if before <= limit && total > limit && sound {
            let message =
                format!("makes all minimum sizes together {total}, more than max_connections, {limit}");
            report.error_with_value(&key, &table.place_near("min_size"), message);
        }
    }
}

fn check_databases(config: &Config, tables: &Tables<'_>, report: &mut Report<'_>) {
    for (table, database) in tables.databases.iter().zip(&config.databases) {
        let served = config.pools.iter().any(|it| it.databases.iter().any(|it| it.matches(&database.name)));
        if database.name != FALLBACK && !served {
            report.warning(&table.path, &table.place, "no pool rule matches it: clients are refused");
        }
    }
}

fn check_hba(config: &Config, tables: &Tables<'_>, report: &mut Report<'_>) {
    for (number, (table, rule)) in tables.hba.iter().zip(&config.hba).enumerate() {
        let method = (table.path_of("method"), table.place_near("method"));
        let remote = rule.connection != ConnectionType::Local;
        if remote && rule.method == Method::Trust && is_everywhere(rule) {
            let message = "lets everyone in from every address without a password";
            report.warning(&method.0, &method.1, message);
        }
        if remote && rule.method == Method::Password {
            let message = "sends passwords over the network in clear text; scram-sha-256 does not";
            report.warning(&method.0, &method.1, message);
        }
        if let Some(earlier) = config.hba.iter().take(number).position(|it| it.covers(rule)) {
            let message = format!("can never match: hba.{earlier} takes all that it would match");
            report.warning(&table.path, &table.place, message);
        }
        if rule.connection == ConnectionType::Local && config.unix_socket_directories.is_empty() {
            let message = "never matches: [howdah] unix_socket_directories is empty";
            report.warning(&table.path, &table.place, message);
        }
    }
}

fn is_everywhere(rule: &HbaRule) -> bool {
    match &rule.address {
        AddressMatch::All => true,
        AddressMatch::Network(network) => network.is_everything(),
        AddressMatch::SameHost(_) | AddressMatch::SameNet(_) => false,
    }
}

/// What the users file must hold for the rules to let anyone in.
fn check_users(config: &Config, tables: &Tables<'_>, report: &mut Report<'_>) {
    let needs_secret = |it: &HbaRule| !matches!(it.method, Method::Trust | Method::Reject);
    let file_key = tables.howdah.path_of("users_file");
    let file_place = tables.howdah.place_near("users_file");
    if config.users_file.is_none() {
        if let Some(rule) = config.hba.iter().find(|it| needs_secret(it)) {
            let message = format!("is not set: nobody can log in by {}", rule.method);
            report.warning(&file_key, &file_place, message);
        }
    } else if config.users.is_empty() && config.hba.iter().any(needs_secret) && report.errors.is_empty() {
        report.warning(&file_key, &file_place, "holds no user: nobody can log in with a password");
    }
    for (table, rule) in tables.pools.iter().zip(&config.pools) {
        let Some(name) = rule.server_user.as_deref() else { continue };
        let key = (table.path_of("server_user"), table.place_near("server_user"));
        match config.users.get(name) {
            None => {
                let message =
                    format!("\"{name}\" is not in the users file: only servers that trust it let it in");
                report.warning(&key.0, &key.1, message);
            }
            Some(Secret::Scram(_)) => {
                let message = format!(
                    "\"{name}\" has a SCRAM verifier in the users file, with which nobody can log in to a server; \
                     it needs the password"
                );
                report.warning(&key.0, &key.1, message);
            }
            Some(_) => {}
        }
    }
    check_md5_secrets(config, tables, report);
}

/// A user with an MD5 secret can never log in by scram-sha-256.
fn check_md5_secrets(config: &Config, tables: &Tables<'_>, report: &mut Report<'_>) {
    if !config.hba.iter().any(|it| it.method == Method::ScramSha256)
        || config.hba.iter().any(|it| matches!(it.method, Method::Md5 | Method::Password))
    {
        return;
    }
    let is_md5 = |name: &&str| matches!(config.users.get(name), Some(Secret::Md5(_)));
    let mut names = config.users.names().filter(is_md5);
    if let Some(first) = names.next() {
        let others = match names.count() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let message = format!("\"{first}\"{others}: an MD5 secret is of no use for scram-sha-256");
        report.warning("howdah.users_file", &tables.howdah.place_near("users_file"), message);
    }
}
