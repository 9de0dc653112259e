//! From the tables as written to a valid [`Config`]: one function for each section.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::as_written::{Document, Table, Text, suggestion};
use super::problem::Report;
use super::units::parse_duration;
use super::user_list::UserList;
use super::valid::{
    Config, DatabaseConfig, LogConfig, LogFormat, LogTarget, MAX_SERVERS, NamePattern, PoolMode, PoolRule,
    ServerConfig, ServerHost, TcpConfig, Timeouts, Validation,
};
use super::{hba_rules, listen};

/// The tables that stand in the file, for the checks that look at several of them.
pub(super) struct Tables<'a> {
    pub(super) howdah: Table<'a>,
    pub(super) servers: Vec<Table<'a>>,
    pub(super) databases: Vec<Table<'a>>,
    pub(super) pools: Vec<Table<'a>>,
    pub(super) hba: Vec<Table<'a>>,
}

/// The size of a pool whose rule does not say it, unless `max_connections` is smaller.
const USUAL_POOL_SIZE: u32 = 20;
const USUAL_VALIDATION: Duration = Duration::from_secs(30);
const VALIDATION_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));

/// Reads every section. What is wrong goes to the report, and something valid takes its place.
pub(super) fn config<'a>(
    document: &'a Document<'a>,
    path: &Path,
    report: &mut Report<'_>,
) -> (Config, Tables<'a>) {
    document.check_sections(report);
    let tables = Tables {
        howdah: document.single("howdah", report),
        servers: document.named("servers", report),
        databases: document.named("databases", report),
        pools: document.repeated("pools", report),
        hba: document.repeated("hba", report),
    };
    let (log, tcp) = (document.single("log", report), document.single("tcp", report));
    let timeouts = timeouts(&document.single("timeouts", report), report);
    let base = path.parent().unwrap_or(Path::new("/"));
    let howdah = &tables.howdah;
    let port = u16::try_from(howdah.integer("port", report)).unwrap_or(u16::MAX);
    let max_connections = howdah.integer("max_connections", report);
    let max_clients = howdah.integer("max_clients", report);
    let servers = servers(&tables.servers, report);
    let databases = databases(&tables.databases, &servers, report);
    let pool_context = PoolContext { servers: &servers, databases: &databases, timeouts, max_connections };
    let config = Config {
        path: path.to_owned(),
        listen_addresses: listen::addresses(howdah, port, report),
        port,
        unix_socket_directories: listen::unix_directories(howdah, base, port, report),
        unix_socket_permissions: listen::permissions(howdah, report),
        listen_backlog: howdah.integer("listen_backlog", report),
        max_connections,
        max_clients,
        max_pools: howdah.integer("max_pools", report),
        max_startups: listen::max_startups(howdah, max_clients, report),
        user: howdah.text("user", report).map(|it| it.text),
        pid_file: optional_path(howdah, "pid_file", base, report),
        management_socket: management_socket(howdah, base, report),
        users_file: optional_path(howdah, "users_file", base, report),
        users: UserList::default(),
        log: log_config(&log, base, report),
        tcp: tcp_config(&tcp, report),
        timeouts,
        hba: hba_rules::rules(&tables.hba, report),
        pools: pool_rules(&tables.pools, &pool_context, report),
        servers,
        databases,
    };
    (config, tables)
}

fn optional_path(table: &Table<'_>, name: &str, base: &Path, report: &mut Report<'_>) -> Option<PathBuf> {
    let written = table.text(name, report)?;
    if written.text.is_empty() {
        table.refuse(name, &written.place, "is empty", report);
        return None;
    }
    Some(base.join(written.text))
}

fn management_socket(table: &Table<'_>, base: &Path, report: &mut Report<'_>) -> PathBuf {
    const NAME: &str = "management_socket";
    let path = optional_path(table, NAME, base, report).unwrap_or_else(|| base.to_owned());
    listen::check_socket_path(&table.path_of(NAME), &table.place_near(NAME), &path, report);
    path
}

fn log_config(table: &Table<'_>, base: &Path, report: &mut Report<'_>) -> LogConfig {
    let target = match table.text("target", report) {
        Some(written) if written.text.is_empty() => {
            table.refuse("target", &written.place, "is empty", report);
            LogTarget::Stderr
        }
        Some(Text { text, .. }) if text == "syslog" => LogTarget::Syslog,
        Some(Text { text, .. }) if text != "stderr" => LogTarget::File(base.join(text)),
        _ => LogTarget::Stderr,
    };
    LogConfig {
        level: table.word("level", report).parse().unwrap_or(log::LevelFilter::Info),
        format: if table.word("format", report) == "json" { LogFormat::Json } else { LogFormat::Text },
        target,
        log_connections: table.boolean("log_connections", report),
        log_disconnections: table.boolean("log_disconnections", report),
    }
}

fn tcp_config(table: &Table<'_>, report: &mut Report<'_>) -> TcpConfig {
    let count = table.integer("keepalives_count", report);
    TcpConfig {
        nodelay: table.boolean("nodelay", report),
        keepalive: table.boolean("keepalive", report),
        keepalives_idle: whole_seconds(table, "keepalives_idle", report),
        keepalives_interval: whole_seconds(table, "keepalives_interval", report),
        keepalives_count: (count > 0).then_some(count),
        user_timeout: table.optional_duration("user_timeout", report),
    }
}

/// A duration that the kernel takes in seconds.
fn whole_seconds(table: &Table<'_>, name: &str, report: &mut Report<'_>) -> Option<Duration> {
    let duration = table.optional_duration(name, report)?;
    if duration.subsec_nanos() != 0 {
        table.refuse(name, &table.place_of(name), "is not a whole number of seconds", report);
    }
    Some(duration)
}

fn timeouts(table: &Table<'_>, report: &mut Report<'_>) -> Timeouts {
    Timeouts {
        authentication_timeout: table.duration("authentication_timeout", report),
        connect_timeout: table.duration("connect_timeout", report),
        reset_timeout: table.duration("reset_timeout", report),
        cancel_timeout: table.duration("cancel_timeout", report),
        dns_max_ttl: table.duration("dns_max_ttl", report),
        wait_timeout: table.optional_duration("wait_timeout", report),
        client_idle_timeout: table.optional_duration("client_idle_timeout", report),
        server_idle_timeout: table.optional_duration("server_idle_timeout", report),
        server_lifetime: table.optional_duration("server_lifetime", report),
    }
}

fn servers(tables: &[Table<'_>], report: &mut Report<'_>) -> Vec<ServerConfig> {
    if let Some(table) = tables.get(MAX_SERVERS) {
        report.error(&table.path, &table.place, format!("is one server too many; accepted: {MAX_SERVERS}"));
    }
    tables
        .iter()
        .map(|table| {
            let limit = table.integer("max_connections", report);
            let port = u16::try_from(table.integer("port", report)).unwrap_or(u16::MAX);
            ServerConfig {
                name: table.name.clone(),
                host: server_host(table, port, report),
                port,
                max_connections: (limit > 0).then_some(limit),
            }
        })
        .collect()
}

fn server_host(table: &Table<'_>, port: u16, report: &mut Report<'_>) -> ServerHost {
    let absent = ServerHost::Name(String::new());
    let Some(written) = table.text("host", report) else { return absent };
    let host = written.text;
    if host.starts_with('/') {
        let directory = PathBuf::from(&host);
        let socket = directory.join(format!(".s.PGSQL.{port}"));
        listen::check_socket_path(&table.path_of("host"), &written.place, &socket, report);
        return ServerHost::UnixDirectory(directory);
    }
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return ServerHost::Ip(address);
    }
    if is_host_name(&host) {
        return ServerHost::Name(host);
    }
    let message = match host.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => {
            format!("holds a port; write port = {port} beside it")
        }
        _ => "is not a host".to_owned(),
    };
    table.refuse("host", &written.place, &message, report);
    absent
}

fn is_host_name(text: &str) -> bool {
    let label = |it: &str| {
        (1..=63).contains(&it.len())
            && it.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last_is_number =
        || text.rsplit('.').next().is_some_and(|it| it.bytes().all(|it| it.is_ascii_digit()));
    text.len() <= 253 && text.trim_end_matches('.').split('.').all(label) && !last_is_number()
}

/// The server that a key names.
fn server_index(table: &Table<'_>, servers: &[ServerConfig], report: &mut Report<'_>) -> Option<usize> {
    let written = table.text("server", report)?;
    let index = servers.iter().position(|it| it.name == written.text);
    if index.is_none() {
        let names = || servers.iter().map(|it| it.name.as_str());
        let known = names().map(|it| format!("\"{it}\"")).collect::<Vec<_>>().join(", ");
        let mut message = format!("is not a server{}", suggestion(&written.text, names()));
        if !known.is_empty() {
            message.push_str("; accepted: ");
            message.push_str(&known);
        }
        report.error_with_value(&table.path_of("server"), &written.place, message);
    }
    index
}

fn databases(tables: &[Table<'_>], servers: &[ServerConfig], report: &mut Report<'_>) -> Vec<DatabaseConfig> {
    tables
        .iter()
        .map(|table| {
            if table.place_of("server").is_none() && servers.len() > 1 {
                report.error(&table.path_of("server"), &table.place, which_server(servers));
            }
            let dbname = table.text("dbname", report);
            if let Some(written) = dbname.as_ref().filter(|it| it.text.is_empty()) {
                table.refuse("dbname", &written.place, "is empty", report);
            }
            DatabaseConfig {
                name: table.name.clone(),
                server: server_index(table, servers, report).unwrap_or(0),
                dbname: dbname.map(|it| it.text),
            }
        })
        .collect()
}

fn which_server(servers: &[ServerConfig]) -> String {
    let names: Vec<String> = servers.iter().map(|it| format!("\"{}\"", it.name)).collect();
    format!("is missing, and there are several servers; accepted: {}", names.join(", "))
}

/// What pool rules refer to.
struct PoolContext<'a> {
    servers: &'a [ServerConfig],
    databases: &'a [DatabaseConfig],
    timeouts: Timeouts,
    max_connections: u32,
}

fn pool_rules(tables: &[Table<'_>], context: &PoolContext<'_>, report: &mut Report<'_>) -> Vec<PoolRule> {
    if tables.is_empty() {
        return vec![pool_rule(&Table::absent("pools", "pools.0"), context, report)];
    }
    tables.iter().map(|table| pool_rule(table, context, report)).collect()
}

fn pool_rule(table: &Table<'_>, context: &PoolContext<'_>, report: &mut Report<'_>) -> PoolRule {
    let timeout = |name: &str, usual: Option<Duration>, report: &mut Report<'_>| match table.place_of(name) {
        Some(_) => table.optional_duration(name, report),
        None => usual,
    };
    let size = match table.place_of("size") {
        Some(_) => table.integer("size", report),
        None => USUAL_POOL_SIZE.min(context.max_connections),
    };
    let usual = context.timeouts;
    // The table of keys knows one word; any other is reported here.
    let _session = table.word("mode", report);
    PoolRule {
        databases: patterns(table, "database", report),
        users: patterns(table, "user", report),
        server: pool_server(table, context, report),
        mode: PoolMode::Session,
        size,
        min_size: table.integer("min_size", report),
        server_user: server_user(table, report),
        wait_timeout: timeout("wait_timeout", usual.wait_timeout, report),
        client_idle_timeout: timeout("client_idle_timeout", usual.client_idle_timeout, report),
        server_idle_timeout: timeout("server_idle_timeout", usual.server_idle_timeout, report),
        server_lifetime: timeout("server_lifetime", usual.server_lifetime, report),
        reset_query: table.text("reset_query", report).map(|it| it.text).unwrap_or_default(),
        validation: validation(table, report),
        set_on_claim: set_on_claim(table, report),
    }
}

fn pool_server(table: &Table<'_>, context: &PoolContext<'_>, report: &mut Report<'_>) -> Option<usize> {
    if table.place_of("server").is_some() {
        return server_index(table, context.servers, report);
    }
    if !context.databases.is_empty() {
        return None;
    }
    if context.servers.len() > 1 {
        report.error(&table.path_of("server"), &table.place, which_server(context.servers));
    }
    Some(0)
}

fn server_user(table: &Table<'_>, report: &mut Report<'_>) -> Option<String> {
    let written = table.text("server_user", report)?;
    if written.text.is_empty() {
        table.refuse("server_user", &written.place, "is empty", report);
    }
    Some(written.text)
}

fn patterns(table: &Table<'_>, name: &str, report: &mut Report<'_>) -> Vec<NamePattern> {
    let written = table.list(name, report);
    if written.is_empty() && report.is_sound(&table.path_of(name)) {
        table.refuse(name, &table.place_of(name), "matches nothing", report);
    }
    if let Some(empty) = written.iter().find(|it| it.text.is_empty()) {
        table.refuse(name, &empty.place, "is empty", report);
    }
    written.into_iter().map(|it| NamePattern(it.text)).collect()
}

fn validation(table: &Table<'_>, report: &mut Report<'_>) -> Validation {
    let Some(written) = table.text("validation", report) else { return Validation::Off };
    let message = match written.text.trim() {
        "off" => return Validation::Off,
        "foreground" => return Validation::Foreground,
        "background" => return Validation::Background(USUAL_VALIDATION),
        other => match other.strip_prefix("background ").map(parse_duration) {
            Some(Ok(every)) if (VALIDATION_RANGE.0..=VALIDATION_RANGE.1).contains(&every) => {
                return Validation::Background(every);
            }
            Some(Ok(_)) => "is out of range".to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "is not known".to_owned(),
        },
    };
    table.refuse("validation", &written.place, &message, report);
    Validation::Off
}

/// Names of parameters, as PostgreSQL's `valid_custom_variable_name` has them.
fn set_on_claim(table: &Table<'_>, report: &mut Report<'_>) -> Vec<String> {
    let start = |it: u8| it.is_ascii_alphabetic() || it == b'_';
    let part = |it: &str| match it.as_bytes() {
        [first, rest @ ..] => {
            start(*first) && rest.iter().all(|it| start(*it) || it.is_ascii_digit() || *it == b'$')
        }
        [] => false,
    };
    let mut names = Vec::new();
    for written in table.list("set_on_claim", report) {
        if written.text.split('.').all(part) {
            names.push(written.text);
        } else {
            table.refuse("set_on_claim", &written.place, "is not the name of a parameter", report);
        }
    }
    names
}
