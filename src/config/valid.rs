//! The configuration once it is valid: what every process of Howdah reads.
//!
//! ```text
//! howdah.toml ──as_written──▶ a table with the line of every key ──validate──▶ Config
//! ```
//! One direction only. No `Option` stands where there is a default: `None` means "off". Main owns the `Config`; a
//! forked worker inherits a copy and serves its client with it to the end, whatever is reloaded meanwhile.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::user_list::UserList;
use crate::auth::hba::HbaRule;

/// The most servers: so that a reload may add some, the segment has room for this many from the start.
pub const MAX_SERVERS: usize = 64;

/// Everything that `howdah.toml` and the users file say, validated as a whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that this was read from, absolute.
    pub path: PathBuf,
    /// TCP addresses to listen on.
    pub listen_addresses: Vec<SocketAddr>,
    /// The port; Unix sockets are named after it too: `DIR/.s.PGSQL.PORT`.
    pub port: u16,
    /// Directories to put Unix sockets in.
    pub unix_socket_directories: Vec<PathBuf>,
    /// Mode of the Unix sockets for clients (`0o777` by default, as in PostgreSQL).
    pub unix_socket_permissions: u32,
    /// `listen(2)` backlog.
    pub listen_backlog: u32,
    /// Slots: the most server connections over all pools.
    pub max_connections: u32,
    /// The most clients at a time.
    pub max_clients: u32,
    /// The most pools: (database, user) pairs that clients have used.
    pub max_pools: u32,
    /// How many clients may be unauthenticated at once.
    pub max_startups: MaxStartups,
    /// Run as this user when started by root.
    pub user: Option<String>,
    /// Where to write main's process id.
    pub pid_file: Option<PathBuf>,
    /// The Unix socket that `howdah-cli` talks to.
    pub management_socket: PathBuf,
    /// The users file, when there is one.
    pub users_file: Option<PathBuf>,
    /// Users and their secrets.
    pub users: UserList,
    /// Logging.
    pub log: LogConfig,
    /// Socket options of TCP connections.
    pub tcp: TcpConfig,
    /// Time limits that do not depend on the pool.
    pub timeouts: Timeouts,
    /// Who may come in and how; the first match decides.
    pub hba: Vec<HbaRule>,
    /// PostgreSQL servers; a [`PoolRule`] refers to them by index.
    pub servers: Vec<ServerConfig>,
    /// Databases by the names that clients use. Empty: every name that a pool rule matches.
    pub databases: Vec<DatabaseConfig>,
    /// Pool rules; the first match decides.
    pub pools: Vec<PoolRule>,
}

/// sshd's `MaxStartups`: from `begin` unauthenticated clients on, new ones are refused at random with `rate` percent
/// growing to 100 at `full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxStartups {
    /// Below this many, all are let in.
    pub begin: u32,
    /// Per cent refused at `begin`.
    pub rate: u32,
    /// From this many on, all are refused.
    pub full: u32,
}

/// Where log lines go and what they look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level that is written.
    pub level: log::LevelFilter,
    /// Lines for people or JSON for programs.
    pub format: LogFormat,
    /// Where lines go.
    pub target: LogTarget,
    /// Log each client that connects.
    pub log_connections: bool,
    /// Log each client that leaves.
    pub log_disconnections: bool,
}

/// What a log line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `2026-01-02 03:04:05.678 UTC info worker[123] client=4 slot=1 message`.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error (journald, containers).
    Stderr,
    /// The local syslog daemon.
    Syslog,
    /// A file, opened for appending; SIGHUP opens it again.
    File(PathBuf),
}

/// Socket options of TCP connections, on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// TCP_KEEPIDLE; `None`: the system's.
    pub keepalives_idle: Option<Duration>,
    /// TCP_KEEPINTVL; `None`: the system's.
    pub keepalives_interval: Option<Duration>,
    /// TCP_KEEPCNT; `None`: the system's.
    pub keepalives_count: Option<u32>,
    /// TCP_USER_TIMEOUT; `None`: the system's.
    pub user_timeout: Option<Duration>,
}

/// Time limits, and the defaults of those that a [`PoolRule`] may have of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to the end of the client's authentication.
    pub authentication_timeout: Duration,
    /// To open a server connection: name resolution, connect, authentication.
    pub connect_timeout: Duration,
    /// To clean a server connection after a session; a connection that takes longer is closed.
    pub reset_timeout: Duration,
    /// To carry a client's cancel request to the server.
    pub cancel_timeout: Duration,
    /// How long an address found by name is used before it is looked up again.
    pub dns_max_ttl: Duration,
    /// Default of [`PoolRule::wait_timeout`].
    pub wait_timeout: Option<Duration>,
    /// Default of [`PoolRule::client_idle_timeout`].
    pub client_idle_timeout: Option<Duration>,
    /// Default of [`PoolRule::server_idle_timeout`].
    pub server_idle_timeout: Option<Duration>,
    /// Default of [`PoolRule::server_lifetime`].
    pub server_lifetime: Option<Duration>,
}

/// A PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The name that pools and databases use: `[servers.NAME]`.
    pub name: String,
    /// Where it is.
    pub host: ServerHost,
    /// Its port; of a Unix socket the number in its name.
    pub port: u16,
    /// The most connections to it over all pools; `None`: only `max_connections` limits.
    pub max_connections: Option<u32>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerHost {
    /// An address: nothing to look up.
    Ip(std::net::IpAddr),
    /// A name that is looked up by a child of main.
    Name(String),
    /// The directory of a Unix socket.
    UnixDirectory(PathBuf),
}

/// A database by the name that clients use: `[databases.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// The name that clients use; `*` stands for every other name.
    pub name: String,
    /// Index into [`Config::servers`].
    pub server: usize,
    /// The name on the server; `None`: the same.
    pub dbname: Option<String>,
}

/// When a claim on a server connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// With the client's session.
    Session,
}

/// How idle server connections are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// Only for bytes or an end of stream that wait to be read, which costs no round trip.
    Off,
    /// A round trip at each claim.
    Foreground,
    /// A round trip every so often while idle, by a child of main.
    Background(Duration),
}

/// A name or a pattern: `*` stands for any characters, everything else for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(pub String);

/// A pool rule: `[[pools]]`. Each (database, user) pair that it matches gets a pool of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRule {
    /// Databases, as clients name them.
    pub databases: Vec<NamePattern>,
    /// Users, as clients name them.
    pub users: Vec<NamePattern>,
    /// Index into [`Config::servers`]; `None`: the database's entry says it. Some when there are no such entries.
    pub server: Option<usize>,
    /// When a claim ends.
    pub mode: PoolMode,
    /// The most server connections of each pool.
    pub size: u32,
    /// Server connections that housekeeping keeps open in each pool whose database and user are exact names.
    pub min_size: u32,
    /// The user to log in to the server as; `None`: the client's. Its secret stands in the users file.
    pub server_user: Option<String>,
    /// How long a client waits for a server connection; `None`: for ever.
    pub wait_timeout: Option<Duration>,
    /// A client that sends nothing for so long outside a transaction is sent away; `None`: never.
    pub client_idle_timeout: Option<Duration>,
    /// A server connection that nobody used for so long is closed; `None`: never.
    pub server_idle_timeout: Option<Duration>,
    /// A server connection older than this is closed when it comes back; `None`: never.
    pub server_lifetime: Option<Duration>,
    /// Run at the end of each session; empty: nothing.
    pub reset_query: String,
    /// How idle server connections are checked.
    pub validation: Validation,
    /// Startup parameters for which a connection opened with another value may be used all the same: the client's
    /// value is SET at the claim, and RESET returns to that of the connection.
    pub set_on_claim: Vec<String>,
}
