//! First come, first served: the queue of clients that wait for a server connection of a pool.
//!
//! A ring of cells in shared memory, one ring per pool, and a *wait word* per client. A cell names a client and the
//! ticket's lap; the wait word says whether that client still waits with that ticket. Every step is one atomic
//! operation after which any process can go on, so a process may die anywhere:
//!
//! ```text
//! enqueue   wait word := Waiting(pool, ticket) ─▶ cell: older lap → (lap, client) ─▶ tail + 1   (by anybody)
//! grant     wait word: Waiting(pool, ticket) → Granted(slot, generation) ─▶ slot's owner := client   (by anybody)
//!           ─▶ head + 1   (by anybody) ─▶ wake
//! leave     wait word: Waiting → Idle; the cell is a hole, skipped by whoever comes to it
//! compact   when the ring fills up with holes, those who wait move over them towards the end
//! ```
//!
//! The cell's compare-and-swap is the moment of joining the queue: no hole can be left by a process that dies between
//! drawing a number and taking a place. A granter that has changed the wait word is bound to give that very slot to
//! that client; the client, or main if the granter dies, completes it.
//!
//! Tickets are never used twice: 2⁴⁶ of them fit the smallest ring's cells, 22 years of 100,000 waits a second.
//!
//! Wait word:
//!
//! ```text
//! Idle      0
//! Waiting   63..62 = 1 │ 61..48 pool │ 47..0 ticket
//! Granted   63..62 = 2 │ 61..40 slot │ 39..36 zero │ 35..0 generation
//! ```

use super::atomic::{AcqRel, Acquire, AtomicU64, Relaxed, Release, SeqCst};
use super::index::{ClientIndex, PoolIndex, SlotIndex};
use super::state::Generation;

const KIND_SHIFT: u32 = 62;
const POOL_SHIFT: u32 = 48;
const TICKET_MASK: u64 = (1 << POOL_SHIFT) - 1;
const POOL_MASK: u64 = (1 << (KIND_SHIFT - POOL_SHIFT)) - 1;
const SLOT_SHIFT: u32 = 40;
const SLOT_MASK: u64 = (1 << (KIND_SHIFT - SLOT_SHIFT)) - 1;
const GENERATION_MASK: u64 = (1 << 36) - 1;
const CELL_CLIENT_BITS: u32 = 24;
const CELL_CLIENT_MASK: u64 = (1 << CELL_CLIENT_BITS) - 1;

/// A place in a pool's queue: smaller numbers are served first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a client's wait word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// It does not wait.
    Idle,
    /// It stands in the queue of `pool` (or is about to) with `ticket`.
    Waiting {
        /// The pool.
        pool: PoolIndex,
        /// The place.
        ticket: Ticket,
    },
    /// It was given `slot`, in the generation told, and has not yet said that it knows.
    Granted {
        /// The slot.
        slot: SlotIndex,
        /// Which connection in it.
        generation: Generation,
    },
}

impl Wait {
    fn pack(self) -> u64 {
        match self {
            Wait::Idle => 0,
            Wait::Waiting { pool, ticket } => {
                1 << KIND_SHIFT | u64::from(pool.0) << POOL_SHIFT | ticket.0 & TICKET_MASK
            }
            Wait::Granted { slot, generation } => {
                2 << KIND_SHIFT | u64::from(slot.0) << SLOT_SHIFT | generation.0 & GENERATION_MASK
            }
        }
    }

    fn unpack(word: u64) -> Self {
        let field = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        match word >> KIND_SHIFT {
            1 => Wait::Waiting {
                pool: PoolIndex(field(word >> POOL_SHIFT & POOL_MASK)),
                ticket: Ticket(word & TICKET_MASK),
            },
            2 => Wait::Granted {
                slot: SlotIndex(field(word >> SLOT_SHIFT & SLOT_MASK)),
                generation: Generation(word & GENERATION_MASK),
            },
            _ => Wait::Idle,
        }
    }
}

/// The wait word of one client.
#[repr(transparent)]
pub struct WaitWord(AtomicU64);

impl Default for WaitWord {
    fn default() -> Self {
        WaitWord(AtomicU64::new(0))
    }
}

impl WaitWord {
    /// What it says now.
    #[must_use]
    pub fn load(&self) -> Wait {
        Wait::unpack(self.0.load(Acquire))
    }

    /// `from` → `to`; the word as it was found if it was something else.
    ///
    /// # Errors
    /// What stood there instead of `from`.
    pub fn change(&self, from: Wait, to: Wait) -> Result<(), Wait> {
        match self.0.compare_exchange(from.pack(), to.pack(), AcqRel, Acquire) {
            Ok(_) => Ok(()),
            Err(found) => Err(Wait::unpack(found)),
        }
    }

    /// Announces the place that the client is about to take. Only the client itself, and only while nothing of it is
    /// in any queue with that place.
    fn announce(&self, pool: PoolIndex, ticket: Ticket) {
        // Release: pairs with the Acquire of a granter that finds the cell.
        self.0.store(Wait::Waiting { pool, ticket }.pack(), Release);
    }
}

/// All cells are taken, and another process is just taking the holes out. The ring has two cells for each client, so
/// half of them are holes then, and it begins when a quarter is left.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueFull;

/// The queue of one pool, borrowed from the segment.
#[derive(Clone, Copy)]
pub struct WaitQueue<'a> {
    /// Which pool's.
    pub pool: PoolIndex,
    /// The next ticket to be served.
    pub head: &'a AtomicU64,
    /// The next ticket to be drawn, or one less while whoever drew it has not got to moving this.
    /// `tail - head <= ring.len()`; the head may be one more than the tail then.
    pub tail: &'a AtomicU64,
    /// Who compacts the ring, stored plus one; 0: nobody.
    pub compactor: &'a AtomicU64,
    /// Cell of ticket `t` is `ring[t % len]`: `(t / len + 1) << 24 | client`. The length is a power of two.
    pub ring: &'a [AtomicU64],
}

/// A client at the head of the queue whose grant has been announced in its wait word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an announced grant has to be completed: hand the slot over and wake the client"]
pub struct Chosen {
    /// The client.
    pub client: ClientIndex,
    ticket: Ticket,
}

impl WaitQueue<'_> {
    /// Joins the queue at its end. The client's wait word is `Idle` before.
    ///
    /// # Errors
    /// [`QueueFull`]; the wait word is `Idle` again.
    pub fn enqueue<'w>(
        &self,
        me: ClientIndex,
        word: &WaitWord,
        word_of: impl Fn(ClientIndex) -> Option<&'w WaitWord>,
    ) -> Result<Ticket, QueueFull> {
        let cells = self.ring.len() as u64;
        let mut may_compact = true;
        loop {
            let ticket = self.tail.load(Acquire);
            let cell = self.cell(ticket);
            let found = cell.load(Acquire);
            // The cell is looked at before the head. Whoever took it may have died before it moved the tail, and its
            // grant may have moved the head past that tail: comparing the two first would say "full" for ever.
            if self.lap_of(found) >= self.lap(ticket) {
                self.advance(self.tail, ticket);
                continue;
            }
            let Some(taken) = ticket.checked_sub(self.head.load(Acquire)) else {
                continue; // an old tail was compared with a newer head
            };
            if may_compact && taken >= cells - cells / 4 {
                may_compact = false;
                self.compact(me, &word_of);
                continue;
            }
            if taken >= cells {
                // Idle again without a trace: no cell holds this ticket for this client.
                word.0.store(Wait::Idle.pack(), Release);
                return Err(QueueFull);
            }
            word.announce(self.pool, Ticket(ticket));
            let mine = self.lap(ticket) << CELL_CLIENT_BITS | u64::from(me.0);
            // The moment of joining. The fence between this and the look at free slots that follows is the caller's.
            if cell.compare_exchange(found, mine, SeqCst, Acquire).is_ok() {
                self.advance(self.tail, ticket);
                return Ok(Ticket(ticket));
            }
        }
    }

    /// Takes the places of clients that have left out of the middle of the queue, by moving those that wait towards
    /// its end, so that a client that waits long at the head does not hold a ring full of holes.
    ///
    /// From the last to the first, each waiting client moves over the holes behind it: its number is written into the
    /// last of them, then its wait word goes from the old ticket to the new one. Whoever comes to the new cell in
    /// between finds a number whose wait word says another ticket, and takes it for a hole; whoever comes to the old
    /// one afterwards as well. A compactor may die anywhere.
    ///
    /// One at a time: with two, one could see a client neither at its old place, which it has left already, nor at its
    /// new one, which it looked at before, and move another past it. Who finds the place taken goes on without; main
    /// frees it when the compactor died ([`WaitQueue::end_compaction_of`]).
    fn compact<'w>(&self, me: ClientIndex, word_of: &impl Fn(ClientIndex) -> Option<&'w WaitWord>) {
        // Acquire: pairs with the Release below, so the moves of the compactor before are seen.
        if self.compactor.compare_exchange(0, u64::from(me.stored()), AcqRel, Relaxed).is_err() {
            return;
        }
        let (first, end) = (self.head.load(Acquire), self.tail.load(Acquire));
        let mut filled = end; // all from here to the end wait, all from the ticket looked at to here are holes
        for ticket in (first..end).rev() {
            let Some(word) = self.waiting_at(ticket, word_of) else { continue };
            if filled - 1 == ticket || self.shift(ticket, filled - 1, word) {
                filled -= 1;
            }
        }
        self.trim(word_of);
        self.compactor.store(0, Release);
    }

    /// Moves the client that waits with ticket `from` to the hole `to`, unless it leaves or is served meanwhile.
    fn shift(&self, from: u64, to: u64, word: &WaitWord) -> bool {
        let client = self.cell(from).load(Acquire) & CELL_CLIENT_MASK;
        let cell = self.cell(to);
        let hole = cell.load(Acquire);
        // Another lap: the head has passed both.
        self.lap_of(hole) == self.lap(to)
            && cell.compare_exchange(hole, self.lap(to) << CELL_CLIENT_BITS | client, AcqRel, Acquire).is_ok()
            && word.change(self.waiting(from), self.waiting(to)).is_ok()
    }

    /// Main, when `dead` died while it compacted.
    pub fn end_compaction_of(&self, dead: ClientIndex) {
        let _ = self.compactor.compare_exchange(u64::from(dead.stored()), 0, AcqRel, Relaxed);
    }

    /// Whether nobody stands in the queue. Clients that have left count until they are passed over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let head = self.head.load(SeqCst);
        // The cell, not the tail: the cell is the moment of joining.
        self.lap_of(self.cell(head).load(SeqCst)) < self.lap(head)
    }

    /// Takes the client that has waited longest and announces to it that `slot` is its own. Nobody waits: `None`.
    pub fn choose<'w>(
        &self,
        slot: SlotIndex,
        generation: Generation,
        word_of: impl Fn(ClientIndex) -> Option<&'w WaitWord>,
    ) -> Option<Chosen> {
        loop {
            let head = self.head.load(Acquire);
            let cell = self.cell(head).load(SeqCst);
            if self.lap_of(cell) < self.lap(head) {
                return None;
            }
            if self.lap_of(cell) == self.lap(head) {
                let client = ClientIndex(u32::try_from(cell & CELL_CLIENT_MASK).unwrap_or(u32::MAX));
                let granted = Wait::Granted { slot, generation };
                if word_of(client).is_some_and(|w| w.change(self.waiting(head), granted).is_ok()) {
                    return Some(Chosen { client, ticket: Ticket(head) });
                }
            }
            // That one has left or was granted by somebody who did not get to this line.
            self.advance(self.head, head);
        }
    }

    /// Moves the head past a client whose grant is complete.
    pub fn pass(&self, chosen: Chosen) {
        self.advance(self.head, chosen.ticket.0);
    }

    /// Passes over clients at the head that have left, so that their places can be taken again.
    pub fn trim<'w>(&self, word_of: &impl Fn(ClientIndex) -> Option<&'w WaitWord>) {
        loop {
            let head = self.head.load(Acquire);
            let cell = self.cell(head).load(Acquire);
            if self.lap_of(cell) < self.lap(head) || self.waiting_at(head, word_of).is_some() {
                return;
            }
            self.advance(self.head, head);
        }
    }

    /// How many places are taken, for display.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.tail.load(Acquire).saturating_sub(self.head.load(Acquire))
    }

    /// The wait word of the client that waits with `ticket`, if that one has not left and was not served.
    fn waiting_at<'w>(
        &self,
        ticket: u64,
        word_of: &impl Fn(ClientIndex) -> Option<&'w WaitWord>,
    ) -> Option<&'w WaitWord> {
        let cell = self.cell(ticket).load(Acquire);
        if self.lap_of(cell) != self.lap(ticket) {
            return None;
        }
        let client = ClientIndex(u32::try_from(cell & CELL_CLIENT_MASK).ok()?);
        word_of(client).filter(|w| w.load() == self.waiting(ticket))
    }

    fn waiting(&self, ticket: u64) -> Wait {
        Wait::Waiting { pool: self.pool, ticket: Ticket(ticket & TICKET_MASK) }
    }

    fn advance(&self, end: &AtomicU64, from: u64) {
        // Whoever is first; the others find it done.
        let _ = end.compare_exchange(from, from + 1, AcqRel, Relaxed);
    }

    fn cell(&self, ticket: u64) -> &AtomicU64 {
        let mask = self.ring.len() as u64 - 1;
        &self.ring[usize::try_from(ticket & mask).unwrap_or(0)]
    }

    fn lap(&self, ticket: u64) -> u64 {
        ticket / self.ring.len() as u64 + 1
    }

    fn lap_of(&self, cell: u64) -> u64 {
        cell >> CELL_CLIENT_BITS
    }
}
