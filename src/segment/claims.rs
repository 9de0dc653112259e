//! Claiming, waiting, granting, releasing and closing: the slot state machine and the wait queue together.
//!
//! Runs in workers, in children of main and in main. No call waits: a claim that cannot be had now says so, and the
//! caller enqueues itself and sleeps until it is woken. What limits and room there are for a new connection stands in
//! `room.rs`.
//!
//! No wake-up is lost: whoever frees something first frees it, then looks at the queue; whoever waits first joins the
//! queue, then looks for something free ([`Segment::serve`]). A fence stands between on both sides, so that one of the
//! two sees the other. Whoever sees it serves the *head* of the queue, not itself. To take something and put it back
//! is to free it too: others may have looked while it was away.
//!
//! What can be free is an idle connection of the pool, or room to open one (a seat of the pool, a seat of the server,
//! an empty slot), or an idle connection of another pool that can be closed to make room.

use super::atomic::{Acquire, Relaxed, SeqCst, fence};
use super::index::{ClientIndex, PoolIndex, ServerIndex, SlotIndex};
use super::layout::{POOL_DISABLED, Slot};
use super::map::Segment;
use super::room::Refused;
use super::state::{Generation, Owner, Released, SlotState, Snapshot};
use super::wait_queue::{QueueFull, Wait};

/// A slot that the caller holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Which.
    pub slot: SlotIndex,
    /// Which connection in it.
    pub generation: Generation,
}

/// What became of an attempt to claim.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// An idle connection, now InUse.
    Idle(Held),
    /// An empty slot, now Init: open a connection in it.
    Open(Held),
    /// Nothing to be had now: enqueue.
    Wait,
}

/// What became of a slot that was given back.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Release {
    /// It is Free.
    Free,
    /// It belongs to the client that had waited longest, which has been woken.
    Granted(ClientIndex),
    /// It is still the caller's, who is to close the connection and call [`Segment::close`].
    ToClose,
    /// It was not the caller's.
    NotOwner,
}

/// Wakes the process that serves a client.
pub trait Wake {
    /// Wakes it. May be called for a client that does not need it.
    fn wake(&self, client: ClientIndex);
}

impl<F: Fn(ClientIndex)> Wake for F {
    fn wake(&self, client: ClientIndex) {
        self(client);
    }
}

/// How to look through the hints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Fast; may overlook something at the very moment at which something else is taken. Who then waits looks again.
    Quick,
    /// Overlooks nothing.
    Everywhere,
}

impl Segment {
    /// Tries to get a server connection of `pool`, without waiting.
    ///
    /// One that was opened with the startup parameters `signature` is preferred; then an empty slot to open one in;
    /// then any idle one, which the caller may have to open anew. Nobody who waits in `pool` is overtaken.
    pub fn claim(&self, me: Owner, pool: PoolIndex, signature: u64, wake: &dyn Wake) -> Claim {
        if !self.queue(pool).is_empty() {
            return Claim::Wait;
        }
        self.obtain(me, pool, signature, Look::Quick).unwrap_or_else(|refused| {
            self.note_want(pool, refused.no_room);
            if refused.took_and_gave_back {
                self.serve_waiting(me, Some(pool), wake);
            }
            Claim::Wait
        })
    }

    /// Joins the queue of `pool`. If a connection can be had meanwhile, the head of the queue gets it, who may be the
    /// caller: look with [`Segment::granted`] before sleeping.
    ///
    /// `Some`: an idle connection of another pool, now Flush and the caller's, that stands in the way. Main is to close
    /// it. (Only who has joined already may look for that: a connection that became idle between a look before and the
    /// joining would stay, and nobody close it.)
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn enqueue(
        &self,
        me: ClientIndex,
        pool: PoolIndex,
        wake: &dyn Wake,
    ) -> Result<Option<Held>, QueueFull> {
        let word = &self.client(me).wait;
        self.queue(pool).enqueue(me, word, |c| self.wait_word(c))?;
        // After joining: whoever empties the set finds the client in the queue, or comes before this.
        self.waiting_pools().insert(pool.0);
        self.pool(pool).waits.fetch_add(1, Relaxed);
        fence(SeqCst); // pairs with the one in `freed`
        self.serve(Owner::Client(me), pool, wake);
        Ok(self.make_room(Owner::Client(me), pool))
    }

    /// The slot that the waiting client `me` was given, if it was: InUse with a connection, Init to open one in, or
    /// Gracefully to open one anew in. The client does not wait any longer then.
    #[must_use]
    pub fn granted(&self, me: ClientIndex) -> Option<(Held, SlotState)> {
        let word = &self.client(me).wait;
        let granted = word.load();
        let Wait::Granted { slot, generation } = granted else { return None };
        let held = Held { slot, generation };
        self.complete_grant(me, held);
        let s = self.find_slot(slot)?.word.snapshot();
        // Nobody else changes a wait word that says Granted.
        let _ = word.change(granted, Wait::Idle);
        (s.owner == Owner::Client(me) && s.generation == generation).then_some((held, s.state))
    }

    /// Leaves the queue. A slot that was granted meanwhile is the caller's, as from [`Segment::granted`].
    #[must_use]
    pub fn leave_queue(&self, me: ClientIndex, pool: PoolIndex) -> Option<(Held, SlotState)> {
        let word = &self.client(me).wait;
        loop {
            let waiting = word.load();
            if !matches!(waiting, Wait::Waiting { .. }) {
                return self.granted(me);
            }
            // It may be granted meanwhile, or be moved to another place: then once more.
            if word.change(waiting, Wait::Idle).is_ok() {
                self.queue(pool).trim(&|c| self.wait_word(c));
                return None;
            }
        }
    }

    /// Whether `me` stands in a queue.
    #[must_use]
    pub fn is_waiting(&self, me: ClientIndex) -> bool {
        self.client(me).wait.load() != Wait::Idle
    }

    /// Gives back a slot whose connection is clean and idle, with no unread bytes.
    pub fn release(&self, me: Owner, held: Held, now_ms: u64, wake: &dyn Wake) -> Release {
        let slot = self.slot(held.slot);
        let s = slot.word.snapshot();
        if !s.is_used_by(me) || s.generation != held.generation {
            return Release::NotOwner;
        }
        let Some(pool) = PoolIndex::from_stored(slot.pool.load(Relaxed)) else { return Release::NotOwner };
        if s.state == SlotState::Gracefully || self.is_outdated(slot, pool, now_ms) {
            return Release::ToClose;
        }
        slot.used_at_ms.store(now_ms, Relaxed);
        self.note_signature(pool, held.slot, slot);
        if self.others_starve(pool) {
            return Release::ToClose;
        }
        if let Some(client) = self.grant(me, pool, held, wake) {
            return Release::Granted(client);
        }
        if self.others_want_room(pool) {
            return Release::ToClose;
        }
        match self.free(me, pool, held.slot, slot) {
            Released::Freed => self.freed(me, pool, held, wake),
            Released::ToClose => Release::ToClose,
            Released::NotOwner(_) => Release::NotOwner,
        }
    }

    /// Makes a slot whose connection has been shut down, or was never opened, empty again, and opens the place to
    /// whoever waits for it. The caller is `holder`, which holds the slot: main takes a client's over with
    /// `SlotWord::seize` first, as no two processes may grant under the same name.
    pub fn close(&self, holder: Owner, index: SlotIndex, wake: &dyn Wake) {
        let Some(slot) = self.find_slot(index) else { return };
        if slot.word.snapshot().owner != holder {
            return;
        }
        let pool = PoolIndex::from_stored(slot.pool.load(Relaxed)).filter(|p| self.find_pool(*p).is_some());
        if let Some(pool) = pool
            && self.free_slots(pool).contains(index.0)
        {
            self.free_slots(pool).remove(index.0); // flushed, checked, or its owner died before this
        }
        self.make_empty(holder, index, slot);
        self.serve_waiting(holder, pool, wake);
    }

    /// IdleCheck → Free.
    pub fn checked(&self, me: Owner, held: Held, now_ms: u64, wake: &dyn Wake) -> bool {
        let slot = self.slot(held.slot);
        slot.checked_at_ms.store(now_ms, Relaxed);
        let Some(pool) = PoolIndex::from_stored(slot.pool.load(Relaxed)) else { return false };
        self.free_slots(pool).insert(held.slot.0);
        let done = slot.word.checked(me).is_done();
        if done {
            fence(SeqCst); // pairs with the one in `enqueue`
            self.serve(me, pool, wake);
            self.leave_to_main_if_wanted(pool, slot);
        }
        done
    }

    /// Gives what can be had to the clients of `pool`, in the order in which they came.
    pub fn serve(&self, me: Owner, pool: PoolIndex, wake: &dyn Wake) {
        if self.queue(pool).is_empty() {
            return;
        }
        if self.serve_pool(me.as_granter(), pool, wake) {
            self.serve_waiting(me, Some(pool), wake);
        }
    }

    /// Serves every pool in which somebody waits. Those after `last` come first, so that a place that becomes empty
    /// goes round among the pools.
    pub(super) fn serve_waiting(&self, me: Owner, last: Option<PoolIndex>, wake: &dyn Wake) {
        let waiting = self.waiting_pools();
        let last = last.map_or(u32::MAX, |p| p.0);
        loop {
            fence(SeqCst); // pairs with the one in `enqueue`
            let mut again = false;
            for later in [true, false] {
                waiting.find_map_everywhere(|p| {
                    if (p > last) == later && self.find_pool(PoolIndex(p)).is_some() {
                        again |= self.serve_pool(me.as_granter(), PoolIndex(p), wake);
                    }
                    None::<()>
                });
            }
            if !again {
                return;
            }
        }
    }

    /// Serves one queue. `true`: something was taken and given back, which clients of other pools may have missed.
    fn serve_pool(&self, me: Owner, pool: PoolIndex, wake: &dyn Wake) -> bool {
        let queue = self.queue(pool);
        let mut gave_back = false;
        loop {
            queue.trim(&|c| self.wait_word(c));
            if queue.is_empty() {
                self.waiting_pools().remove(pool.0);
                // Somebody may have joined before it was removed.
                if queue.is_empty() {
                    return gave_back;
                }
                self.waiting_pools().insert(pool.0);
                fence(SeqCst); // who freed something while it was missing did that before this looks
            }
            match self.obtain(me, pool, 0, Look::Everywhere) {
                Ok(Claim::Idle(held) | Claim::Open(held)) => {
                    if self.grant(me, pool, held, wake).is_none() {
                        self.put_back(me, pool, held);
                        gave_back = true;
                        fence(SeqCst); // pairs with the one in `enqueue`
                    }
                }
                Ok(Claim::Wait) => return gave_back,
                Err(refused) => {
                    self.note_want(pool, refused.no_room);
                    return gave_back || refused.took_and_gave_back;
                }
            }
        }
    }

    /// An Init slot for a child of main that opens a connection ahead of demand, if limits allow and no client waits
    /// for that room.
    #[must_use]
    pub fn claim_to_prefill(&self, me: Owner, pool: PoolIndex, wake: &dyn Wake) -> Option<Held> {
        if !self.queue(pool).is_empty() || self.others_want_room(pool) {
            return None;
        }
        self.open(me, pool, Look::Quick)
            .inspect_err(|refused| {
                if refused.took_and_gave_back {
                    self.serve_waiting(me, Some(pool), wake);
                }
            })
            .ok()
    }

    /// Whether the connection in `slot` is not to be given to another client: too old, from before a reload, or on a
    /// seat that a reload has taken away.
    fn is_outdated(&self, slot: &Slot, pool: PoolIndex, now_ms: u64) -> bool {
        let table = self.pool(pool);
        let lifetime = table.server_lifetime_ms.load(Relaxed);
        let server = ServerIndex::from_stored(slot.server.load(Relaxed)).and_then(|s| self.find_server(s));
        let server_seats = server.map_or(0, |s| s.max_connections.load(Relaxed));
        let server_seat = slot.server_seat.load(Relaxed);
        slot.unpooled.load(Relaxed) != 0
            || slot.epoch.load(Relaxed) < table.epoch.load(Acquire)
            || slot.pool_seat.load(Relaxed) > table.size.load(Relaxed)
            || (server_seats != 0 && (server_seat == 0 || server_seat > server_seats))
            || (lifetime != 0 && now_ms.saturating_sub(slot.opened_at_ms.load(Relaxed)) >= lifetime)
    }

    /// An idle connection of `pool`, or an empty slot.
    fn obtain(&self, me: Owner, pool: PoolIndex, signature: u64, look: Look) -> Result<Claim, Refused> {
        if let Some(held) = self.take_idle(me, pool, signature, look) {
            return Ok(Claim::Idle(held));
        }
        match self.open(me, pool, look) {
            Ok(held) => Ok(Claim::Open(held)),
            Err(refused) => {
                // Any other is better than none.
                let other = if signature == 0 { None } else { self.take_idle(me, pool, 0, look) };
                other.map(Claim::Idle).ok_or(refused)
            }
        }
    }

    /// Claims an idle connection of `pool` that was opened with `signature` (0: whichever).
    ///
    /// The slot that was last given back with such a signature is tried first. Only when somebody else has taken it are
    /// the idle ones looked through: some nanoseconds each, against a millisecond for opening another connection.
    fn take_idle(&self, me: Owner, pool: PoolIndex, signature: u64, look: Look) -> Option<Held> {
        let hint = &self.pool(pool).by_signature[signature_bucket(signature)];
        if let Some(slot) = SlotIndex::from_stored(hint.load(Relaxed))
            && let Some(held) = self.take_if_idle(me, pool, slot, signature)
        {
            return Some(held);
        }
        let hints = self.free_slots(pool);
        let take = |i| self.take_if_idle(me, pool, SlotIndex(i), signature);
        match look {
            Look::Quick => hints.find_map(take),
            Look::Everywhere => hints.find_map_everywhere(take),
        }
    }

    fn take_if_idle(&self, me: Owner, pool: PoolIndex, index: SlotIndex, signature: u64) -> Option<Held> {
        let slot = self.find_slot(index)?;
        let s = slot.word.snapshot();
        let fits = s.state == SlotState::Free
            && slot.pool.load(Relaxed) == pool.stored()
            && (signature == 0 || slot.signature.load(Relaxed) == signature);
        // Pool and signature stay the same as long as the generation, and the claim is for the one that was read before.
        if !fits || !slot.word.try_claim(me, Some(s.generation)).is_done() {
            return None;
        }
        self.free_slots(pool).remove(index.0);
        Some(Held { slot: index, generation: s.generation })
    }

    /// Gives a held slot to the client of `pool` that has waited longest, and wakes it.
    fn grant(&self, from: Owner, pool: PoolIndex, held: Held, wake: &dyn Wake) -> Option<ClientIndex> {
        let queue = self.queue(pool);
        let chosen = queue.choose(held.slot, held.generation, |c| self.wait_word(c))?;
        // From here on the slot is promised: this, the client itself, or main if this process dies, hands it over.
        let _ = self.slot(held.slot).word.hand_over(from, Owner::Client(chosen.client), held.generation);
        queue.pass(chosen);
        wake.wake(chosen.client);
        Some(chosen.client)
    }

    /// Makes `client` the owner of the slot that its wait word promises to it. Until that word says something else,
    /// only who made the promise, and then the client, owns the slot; so it may be taken from whoever does.
    fn complete_grant(&self, client: ClientIndex, held: Held) {
        let Some(slot) = self.find_slot(held.slot) else { return };
        let from = slot.word.snapshot().owner;
        let _ = slot.word.hand_over(from, Owner::Client(client), held.generation);
    }

    /// InUse → Free. The hint first, see `hints.rs`.
    fn free(&self, me: Owner, pool: PoolIndex, index: SlotIndex, slot: &Slot) -> Released {
        self.free_slots(pool).insert(index.0);
        let released = slot.word.release(me);
        if released == Released::ToClose {
            self.free_slots(pool).remove(index.0);
        }
        released
    }

    /// After a slot of `pool` became Free.
    fn freed(&self, me: Owner, pool: PoolIndex, held: Held, wake: &dyn Wake) -> Release {
        fence(SeqCst); // pairs with the one in `enqueue`
        self.serve(me, pool, wake);
        // A client of another pool may have looked for a connection to close before this one was idle.
        let taken_back = self.others_want_room(pool)
            && self.slot(held.slot).word.try_claim(me, Some(held.generation)).is_done();
        if !taken_back {
            return Release::Free;
        }
        self.free_slots(pool).remove(held.slot.0);
        Release::ToClose
    }

    /// Gives back what [`Segment::obtain`] took and nobody wanted.
    pub(super) fn put_back(&self, me: Owner, pool: PoolIndex, held: Held) {
        let slot = self.slot(held.slot);
        if slot.word.snapshot().state == SlotState::Init {
            self.make_empty(me, held.slot, slot);
            return;
        }
        match self.free(me, pool, held.slot, slot) {
            Released::Freed => {
                fence(SeqCst); // pairs with the one in `make_room`
                self.leave_to_main_if_wanted(pool, slot);
            }
            // Main has marked it meanwhile, and closes what is Flush and its own.
            Released::ToClose | Released::NotOwner(_) => {
                let _ = slot.word.seize(me, Owner::Main);
            }
        }
    }

    /// After a slot of `pool` became Free in the hands of somebody who cannot close it: a client of another pool may
    /// have looked for a connection to close while it was away. Main's housekeeping closes what is Flush and its own.
    fn leave_to_main_if_wanted(&self, pool: PoolIndex, slot: &Slot) {
        if self.others_want_room(pool) {
            let _ = slot.word.begin_flush(Owner::Main);
        }
    }

    fn note_signature(&self, pool: PoolIndex, index: SlotIndex, slot: &Slot) {
        let bucket = signature_bucket(slot.signature.load(Relaxed));
        self.pool(pool).by_signature[bucket].store(index.stored(), Relaxed);
    }

    /// Whether the operator has disabled `pool`.
    #[must_use]
    pub fn is_disabled(&self, pool: PoolIndex) -> bool {
        self.pool(pool).flags.load(Acquire) & POOL_DISABLED != 0
    }

    /// Slots that are Flush and main's own though main has not begun to close them: see `leave_to_main_if_wanted`. Main
    /// looks for them now and then.
    pub fn left_to_main(&self) -> impl Iterator<Item = Held> + use<> {
        let is_left = |s: &Snapshot| s.state == SlotState::Flush && s.owner == Owner::Main;
        self.used_slots()
            .map(|(index, slot)| (index, slot.word.snapshot()))
            .filter(move |(_, s)| is_left(s))
            .map(|(index, s)| Held { slot: index, generation: s.generation })
    }
}

fn signature_bucket(signature: u64) -> usize {
    usize::try_from(signature % 16).unwrap_or(0)
}
