//! Accepting clients: who is let in, and the fork of its worker.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use log::{debug, warn};

use super::main_loop::Main;
use crate::management::seed::{Job, Refusal};
use crate::protocol::write;
use crate::segment::{Client, ClientIndex, ClientState};
use crate::sys::socket::{self, PeerAddress};
use crate::sys::{clock, process};

/// Clients accepted before other events are looked at.
const BATCH: u32 = 64;
/// Children that tell clients why they are turned away; beyond that, clients are told at once, whatever they sent.
const REFUSING_MAX: u32 = 16;
/// How long accepting pauses when the table of descriptors is full.
const PAUSE: Duration = Duration::from_millis(100);

/// Who may come in.
pub struct Admission {
    /// Listeners on which connections may wait. (Events are edge-triggered.)
    ready: Vec<bool>,
    /// Entries of the client table that are free again.
    free: Vec<u32>,
    /// The first entry that was never used.
    next: u32,
    entries: u32,
    max_clients: u32,
    /// Clients that have an entry.
    clients: u32,
    /// Clients that were not authenticated when it was last looked at.
    startups: Vec<ClientIndex>,
    /// Children that turn clients away.
    refusing: u32,
    /// No accept before this moment.
    paused_until: Option<Duration>,
}

impl Admission {
    /// For a client table of `entries`, of which clients may use `max_clients`.
    #[must_use]
    pub fn new(max_clients: u32, entries: u32) -> Self {
        Admission {
            ready: Vec::new(),
            free: Vec::new(),
            next: 0,
            entries,
            max_clients,
            clients: 0,
            startups: Vec::new(),
            refusing: 0,
            paused_until: None,
        }
    }

    /// Connections may wait on listener `index`.
    pub fn listener_is_ready(&mut self, index: usize) {
        if self.ready.len() <= index {
            self.ready.resize(index + 1, false);
        }
        self.ready[index] = true;
    }

    /// Whether there is something to accept now.
    #[must_use]
    pub fn has_ready_listeners(&self) -> bool {
        self.paused_until.is_none() && self.ready.contains(&true)
    }

    /// Forgets which listeners were ready: they are closed.
    pub fn forget_listeners(&mut self) {
        self.ready.clear();
    }

    /// When accepting goes on after a pause.
    #[must_use]
    pub fn paused_until(&self) -> Option<Duration> {
        self.paused_until
    }

    /// Clients that are connected.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.clients
    }

    /// An entry of the client table.
    pub fn take_entry(&mut self, is_client: bool) -> Option<ClientIndex> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.next < self.entries => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.clients += u32::from(is_client);
        Some(ClientIndex(index))
    }

    /// Gives an entry back.
    pub fn give_back_entry(&mut self, index: ClientIndex, is_client: bool) {
        self.free.push(index.0);
        self.clients -= u32::from(is_client);
        if is_client {
            self.startups.retain(|i| *i != index);
        }
    }

    /// A child that turned a client away has ended.
    pub fn refusal_ended(&mut self) {
        self.refusing = self.refusing.saturating_sub(1);
    }

    /// Clients that are still logging in, the one that has been at it longest first.
    #[must_use]
    pub fn startups(&self) -> &[ClientIndex] {
        &self.startups
    }
}

impl Main {
    /// Accepts what waits, for a while.
    pub fn accept_more(&mut self) {
        if self.admission.paused_until.is_some_and(|until| clock::monotonic() < until) {
            return;
        }
        self.admission.paused_until = None;
        for index in 0..self.listeners.len() {
            if self.admission.ready.get(index) == Some(&true) {
                self.accept_from(index);
            }
        }
    }

    fn accept_from(&mut self, index: usize) {
        for _ in 0..BATCH {
            match socket::accept(self.listeners[index].fd.as_fd()) {
                Ok(client) => self.admit(client),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.admission.ready[index] = false;
                    return;
                }
                Err(e) if is_out_of_resources(&e) => {
                    warn!("cannot accept clients for lack of resources, trying again soon: {e}");
                    self.admission.paused_until = Some(clock::monotonic() + PAUSE);
                    return;
                }
                // The client is gone again.
                Err(e) => debug!("accept: {e}"),
            }
        }
    }

    fn admit(&mut self, client: OwnedFd) {
        let why = if self.shutdown.is_some() {
            Some(Refusal::ShuttingDown)
        } else if self.admission.clients >= self.admission.max_clients {
            Some(Refusal::TooManyClients)
        } else if self.too_many_startups() {
            Some(Refusal::TooManyStartups)
        } else {
            None
        };
        match why {
            Some(why) => self.refuse(client, why),
            None => self.serve(client),
        }
    }

    fn serve(&mut self, client: OwnedFd) {
        let Some(me) = self.admission.take_entry(true) else {
            return self.refuse(client, Refusal::TooManyClients);
        };
        let peer = socket::peer_address(client.as_fd());
        self.enter(me, ClientState::Startup, peer);
        self.segment.header().accepted.fetch_add(1, Relaxed);
        match self.spawn(Job::Serve { client, peer }, Some(me), true) {
            Ok(_) => self.admission.startups.push(me),
            Err(e) => {
                warn!("cannot fork a worker: {e}");
                self.leave(me, true);
            }
        }
    }

    /// Fills an entry of the client table for a child that is about to be forked.
    pub fn enter(&self, me: ClientIndex, state: ClientState, peer: PeerAddress) {
        let entry = self.segment.client(me);
        let now = clock::monotonic_ms();
        entry.pid.store(0, Relaxed);
        entry.pool.store(0, Relaxed);
        entry.slot.store(0, Relaxed);
        entry.since_ms.store(now, Relaxed);
        entry.state_since_ms.store(now, Relaxed);
        set_address(entry, peer);
        self.segment.header().clients_high.fetch_max(me.0 + 1, Relaxed);
        entry.state.store(state as u32, Release);
    }

    /// Empties an entry of the client table whose process is gone and holds nothing.
    pub fn leave(&mut self, me: ClientIndex, is_client: bool) {
        let entry = self.segment.client(me);
        entry.cancel_pid.store(0, Relaxed);
        entry.slot.store(0, Relaxed);
        entry.pool.store(0, Relaxed);
        entry.pid.store(0, Relaxed);
        entry.user.set("");
        entry.database.set("");
        entry.application_name.set("");
        entry.state.store(ClientState::Unused as u32, Release);
        self.admission.give_back_entry(me, is_client);
    }

    fn refuse(&mut self, client: OwnedFd, why: Refusal) {
        self.segment.header().refused.fetch_add(1, Relaxed);
        debug!("a client is turned away: {why:?}");
        if self.admission.refusing >= REFUSING_MAX {
            let mut bytes = Vec::with_capacity(128);
            write::error(&mut bytes, &why.report());
            let _ = socket::transmit(client.as_fd(), &bytes);
            socket::shut_down(client.as_fd(), std::net::Shutdown::Write);
            return;
        }
        if self.spawn(Job::Refuse { client, why }, None, false).is_ok() {
            self.admission.refusing += 1;
        }
    }

    /// `max_startups`, as sshd has it: refused at random from `begin` on, all from `full` on.
    fn too_many_startups(&mut self) -> bool {
        let limit = self.config.max_startups;
        let count = |main: &Self| u32::try_from(main.admission.startups.len()).unwrap_or(u32::MAX);
        if count(self) < limit.begin {
            return false;
        }
        self.forget_logged_in();
        let now = count(self);
        if now < limit.begin {
            return false;
        }
        if now >= limit.full {
            return true;
        }
        let spread = u64::from(limit.full - limit.begin).max(1);
        let rate = u64::from(limit.rate)
            + u64::from(100 - limit.rate.min(100)) * u64::from(now - limit.begin) / spread;
        let mut random = [0u8; 2];
        // Without random bytes nobody is turned away before `full`.
        process::random_bytes(&mut random).is_ok()
            && u64::from(u16::from_le_bytes(random)) * 100 / 65_536 < rate
    }

    /// Takes those that have logged in off the list.
    pub fn forget_logged_in(&mut self) {
        let segment = &self.segment;
        let is_startup = |i: &ClientIndex| {
            ClientState::from_stored(segment.client(*i).state.load(Acquire)) == ClientState::Startup
        };
        self.admission.startups.retain(is_startup);
    }
}

fn set_address(entry: &Client, peer: PeerAddress) {
    let (family, port, octets) = match peer {
        PeerAddress::Unix => (0, 0, [0u8; 16]),
        PeerAddress::Tcp(address) => match address.ip() {
            IpAddr::V4(v4) => {
                let mut octets = [0u8; 16];
                octets[..4].copy_from_slice(&v4.octets());
                (4, address.port(), octets)
            }
            IpAddr::V6(v6) => (6, address.port(), v6.octets()),
        },
    };
    entry.address_family.store(family, Relaxed);
    entry.port.store(u32::from(port), Relaxed);
    crate::segment::text::store_bytes(&entry.address, &octets);
}

fn is_out_of_resources(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
