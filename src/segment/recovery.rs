//! What main does for a worker or child that ended without giving back what it held: SIGKILL, crash, panic.
//!
//! Runs in main alone, when the process is certainly dead (reaped). Every slot the dead held, every promise it made or
//! was made, and every hint it may not have got to write is put right. Reads the whole tables: a death is rare.

use super::atomic::{AcqRel, Acquire, Relaxed};
use super::claims::{Held, Release, Wake};
use super::index::{ClientIndex, PoolIndex, SlotIndex};
use super::layout::Slot;
use super::map::Segment;
use super::state::{Owner, SlotState, Snapshot};
use super::wait_queue::Wait;

/// What is left for main to do after [`Segment::recover`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Slots that the dead held, now Flush and main's: shut their connections down, then call [`Segment::close`].
    /// The flag says that the connection had been in use, so that a query may still be running on the server.
    pub to_close: Vec<(Held, bool)>,
    /// Clients whose cancel was being carried by the dead: their workers have been woken.
    pub unpinned: u32,
}

impl Segment {
    /// Puts right what the dead client or child `dead` left.
    pub fn recover(&self, dead: ClientIndex, now_ms: u64, wake: &dyn Wake) -> Recovered {
        let mut recovered = Recovered::default();
        self.take_out_of_queue(dead, now_ms, wake);
        for (pool, _) in self.used_pools() {
            self.queue(pool).end_compaction_of(dead);
        }
        self.complete_grants_of(dead, wake);
        self.unpin_all_of(dead, &mut recovered, wake);
        self.repair_hints();
        for (index, slot) in self.used_slots() {
            let s = slot.word.snapshot();
            if s.owner.client() == Some(dead) {
                recovered.to_close.extend(self.take_over(index, slot, s));
            }
        }
        self.serve_all(wake);
        recovered
    }

    /// Takes what the dead held, to close it.
    fn take_over(&self, index: SlotIndex, slot: &Slot, s: Snapshot) -> Option<(Held, bool)> {
        let held = Held { slot: index, generation: s.generation };
        let pool = PoolIndex::from_stored(slot.pool.load(Relaxed)).filter(|p| self.find_pool(*p).is_some());
        if let (Owner::Granter(_), SlotState::InUse, Some(pool)) = (s.owner, s.state, pool) {
            // Taken for a waiting client, and promised to nobody: as clean as it was.
            self.put_back(s.owner, pool, held);
            return None;
        }
        let was_used = matches!(s.state, SlotState::InUse | SlotState::Gracefully);
        slot.word.seize(s.owner, Owner::Main).is_done().then_some((held, was_used))
    }

    /// The dead may have cleared a bit of an upper level that it was to set again.
    fn repair_hints(&self) {
        self.empty_slots().repair();
        for (pool, _) in self.used_pools() {
            self.free_slots(pool).repair();
        }
    }

    /// Serves every pool in which somebody waits.
    pub fn serve_all(&self, wake: &dyn Wake) {
        for (pool, _) in self.used_pools() {
            if !self.queue(pool).is_empty() {
                self.waiting_pools().insert(pool.0);
            }
        }
        self.serve_waiting(Owner::Main, None, wake);
    }

    /// The dead waits no longer; a slot that was given to it and that it did not touch goes to the next.
    fn take_out_of_queue(&self, dead: ClientIndex, now_ms: u64, wake: &dyn Wake) {
        // The pool from the wait word: the client may have died before its entry said it.
        let given = match self.client(dead).wait.load() {
            Wait::Waiting { pool, .. } if self.find_pool(pool).is_some() => self.leave_queue(dead, pool),
            Wait::Granted { .. } => self.granted(dead),
            other => {
                let _ = self.client(dead).wait.change(other, Wait::Idle);
                None
            }
        };
        // InUse and untouched: as clean as it was when it was granted. (Init is closed with all else it held.)
        if let Some((held, SlotState::InUse)) = given {
            match self.release(Owner::Client(dead), held, now_ms, wake) {
                Release::Free | Release::Granted(_) | Release::ToClose | Release::NotOwner => {}
            }
        }
    }

    /// Slots that the dead had promised to others become theirs; and whoever was promised one is woken, as the dead
    /// may not have got to that.
    fn complete_grants_of(&self, dead: ClientIndex, wake: &dyn Wake) {
        for (client, entry) in self.used_clients() {
            let Wait::Granted { slot, generation } = entry.wait.load() else { continue };
            if client == dead {
                continue;
            }
            if let Some(table) = self.find_slot(slot) {
                for from in [Owner::Client(dead), Owner::Granter(dead)] {
                    let _ = table.word.hand_over(from, Owner::Client(client), generation);
                }
            }
            wake.wake(client);
        }
    }

    fn unpin_all_of(&self, dead: ClientIndex, recovered: &mut Recovered, wake: &dyn Wake) {
        for (client, entry) in self.used_clients() {
            if entry.canceller.compare_exchange(dead.stored(), 0, AcqRel, Acquire).is_ok() {
                recovered.unpinned += 1;
                wake.wake(client);
            }
        }
    }
}
