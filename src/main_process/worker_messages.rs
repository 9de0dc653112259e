//! What workers tell main: `management/worker.rs`. Nothing of it is believed before the slot's state word agrees.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use log::{debug, warn};

use super::main_loop::Main;
use crate::management::worker::{Denied, Id, MESSAGE_LEN, ToMain, answer};
use crate::segment::{ClientIndex, Held, Owner, SlotState};
use crate::sys::{descriptor_passing, descriptors};

impl Main {
    /// Handles every message that is there.
    pub fn on_worker_messages(&mut self) {
        let mut bytes = [0u8; MESSAGE_LEN];
        loop {
            match descriptor_passing::receive(self.from_workers.as_fd(), &mut bytes) {
                Ok((n, descriptor)) => match ToMain::decode(&bytes[..n]) {
                    Some(message) => self.on_worker_message(message, descriptor),
                    None => warn!("a worker sent a message that cannot be understood"),
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    warn!("cannot receive from workers: {e}");
                    if e.kind() != io::ErrorKind::InvalidData {
                        return;
                    }
                }
            }
        }
    }

    fn on_worker_message(&mut self, message: ToMain, descriptor: Option<OwnedFd>) {
        let ToMain { id, held, from } = message;
        if self.segment.find_client(from).is_none() {
            return;
        }
        match (id, held, descriptor) {
            (Id::Keep, Some(held), Some(fd)) => self.keep(held, from, fd),
            (Id::Fetch, Some(held), Some(reply)) => self.hand_out(held, from, &reply),
            (Id::Evict, Some(held), None) => self.evict(held, from),
            (Id::Closed, Some(held), None) => {
                // The worker has ended the connection for all copies; this is the last.
                drop(self.take_keeper(held));
                self.housekeeping.look_again();
            }
            (Id::MakePool, None, Some(reply)) => {
                let entry = self.segment.client(from);
                let made = self.make_pool(&entry.database.get(), &entry.user.get());
                answer(reply.as_fd(), made.map(|pool| pool.0), None);
            }
            _ => warn!("a worker sent a message without what belongs to it: {id:?}"),
        }
    }

    fn keep(&mut self, held: Held, from: ClientIndex, fd: OwnedFd) {
        // By now the slot may have been released, or be another client's: the generation says that it is the same
        // connection.
        let s = self.segment.find_slot(held.slot).map(|slot| slot.word.snapshot());
        if !s.is_some_and(|s| s.generation == held.generation && s.state != SlotState::NotInit) {
            debug!("slot {}: the descriptor from client {from} came too late", held.slot);
            return;
        }
        match descriptors::move_to_keepers(fd) {
            Ok(fd) => self.put_keeper(held, fd),
            Err(e) => warn!("slot {}: cannot keep the descriptor: {e}", held.slot),
        }
        self.housekeeping.look_again();
    }

    fn hand_out(&self, held: Held, from: ClientIndex, reply: &OwnedFd) {
        let keepers = self.keepers.borrow();
        let kept = keepers.get(held).filter(|_| self.is_held_by(held, from));
        let result = if kept.is_some() { Ok(0) } else { Err(Denied::NoDescriptor) };
        answer(reply.as_fd(), result, kept.map(AsFd::as_fd));
    }

    fn evict(&mut self, held: Held, from: ClientIndex) {
        let s = self.segment.find_slot(held.slot).map(|slot| slot.word.snapshot());
        let is_theirs = s.is_some_and(|s| {
            s.state == SlotState::Flush && s.owner == Owner::Client(from) && s.generation == held.generation
        });
        if is_theirs {
            debug!("slot {}: closing an idle connection to make room", held.slot);
            self.close_slot(held, Owner::Client(from));
        }
    }

    fn is_held_by(&self, held: Held, client: ClientIndex) -> bool {
        self.segment.find_slot(held.slot).is_some_and(|slot| {
            let s = slot.word.snapshot();
            s.owner == Owner::Client(client) && s.generation == held.generation
        })
    }
}
