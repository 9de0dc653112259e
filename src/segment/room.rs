//! Room for one more connection: empty slots and seats, and what has to be closed to make room for another pool.
//!
//! Limits hold against races without a counter: a connection sits on a *seat* of its pool and on one of its server,
//! there are as many seats as the limit allows, and a seat is taken by compare-and-swap. The global limit is the number
//! of slots. So a crash cannot skew a count; it leaves a seat with the number of a slot that main knows to be dead.
//! When a reload makes a limit smaller, connections on seats that are no more are closed as they come back
//! (`is_outdated`); until then they come on top of the new limit, and never were more than the old one.
//!
//! Across pools nothing is first come, first served: a pool with connections uses them for its own clients, and those
//! of another pool for which there is no room get what falls idle. But no pool is starved: one that has no connection
//! at all gets the next that is given back, whoever else waits for that (`others_starve`).

use super::atomic::{AcqRel, PlainU32, Relaxed, SeqCst, fence};
use super::claims::{Held, Look, Wake};
use super::index::{PoolIndex, ServerIndex, SlotIndex};
use super::layout::{Pool, Slot};
use super::map::Segment;
use super::state::{Generation, Owner, SlotState};

/// Why no connection may be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoRoom {
    /// The pool has as many as it may have.
    Pool,
    /// The server has.
    Server,
    /// All slots are taken.
    Slots,
}

/// No connection may be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    pub no_room: NoRoom,
    /// A slot or a seat was away for a moment: whoever looked meanwhile has to be served.
    pub took_and_gave_back: bool,
}

/// What stands in `Pool::wants_room`: why the last attempt to open a connection failed.
mod want {
    /// All slots were taken.
    pub const SLOT: u32 = 1;
    /// All seats of the server were taken.
    pub const SERVER_SEAT: u32 = 2;
    /// The pool had no connection at all.
    pub const STARVES: u32 = 4;
}

impl Segment {
    /// Takes an empty slot and seats for it, if the limits allow one more connection.
    pub(super) fn open(&self, me: Owner, pool: PoolIndex, look: Look) -> Result<Held, Refused> {
        let table = self.pool(pool);
        let size = table.size.load(Relaxed);
        let refused = |no_room, took_and_gave_back| Err(Refused { no_room, took_and_gave_back });
        // A look before anything is taken: in the steady state the pool is full, and what is taken and given back
        // again has to be offered to all others.
        if !has_free_seat(self.pool_seats(pool), size) {
            return refused(NoRoom::Pool, false);
        }
        let server =
            ServerIndex::from_stored(table.server.load(Relaxed)).filter(|s| self.find_server(*s).is_some());
        if let Some(server) = server {
            let limit = self.server(server).max_connections.load(Relaxed);
            if limit != 0 && !has_free_seat(self.server_seats(server), limit) {
                return refused(NoRoom::Server, false);
            }
        }
        let Some((index, generation)) = self.take_empty(me, look) else {
            return refused(NoRoom::Slots, false);
        };
        let slot = self.slot(index);
        slot.unpooled.store(0, Relaxed);
        slot.signature.store(0, Relaxed);
        slot.backend_pid.store(0, Relaxed);
        slot.parameters_length.store(0, Relaxed);
        slot.server.store(table.server.load(Relaxed), Relaxed);
        slot.epoch.store(table.epoch.load(Relaxed), Relaxed);
        slot.pool.store(pool.stored(), Relaxed);
        if let Err(no_room) = self.take_seats(index, slot, pool, size) {
            self.make_empty(me, index, slot);
            return refused(no_room, true);
        }
        Ok(Held { slot: index, generation })
    }

    fn take_empty(&self, me: Owner, look: Look) -> Option<(SlotIndex, Generation)> {
        let hints = self.empty_slots();
        let take = |i| {
            let word = &self.find_slot(SlotIndex(i))?.word;
            if word.snapshot().state != SlotState::NotInit {
                return None;
            }
            // Before the slot is taken: main looks for what the dead held up to there.
            if self.header().slots_high.load(Relaxed) <= i {
                self.header().slots_high.fetch_max(i + 1, AcqRel);
            }
            let s = word.begin_open(me).done()?;
            hints.remove(i);
            Some((SlotIndex(i), s.generation))
        };
        match look {
            Look::Quick => hints.find_map(take),
            Look::Everywhere => hints.find_map_everywhere(take),
        }
    }

    fn take_seats(&self, index: SlotIndex, slot: &Slot, pool: PoolIndex, size: u32) -> Result<(), NoRoom> {
        let seat = take_seat(self.pool_seats(pool), size, index).ok_or(NoRoom::Pool)?;
        slot.pool_seat.store(seat, Relaxed);
        let Some(server) = ServerIndex::from_stored(slot.server.load(Relaxed)) else { return Ok(()) };
        let limit = self.find_server(server).map_or(0, |s| s.max_connections.load(Relaxed));
        if limit != 0 {
            let seat = take_seat(self.server_seats(server), limit, index).ok_or(NoRoom::Server)?;
            slot.server_seat.store(seat, Relaxed);
        }
        Ok(())
    }

    /// Makes a slot that `holder` holds empty: seats back, hint, verb. Whoever waits for room is to be served then.
    pub(super) fn make_empty(&self, holder: Owner, index: SlotIndex, slot: &Slot) {
        self.give_back_seats(holder, index, slot);
        self.empty_slots().insert(index.0);
        let _ = slot.word.vacate(holder);
    }

    /// Main may hold what somebody has left who died between taking a seat and noting it in the slot, or between
    /// forgetting it and giving it back: it looks for the number of the slot in all of them.
    fn give_back_seats(&self, holder: Owner, index: SlotIndex, slot: &Slot) {
        let search = holder == Owner::Main;
        if let Some(pool) =
            PoolIndex::from_stored(slot.pool.load(Relaxed)).filter(|p| self.find_pool(*p).is_some())
        {
            give_back_seat(self.pool_seats(pool), slot.pool_seat.swap(0, Relaxed), index, search);
        }
        if let Some(server) = ServerIndex::from_stored(slot.server.load(Relaxed))
            && self.find_server(server).is_some()
        {
            give_back_seat(self.server_seats(server), slot.server_seat.swap(0, Relaxed), index, search);
        }
    }

    /// Notes why no connection of `pool` could be opened, for those who give something back.
    pub(super) fn note_want(&self, pool: PoolIndex, no_room: NoRoom) {
        let wants = match no_room {
            NoRoom::Pool => 0,
            NoRoom::Server => want::SERVER_SEAT,
            NoRoom::Slots => want::SLOT,
        };
        let starves = wants != 0 && self.pool_seats(pool).iter().all(|seat| seat.load(Relaxed) == 0);
        self.pool(pool).wants_room.store(wants | if starves { want::STARVES } else { 0 }, Relaxed);
    }

    /// Whether a client of another pool waits only because all slots, or the server's connections, are taken, and
    /// closing a connection of `mine` would help.
    pub(super) fn others_want_room(&self, mine: PoolIndex) -> bool {
        self.others_want(mine, want::SLOT | want::SERVER_SEAT)
    }

    /// The same, and the other pool has no connection at all: its clients would wait for ever if those of `mine` came
    /// first whenever a connection is given back.
    pub(super) fn others_starve(&self, mine: PoolIndex) -> bool {
        self.others_want(mine, want::STARVES)
    }

    fn others_want(&self, mine: PoolIndex, kinds: u32) -> bool {
        let my_server = self.pool(mine).server.load(Relaxed);
        let wants = |p: u32| {
            let table = self.find_pool(PoolIndex(p))?;
            let wants = table.wants_room.load(Relaxed);
            let helps = p != mine.0
                && wants & kinds != 0
                && (wants & want::SLOT != 0 || table.server.load(Relaxed) == my_server)
                && !self.queue(PoolIndex(p)).is_empty();
            helps.then_some(())
        };
        self.waiting_pools().find_map_everywhere(wants).is_some()
    }

    /// Takes the idle connection of another pool that was used least recently, if closing it makes room that a client
    /// in the queue of `pool` waits for.
    pub(super) fn make_room(&self, me: Owner, pool: PoolIndex) -> Option<Held> {
        let table = self.pool(pool);
        let wants = table.wants_room.load(Relaxed);
        let queue = self.queue(pool);
        if wants == 0 || queue.is_empty() {
            return None;
        }
        fence(SeqCst); // pairs with the ones after a slot became Free: `freed`, `checked`, `put_back`
        let size = table.size.load(Relaxed) as usize;
        let free_seats = self.pool_seats(pool).iter().take(size).filter(|s| s.load(Relaxed) == 0).count();
        if queue.len() > free_seats as u64 {
            return None; // enough is being closed for those before
        }
        let helps = |slot: &Slot| {
            slot.pool.load(Relaxed) != pool.stored()
                && (wants & want::SLOT != 0 || slot.server.load(Relaxed) == table.server.load(Relaxed))
        };
        // Once more if the one that was found has just been claimed: others may be idle, and nobody else look for them.
        loop {
            let (index, slot) = self
                .used_slots()
                .filter(|(_, slot)| slot.word.snapshot().state == SlotState::Free && helps(slot))
                .min_by_key(|(_, slot)| slot.used_at_ms.load(Relaxed))?;
            if let Some(s) = slot.word.begin_flush(me).done() {
                return Some(Held { slot: index, generation: s.generation });
            }
        }
    }

    /// Main, now and then while clients wait: serves what can be served, and takes idle connections that stand in the
    /// way of others, now Flush and main's, to be closed. Whoever waits does that when it joins the queue; but what it
    /// had closed may have gone to a third pool.
    pub fn make_room_for_waiters(&self, wake: &dyn Wake) -> Vec<Held> {
        self.serve_all(wake);
        let waiting =
            self.used_pools().filter(|(pool, table)| wants_room(table) && !self.queue(*pool).is_empty());
        waiting.filter_map(|(pool, _)| self.make_room(Owner::Main, pool)).collect()
    }
}

fn wants_room(table: &Pool) -> bool {
    table.wants_room.load(Relaxed) != 0
}

fn has_free_seat(seats: &[PlainU32], size: u32) -> bool {
    seats.iter().take(size as usize).any(|seat| seat.load(Relaxed) == 0)
}

/// Takes one of the first `size` seats; its number plus one.
fn take_seat(seats: &[PlainU32], size: u32, slot: SlotIndex) -> Option<u32> {
    let free = |seat: &PlainU32| {
        seat.load(Relaxed) == 0 && seat.compare_exchange(0, slot.stored(), AcqRel, Relaxed).is_ok()
    };
    let at = seats.iter().take(size as usize).position(free)?;
    u32::try_from(at + 1).ok()
}

fn give_back_seat(seats: &[PlainU32], noted: u32, slot: SlotIndex, search: bool) {
    let clear = |seat: &PlainU32| seat.compare_exchange(slot.stored(), 0, AcqRel, Relaxed).is_ok();
    let found = noted.checked_sub(1).and_then(|at| seats.get(at as usize)).is_some_and(clear);
    if !found && search {
        let _ = seats.iter().any(|seat| seat.load(Relaxed) == slot.stored() && clear(seat));
    }
}
