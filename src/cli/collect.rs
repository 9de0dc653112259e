//! Reads the status from the shared segment.
//!
//! From the mapping alone, without the daemon's help, while other processes write it: numbers may be of slightly
//! different moments, and nothing in it is believed (an index that leads nowhere shows as none).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::segment::wait_queue::Wait;
use crate::segment::{
    Client, ClientIndex, ClientState, Owner, POOL_DISABLED, Pool, PoolIndex, Segment, Server, ServerIndex,
    Slot, SlotIndex, SlotState, Snapshot,
};

use super::status::{
    ClientRow, Clients, Details, PoolRow, Pools, ServerRow, SlotRow, Slots, Status, Totals, Waiting,
};

impl Status {
    /// Reads the segment of a daemon of version `version`, at `now_ms` (monotonic).
    #[must_use]
    pub fn collect(segment: &Segment, version: &str, now_ms: u64, with_details: bool) -> Self {
        Collector::new(segment, now_ms).status(version, with_details)
    }
}

/// What is counted over all slots and clients, by pool and by server.
struct Collector<'a> {
    segment: &'a Segment,
    now_ms: u64,
    slots: Vec<(SlotIndex, &'static Slot, Snapshot)>,
    clients: Vec<(ClientIndex, &'static Client, ClientState)>,
    /// By pool.
    pool_slots: Vec<PoolSlots>,
    /// By pool.
    pool_waiting: Vec<Waiting>,
    /// By server.
    server_connections: Vec<u64>,
}

#[derive(Clone, Default)]
struct PoolSlots {
    used: u64,
    free: u64,
    changing: u64,
}

impl<'a> Collector<'a> {
    fn new(segment: &'a Segment, now_ms: u64) -> Self {
        let pools = PoolIndex(segment.dimensions().pools).at();
        let slots = segment.used_slots().map(|(i, slot)| (i, slot, slot.word.snapshot())).collect();
        let clients = segment
            .used_clients()
            .map(|(i, client)| (i, client, ClientState::from_stored(client.state.load(Relaxed))))
            .filter(|(_, _, state)| *state != ClientState::Unused)
            .collect();
        let mut collector = Collector {
            segment,
            now_ms,
            slots,
            clients,
            pool_slots: vec![PoolSlots::default(); pools],
            pool_waiting: vec![Waiting::default(); pools],
            server_connections: vec![0; ServerIndex(crate::segment::SERVERS_MAX).at()],
        };
        collector.count_slots();
        collector.count_waiting();
        collector
    }

    fn count_slots(&mut self) {
        for (_, slot, word) in &self.slots {
            if word.state == SlotState::NotInit {
                continue;
            }
            let pool = PoolIndex::from_stored(slot.pool.load(Relaxed));
            if let Some(counts) = pool.and_then(|p| self.pool_slots.get_mut(p.at())) {
                match word.state {
                    SlotState::InUse | SlotState::Gracefully => counts.used += 1,
                    SlotState::Free => counts.free += 1,
                    _ => counts.changing += 1,
                }
            }
            let server = ServerIndex::from_stored(slot.server.load(Relaxed));
            if let Some(count) = server.and_then(|s| self.server_connections.get_mut(s.at())) {
                *count += 1;
            }
        }
    }

    fn count_waiting(&mut self) {
        for (_, client, _) in &self.clients {
            let Wait::Waiting { pool, .. } = client.wait.load() else { continue };
            let waited = self.now_ms.saturating_sub(client.state_since_ms.load(Relaxed));
            if let Some(waiting) = self.pool_waiting.get_mut(pool.at()) {
                waiting.clients += 1;
                waiting.longest_ms = waiting.longest_ms.max(waited);
            }
        }
    }

    fn status(&self, version: &str, with_details: bool) -> Status {
        let header = self.segment.header();
        Status {
            version: version.to_owned(),
            main_pid: header.main_pid.load(Relaxed),
            uptime_ms: self.now_ms.saturating_sub(header.started_at_ms.load(Relaxed)),
            phase: match header.phase.load(Relaxed) {
                0 => "running",
                1 => "graceful",
                _ => "stopping",
            },
            config_epoch: header.config_epoch.load(Relaxed),
            clients: self.clients(),
            slots: self.slots(),
            pools: self.pools(),
            waiting: self.waiting(),
            totals: self.totals(),
            servers: self.segment.used_servers().map(|(i, server)| self.server_row(i, server)).collect(),
            details: with_details.then(|| self.details()),
        }
    }

    fn clients(&self) -> Clients {
        let mut clients =
            Clients { max: self.segment.header().max_clients.load(Relaxed), ..Clients::default() };
        for (_, _, state) in &self.clients {
            let (count, is_connected) = match state {
                ClientState::Unused => continue,
                ClientState::Startup => (&mut clients.startup, true),
                ClientState::Waiting => (&mut clients.waiting, true),
                ClientState::Active => (&mut clients.active, true),
                ClientState::Closing => (&mut clients.closing, true),
                ClientState::Gone => (&mut clients.gone, false),
                ClientState::Child => (&mut clients.child, false),
            };
            *count += 1;
            clients.connected += u64::from(is_connected);
        }
        clients
    }

    fn slots(&self) -> Slots {
        let max = self.segment.dimensions().slots;
        let mut slots = Slots { max, ..Slots::default() };
        for (_, _, word) in &self.slots {
            let count = match word.state {
                SlotState::NotInit => continue,
                SlotState::Init => &mut slots.init,
                SlotState::Free => &mut slots.free,
                SlotState::InUse => &mut slots.in_use,
                SlotState::Gracefully => &mut slots.gracefully,
                SlotState::Flush => &mut slots.flush,
                SlotState::IdleCheck => &mut slots.idle_check,
            };
            *count += 1;
            slots.connections += 1;
        }
        slots.not_init = u64::from(max).saturating_sub(slots.connections);
        slots
    }

    fn pools(&self) -> Pools {
        let mut pools = Pools { max: self.segment.dimensions().pools, ..Pools::default() };
        for (_, pool) in self.segment.used_pools() {
            pools.used += 1;
            pools.disabled += u64::from(is_disabled(pool));
        }
        pools
    }

    fn waiting(&self) -> Waiting {
        let crowded = self.pool_waiting.iter().filter(|w| w.clients > 0);
        crowded.fold(Waiting::default(), |sum, w| Waiting {
            clients: sum.clients + w.clients,
            pools: sum.pools + 1,
            longest_ms: sum.longest_ms.max(w.longest_ms),
        })
    }

    fn totals(&self) -> Totals {
        let header = self.segment.header();
        let mut totals = Totals {
            accepted: header.accepted.load(Relaxed),
            refused: header.refused.load(Relaxed),
            crashed: header.crashed.load(Relaxed),
            opened: header.opened.load(Relaxed),
            closed: header.closed.load(Relaxed),
            ..Totals::default()
        };
        for (_, pool) in self.segment.used_pools() {
            add(&mut totals.open_failures, &pool.open_failures);
            add(&mut totals.claims, &pool.claims);
            add(&mut totals.waits, &pool.waits);
            add(&mut totals.waited_us, &pool.waited_us);
            add(&mut totals.wait_timeouts, &pool.wait_timeouts);
        }
        for (_, slot, _) in &self.slots {
            add(&mut totals.sessions, &slot.sessions);
            add(&mut totals.bytes_to_server, &slot.bytes_to_server);
            add(&mut totals.bytes_to_client, &slot.bytes_to_client);
            add(&mut totals.ready, &slot.ready);
        }
        totals
    }

    fn server_row(&self, index: ServerIndex, server: &Server) -> ServerRow {
        ServerRow {
            server: index.0,
            name: server.name.get(),
            host: server.host.get(),
            port: server.port.load(Relaxed),
            major_version: not_zero(server.major_version.load(Relaxed)),
            connections: self.server_connections.get(index.at()).copied().unwrap_or(0),
            max_connections: not_zero(server.max_connections.load(Relaxed)),
            addresses: server.addresses_count.load(Relaxed),
            resolved_ago_ms: self.since(&server.resolved_at_ms),
            resolve_failed_ago_ms: self.since(&server.resolve_failed_at_ms),
        }
    }

    fn details(&self) -> Details {
        let occupied = self.slots.iter().filter(|(_, _, word)| word.state != SlotState::NotInit);
        let mut clients: Vec<_> =
            self.clients.iter().map(|(i, c, state)| self.client_row(*i, c, *state)).collect();
        let waiting = ClientState::Waiting.name();
        clients.sort_by_key(|c| {
            let place = if c.state == waiting { u64::MAX - c.state_ms } else { 0 };
            (c.state != waiting, place, c.client)
        });
        Details {
            pools: self.segment.used_pools().map(|(i, pool)| self.pool_row(i, pool)).collect(),
            slots: occupied.map(|(i, slot, word)| self.slot_row(*i, slot, *word)).collect(),
            clients,
        }
    }

    fn pool_row(&self, index: PoolIndex, pool: &Pool) -> PoolRow {
        let slots = self.pool_slots.get(index.at()).cloned().unwrap_or_default();
        let waiting = self.pool_waiting.get(index.at()).cloned().unwrap_or_default();
        PoolRow {
            pool: index.0,
            database: pool.database.get(),
            user: pool.user.get(),
            server: self.server_name(pool.server.load(Relaxed)),
            disabled: is_disabled(pool),
            size: pool.size.load(Relaxed),
            min_size: pool.min_size.load(Relaxed),
            used: slots.used,
            free: slots.free,
            changing: slots.changing,
            waiting: waiting.clients,
            longest_wait_ms: waiting.longest_ms,
            claims: pool.claims.load(Relaxed),
            waits: pool.waits.load(Relaxed),
            waited_us: pool.waited_us.load(Relaxed),
            wait_timeouts: pool.wait_timeouts.load(Relaxed),
            open_failures: pool.open_failures.load(Relaxed),
            failed_ago_ms: self.since(&pool.failed_at_ms),
        }
    }

    fn slot_row(&self, index: SlotIndex, slot: &Slot, word: Snapshot) -> SlotRow {
        let pool_index = PoolIndex::from_stored(slot.pool.load(Relaxed));
        let pool = pool_index.and_then(|p| self.segment.find_pool(p));
        let (client, worker_pid) = match word.owner {
            Owner::None => (None, None),
            Owner::Main => (None, Some(self.segment.header().main_pid.load(Relaxed))),
            Owner::Client(c) | Owner::Granter(c) => {
                (Some(c.0), self.segment.find_client(c).map(|c| c.pid.load(Relaxed)))
            }
        };
        let opened = word.state != SlotState::Init;
        let age_ms = self.since(&slot.opened_at_ms).filter(|_| opened);
        SlotRow {
            slot: index.0,
            state: word.state.name(),
            generation: word.generation.0,
            pool: pool_index.map(|p| p.0),
            database: pool.map(|p| p.database.get()),
            user: pool.map(|p| p.user.get()),
            server: self.server_name(slot.server.load(Relaxed)),
            client,
            worker_pid,
            backend_pid: Some(slot.backend_pid.load(Relaxed)).filter(|pid| *pid != 0 && opened),
            age_ms,
            // One that was opened ahead of demand was never used: idle since it was opened.
            idle_ms: if word.state == SlotState::Free {
                self.since(&slot.used_at_ms).or(age_ms)
            } else {
                None
            },
            sessions: slot.sessions.load(Relaxed),
            bytes_to_server: slot.bytes_to_server.load(Relaxed),
            bytes_to_client: slot.bytes_to_client.load(Relaxed),
            ready: slot.ready.load(Relaxed),
            unpooled: slot.unpooled.load(Relaxed) != 0,
        }
    }

    fn client_row(&self, index: ClientIndex, client: &Client, state: ClientState) -> ClientRow {
        let is_child = state == ClientState::Child;
        let address = (!is_child).then(|| address_of(client));
        ClientRow {
            client: index.0,
            state: state.name(),
            pid: client.pid.load(Relaxed),
            user: client.user.get(),
            database: client.database.get(),
            address,
            port: not_zero(client.port.load(Relaxed)).filter(|_| client.address_family.load(Relaxed) != 0),
            application_name: client.application_name.get(),
            pool: PoolIndex::from_stored(client.pool.load(Relaxed)).map(|p| p.0),
            slot: SlotIndex::from_stored(client.slot.load(Relaxed)).map(|s| s.0),
            connected_ms: self.now_ms.saturating_sub(client.since_ms.load(Relaxed)),
            state_ms: self.now_ms.saturating_sub(client.state_since_ms.load(Relaxed)),
        }
    }

    fn server_name(&self, stored: u32) -> Option<String> {
        Some(self.segment.find_server(ServerIndex::from_stored(stored)?)?.name.get())
    }

    /// Milliseconds since a moment that was noted; `None`: it was not.
    fn since(&self, moment_ms: &AtomicU64) -> Option<u64> {
        match moment_ms.load(Relaxed) {
            0 => None,
            at => Some(self.now_ms.saturating_sub(at)),
        }
    }
}

fn is_disabled(pool: &Pool) -> bool {
    pool.flags.load(Relaxed) & POOL_DISABLED != 0
}

fn not_zero(number: u32) -> Option<u32> {
    Some(number).filter(|n| *n != 0)
}

fn add(sum: &mut u64, counter: &AtomicU64) {
    *sum = sum.saturating_add(counter.load(Relaxed));
}

fn address_of(client: &Client) -> String {
    let [first, second] = &client.address;
    let [first, second] = [first.load(Relaxed).to_ne_bytes(), second.load(Relaxed).to_ne_bytes()];
    match client.address_family.load(Relaxed) {
        4 => {
            let [a, b, c, d, ..] = first;
            Ipv4Addr::new(a, b, c, d).to_string()
        }
        6 => {
            let mut bytes = [0u8; 16];
            bytes[..8].copy_from_slice(&first);
            bytes[8..].copy_from_slice(&second);
            Ipv6Addr::from(bytes).to_string()
        }
        _ => "local".to_owned(),
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use crate::segment::{Claim, Dimensions, Held};

    use super::*;

    /// A daemon that has run for an hour at moment 10,000,000: pool `shop`/`web` with two slots, both in use, and a
    /// client that waits; pool `books`/`amy` with an idle connection, disabled.
    pub const NOW_MS: u64 = 10_000_000;

    pub fn busy() -> Segment {
        let segment = Segment::create(Dimensions { slots: 8, clients: 16, pools: 4 }).unwrap();
        let header = segment.header();
        header.max_clients.store(16, Relaxed);
        header.main_pid.store(4242, Relaxed);
        header.started_at_ms.store(NOW_MS - 3_600_000, Relaxed);
        header.accepted.store(120, Relaxed);
        header.clients_high.store(6, Relaxed);
        header.pools_high.store(2, Relaxed);
        server(&segment);
        pool(&segment, 0, "shop", "web", 2);
        pool(&segment, 1, "books", "amy", 5);
        for i in 0..2 {
            client(&segment, i, ClientState::Active, "web", "shop");
            let held = open(&segment, ClientIndex(i), PoolIndex(0));
            segment.client(ClientIndex(i)).slot.store(held.slot.stored(), Relaxed);
        }
        client(&segment, 2, ClientState::Waiting, "web", "shop");
        segment.enqueue(ClientIndex(2), PoolIndex(0), &|_| {}).unwrap();
        client(&segment, 3, ClientState::Startup, "", "");
        segment.client(ClientIndex(3)).address_family.store(0, Relaxed);
        client(&segment, 5, ClientState::Gone, "amy", "books");
        let me = Owner::Client(ClientIndex(5));
        let held = open(&segment, ClientIndex(5), PoolIndex(1));
        let _ = segment.release(me, held, NOW_MS - 30_000, &|_| {});
        segment.pool(PoolIndex(1)).flags.store(POOL_DISABLED, Relaxed);
        segment
    }

    fn server(segment: &Segment) {
        let server = segment.server(ServerIndex(0));
        server.used.store(1, Relaxed);
        server.name.set("primary");
        server.host.set("10.0.0.1");
        server.port.store(5432, Relaxed);
        server.max_connections.store(50, Relaxed);
        server.major_version.store(15, Relaxed);
    }

    fn pool(segment: &Segment, index: u32, database: &str, user: &str, size: u32) {
        let pool = segment.pool(PoolIndex(index));
        pool.database.set(database);
        pool.user.set(user);
        pool.size.store(size, Relaxed);
        pool.server.store(ServerIndex(0).stored(), Relaxed);
        pool.waits.store(3, Relaxed);
        pool.waited_us.store(6_000, Relaxed);
        pool.claims.store(100, Relaxed);
        pool.used.store(1, Relaxed);
    }

    pub fn client(segment: &Segment, index: u32, state: ClientState, user: &str, database: &str) {
        let client = segment.client(ClientIndex(index));
        client.pid.store(5000 + i32::try_from(index).unwrap(), Relaxed);
        client.user.set(user);
        client.database.set(database);
        client.application_name.set("psql");
        client.since_ms.store(NOW_MS - 60_000, Relaxed);
        client.state_since_ms.store(NOW_MS - 1_500, Relaxed);
        client.address_family.store(4, Relaxed);
        client.address[0].store(u64::from_ne_bytes([192, 168, 0, 7, 0, 0, 0, 0]), Relaxed);
        client.port.store(40_000, Relaxed);
        client.state.store(state as u32, Relaxed);
    }

    fn open(segment: &Segment, client: ClientIndex, pool: PoolIndex) -> Held {
        let owner = Owner::Client(client);
        let Claim::Open(held) = segment.claim(owner, pool, 0, &|_: ClientIndex| {}) else { panic!("room") };
        let slot = segment.slot(held.slot);
        slot.opened_at_ms.store(NOW_MS - 600_000, Relaxed);
        slot.backend_pid.store(777, Relaxed);
        slot.sessions.store(10, Relaxed);
        slot.bytes_to_server.store(1 << 20, Relaxed);
        slot.bytes_to_client.store(3 << 20, Relaxed);
        slot.ready.store(50, Relaxed);
        assert!(slot.word.opened(owner).is_done());
        held
    }

    #[test]
    fn counts_are_those_of_the_tables() {
        let status = Status::collect(&busy(), "1.2.3", NOW_MS, false);
        assert_eq!((status.version.as_str(), status.phase, status.main_pid), ("1.2.3", "running", 4242));
        assert_eq!(status.uptime_ms, 3_600_000);
        let c = &status.clients;
        assert_eq!((c.max, c.connected, c.startup, c.waiting, c.active, c.gone), (16, 4, 1, 1, 2, 1));
        let s = &status.slots;
        assert_eq!((s.max, s.connections, s.in_use, s.free, s.not_init), (8, 3, 2, 1, 5));
        assert_eq!((status.pools.used, status.pools.disabled), (2, 1));
        let w = &status.waiting;
        assert_eq!((w.clients, w.pools, w.longest_ms), (1, 1, 1500));
        let t = &status.totals;
        assert_eq!((t.accepted, t.sessions, t.ready, t.bytes_to_server), (120, 30, 150, 3 << 20));
        assert_eq!((t.waits, t.claims), (7, 200), "one waits in the test");
        assert_eq!((status.servers[0].connections, status.servers[0].max_connections), (3, Some(50)));
        assert!(status.details.is_none());
    }

    #[test]
    fn details_have_every_pool_slot_and_client() {
        let details = Status::collect(&busy(), "1.2.3", NOW_MS, true).details.unwrap();
        let pools: Vec<_> = details.pools.iter().map(|p| (p.used, p.free, p.waiting, p.disabled)).collect();
        assert_eq!(pools, [(2, 0, 1, false), (0, 1, 0, true)]);
        let slot = &details.slots[0];
        assert_eq!((slot.client, slot.worker_pid, slot.backend_pid), (Some(0), Some(5000), Some(777)));
        assert_eq!((slot.age_ms, slot.idle_ms), (Some(600_000), None));
        assert_eq!(details.slots[2].idle_ms, Some(30_000));
        let order: Vec<_> = details.clients.iter().map(|c| (c.client, c.state)).collect();
        let expected = [(2, "waiting"), (0, "active"), (1, "active"), (3, "startup"), (5, "gone")];
        assert_eq!(order, expected);
        let client = &details.clients[1];
        assert_eq!((client.address.as_deref(), client.port), (Some("192.168.0.7"), Some(40_000)));
        assert_eq!((client.slot, client.connected_ms, client.state_ms), (Some(0), 60_000, 1_500));
        assert_eq!(details.clients[3].address.as_deref(), Some("local"));
        assert_eq!(details.clients[3].port, None);
    }

    #[test]
    fn garbage_in_the_segment_is_shown_and_not_followed() {
        let segment = busy();
        segment.header().clients_high.store(u32::MAX, Relaxed);
        segment.header().slots_high.store(u32::MAX, Relaxed);
        segment.header().pools_high.store(u32::MAX, Relaxed);
        segment.header().started_at_ms.store(u64::MAX, Relaxed);
        for (_, slot) in segment.used_slots() {
            slot.pool.store(u32::MAX, Relaxed);
            slot.server.store(u32::MAX, Relaxed);
            slot.opened_at_ms.store(u64::MAX, Relaxed);
            slot.sessions.store(u64::MAX, Relaxed);
        }
        for (_, client) in segment.used_clients() {
            client.state.store(77, Relaxed);
            client.pool.store(u32::MAX, Relaxed);
            client.slot.store(u32::MAX, Relaxed);
            let _ =
                client.wait.change(Wait::Idle, Wait::Waiting { pool: PoolIndex(9999), ticket: Ticket(1) });
        }
        let status = Status::collect(&segment, "1.2.3", NOW_MS, true);
        assert_eq!(status.uptime_ms, 0);
        assert_eq!(status.totals.sessions, u64::MAX);
        assert_eq!(status.details.unwrap().slots[0].database, None);
    }

    use crate::segment::wait_queue::Ticket;

    #[test]
    fn addresses_of_version_6_are_read_whole() {
        let segment = busy();
        let client = segment.client(ClientIndex(0));
        client.address_family.store(6, Relaxed);
        client.address[0].store(u64::from_ne_bytes([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0]), Relaxed);
        client.address[1].store(u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]), Relaxed);
        assert_eq!(address_of(client), "2001:db8::1");
    }

    #[test]
    fn names_of_the_json_stay() {
        let json = serde_json::to_value(Status::collect(&busy(), "1.2.3", NOW_MS, true)).unwrap();
        for path in [
            "/version",
            "/main_pid",
            "/uptime_ms",
            "/phase",
            "/config_epoch",
            "/clients/connected",
            "/clients/waiting",
            "/slots/in_use",
            "/slots/not_init",
            "/pools/used",
            "/waiting/longest_ms",
            "/totals/accepted",
            "/totals/waited_us",
            "/servers/0/connections",
            "/details/pools/0/longest_wait_ms",
            "/details/slots/0/backend_pid",
            "/details/clients/0/application_name",
        ] {
            assert!(json.pointer(path).is_some_and(|v| !v.is_null()), "{path}");
        }
        assert!(
            serde_json::to_value(Status::collect(&busy(), "", NOW_MS, false))
                .unwrap()
                .get("details")
                .is_none()
        );
    }
}
