//! What workers and children of main tell main: fixed-size messages over one message socket that all of them inherit.
//!
//! Messages of all senders come in the order in which they were sent, so a descriptor that is announced before its slot
//! is released is known to main before anybody can ask for it. Answers come over a socket pair of the asker's, whose
//! other end travels with the question.
//!
//! | offset | size | meaning (little endian) |
//! |---|---|---|
//! | 0 | 1 | id |
//! | 1 | 3 | zero |
//! | 4 | 4 | slot, stored plus one; 0: none |
//! | 8 | 4 | the sender's entry in the client table |
//! | 12 | 4 | zero |
//! | 16 | 8 | generation |
//!
//! Main believes none of it before it has compared it with the slot's state word.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::net::{Stream, sleep, timeout};
use crate::segment::{ClientIndex, Generation, Held, PoolIndex, SlotIndex};
use crate::sys::descriptor_passing;

/// Bytes of a message.
pub const MESSAGE_LEN: usize = 24;

/// How long main may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    /// "Keep this descriptor of the connection in the slot." With the descriptor.
    Keep = 1,
    /// "Give me the descriptor of the connection in the slot." With a socket for the answer.
    Fetch = 2,
    /// "I took this idle connection (Flush) to make room: close it."
    Evict = 3,
    /// "The connection is closed: drop your descriptor."
    Closed = 4,
    /// "Make the pool of my database and user", which stand in the sender's entry. With a socket for the answer.
    MakePool = 5,
}

/// A message to main.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToMain {
    /// What it is about.
    pub id: Id,
    /// The slot and connection that it is about.
    pub held: Option<Held>,
    /// Who sends it.
    pub from: ClientIndex,
}

impl ToMain {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; MESSAGE_LEN] {
        let mut bytes = [0u8; MESSAGE_LEN];
        bytes[0] = self.id as u8;
        bytes[4..8].copy_from_slice(&self.held.map_or(0, |h| h.slot.stored()).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.from.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.held.map_or(0, |h| h.generation.0).to_le_bytes());
        bytes
    }

    /// From bytes; `None` if they are no message.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MESSAGE_LEN] = bytes.try_into().ok()?;
        let id = match bytes[0] {
            1 => Id::Keep,
            2 => Id::Fetch,
            3 => Id::Evict,
            4 => Id::Closed,
            5 => Id::MakePool,
            _ => return None,
        };
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let generation = Generation(u64::from_le_bytes(bytes[16..24].try_into().ok()?));
        let held = SlotIndex::from_stored(u32_at(4)).map(|slot| Held { slot, generation });
        Some(ToMain { id, held, from: ClientIndex(u32_at(8)) })
    }
}

/// Why main cannot do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The slot has another connection by now, or main has no descriptor of it.
    #[error("main has no descriptor of the server connection")]
    NoDescriptor,
    /// All pools that `max_pools` allows are in use.
    #[error("all pools that max_pools allows are in use")]
    TooManyPools,
    /// No pool rule matches any longer.
    #[error("no pool rule matches")]
    NoRule,
    /// Main is gone, or did not answer in time.
    #[error("the main process does not answer")]
    NoAnswer,
}

impl Denied {
    fn code(self) -> u8 {
        match self {
            Denied::NoDescriptor => 1,
            Denied::TooManyPools => 2,
            Denied::NoRule => 3,
            Denied::NoAnswer => 4,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Denied::NoDescriptor,
            2 => Denied::TooManyPools,
            3 => Denied::NoRule,
            _ => Denied::NoAnswer,
        }
    }
}

/// A worker's way to main.
pub struct MainLink<'a> {
    socket: BorrowedFd<'a>,
    from: ClientIndex,
}

impl<'a> MainLink<'a> {
    /// Over the inherited socket, in the name of `from`.
    #[must_use]
    pub fn new(socket: BorrowedFd<'a>, from: ClientIndex) -> Self {
        MainLink { socket, from }
    }

    /// Tells main something that needs no answer.
    ///
    /// # Errors
    /// Main is gone.
    pub async fn tell(
        &self,
        id: Id,
        held: Option<Held>,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let message = ToMain { id, held, from: self.from }.encode();
        loop {
            match descriptor_passing::send(self.socket, &message, descriptor) {
                // Main has many messages to read. It never waits for anybody, so it will.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(1)).await,
                other => return other,
            }
        }
    }

    /// Asks main for the descriptor of the connection in a slot that the caller holds.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn fetch(&self, held: Held) -> Result<OwnedFd, Denied> {
        let (_, descriptor) = self.ask(Id::Fetch, Some(held)).await?;
        descriptor.ok_or(Denied::NoDescriptor)
    }

    /// Asks main to make the pool of the caller's database and user.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn make_pool(&self) -> Result<PoolIndex, Denied> {
        let (value, _) = self.ask(Id::MakePool, None).await?;
        Ok(PoolIndex(value))
    }

    async fn ask(&self, id: Id, held: Option<Held>) -> Result<(u32, Option<OwnedFd>), Denied> {
        let (mine, mains) = descriptor_passing::message_pair().map_err(|_| Denied::NoAnswer)?;
        self.tell(id, held, Some(mains.as_fd())).await.map_err(|_| Denied::NoAnswer)?;
        drop(mains);
        let answer = Stream::new(mine).map_err(|_| Denied::NoAnswer)?;
        let received = timeout(ANSWER_LIMIT, answer.receive_message()).await;
        let (bytes, descriptor) = received.map_err(|_| Denied::NoAnswer)?.map_err(|_| Denied::NoAnswer)?;
        match bytes {
            [0, a, b, c, d] => Ok((u32::from_le_bytes([a, b, c, d]), descriptor)),
            [code, ..] => Err(Denied::from_code(code)),
        }
    }
}

/// Main's answer to a question: `value` (a pool's number) or `descriptor`, or why not. Never waits: the asker's socket
/// is empty, and an asker that is gone needs no answer.
pub fn answer(socket: BorrowedFd<'_>, result: Result<u32, Denied>, descriptor: Option<BorrowedFd<'_>>) {
    let bytes = match result {
        Ok(value) => {
            let [a, b, c, d] = value.to_le_bytes();
            [0, a, b, c, d]
        }
        Err(denied) => [denied.code(), 0, 0, 0, 0],
    };
    let _ = descriptor_passing::send(socket, &bytes, descriptor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let held = Held { slot: SlotIndex(59_999), generation: Generation(u64::MAX >> 28) };
        for id in [Id::Keep, Id::Fetch, Id::Evict, Id::Closed, Id::MakePool] {
            for held in [None, Some(held)] {
                let message = ToMain { id, held, from: ClientIndex(7) };
                assert_eq!(ToMain::decode(&message.encode()), Some(message));
            }
        }
        assert_eq!(ToMain::decode(&[9; MESSAGE_LEN]), None);
        assert_eq!(ToMain::decode(&[1; MESSAGE_LEN - 1]), None);
    }
}
