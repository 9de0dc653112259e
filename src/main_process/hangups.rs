//! Main's copies of pooled connections, and the news that a server has closed one: an idle connection that is gone is
//! taken out before anybody claims it.
//!
//! The keepers are watched for the end of their stream alone (EPOLLRDHUP), in a poller of their own that main's poller
//! watches: bytes that come for the workers wake nobody here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use log::{debug, warn};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::main_loop::Main;
use crate::segment::{Held, Owner, SlotIndex};

/// Watches the keepers.
pub struct Hangups {
    epoll: Epoll,
}

impl Hangups {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The table of descriptors is full.
    pub fn new() -> io::Result<Self> {
        Ok(Hangups { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    fn watch(&self, slot: SlotIndex, fd: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        Ok(self.epoll.add(fd, EpollEvent::new(flags, u64::from(slot.0)))?)
    }

    fn forget(&self, fd: BorrowedFd<'_>) {
        let _ = self.epoll.delete(fd);
    }

    /// Slots whose server has closed the connection since this was asked last.
    fn take(&self) -> Vec<SlotIndex> {
        let mut events = [EpollEvent::empty(); 128];
        let mut slots = Vec::new();
        while let Ok(n) = self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            slots.extend(events.iter().take(n).filter_map(|e| u32::try_from(e.data()).ok()).map(SlotIndex));
            if n < events.len() {
                break;
            }
        }
        slots
    }
}

impl AsRawFd for Hangups {
    fn as_raw_fd(&self) -> i32 {
        self.epoll.0.as_raw_fd()
    }
}

impl Main {
    /// Keeps a descriptor of the connection that `held` says.
    pub fn put_keeper(&self, held: Held, fd: OwnedFd) {
        if let Err(e) = self.hangups.watch(held.slot, fd.as_fd()) {
            warn!("slot {}: cannot watch the connection: {e}", held.slot);
        }
        let old = self.keepers.borrow_mut().put(held, fd);
        if let Some(old) = old {
            // Copies in workers keep a registration alive: it has to go before this copy is closed.
            self.hangups.forget(old.as_fd());
        }
    }

    /// Takes the descriptor of that very connection out.
    pub fn take_keeper(&self, held: Held) -> Option<OwnedFd> {
        let fd = self.keepers.borrow_mut().take(held)?;
        self.hangups.forget(fd.as_fd());
        Some(fd)
    }

    /// Servers have closed connections. Those in use are their workers' to deal with.
    pub fn on_hangups(&mut self) {
        for slot in self.hangups.take() {
            let Some(table) = self.segment.find_slot(slot) else { continue };
            if let Some(s) = table.word.begin_flush(Owner::Main).done() {
                debug!("slot {slot}: the server has closed the idle connection");
                self.close_slot(Held { slot, generation: s.generation }, Owner::Main);
            }
        }
    }
}
