//! What stands where in the shared segment.
//!
//! ```text
//! ┌────────┬───────────────┬────────────┬────────────┬──────────────┬────────────────────────────────────────────┐
//! │ Header │ Server [64]   │ Pool [P]   │ Slot [S]   │ Client [C]   │ per pool: seats, wait ring, hints of Free  │
//! │        │ + seats [64×S]│            │ + params   │              │ slots; hints: empty slots, waiting pools   │
//! └────────┴───────────────┴────────────┴────────────┴──────────────┴────────────────────────────────────────────┘
//! ```
//! Fixed-width fields, no pointers, no bool, no enum: another process wrote what is read here, so integers are parsed
//! where they are used. All zero is the valid initial state of every part. The memory is a file in memory that is
//! sparse: what no process touches costs nothing.

use super::atomic::{AtomicI32, AtomicU32, AtomicU64, PlainI32, PlainU32, PlainU64};
use super::state::{Owner, SlotWord};
use super::text::Text;
use super::wait_queue::WaitWord;

/// First eight bytes: "HOWDAHSG".
pub const MAGIC: u64 = u64::from_le_bytes(*b"HOWDAHSG");
/// Changes with every change of this file.
pub const LAYOUT_VERSION: u32 = 1;
/// Bytes of startup parameters that a pool remembers.
pub const SETTINGS_MAX_BYTES: usize = 512;
/// Servers that a configuration may name.
pub const SERVERS_MAX: u32 = if cfg!(loom) { 1 } else { 64 };
/// Pools that a configuration may allow: what fits a wait word.
pub const POOLS_MAX: u32 = 4096;
/// Slots that a configuration may allow.
pub const SLOTS_MAX: u32 = 60_000;
/// Bytes of ParameterStatus values that a slot can keep.
pub const PARAMETERS_MAX_BYTES: usize = if cfg!(loom) { 8 } else { 8192 };
/// Network addresses kept of a server's name.
pub const ADDRESSES_MAX: usize = 8;

/// How large the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Slots, `1..=SLOTS_MAX`.
    pub slots: u32,
    /// Clients and children of main.
    pub clients: u32,
    /// Pools, `1..=POOLS_MAX`.
    pub pools: u32,
}

impl Dimensions {
    /// Whether words and indexes can hold them.
    #[must_use]
    pub fn are_possible(&self) -> bool {
        (1..=SLOTS_MAX).contains(&self.slots)
            && (1..=POOLS_MAX).contains(&self.pools)
            && (1..=Owner::CLIENTS_MAX).contains(&self.clients)
    }

    /// Cells of each pool's wait ring: twice what can wait at once, so that taking out the places of clients that left
    /// always helps.
    #[must_use]
    pub fn ring_cells(&self) -> usize {
        let least = if cfg!(loom) { 4 } else { 64 };
        (self.clients as usize * 2).next_power_of_two().max(least)
    }
}

/// The head of the segment.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: PlainU64,
    /// [`LAYOUT_VERSION`].
    pub layout_version: PlainU32,
    /// [`Dimensions::slots`].
    pub slots: PlainU32,
    /// [`Dimensions::clients`].
    pub clients: PlainU32,
    /// [`Dimensions::pools`].
    pub pools: PlainU32,
    /// Main's process id.
    pub main_pid: PlainI32,
    /// 0 running, 1 graceful shutdown, 2 stopping.
    pub phase: PlainU32,
    /// Monotonic milliseconds when main started.
    pub started_at_ms: PlainU64,
    /// Counts reloads; starts at 1.
    pub config_epoch: PlainU32,
    /// The greatest index of a client that was ever used, plus one: where scans of the client table may stop.
    pub clients_high: PlainU32,
    /// Clients accepted since the start.
    pub accepted: PlainU64,
    /// Clients turned away: table full, `max_startups`, shutting down.
    pub refused: PlainU64,
    /// Workers that ended without saying good-bye.
    pub crashed: PlainU64,
    /// Server connections opened since the start.
    pub opened: PlainU64,
    /// Server connections closed since the start.
    pub closed: PlainU64,
    /// The greatest index of a slot that was ever used, plus one.
    pub slots_high: PlainU32,
    /// The greatest index of a pool that was ever used, plus one.
    pub pools_high: PlainU32,
    /// How many clients may be connected; the client table has room for children of main besides.
    pub max_clients: PlainU32,
}

/// One server connection's place.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Slot {
    /// State, owner, generation.
    pub word: SlotWord,
    /// The pool, stored plus one. Rule 1 of `state.rs`, as all that follows up to the counters.
    pub pool: PlainU32,
    /// The server, stored plus one.
    pub server: PlainU32,
    /// The pool's seat that this slot sits on, plus one; 0: none.
    pub pool_seat: PlainU32,
    /// The server's seat, plus one; 0: none.
    pub server_seat: PlainU32,
    /// Which startup parameters the connection was opened with: `StartupSettings::signature`.
    pub signature: PlainU64,
    /// Monotonic milliseconds when the connection was opened.
    pub opened_at_ms: PlainU64,
    /// Monotonic milliseconds when it was last given back.
    pub used_at_ms: PlainU64,
    /// Monotonic milliseconds when it was last known to answer.
    pub checked_at_ms: PlainU64,
    /// The server's process id of it.
    pub backend_pid: PlainI32,
    /// [`Header::config_epoch`] of the configuration by which it was opened; see [`Pool::epoch`].
    pub epoch: PlainU32,
    /// 1: never given to another client (replication).
    pub unpooled: PlainU32,
    /// Bytes used of the slot's parameters.
    pub parameters_length: PlainU32,
    /// Clients that have used the slot, over all its connections. Rule 4, as all that follows.
    pub sessions: PlainU64,
    /// Bytes from clients to the server.
    pub bytes_to_server: PlainU64,
    /// Bytes from the server to clients.
    pub bytes_to_client: PlainU64,
    /// ReadyForQuery messages relayed.
    pub ready: PlainU64,
    /// Room to grow without a new layout.
    pub reserved: [PlainU64; 7],
}

/// ParameterStatus values of a slot: `name NUL value NUL …`.
#[repr(C)]
pub struct SlotParameters {
    /// Eight bytes each, native order.
    pub words: [PlainU64; PARAMETERS_MAX_BYTES / 8],
}

impl Default for SlotParameters {
    fn default() -> Self {
        SlotParameters { words: std::array::from_fn(|_| PlainU64::new(0)) }
    }
}

/// Life of an entry of the client table. Written by main (Unused, Startup) and by the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ClientState {
    /// Nobody's.
    Unused = 0,
    /// Connected; not yet authenticated.
    Startup = 1,
    /// Authenticated, waits for a server connection.
    Waiting = 2,
    /// Has a server connection.
    Active = 3,
    /// Session over, cleaning the server connection.
    Closing = 4,
    /// The worker has given back all it held and is about to exit.
    Gone = 5,
    /// Not a client: a child of main at work (prefill, check, cancel).
    Child = 6,
}

impl ClientState {
    /// All states, in the order of their numbers.
    pub const ALL: [ClientState; 7] = [
        ClientState::Unused,
        ClientState::Startup,
        ClientState::Waiting,
        ClientState::Active,
        ClientState::Closing,
        ClientState::Gone,
        ClientState::Child,
    ];

    /// Parses what stands in shared memory; a number that no state has is taken for `Child`.
    #[must_use]
    pub fn from_stored(stored: u32) -> Self {
        usize::try_from(stored).ok().and_then(|i| Self::ALL.get(i)).copied().unwrap_or(ClientState::Child)
    }

    /// The name in logs, output and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ClientState::Unused => "unused",
            ClientState::Startup => "startup",
            ClientState::Waiting => "waiting",
            ClientState::Active => "active",
            ClientState::Closing => "closing",
            ClientState::Gone => "gone",
            ClientState::Child => "child",
        }
    }
}

/// A client, or a child of main at work: whatever may own a slot.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Client {
    /// Its place in a queue.
    pub wait: WaitWord,
    /// The process that serves it; whom to wake.
    pub pid: PlainI32,
    /// [`ClientState`].
    pub state: PlainU32,
    /// The pool that it uses, stored plus one.
    pub pool: PlainU32,
    /// The slot that it holds, stored plus one; for display.
    pub slot: PlainU32,
    /// The process id that it was given to cancel with; 0: none.
    pub cancel_pid: AtomicI32,
    /// Who is cancelling for it just now (a client index, stored plus one): its claim must not end meanwhile.
    pub canceller: AtomicU32,
    /// Monotonic milliseconds when it connected.
    pub since_ms: PlainU64,
    /// Monotonic milliseconds when the state last changed.
    pub state_since_ms: PlainU64,
    /// 0 Unix socket, 4 or 6.
    pub address_family: PlainU32,
    /// Its TCP port.
    pub port: PlainU32,
    /// Its address, network order, in the first 4 or all 16 bytes.
    pub address: [PlainU64; 2],
    /// Its user, when known.
    pub user: Text<8>,
    /// Its database, when known.
    pub database: Text<8>,
    /// What it calls itself.
    pub application_name: Text<8>,
}

/// Pool: paused or disabled by the operator.
pub const POOL_DISABLED: u32 = 1;

/// The slots of one (database, user) pair.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Pool {
    /// 0: no pool. Written by main alone, as all up to `head`.
    pub used: PlainU32,
    /// [`POOL_DISABLED`].
    pub flags: PlainU32,
    /// The most server connections.
    pub size: PlainU32,
    /// Connections kept open.
    pub min_size: PlainU32,
    /// The server, stored plus one.
    pub server: PlainU32,
    /// Index of the pool rule in the configuration of `rule_epoch`.
    pub rule: PlainU32,
    /// [`Header::config_epoch`] of `rule`.
    pub rule_epoch: PlainU32,
    /// [`Header::config_epoch`] of the last change of where this pool's connections go: older ones ([`Slot::epoch`]) are
    /// closed when they come back.
    pub epoch: PlainU32,
    /// Close connections idle for so many milliseconds; 0: never.
    pub server_idle_timeout_ms: PlainU64,
    /// Close connections older than so many milliseconds; 0: never.
    pub server_lifetime_ms: PlainU64,
    /// The database, as clients name it.
    pub database: Text<8>,
    /// The user, as clients name it.
    pub user: Text<8>,
    /// Next ticket to be served. On a cache line of its own, like `tail`.
    pub head: Line,
    /// Next ticket to be drawn.
    pub tail: Line,
    /// Slots that were last released with a signature: index `signature % 16`, slot stored plus one. Hints.
    pub by_signature: [PlainU32; 16],
    /// Why no connection could be opened the last time: `want` in `room.rs`. Means nothing while nobody waits.
    pub wants_room: PlainU32,
    /// Who takes holes out of the wait ring, stored plus one; 0: nobody.
    pub compactor: AtomicU64,
    /// Why the last attempt to open a connection failed, 0: it did not. Monotonic milliseconds.
    pub failed_at_ms: PlainU64,
    /// Claims that had to wait.
    pub waits: PlainU64,
    /// Microseconds that clients have waited in all.
    pub waited_us: PlainU64,
    /// Clients that waited longer than `wait_timeout`.
    pub wait_timeouts: PlainU64,
    /// Claims.
    pub claims: PlainU64,
    /// Server connections that could not be opened.
    pub open_failures: PlainU64,
    /// Signature of `settings`: they are used only where it is right, as several workers may write them at once.
    pub settings_signature: PlainU64,
    /// Bytes used of `settings`; 0: none are known.
    pub settings_length: PlainU32,
    /// Room to grow without a new layout.
    pub reserved: PlainU32,
    /// Startup parameters with which a connection was opened last, `name NUL value NUL …`: what is opened ahead of
    /// demand is opened with the same, so that it fits whoever comes next.
    pub settings: [[PlainU64; 16]; 4],
}

/// A counter that processes change at a high rate: a cache line of its own.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Line {
    /// The counter.
    pub value: AtomicU64,
}

/// A PostgreSQL server.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Server {
    /// 0: no server. Written by main alone.
    pub used: PlainU32,
    /// The most connections; 0: no limit of its own.
    pub max_connections: PlainU32,
    /// `server_version_num / 10000` of the last connection opened; 0: unknown.
    pub major_version: PlainU32,
    /// The port.
    pub port: PlainU32,
    /// The name in the configuration.
    pub name: Text<8>,
    /// The host as configured, for display.
    pub host: Text<16>,
    /// Odd while the addresses are being written (by one child of main at a time).
    pub addresses_sequence: PlainU32,
    /// How many addresses; 0: not looked up yet, or not found.
    pub addresses_count: PlainU32,
    /// Monotonic milliseconds of the last look-up that found something; 0: none yet.
    pub resolved_at_ms: PlainU64,
    /// Monotonic milliseconds of the last look-up that failed; 0: none.
    pub resolve_failed_at_ms: PlainU64,
    /// Bytes 0..4: family (4 or 6); 8..24: the address, network order.
    pub addresses: [[PlainU64; 3]; ADDRESSES_MAX],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Header>() == 128);
    assert!(size_of::<Slot>() == 192);
    assert!(std::mem::offset_of!(Slot, word) == 0);
    assert!(std::mem::offset_of!(Slot, signature) == 24);
    assert!(std::mem::offset_of!(Slot, sessions) == 72);
    assert!(size_of::<SlotParameters>() == PARAMETERS_MAX_BYTES);
    assert!(size_of::<Client>() == 320);
    assert!(std::mem::offset_of!(Client, wait) == 0);
    assert!(std::mem::offset_of!(Client, user) == 72);
    assert!(std::mem::offset_of!(Pool, database) == 48);
    assert!(std::mem::offset_of!(Pool, head) == 192);
    assert!(std::mem::offset_of!(Pool, by_signature) == 320);
    assert!(std::mem::offset_of!(Pool, settings) == 464);
    assert!(size_of::<Pool>() == 1024);
    assert!(std::mem::offset_of!(Server, addresses) == 232);
    assert!(size_of::<Server>() == 448);
};
