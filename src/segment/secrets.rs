//! What must not be seen by programs that only look at the segment: cancel keys. A mapping of its own, which is never
//! handed out.

#![allow(unsafe_code)]

use std::io;

use super::atomic::{PlainU32 as AtomicU32, PlainU64 as AtomicU64, Relaxed};
use super::index::{ClientIndex, SlotIndex};
use super::layout::Dimensions;
use super::text::{load_bytes, store_bytes};
use crate::sys::shared_memory::{Shared, SharedMemory};

/// The longest cancel key that a server may give (protocol 3.2: 256 bytes).
pub const SERVER_KEY_MAX: usize = 256;
/// The longest cancel key that Howdah gives to a client.
pub const CLIENT_KEY_MAX: usize = 32;

/// A key of up to `8 * WORDS` bytes.
#[repr(C)]
struct Key<const WORDS: usize> {
    length: AtomicU32,
    _pad: AtomicU32,
    words: [AtomicU64; WORDS],
}

// SAFETY: `repr(C)` and made of atomics only, which are valid for every bit pattern.
unsafe impl Shared for Key<{ SERVER_KEY_MAX / 8 }> {}
// SAFETY: as above.
unsafe impl Shared for Key<{ CLIENT_KEY_MAX / 8 }> {}

impl<const WORDS: usize> Key<WORDS> {
    fn set(&self, key: &[u8]) {
        let key = &key[..key.len().min(WORDS * 8)];
        store_bytes(&self.words, key);
        self.length.store(u32::try_from(key.len()).unwrap_or(0), Relaxed);
    }

    fn get(&self) -> Vec<u8> {
        let length = (self.length.load(Relaxed) as usize).min(WORDS * 8);
        let mut key = Vec::with_capacity(length + 8);
        load_bytes(&self.words, length, &mut key);
        key
    }
}

/// The cancel keys of clients (given by Howdah) and of server connections (given by PostgreSQL).
pub struct Secrets {
    clients: &'static [Key<{ CLIENT_KEY_MAX / 8 }>],
    slots: &'static [Key<{ SERVER_KEY_MAX / 8 }>],
}

impl Secrets {
    /// Maps memory for all keys, left out of core dumps.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create(dimensions: Dimensions) -> io::Result<Self> {
        let (clients, slots) = (dimensions.clients as usize, dimensions.slots as usize);
        let client_bytes = clients * size_of::<Key<{ CLIENT_KEY_MAX / 8 }>>();
        let slot_bytes = slots * size_of::<Key<{ SERVER_KEY_MAX / 8 }>>();
        let memory = SharedMemory::create(c"howdah-secrets", client_bytes + slot_bytes)?;
        memory.keep_out_of_core_dumps()?;
        Ok(Secrets { clients: memory.slice(0, clients), slots: memory.slice(client_bytes, slots) })
    }

    /// The key that a client cancels with. Written by its worker.
    pub fn set_client_key(&self, client: ClientIndex, key: &[u8]) {
        self.clients[client.at()].set(key);
    }

    /// The key that a client cancels with, to be compared in constant time; empty: none.
    #[must_use]
    pub fn client_key(&self, client: ClientIndex) -> Vec<u8> {
        self.clients[client.at()].get()
    }

    /// The key that cancels on the server connection in `slot`. Written by the slot's owner.
    pub fn set_server_key(&self, slot: SlotIndex, key: &[u8]) {
        self.slots[slot.at()].set(key);
    }

    /// The key that cancels on the server connection in `slot`.
    #[must_use]
    pub fn server_key(&self, slot: SlotIndex) -> Vec<u8> {
        self.slots[slot.at()].get()
    }
}
