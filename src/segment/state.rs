//! The slot state machine: one atomic word with state, owner and generation together.
//!
//! No instant exists at which a slot is claimed and its owner unknown: a SIGKILL anywhere leaves a word from which main
//! can tell what to recover. This is the only file that changes the word, and each legal move is a verb of its own.
//! It knows no descriptor, clock or logger.
//!
//! ```text
//!  63                       28 27             4 3     0
//! ┌───────────────────────────┬────────────────┬───────┐
//! │ generation (36 bits)      │ owner (24)     │ state │
//! └───────────────────────────┴────────────────┴───────┘
//! ```
//!
//! | from → to | verb | who | publishes | if the caller dies right after |
//! |---|---|---|---|---|
//! | NotInit → Init | `begin_open` | worker, main for a waiter | owner; generation + 1 | reaper closes it |
//! | Init → InUse | `opened` | the owner | slot fields of the connection | reaper closes it |
//! | Init, InUse, Gracefully, Flush, IdleCheck → NotInit | `vacate` | the owner | seats given back before | slot is empty; main looks for waiters |
//! | Init, InUse, Gracefully, Flush, IdleCheck → Flush | `seize` | main for a dead owner; a granter whose slot main marked | – | main closes what is Flush and its own |
//! | InUse, Gracefully → Init | `reopen` | the owner | generation + 1: old descriptors are void | reaper closes it |
//! | Free → InUse | `try_claim` | worker | owner | reaper closes it |
//! | InUse → Free | `release` | the owner | fields written while it was used | slot is free; main looks for waiters |
//! | Init, InUse, Gracefully → same (other owner) | `hand_over` | the granter, or the grantee, or main for a dead granter | everything the granter wrote | the grantee or the reaper completes it |
//! | InUse → Gracefully | `mark_gracefully` | main | to be closed when it comes back | – (main) |
//! | Free → Flush | `begin_flush` | main, worker that evicts | owner | reaper closes it |
//! | Free → IdleCheck | `begin_check` | checker | owner | reaper closes it |
//! | IdleCheck → Free | `checked` | checker | – | as for `release` |
//!
//! Who may touch the other fields of a slot (`layout.rs` cites these rules):
//! 1. `pool`, `server`, the seats, `signature`, `backend_pid`, the parameters and the times are written by the owner
//!    alone, in Init, InUse, Gracefully, IdleCheck or Flush; a verb that gives up ownership publishes them (Release).
//! 2. Whoever wins a verb that takes ownership may read them (Acquire).
//! 3. Anyone may read them at any time for display; what is read may be torn between two connections.
//! 4. Counters are written by the owner alone (load, add, store) and read by anyone.

use std::fmt;

use super::atomic::{AcqRel, Acquire, AtomicU64};
use super::index::ClientIndex;

const STATE_BITS: u32 = 4;
const OWNER_BITS: u32 = 24;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
const OWNER_MASK: u64 = (1 << OWNER_BITS) - 1;
const GRANTER_BIT: u64 = 1 << (OWNER_BITS - 1);
const GENERATION_SHIFT: u32 = STATE_BITS + OWNER_BITS;
const GENERATION_MASK: u64 = u64::MAX >> GENERATION_SHIFT;

/// The states of a slot. Their names are those in logs, `howdah-cli status`, documents and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Empty.
    NotInit = 0,
    /// A server connection is being opened.
    Init = 1,
    /// An idle, clean server connection that may be claimed.
    Free = 2,
    /// Claimed.
    InUse = 3,
    /// Claimed, and to be closed when it comes back.
    Gracefully = 4,
    /// Being closed.
    Flush = 5,
    /// Being validated.
    IdleCheck = 6,
}

impl SlotState {
    /// All states, in the order of their numbers.
    pub const ALL: [SlotState; 7] = [
        SlotState::NotInit,
        SlotState::Init,
        SlotState::Free,
        SlotState::InUse,
        SlotState::Gracefully,
        SlotState::Flush,
        SlotState::IdleCheck,
    ];

    /// The name in logs, output and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SlotState::NotInit => "not_init",
            SlotState::Init => "init",
            SlotState::Free => "free",
            SlotState::InUse => "in_use",
            SlotState::Gracefully => "gracefully",
            SlotState::Flush => "flush",
            SlotState::IdleCheck => "idle_check",
        }
    }

    /// Parses what stands in shared memory; `None` for a number that no state has.
    fn from_bits(bits: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(bits).ok()?).copied()
    }
}

/// Who holds a slot: an entry of the client table, or main.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody.
    None,
    /// A client's worker, or a child of main, by its entry in the client table.
    Client(ClientIndex),
    /// The same, for the moment in which it serves a queue: it has not touched the connection.
    ///
    /// Not the same owner as `Client`. A client serves the queue in which it waits itself. It promises a slot to the
    /// head, and is overtaken: the head takes the slot, uses it, gives it back, and it is granted to the client that
    /// still stands before its own `hand_over`. If that were from the same owner it would succeed a second time, and
    /// give the slot to a client that knows nothing of it.
    Granter(ClientIndex),
    /// Main itself, for the moment of one verb to the next.
    Main,
}

impl Owner {
    /// The most entries that the client table may have.
    pub const CLIENTS_MAX: u32 = (1 << (OWNER_BITS - 1)) - 2;

    /// The entry in the client table, whatever it does with the slot.
    #[must_use]
    pub fn client(self) -> Option<ClientIndex> {
        match self {
            Owner::Client(client) | Owner::Granter(client) => Some(client),
            Owner::None | Owner::Main => None,
        }
    }

    /// The same one while it serves a queue.
    #[must_use]
    pub fn as_granter(self) -> Self {
        self.client().map_or(self, Owner::Granter)
    }

    fn to_bits(self) -> u64 {
        match self {
            Owner::None => 0,
            Owner::Client(index) => u64::from(index.0) + 1,
            Owner::Granter(index) => (u64::from(index.0) + 1) | GRANTER_BIT,
            Owner::Main => OWNER_MASK,
        }
    }

    fn from_bits(bits: u64) -> Self {
        let client = u32::try_from(bits & !GRANTER_BIT).ok().and_then(ClientIndex::from_stored);
        match client {
            _ if bits == OWNER_MASK => Owner::Main,
            None => Owner::None,
            Some(client) if bits & GRANTER_BIT != 0 => Owner::Granter(client),
            Some(client) => Owner::Client(client),
        }
    }
}

/// Counts the server connections that have occupied a slot. A descriptor remembered as (slot, generation) is valid
/// exactly while the slot's generation is the same: it would be taken for another's only after 2³⁶ connections in that
/// slot (two years of 1,000 a second), all opened while it was remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl Generation {
    fn next(self) -> Self {
        Generation((self.0 + 1) & GENERATION_MASK)
    }
}

/// What the word said at one instant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The state.
    pub state: SlotState,
    /// Who holds the slot.
    pub owner: Owner,
    /// Which connection occupies it.
    pub generation: Generation,
}

impl Snapshot {
    fn unpack(word: u64) -> Self {
        Snapshot {
            // A number that no state has cannot be written by this file; a slot that holds one is taken out of use.
            state: SlotState::from_bits(word & STATE_MASK).unwrap_or(SlotState::Flush),
            owner: Owner::from_bits((word >> STATE_BITS) & OWNER_MASK),
            generation: Generation(word >> GENERATION_SHIFT),
        }
    }

    fn pack(self) -> u64 {
        self.state as u64
            | self.owner.to_bits() << STATE_BITS
            | (self.generation.0 & GENERATION_MASK) << GENERATION_SHIFT
    }

    /// Whether the slot is held by `owner` for a connection: InUse or Gracefully.
    #[must_use]
    pub fn is_used_by(&self, owner: Owner) -> bool {
        self.owner == owner && matches!(self.state, SlotState::InUse | SlotState::Gracefully)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} owner={:?} generation={}", self.state.name(), self.owner, self.generation.0)
    }
}

/// The answer of a verb.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Done; the word as it is now.
    Done(Snapshot),
    /// Somebody else was there first, or the slot is in another state; the word as it was found.
    Refused(Snapshot),
}

impl Move {
    /// The new word, if the move was made.
    #[must_use]
    pub fn done(self) -> Option<Snapshot> {
        match self {
            Move::Done(s) => Some(s),
            Move::Refused(_) => None,
        }
    }

    /// Whether the move was made.
    #[must_use]
    pub fn is_done(self) -> bool {
        self.done().is_some()
    }
}

/// The answer of [`SlotWord::release`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The slot is Free.
    Freed,
    /// Main marked it Gracefully: the owner still holds it and is to close it.
    ToClose,
    /// It is not the caller's.
    NotOwner(Snapshot),
}

/// The word of one slot. Zero is `NotInit`, nobody's, generation 0.
#[repr(transparent)]
pub struct SlotWord(AtomicU64);

impl Default for SlotWord {
    fn default() -> Self {
        SlotWord(AtomicU64::new(0))
    }
}

impl SlotWord {
    /// The word now. Acquire: pairs with the AcqRel of the verb that wrote it, so the fields it published can be read.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::unpack(self.0.load(Acquire))
    }

    /// The one loop that changes the word: `decide` says what it becomes, or `None` to refuse.
    ///
    /// AcqRel on success: acquires what the last owner published (rule 2), publishes what this one wrote (rule 1).
    fn update(&self, decide: impl Fn(Snapshot) -> Option<Snapshot>) -> Move {
        let mut word = self.0.load(Acquire);
        loop {
            let was = Snapshot::unpack(word);
            let Some(next) = decide(was) else { return Move::Refused(was) };
            match self.0.compare_exchange(word, next.pack(), AcqRel, Acquire) {
                Ok(_) => return Move::Done(next),
                Err(found) => word = found,
            }
        }
    }

    /// NotInit → Init: takes the empty slot to open a server connection in it. The generation moves on.
    pub fn begin_open(&self, me: Owner) -> Move {
        self.update(|s| {
            (s.state == SlotState::NotInit).then(|| Snapshot {
                state: SlotState::Init,
                owner: me,
                generation: s.generation.next(),
            })
        })
    }

    /// Init → InUse: the connection is authenticated.
    pub fn opened(&self, me: Owner) -> Move {
        self.update(|s| {
            (s.state == SlotState::Init && s.owner == me).then_some(Snapshot { state: SlotState::InUse, ..s })
        })
    }

    /// InUse or Gracefully → Init: the owner gives this connection up and opens another in the same slot, keeping its
    /// seats. The generation moves on.
    pub fn reopen(&self, me: Owner) -> Move {
        self.update(|s| {
            s.is_used_by(me).then(|| Snapshot {
                state: SlotState::Init,
                owner: me,
                generation: s.generation.next(),
            })
        })
    }

    /// Free → InUse, if it still is generation `expected` (`None`: whichever connection).
    pub fn try_claim(&self, me: Owner, expected: Option<Generation>) -> Move {
        self.update(|s| {
            (s.state == SlotState::Free && expected.is_none_or(|g| g == s.generation)).then_some(Snapshot {
                state: SlotState::InUse,
                owner: me,
                generation: s.generation,
            })
        })
    }

    /// InUse → Free: the connection is clean, idle, with no unread bytes.
    pub fn release(&self, me: Owner) -> Released {
        let moved = self.update(|s| {
            (s.state == SlotState::InUse && s.owner == me).then_some(Snapshot {
                state: SlotState::Free,
                owner: Owner::None,
                generation: s.generation,
            })
        });
        match moved {
            Move::Done(_) => Released::Freed,
            Move::Refused(s) if s.is_used_by(me) => Released::ToClose,
            Move::Refused(s) => Released::NotOwner(s),
        }
    }

    /// Same state, other owner: `from` gives the slot, of generation `generation`, to `to`. Done as well if `to` has it
    /// already: the granter, the grantee and main (for a dead granter) may all complete the same grant.
    pub fn hand_over(&self, from: Owner, to: Owner, generation: Generation) -> Move {
        let moved = self.update(|s| {
            let given = matches!(s.state, SlotState::Init | SlotState::InUse | SlotState::Gracefully);
            (given && s.owner == from && s.generation == generation).then_some(Snapshot { owner: to, ..s })
        });
        match moved {
            Move::Refused(s) if s.owner == to && s.generation == generation => Move::Done(s),
            moved => moved,
        }
    }

    /// InUse → Gracefully: main wants the connection closed when it comes back.
    pub fn mark_gracefully(&self) -> Move {
        self.update(|s| {
            (s.state == SlotState::InUse).then_some(Snapshot { state: SlotState::Gracefully, ..s })
        })
    }

    /// Free → Flush: takes an idle connection to close it.
    pub fn begin_flush(&self, me: Owner) -> Move {
        self.update(|s| {
            (s.state == SlotState::Free).then_some(Snapshot { state: SlotState::Flush, owner: me, ..s })
        })
    }

    /// Free → IdleCheck: takes an idle connection to validate it.
    pub fn begin_check(&self, me: Owner) -> Move {
        self.update(|s| {
            (s.state == SlotState::Free).then_some(Snapshot { state: SlotState::IdleCheck, owner: me, ..s })
        })
    }

    /// IdleCheck → Free: the connection is good.
    pub fn checked(&self, me: Owner) -> Move {
        self.update(|s| {
            (s.state == SlotState::IdleCheck && s.owner == me).then_some(Snapshot {
                state: SlotState::Free,
                owner: Owner::None,
                generation: s.generation,
            })
        })
    }

    /// Any state that `holder` holds → NotInit: the connection is shut down and the seats are given back.
    pub fn vacate(&self, holder: Owner) -> Move {
        self.update(|s| {
            (s.owner == holder && holder != Owner::None).then_some(Snapshot {
                state: SlotState::NotInit,
                owner: Owner::None,
                generation: s.generation,
            })
        })
    }

    /// Any state that `from` holds → Flush, held by `to`: main takes what a dead owner left, to close it.
    pub fn seize(&self, from: Owner, to: Owner) -> Move {
        self.update(|s| {
            (s.owner == from && from != Owner::None).then_some(Snapshot {
                state: SlotState::Flush,
                owner: to,
                ..s
            })
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_word_survives_packing() {
        for state in SlotState::ALL {
            let last = ClientIndex(Owner::CLIENTS_MAX - 1);
            for owner in [
                Owner::None,
                Owner::Main,
                Owner::Client(ClientIndex(0)),
                Owner::Client(last),
                Owner::Granter(ClientIndex(0)),
                Owner::Granter(last),
            ] {
                let s = Snapshot { state, owner, generation: Generation(GENERATION_MASK) };
                assert_eq!(Snapshot::unpack(s.pack()), s);
            }
        }
    }
}
