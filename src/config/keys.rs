//! The one table of all keys of `howdah.toml`.
//!
//! It feeds the reader (types, ranges, defaults, "did you mean"), the sample file, `howdah-cli conf`, the differences
//! of a reload, and the tables of `doc/configuration.md`.
#![forbid(unsafe_code)]

/// A key of `howdah.toml`.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The section: `howdah`, `servers.NAME` (a table for each name), `pools` (an array of tables).
    pub section: &'static str,
    /// The key itself.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// What holds when it is not written.
    pub default: Default,
    /// What takes a new value into use.
    pub applies: Applies,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
}

/// What a value looks like and which values are accepted.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A number from and to.
    Integer(u32, u32),
    /// A duration from and to; the third, when not empty, is the word (besides `0`) for none at all.
    Duration(&'static str, &'static str, &'static str),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A string; what it may say.
    Text(&'static str),
    /// An array of strings; what they may say.
    List(&'static str),
    /// A string or an array of strings; what they may say.
    TextOrList(&'static str),
}

/// What holds when a key is not written.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// This value, as TOML.
    Is(&'static str),
    /// Nothing; an example, as TOML.
    None(&'static str),
    /// It must be written; an example, as TOML.
    Required(&'static str),
    /// What the first says; an example, as TOML.
    From(&'static str, &'static str),
}

/// What takes a new value into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// A reload: from the next session on.
    Reload,
    /// Only a new start.
    Restart,
}

/// A section of `howdah.toml`.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name as in [`Key::section`].
    pub name: &'static str,
    /// How its header is written.
    pub header: &'static str,
    /// What it is for.
    pub doc: &'static str,
}

/// All sections, in the order of the sample file.
pub const SECTIONS: [Section; 8] = [
    Section {
        name: "howdah",
        header: "[howdah]",
        doc: "Where Howdah listens, its limits, and how it runs. Relative paths start at this file's directory.",
    },
    Section { name: "log", header: "[log]", doc: "What is logged and where to." },
    Section {
        name: "tcp",
        header: "[tcp]",
        doc: "Socket options of TCP connections, of clients and to servers.",
    },
    Section {
        name: "timeouts",
        header: "[timeouts]",
        doc: "Time limits. Durations have units: ms, s, min, h, d; \"off\" or 0 switches a limit off where it says so.",
    },
    Section { name: "servers", header: "[servers.NAME]", doc: "PostgreSQL servers; at least one." },
    Section {
        name: "databases",
        header: "[databases.NAME]",
        doc: "Databases by the names that clients use; NAME \"*\" stands for every other name. Without any such \
              section every database exists that a pool rule matches.",
    },
    Section {
        name: "pools",
        header: "[[pools]]",
        doc: "Pool rules; the first that matches database and user decides. Each pair of a database and a user has \
              a pool of its own. Without any rule there is one for everything.",
    },
    Section {
        name: "hba",
        header: "[[hba]]",
        doc: "Who may come in and how, as in pg_hba.conf; the first rule that matches decides, and whom none matches \
              is refused. Without any rule all users may come from everywhere with scram-sha-256.",
    },
];

/// All keys, in the order of the sample file.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [HOWDAH, LOG, TCP, TIMEOUTS, SERVERS, DATABASES, POOLS, HBA].into_iter().flatten()
}

/// The keys of a section.
pub fn of_section(section: &str) -> impl Iterator<Item = &'static Key> {
    all().filter(move |key| key.section == section)
}

/// The key of that section and name.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    all().find(|key| key.section == section && key.name == name)
}

/// The closest of the names, when it is close enough to have been meant.
pub fn did_you_mean<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    names
        .map(|name| (strsim::jaro_winkler(&written, &name.to_lowercase()), name))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

impl Key {
    /// What is accepted, for errors and the manual.
    pub fn accepted(&self) -> String {
        match self.kind {
            Kind::Boolean => "true or false".to_owned(),
            Kind::Integer(min, max) => format!("{min} to {max}"),
            Kind::Duration(min, max, "") => format!("\"{min}\" to \"{max}\""),
            Kind::Duration(min, max, none) => format!("\"{min}\" to \"{max}\", or \"{none}\""),
            Kind::Word(words) => words.iter().map(|it| format!("\"{it}\"")).collect::<Vec<_>>().join(", "),
            Kind::Text(what) | Kind::List(what) | Kind::TextOrList(what) => what.to_owned(),
        }
    }

    /// The type, for errors and the manual.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Boolean => "boolean",
            Kind::Integer(..) => "integer",
            Kind::Duration(..) => "duration",
            Kind::Word(_) | Kind::Text(_) => "string",
            Kind::List(_) => "array of strings",
            Kind::TextOrList(_) => "string or array of strings",
        }
    }

    /// The default, for the manual.
    pub fn default_text(&self) -> &'static str {
        match self.default {
            Default::Is(text) | Default::From(text, _) => text,
            Default::None(_) => "none",
            Default::Required(_) => "required",
        }
    }

    /// The default or else an example, as TOML.
    pub fn sample(&self) -> &'static str {
        match self.default {
            Default::Is(text) | Default::None(text) | Default::Required(text) | Default::From(_, text) => {
                text
            }
        }
    }
}

const fn key(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: Default,
    applies: Applies,
    doc: &'static str,
) -> Key {
    Key { section, name, kind, default, applies, doc }
}

use self::Applies::{Reload, Restart};
use self::Default::{From, Is, None, Required};
use self::Kind::{Boolean, Duration, Integer, List, Text, TextOrList, Word};

const NAMES: &str = "names; \"*\" in a name stands for any characters";

#[rustfmt::skip]
const HOWDAH: &[Key] = &[
    key("howdah", "listen_addresses",
        List("IPv4 and IPv6 addresses, \"localhost\" (127.0.0.1 and ::1), \"*\" (0.0.0.0 and ::); each with a port \
              of its own if wanted: \"10.0.0.1:6433\", \"[::1]:6433\""),
        Is("[\"localhost\"]"), Restart,
        "Addresses to accept TCP connections at. Empty: only Unix sockets."),
    key("howdah", "port", Integer(1, 65_535), Is("6432"), Restart,
        "TCP port, and the number in the names of Unix sockets: DIR/.s.PGSQL.6432."),
    key("howdah", "unix_socket_directories",
        List("directories; DIR/.s.PGSQL.PORT must have at most 107 bytes"), Is("[]"), Restart,
        "Directories in which to make Unix sockets for clients."),
    key("howdah", "unix_socket_permissions", Text("octal, \"0000\" to \"0777\""), Is("\"0777\""), Restart,
        "Mode of the Unix sockets for clients."),
    key("howdah", "listen_backlog", Integer(1, 65_535), Is("1024"), Restart,
        "How many connections the kernel keeps waiting to be accepted; it caps this at net.core.somaxconn."),
    key("howdah", "max_connections", Integer(1, 60_000), Is("100"), Restart,
        "The most server connections over all pools. Keep it below PostgreSQL's max_connections."),
    key("howdah", "max_clients", Integer(1, 1_000_000), Is("1000"), Restart,
        "The most clients at a time; the next one is refused with SQLSTATE 53300."),
    key("howdah", "max_pools", Integer(1, 4_096), Is("128"), Restart,
        "The most pools: pairs of a database and a user that clients have used."),
    key("howdah", "max_startups",
        Text("\"auto\", \"BEGIN:RATE:FULL\" with 1 <= BEGIN <= FULL <= 1000000 and RATE 1 to 100 per cent, or a \
              number: all refused from there on"),
        Is("\"auto\""), Reload,
        "How many clients may be unauthenticated at once, as in sshd: from BEGIN on RATE per cent of new ones are \
         refused, growing to all of them at FULL. \"auto\" is 3/4 of max_clients, 30, max_clients: applications that \
         start together are let in, but strangers cannot take every place."),
    key("howdah", "user", Text("a user of the system"), None("\"howdah\""), Restart,
        "Become this user when started by root."),
    key("howdah", "pid_file", Text("a path"), None("\"howdah.pid\""), Restart,
        "Write the process id of the main process to this file."),
    key("howdah", "management_socket", Text("a path of at most 107 bytes"), Is("\"howdah.sock\""), Restart,
        "The Unix socket that howdah-cli talks to, mode 0600. A service that root starts should have it in \
         /run/howdah."),
    key("howdah", "users_file", Text("a path"), None("\"users.txt\""), Reload,
        "Names and secrets of users; its mode must be 0600 or stricter."),
];

#[rustfmt::skip]
const LOG: &[Key] = &[
    key("log", "level", Word(&["error", "warn", "info", "debug", "trace"]), Is("\"info\""), Reload,
        "The least severe level that is logged."),
    key("log", "format", Word(&["text", "json"]), Is("\"text\""), Reload,
        "Lines for people or one JSON object per line."),
    key("log", "target", Text("\"stderr\", \"syslog\" or the path of a file"), Is("\"stderr\""), Reload,
        "Where the log goes. A file is appended to, and opened anew by a reload."),
    key("log", "log_connections", Boolean, Is("false"), Reload, "Log each client that connects."),
    key("log", "log_disconnections", Boolean, Is("false"), Reload, "Log each client that leaves."),
];

#[rustfmt::skip]
const TCP: &[Key] = &[
    key("tcp", "nodelay", Boolean, Is("true"), Reload,
        "Send small messages at once (TCP_NODELAY)."),
    key("tcp", "keepalive", Boolean, Is("true"), Reload,
        "Ask a silent peer whether it is still there (SO_KEEPALIVE)."),
    key("tcp", "keepalives_idle", Duration("1s", "9h", "system"), Is("\"system\""), Reload,
        "Silence before the first such question, in whole seconds (TCP_KEEPIDLE)."),
    key("tcp", "keepalives_interval", Duration("1s", "9h", "system"), Is("\"system\""), Reload,
        "Time between such questions, in whole seconds (TCP_KEEPINTVL)."),
    key("tcp", "keepalives_count", Integer(0, 127), Is("0"), Reload,
        "Questions without an answer after which the peer is given up (TCP_KEEPCNT); 0 is the system's number."),
    key("tcp", "user_timeout", Duration("1ms", "24d", "system"), Is("\"system\""), Reload,
        "How long sent data may stay unacknowledged (TCP_USER_TIMEOUT)."),
];

#[rustfmt::skip]
const TIMEOUTS: &[Key] = &[
    key("timeouts", "authentication_timeout", Duration("1s", "10min", ""), Is("\"60s\""), Reload,
        "From a client's connection to the end of its authentication."),
    key("timeouts", "connect_timeout", Duration("100ms", "10min", ""), Is("\"15s\""), Reload,
        "To open a server connection: look up its name, connect, authenticate."),
    key("timeouts", "reset_timeout", Duration("100ms", "10min", ""), Is("\"10s\""), Reload,
        "To clean a server connection after a session; one that takes longer is closed."),
    key("timeouts", "cancel_timeout", Duration("100ms", "10min", ""), Is("\"10s\""), Reload,
        "To carry a client's cancel request to the server."),
    key("timeouts", "dns_max_ttl", Duration("0s", "1d", ""), Is("\"15s\""), Reload,
        "How long the address that a server's name had is used before it is looked up again."),
    key("timeouts", "wait_timeout", Duration("1ms", "30d", "off"), Is("\"2min\""), Reload,
        "How long a client waits for a server connection before it is refused with SQLSTATE 53300. A pool rule may \
         say otherwise, as with the three below."),
    key("timeouts", "client_idle_timeout", Duration("1ms", "30d", "off"), Is("\"off\""), Reload,
        "A client that sends nothing for so long outside a transaction is sent away with SQLSTATE 57P05."),
    key("timeouts", "server_idle_timeout", Duration("1s", "30d", "off"), Is("\"10min\""), Reload,
        "A server connection that nobody used for so long is closed."),
    key("timeouts", "server_lifetime", Duration("1s", "30d", "off"), Is("\"1h\""), Reload,
        "A server connection older than this is closed when its session ends."),
];

#[rustfmt::skip]
const SERVERS: &[Key] = &[
    key("servers", "host", Text("an IP address, a host name, or a directory of a Unix socket that begins with /"),
        Required("\"localhost\""), Reload,
        "Where the server is."),
    key("servers", "port", Integer(1, 65_535), Is("5432"), Reload,
        "Its port; for a Unix socket the number in its name."),
    key("servers", "max_connections", Integer(0, 60_000), Is("0"), Reload,
        "The most connections to this server over all pools; 0: only [howdah] max_connections limits them."),
];

#[rustfmt::skip]
const DATABASES: &[Key] = &[
    key("databases", "server", Text("the NAME of a [servers.NAME]"), From("the only server", "\"main\""), Reload,
        "The server on which it is; may be left out when there is only one."),
    key("databases", "dbname", Text("a database's name"), From("the same name", "\"postgres\""), Reload,
        "Its name on the server."),
];

#[rustfmt::skip]
const POOLS: &[Key] = &[
    key("pools", "database", TextOrList(NAMES), Is("\"*\""), Reload, "Databases, as clients name them."),
    key("pools", "user", TextOrList(NAMES), Is("\"*\""), Reload, "Users, as clients name them."),
    key("pools", "server", Text("the NAME of a [servers.NAME]"), From("the database's", "\"main\""), Reload,
        "The server to use, whatever the database's section says."),
    key("pools", "mode", Word(&["session"]), Is("\"session\""), Reload,
        "When a server connection is given back: at the end of the client's session."),
    key("pools", "size", Integer(1, 60_000), Is("20"), Reload,
        "The most server connections of each pool; at most [howdah] max_connections, also when not written."),
    key("pools", "min_size", Integer(0, 60_000), Is("0"), Reload,
        "Server connections that are kept open in each pool. More than 0 needs names without \"*\" for database and \
         user."),
    key("pools", "server_user", Text("a user's name"), From("the client's user", "\"app\""), Reload,
        "The user to log in to the server as; its secret stands in the users file."),
    key("pools", "wait_timeout", Duration("1ms", "30d", "off"), From("[timeouts]", "\"2min\""), Reload,
        "As in [timeouts], for these pools."),
    key("pools", "client_idle_timeout", Duration("1ms", "30d", "off"), From("[timeouts]", "\"off\""), Reload,
        "As in [timeouts], for these pools."),
    key("pools", "server_idle_timeout", Duration("1s", "30d", "off"), From("[timeouts]", "\"10min\""), Reload,
        "As in [timeouts], for these pools."),
    key("pools", "server_lifetime", Duration("1s", "30d", "off"), From("[timeouts]", "\"1h\""), Reload,
        "As in [timeouts], for these pools."),
    key("pools", "reset_query", Text("SQL; \"\" for none"), Is("\"DISCARD ALL\""), Reload,
        "Run on the server connection at the end of each session."),
    key("pools", "validation",
        Text("\"off\", \"foreground\", \"background\" (every 30s), \"background 1s\" to \"background 1d\""),
        Is("\"off\""), Reload,
        "How idle server connections are checked: not at all beyond noticing that the server closed them, with a \
         round trip before each session, or every so often while idle."),
    key("pools", "set_on_claim", List("names of run-time parameters of PostgreSQL"), Is("[]"), Reload,
        "Startup parameters for which a connection that was opened with another value may be used all the same: the \
         client's value is SET when its session begins, and RESET returns to that of the connection."),
];

#[rustfmt::skip]
const HBA: &[Key] = &[
    key("hba", "type", Word(&["local", "host", "hostnossl"]), Required("\"host\""), Reload,
        "local: Unix sockets; host and hostnossl: TCP. (There is no TLS to clients in this version, so hostssl is \
         refused.)"),
    key("hba", "database",
        TextOrList("\"all\", \"sameuser\", \"replication\", names; \"*\" in a name stands for any characters"),
        Is("\"all\""), Reload,
        "Databases, as clients name them. Physical replication is matched by \"replication\" alone."),
    key("hba", "user", TextOrList("\"all\", names; \"*\" in a name stands for any characters"), Is("\"all\""), Reload,
        "Users, as clients name them."),
    key("hba", "address",
        Text("\"all\", \"samehost\", \"samenet\", an IP address with /bits or a mask behind it"),
        None("\"10.0.0.0/8\""), Reload,
        "From where; required for host and hostnossl, not allowed for local. samehost and samenet are this machine's \
         addresses and networks when the configuration is read."),
    key("hba", "method", Word(&["trust", "reject", "password", "md5", "scram-sha-256"]),
        Required("\"scram-sha-256\""), Reload,
        "How a client that matches proves who it is."),
];
