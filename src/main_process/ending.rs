//! Connections that main has said good-bye to: the slot is empty when the server has closed its end, so that a new
//! connection never comes on top of an old one and the server's limits hold.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use log::{debug, warn};
use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::main_loop::{BySignal, ENDING_FROM, Main};
use crate::protocol::write;
use crate::segment::{Held, Owner, SlotIndex};
use crate::sys::{clock, socket};

/// How long a server may take to close its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection whose end the server has not closed yet. Its slot is Flush and main's.
pub struct Ending {
    held: Held,
    fd: OwnedFd,
    give_up_at: Duration,
}

impl Main {
    /// Ends the connection in a slot that `holder` holds, and empties the slot when the server has closed its end.
    pub fn close_slot(&mut self, held: Held, holder: Owner) {
        let seized = self.segment.slot(held.slot).word.seize(holder, Owner::Main);
        if !seized.is_done() {
            return;
        }
        let kept = self.take_keeper(held);
        match kept {
            Some(fd) => self.wait_for_end(held, fd),
            None => self.vacate(held.slot),
        }
    }

    fn wait_for_end(&mut self, held: Held, fd: OwnedFd) {
        say_terminate(&fd);
        socket::shut_down(fd.as_fd(), Shutdown::Write);
        let token = Token(ENDING_FROM + held.slot.at());
        let registered =
            self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE);
        let ending = Ending { held, fd, give_up_at: clock::monotonic() + PATIENCE };
        self.ending.insert(held.slot, ending);
        self.housekeeping.look_again();
        if let Err(e) = registered {
            warn!("cannot watch a connection that ends: {e}");
            self.ended(held.slot);
        }
    }

    /// The server has said something, or closed its end.
    pub fn on_ending(&mut self, slot: SlotIndex) {
        let Some(ending) = self.ending.get(&slot) else { return };
        let mut nothing = [0u8; 1024];
        loop {
            match socket::receive(ending.fd.as_fd(), &mut nothing) {
                Ok(n) if n > 0 => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                _ => break,
            }
        }
        self.ended(slot);
    }

    /// Gives up on servers that do not close.
    pub fn give_up_endings(&mut self, now: Duration) {
        let late: Vec<SlotIndex> =
            self.ending.iter().filter(|(_, e)| e.give_up_at <= now).map(|(slot, _)| *slot).collect();
        for slot in late {
            debug!("slot {slot}: the server did not close the connection in time");
            self.ended(slot);
        }
    }

    /// When the next server's time is up.
    #[must_use]
    pub fn next_give_up(&self) -> Option<Duration> {
        self.ending.values().map(|e| e.give_up_at).min()
    }

    /// Whether the connection in a slot is being waited for.
    #[must_use]
    pub fn is_ending(&self, slot: SlotIndex) -> bool {
        self.ending.contains_key(&slot)
    }

    fn ended(&mut self, slot: SlotIndex) {
        let Some(ending) = self.ending.remove(&slot) else { return };
        let _ = self.poll.registry().deregister(&mut SourceFd(&ending.fd.as_raw_fd()));
        socket::shut_down(ending.fd.as_fd(), Shutdown::Both);
        self.vacate(ending.held.slot);
    }

    fn vacate(&mut self, slot: SlotIndex) {
        self.segment.header().closed.fetch_add(1, Relaxed);
        self.segment.close(Owner::Main, slot, &BySignal(&self.segment));
        self.housekeeping.look_again();
    }

    /// Ends every pooled connection: Howdah stops.
    pub fn end_all_connections(&self) {
        for (_, fd) in self.keepers.borrow().iter() {
            say_terminate(fd);
            socket::shut_down(fd.as_fd(), Shutdown::Both);
        }
    }
}

/// Sends Terminate. A server that does not read, or is gone, needs none.
fn say_terminate(fd: &OwnedFd) {
    let mut bytes = Vec::with_capacity(8);
    write::terminate(&mut bytes);
    let _ = socket::transmit(fd.as_fd(), &bytes);
}
