//! A claim is pinned while a cancel request for it is under way, so that the cancel reaches that client's query or
//! nothing.
//!
//! The child that carries the cancel writes its own number into the client's `canceller`, then looks whether the key is
//! still there; the worker that ends a session takes the key away, then looks whether a canceller is there. One of the
//! two sees the other (a fence stands between on both sides). A canceller that dies is removed by main.

use super::atomic::{AcqRel, Acquire, Relaxed, Release, SeqCst, fence};
use super::claims::Wake;
use super::index::{ClientIndex, SlotIndex};
use super::map::Segment;
use super::state::{Generation, Owner, SlotState};

/// A claim that cannot end until [`Segment::unpin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a pin has to be removed"]
pub struct Pinned {
    /// Whose.
    pub client: ClientIndex,
    /// What it holds.
    pub slot: SlotIndex,
    /// Which connection.
    pub generation: Generation,
}

impl Segment {
    /// Pins the claim of `target`, which was found by its cancel key `cancel_pid`, for the canceller `me`. `None`: it
    /// holds nothing that could be cancelled, or another cancel for it is under way.
    ///
    /// Its worker may have seen this attempt and wait for its end, so it is woken when nothing came of it.
    #[must_use]
    pub fn pin(
        &self,
        target: ClientIndex,
        cancel_pid: i32,
        me: ClientIndex,
        wake: &dyn Wake,
    ) -> Option<Pinned> {
        let client = self.find_client(target)?;
        client.canceller.compare_exchange(0, me.stored(), AcqRel, Relaxed).ok()?;
        fence(SeqCst); // pairs with the one in `forbid_cancel`
        let pinned = self.held_by(target, cancel_pid);
        if pinned.is_none() {
            client.canceller.store(0, Release);
            wake.wake(target);
        }
        pinned
    }

    fn held_by(&self, target: ClientIndex, cancel_pid: i32) -> Option<Pinned> {
        let client = self.client(target);
        if client.cancel_pid.load(Acquire) != cancel_pid {
            return None;
        }
        let slot = SlotIndex::from_stored(client.slot.load(Acquire))?;
        let s = self.find_slot(slot)?.word.snapshot();
        let used = matches!(s.state, SlotState::InUse | SlotState::Gracefully);
        (used && s.owner == Owner::Client(target)).then_some(Pinned {
            client: target,
            slot,
            generation: s.generation,
        })
    }

    /// Ends a pin. The worker of the client has to be woken, as it may wait for this.
    pub fn unpin(&self, pinned: Pinned, me: ClientIndex) {
        let _ = self.client(pinned.client).canceller.compare_exchange(me.stored(), 0, AcqRel, Relaxed);
    }

    /// Takes the cancel key of `me` away: no cancel can begin from now on.
    pub fn forbid_cancel(&self, me: ClientIndex) {
        self.client(me).cancel_pid.store(0, Release);
        fence(SeqCst); // pairs with the one in `pin`
    }

    /// Whether a cancel for `me` is under way.
    #[must_use]
    pub fn is_pinned(&self, me: ClientIndex) -> bool {
        self.client(me).canceller.load(Acquire) != 0
    }
}
