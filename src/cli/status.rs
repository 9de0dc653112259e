//! What `howdah-cli status` shows, as numbers and names.
//!
//! The text and the JSON are made of this alone. The names of the fields are those of the JSON, which programs rely on:
//! they are added to, never renamed. `collect.rs` fills it.

use serde::Serialize;

/// All that is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Main's process id.
    pub main_pid: i32,
    /// Milliseconds since main started.
    pub uptime_ms: u64,
    /// `running`, `graceful` (waits for the last client to leave) or `stopping`.
    pub phase: &'static str,
    /// 1 at the start, one more with each reload.
    pub config_epoch: u32,
    /// Clients by state.
    pub clients: Clients,
    /// Slots by state.
    pub slots: Slots,
    /// Pools.
    pub pools: Pools,
    /// Clients that wait for a server connection.
    pub waiting: Waiting,
    /// Counted since the start, or since the last `clear`.
    pub totals: Totals,
    /// The servers.
    pub servers: Vec<ServerRow>,
    /// Every pool, slot and client: `status details` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// Clients by state.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Clients {
    /// Entries of the table.
    pub max: u32,
    /// Clients in any state but `gone`.
    pub connected: u64,
    /// Not yet authenticated.
    pub startup: u64,
    /// Authenticated, without a server connection.
    pub waiting: u64,
    /// With a server connection.
    pub active: u64,
    /// The session is over, the server connection is being cleaned.
    pub closing: u64,
    /// Served; the process is about to exit.
    pub gone: u64,
    /// Children of main at work.
    pub child: u64,
}

/// Slots by state.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Slots {
    /// All.
    pub max: u32,
    /// Those in any state but `not_init`.
    pub connections: u64,
    /// Empty.
    pub not_init: u64,
    /// A connection is being opened.
    pub init: u64,
    /// Idle.
    pub free: u64,
    /// Claimed.
    pub in_use: u64,
    /// Claimed, and to be closed when they come back.
    pub gracefully: u64,
    /// Being closed.
    pub flush: u64,
    /// Being validated.
    pub idle_check: u64,
}

/// Pools.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pools {
    /// The most pools.
    pub max: u32,
    /// Pools made.
    pub used: u64,
    /// Pools that take no new clients.
    pub disabled: u64,
}

/// Clients that wait for a server connection.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Waiting {
    /// How many.
    pub clients: u64,
    /// In how many pools.
    pub pools: u64,
    /// How long the first of them has waited.
    pub longest_ms: u64,
}

/// Sums.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Clients accepted.
    pub accepted: u64,
    /// Clients turned away.
    pub refused: u64,
    /// Workers that ended without saying good-bye.
    pub crashed: u64,
    /// Server connections opened.
    pub opened: u64,
    /// Server connections closed.
    pub closed: u64,
    /// Server connections that could not be opened.
    pub open_failures: u64,
    /// Claims of a server connection.
    pub claims: u64,
    /// Claims that had to wait.
    pub waits: u64,
    /// Microseconds waited in all.
    pub waited_us: u64,
    /// Waits that took too long.
    pub wait_timeouts: u64,
    /// Clients served, by slot.
    pub sessions: u64,
    /// Bytes from clients to servers.
    pub bytes_to_server: u64,
    /// Bytes from servers to clients.
    pub bytes_to_client: u64,
    /// ReadyForQuery messages: about one for each query.
    pub ready: u64,
}

/// A server.
#[derive(Clone, Debug, Serialize)]
pub struct ServerRow {
    /// Number.
    pub server: u32,
    /// Name in the configuration.
    pub name: String,
    /// Host in the configuration.
    pub host: String,
    /// Port.
    pub port: u32,
    /// PostgreSQL's major version, when a connection was opened.
    pub major_version: Option<u32>,
    /// Server connections.
    pub connections: u64,
    /// The most of them; none: no limit of its own.
    pub max_connections: Option<u32>,
    /// Addresses of the host that are known.
    pub addresses: u32,
    /// Milliseconds since they were looked up.
    pub resolved_ago_ms: Option<u64>,
    /// Milliseconds since a look-up failed.
    pub resolve_failed_ago_ms: Option<u64>,
}

/// Every pool, slot and client.
#[derive(Clone, Debug, Serialize)]
pub struct Details {
    /// Pools.
    pub pools: Vec<PoolRow>,
    /// Slots that are not empty.
    pub slots: Vec<SlotRow>,
    /// Clients and children of main; those that wait come first, longest wait first.
    pub clients: Vec<ClientRow>,
}

/// A pool.
#[derive(Clone, Debug, Serialize)]
pub struct PoolRow {
    /// Number.
    pub pool: u32,
    /// Database, as clients name it.
    pub database: String,
    /// User, as clients name it.
    pub user: String,
    /// The server's name.
    pub server: Option<String>,
    /// Whether it takes no new clients.
    pub disabled: bool,
    /// The most server connections.
    pub size: u32,
    /// Server connections kept open.
    pub min_size: u32,
    /// Server connections with a client: `in_use` and `gracefully`.
    pub used: u64,
    /// Idle server connections.
    pub free: u64,
    /// Server connections being opened, closed or validated.
    pub changing: u64,
    /// Clients that wait.
    pub waiting: u64,
    /// How long the first of them has waited.
    pub longest_wait_ms: u64,
    /// Claims.
    pub claims: u64,
    /// Claims that had to wait.
    pub waits: u64,
    /// Microseconds waited in all.
    pub waited_us: u64,
    /// Waits that took too long.
    pub wait_timeouts: u64,
    /// Server connections that could not be opened.
    pub open_failures: u64,
    /// Milliseconds since the last of these, if nothing was opened since.
    pub failed_ago_ms: Option<u64>,
}

/// A slot that is not empty.
#[derive(Clone, Debug, Serialize)]
pub struct SlotRow {
    /// Number.
    pub slot: u32,
    /// State.
    pub state: &'static str,
    /// How many server connections the slot has had.
    pub generation: u64,
    /// The pool's number.
    pub pool: Option<u32>,
    /// Its database.
    pub database: Option<String>,
    /// Its user.
    pub user: Option<String>,
    /// The server's name.
    pub server: Option<String>,
    /// Who holds it: a client's number.
    pub client: Option<u32>,
    /// The process that holds it.
    pub worker_pid: Option<i32>,
    /// The server's process.
    pub backend_pid: Option<i32>,
    /// Milliseconds since it was opened.
    pub age_ms: Option<u64>,
    /// Milliseconds that nobody has used it; none: somebody does.
    pub idle_ms: Option<u64>,
    /// Clients that have used it.
    pub sessions: u64,
    /// Bytes from clients.
    pub bytes_to_server: u64,
    /// Bytes to clients.
    pub bytes_to_client: u64,
    /// ReadyForQuery messages.
    pub ready: u64,
    /// Whether it is closed after its client (replication).
    pub unpooled: bool,
}

/// A client, or a child of main at work.
#[derive(Clone, Debug, Serialize)]
pub struct ClientRow {
    /// Number.
    pub client: u32,
    /// State.
    pub state: &'static str,
    /// The process that serves it.
    pub pid: i32,
    /// User, when known.
    pub user: String,
    /// Database, when known.
    pub database: String,
    /// `local` for a Unix socket, else its address; none for children.
    pub address: Option<String>,
    /// Its TCP port.
    pub port: Option<u32>,
    /// What it calls itself.
    pub application_name: String,
    /// The pool's number.
    pub pool: Option<u32>,
    /// The slot that it holds.
    pub slot: Option<u32>,
    /// Milliseconds since it connected.
    pub connected_ms: u64,
    /// Milliseconds since its state last changed.
    pub state_ms: u64,
}
