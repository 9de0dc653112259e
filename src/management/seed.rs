//! What main gives to a child that it forks.
//!
//! Main and the workers' code do not know each other: the binary hands main the children's entry, a function of a
//! [`Seed`], which is all that a child takes from main. The child owns a copy of main's memory, of which it uses this
//! and nothing else.

use std::cell::RefCell;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::config::Config;
use crate::protocol::{Report, SqlState};
use crate::segment::{ClientIndex, Generation, Held, PoolIndex, Secrets, Segment, ServerIndex};
use crate::sys::signals::Signals;
use crate::sys::socket::PeerAddress;

/// The children's entry. It never comes back.
pub type Entry = fn(Seed<'_>) -> Infallible;

/// All that a child takes from main.
pub struct Seed<'a> {
    /// What to do.
    pub job: Job,
    /// Its entry in the client table: who it is as an owner of slots. `None`: it owns nothing.
    pub me: Option<ClientIndex>,
    /// The configuration when it was forked, which it keeps to its end.
    pub config: &'a Config,
    /// [`crate::segment::Header::config_epoch`] of that configuration.
    pub config_epoch: u32,
    /// The shared segment.
    pub segment: &'a Segment,
    /// Cancel keys.
    pub secrets: &'a Secrets,
    /// Descriptors of server connections that main held when it forked.
    pub keepers: &'a RefCell<Keepers>,
    /// The way to main: `management::worker`.
    pub to_main: &'a OwnedFd,
    /// The inherited signal descriptor.
    pub signals: &'a Rc<Signals>,
    /// Makes mock challenges for unknown users the same over time; lives as long as main.
    pub mock_key: [u8; 32],
}

/// What a child is made for.
#[derive(Debug)]
pub enum Job {
    /// Serve a client.
    Serve {
        /// Its socket.
        client: OwnedFd,
        /// Where it connects from.
        peer: PeerAddress,
    },
    /// Tell a client that it cannot be served, after its startup packet.
    Refuse {
        /// Its socket.
        client: OwnedFd,
        /// Why.
        why: Refusal,
    },
    /// Open connections ahead of demand.
    Prefill {
        /// Where.
        pool: PoolIndex,
        /// How many.
        count: u32,
    },
    /// Find out whether idle connections still answer.
    Check {
        /// Which.
        slots: Vec<Held>,
    },
    /// Cancel what runs on server connections whose worker has died, by their cancel keys.
    Cancel {
        /// Server, process id and key of each.
        targets: Vec<CancelTarget>,
    },
    /// Look up the address of a server's name.
    Resolve {
        /// Which.
        server: ServerIndex,
    },
}

/// Whom to cancel.
#[derive(Clone, Debug)]
pub struct CancelTarget {
    /// Where.
    pub server: ServerIndex,
    /// The server's process id.
    pub process_id: i32,
    /// The key of that process.
    pub key: Vec<u8>,
}

/// Why a client is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `max_clients` are connected.
    TooManyClients,
    /// Too many are unauthenticated: `max_startups`.
    TooManyStartups,
    /// Howdah is shutting down.
    ShuttingDown,
}

impl Refusal {
    /// What the client is told.
    #[must_use]
    pub fn report(self) -> Report {
        match self {
            Refusal::TooManyClients => {
                Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                    .with_detail("Howdah serves as many clients as max_clients allows.")
            }
            Refusal::TooManyStartups => {
                Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "too many clients are logging in")
                    .with_detail("Howdah lets as many log in at once as max_startups allows.")
                    .with_hint("Try again in a moment.")
            }
            Refusal::ShuttingDown => Report::fatal(SqlState::ADMIN_SHUTDOWN, "howdah is shutting down"),
        }
    }
}

/// Main's own copies of the descriptors of pooled server connections, by slot.
#[derive(Default)]
pub struct Keepers {
    by_slot: Vec<Option<(Generation, OwnedFd)>>,
}

impl Keepers {
    /// Keeps the descriptor of a connection; that of an older connection in the slot comes back.
    pub fn put(&mut self, held: Held, fd: OwnedFd) -> Option<OwnedFd> {
        if self.by_slot.len() <= held.slot.at() {
            self.by_slot.resize_with(held.slot.at() + 1, || None);
        }
        self.by_slot[held.slot.at()].replace((held.generation, fd)).map(|(_, old)| old)
    }

    /// The descriptor of that very connection.
    #[must_use]
    pub fn get(&self, held: Held) -> Option<&OwnedFd> {
        match self.by_slot.get(held.slot.at()) {
            Some(Some((generation, fd))) if *generation == held.generation => Some(fd),
            _ => None,
        }
    }

    /// Takes the descriptor of that very connection.
    pub fn take(&mut self, held: Held) -> Option<OwnedFd> {
        self.get(held)?;
        self.by_slot.get_mut(held.slot.at())?.take().map(|(_, fd)| fd)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_slot.iter().flatten().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Held, &OwnedFd)> {
        (0..).map(crate::segment::SlotIndex).zip(&self.by_slot).filter_map(|(slot, kept)| {
            let (generation, fd) = kept.as_ref()?;
            Some((Held { slot, generation: *generation }, fd))
        })
    }
}
