//! Closing server connections because somebody wants them closed: the operator, a reload, their age.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::main_loop::Main;
use crate::management::FlushMode;
use crate::segment::{Held, Owner, PoolIndex, SlotIndex, SlotState};
use crate::sys::signals::{self, Signal};

/// What was done to how many connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Idle ones, closed.
    pub closed: u32,
    /// In use, to be closed when they come back.
    pub marked: u32,
    /// In use, whose clients are being sent away.
    pub ended: u32,
}

impl Main {
    /// Closes the connections of the pools that `wanted` says.
    pub fn flush(&mut self, mode: FlushMode, wanted: impl Fn(PoolIndex) -> bool) -> Flushed {
        let mut flushed = Flushed::default();
        let slots: Vec<SlotIndex> = self
            .segment
            .used_slots()
            .filter(|(_, slot)| PoolIndex::from_stored(slot.pool.load(Relaxed)).is_some_and(&wanted))
            .map(|(index, _)| index)
            .collect();
        for index in slots {
            self.flush_slot(index, mode, &mut flushed);
        }
        self.housekeeping.look_again();
        flushed
    }

    fn flush_slot(&mut self, index: SlotIndex, mode: FlushMode, flushed: &mut Flushed) {
        if self.flush_idle(index) {
            flushed.closed += 1;
            return;
        }
        if mode == FlushMode::Idle {
            return;
        }
        let slot = self.segment.slot(index);
        let marked = slot.word.mark_gracefully().is_done();
        let s = slot.word.snapshot();
        if s.state != SlotState::Gracefully {
            // It came back at this very moment.
            flushed.closed += u32::from(self.flush_idle(index));
            return;
        }
        let Owner::Client(owner) = s.owner else { return };
        if mode == FlushMode::All {
            let pid = self.segment.find_client(owner).map_or(0, |c| c.pid.load(Acquire));
            signals::send(pid, Signal::SIGQUIT);
            flushed.ended += 1;
        } else {
            flushed.marked += u32::from(marked);
        }
    }

    /// Closes the connection in a slot if it is idle.
    pub fn flush_idle(&mut self, index: SlotIndex) -> bool {
        let Some(s) = self.segment.slot(index).word.begin_flush(Owner::Main).done() else { return false };
        self.close_slot(Held { slot: index, generation: s.generation }, Owner::Main);
        true
    }
}
