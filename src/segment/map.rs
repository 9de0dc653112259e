//! Where the tables are: the segment created before the first fork, or mapped for reading by another program.

#![allow(unsafe_code)]

use std::io;
#[cfg(not(loom))]
use std::os::fd::OwnedFd;

use super::atomic::{Acquire, AtomicU64, PlainU32, Relaxed, Release};
use super::hints::{HintSet, leaf_words, summary_words};
use super::index::{ClientIndex, PoolIndex, ServerIndex, SlotIndex};
use super::layout::{
    Client, Dimensions, Header, LAYOUT_VERSION, MAGIC, PARAMETERS_MAX_BYTES, Pool, SERVERS_MAX, Server, Slot,
    SlotParameters,
};
use super::text::{load_bytes, store_bytes};
use super::wait_queue::{WaitQueue, WaitWord};
#[cfg(not(loom))]
use crate::sys::shared_memory::SharedMemory;

#[cfg(not(loom))]
mod shared {
    use super::*;
    use crate::sys::shared_memory::Shared;

    // SAFETY: `repr(C)`, atomics only; see `layout.rs`.
    unsafe impl Shared for Header {}
    // SAFETY: as above.
    unsafe impl Shared for Server {}
    // SAFETY: as above.
    unsafe impl Shared for Pool {}
    // SAFETY: as above.
    unsafe impl Shared for Slot {}
    // SAFETY: as above.
    unsafe impl Shared for SlotParameters {}
    // SAFETY: as above.
    unsafe impl Shared for Client {}
    // SAFETY: an atomic is valid for every bit pattern.
    unsafe impl Shared for AtomicU64 {}
    // SAFETY: an atomic is valid for every bit pattern.
    unsafe impl Shared for PlainU32 {}
}

/// Why another program's segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be mapped.
    #[error("cannot map the shared segment: {0}")]
    Map(#[from] io::Error),
    /// It is something else.
    #[error("this is not a segment of howdah")]
    NotASegment,
    /// Another build of Howdah made it.
    #[error("the running howdah has segment layout {found}, this program reads layout {LAYOUT_VERSION}")]
    OtherLayout {
        /// Its layout version.
        found: u32,
    },
}

/// The tables of the shared segment.
///
/// # Panics
/// Indexing with an index that did not come from the segment's own tables panics; whatever other processes may have
/// written is looked up with the `find_*` functions, which answer `None`.
pub struct Segment {
    #[cfg(not(loom))]
    memory: SharedMemory,
    #[cfg(loom)]
    #[allow(dead_code, reason = "owns what the tables refer to")]
    memory: Parts,
    dimensions: Dimensions,
    header: &'static Header,
    servers: &'static [Server],
    /// `[servers × slots]`: slot stored plus one.
    server_seats: &'static [PlainU32],
    pools: &'static [Pool],
    /// `[pools × slots]`: slot stored plus one.
    pool_seats: &'static [PlainU32],
    slots: &'static [Slot],
    parameters: &'static [SlotParameters],
    clients: &'static [Client],
    /// `[pools × ring_cells]`.
    rings: &'static [AtomicU64],
    /// `[pools × leaf_words(slots)]`.
    free_leaves: &'static [AtomicU64],
    /// `[pools × summary_words(slots)]`.
    free_summaries: &'static [AtomicU64],
    /// `[leaf_words + summary_words of slots]`.
    empty: &'static [AtomicU64],
    /// `[leaf_words + summary_words of pools]`.
    waiting: &'static [AtomicU64],
}

/// Hands out consecutive parts of the mapping.
#[cfg(not(loom))]
struct Cursor<'a> {
    memory: Option<&'a SharedMemory>,
    at: usize,
}

#[cfg(not(loom))]
impl Cursor<'_> {
    /// The next `count` values, from the next cache line on. Without a memory it only measures.
    fn take<T: crate::sys::shared_memory::Shared>(&mut self, count: usize) -> &'static [T] {
        self.at = self.at.next_multiple_of(align_of::<T>().max(64));
        let start = self.at;
        self.at += count * size_of::<T>();
        self.memory.map_or(&[], |memory| memory.slice(start, count))
    }
}

/// Hands out boxes, and frees them when an execution of the model ends: there are a great many.
#[cfg(loom)]
struct Cursor {
    at: usize,
    parts: Parts,
}

#[cfg(loom)]
#[derive(Default)]
struct Parts(Vec<Box<dyn FnOnce()>>);

#[cfg(loom)]
impl Drop for Parts {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|free| free());
    }
}

#[cfg(loom)]
impl Cursor {
    fn take<T: Default + 'static>(&mut self, count: usize) -> &'static [T] {
        let part: *mut [T] = Box::into_raw((0..count).map(|_| T::default()).collect());
        // SAFETY: made by `Box::into_raw` just now, and freed once, when the segment is dropped, after which the model
        // uses nothing of it.
        self.parts.0.push(Box::new(move || drop(unsafe { Box::from_raw(part) })));
        // SAFETY: as above.
        unsafe { &*part }
    }
}

macro_rules! tables {
    ($cursor:expr, $dimensions:expr) => {{
        let d: Dimensions = $dimensions;
        let (slots, clients, pools) = (d.slots as usize, d.clients as usize, d.pools as usize);
        let header: &'static [Header] = $cursor.take(1);
        let servers = $cursor.take(SERVERS_MAX as usize);
        let server_seats = $cursor.take(SERVERS_MAX as usize * slots);
        let pools_table = $cursor.take(pools);
        let pool_seats = $cursor.take(pools * slots);
        let slots_table = $cursor.take(slots);
        let parameters = $cursor.take(slots);
        let clients_table = $cursor.take(clients);
        let rings = $cursor.take(pools * d.ring_cells());
        let free_leaves = $cursor.take(pools * leaf_words(slots));
        let free_summaries = $cursor.take(pools * summary_words(slots));
        let empty = $cursor.take(leaf_words(slots) + summary_words(slots));
        let waiting = $cursor.take(leaf_words(pools) + summary_words(pools));
        ($cursor.at, header, move |memory| Segment {
            memory,
            dimensions: d,
            header: &header[0],
            servers,
            server_seats,
            pools: pools_table,
            pool_seats,
            slots: slots_table,
            parameters,
            clients: clients_table,
            rings,
            free_leaves,
            free_summaries,
            empty,
            waiting,
        })
    }};
}

impl Segment {
    /// Creates the segment. Main, before the first fork.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    #[cfg(not(loom))]
    pub fn create(dimensions: Dimensions) -> io::Result<Self> {
        if !dimensions.are_possible() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the shared segment cannot have such dimensions",
            ));
        }
        let mut measure = Cursor { memory: None, at: 0 };
        let (length, _, _) = tables!(measure, dimensions);
        let memory = SharedMemory::create(c"howdah-segment", length)?;
        let segment = Self::over(memory, dimensions);
        segment.initialise();
        Ok(segment)
    }

    /// Maps the segment of a running Howdah for reading.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[cfg(not(loom))]
    pub fn open_read_only(fd: OwnedFd) -> Result<Self, OpenError> {
        let memory = SharedMemory::open_read_only(fd)?;
        if memory.len() < size_of::<Header>() {
            return Err(OpenError::NotASegment);
        }
        let header: &[Header] = memory.slice(0, 1);
        let header = &header[0];
        if header.magic.load(Acquire) != MAGIC {
            return Err(OpenError::NotASegment);
        }
        let found = header.layout_version.load(Relaxed);
        if found != LAYOUT_VERSION {
            return Err(OpenError::OtherLayout { found });
        }
        let dimensions = Dimensions {
            slots: header.slots.load(Relaxed),
            clients: header.clients.load(Relaxed),
            pools: header.pools.load(Relaxed),
        };
        if !dimensions.are_possible() {
            return Err(OpenError::NotASegment);
        }
        let mut measure = Cursor { memory: None, at: 0 };
        let (length, _, _) = tables!(measure, dimensions);
        if length != memory.len() {
            return Err(OpenError::NotASegment);
        }
        Ok(Self::over(memory, dimensions))
    }

    #[cfg(not(loom))]
    fn over(memory: SharedMemory, dimensions: Dimensions) -> Self {
        let mut cursor = Cursor { memory: Some(&memory), at: 0 };
        let (_, _, build) = tables!(cursor, dimensions);
        build(memory)
    }

    /// The same tables in plain memory, for model checking.
    #[cfg(loom)]
    #[must_use]
    pub fn in_plain_memory(dimensions: Dimensions) -> Self {
        let mut cursor = Cursor { at: 0, parts: Parts::default() };
        let (_, _, build) = tables!(cursor, dimensions);
        let segment = build(cursor.parts);
        segment.initialise();
        segment
    }

    fn initialise(&self) {
        let d = self.dimensions;
        self.header.layout_version.store(LAYOUT_VERSION, Relaxed);
        self.header.slots.store(d.slots, Relaxed);
        self.header.clients.store(d.clients, Relaxed);
        self.header.pools.store(d.pools, Relaxed);
        self.header.config_epoch.store(1, Relaxed);
        for slot in 0..d.slots {
            self.empty_slots().insert(slot);
        }
        // Release: whoever sees the magic sees the sizes.
        self.header.magic.store(MAGIC, Release);
    }

    /// The memory, to hand a read-only descriptor of it to another program.
    #[cfg(not(loom))]
    #[must_use]
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// How large the tables are.
    #[must_use]
    pub fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    /// The head.
    #[must_use]
    pub fn header(&self) -> &'static Header {
        self.header
    }

    /// A slot.
    #[must_use]
    pub fn slot(&self, index: SlotIndex) -> &'static Slot {
        &self.slots[index.at()]
    }

    /// A slot, if there is one of that number.
    #[must_use]
    pub fn find_slot(&self, index: SlotIndex) -> Option<&'static Slot> {
        self.slots.get(index.at())
    }

    /// A client.
    #[must_use]
    pub fn client(&self, index: ClientIndex) -> &'static Client {
        &self.clients[index.at()]
    }

    /// A client, if there is one of that number.
    #[must_use]
    pub fn find_client(&self, index: ClientIndex) -> Option<&'static Client> {
        self.clients.get(index.at())
    }

    /// A pool.
    #[must_use]
    pub fn pool(&self, index: PoolIndex) -> &'static Pool {
        &self.pools[index.at()]
    }

    /// A pool, if there is one of that number.
    #[must_use]
    pub fn find_pool(&self, index: PoolIndex) -> Option<&'static Pool> {
        self.pools.get(index.at())
    }

    /// A server.
    #[must_use]
    pub fn server(&self, index: ServerIndex) -> &'static Server {
        &self.servers[index.at()]
    }

    /// A server, if there is one of that number.
    #[must_use]
    pub fn find_server(&self, index: ServerIndex) -> Option<&'static Server> {
        self.servers.get(index.at())
    }

    /// All slots that were ever used, with their numbers.
    pub fn used_slots(&self) -> impl Iterator<Item = (SlotIndex, &'static Slot)> + use<> {
        let high = self.header.slots_high.load(Acquire);
        (0..).map(SlotIndex).zip(self.slots.iter()).take(high as usize)
    }

    /// All entries of the client table that were ever used, with their numbers.
    pub fn used_clients(&self) -> impl Iterator<Item = (ClientIndex, &'static Client)> + use<> {
        let high = self.header.clients_high.load(Acquire);
        (0..).map(ClientIndex).zip(self.clients.iter()).take(high as usize)
    }

    /// All pools in use, with their numbers.
    pub fn used_pools(&self) -> impl Iterator<Item = (PoolIndex, &'static Pool)> + use<> {
        let high = self.header.pools_high.load(Acquire);
        (0..)
            .map(PoolIndex)
            .zip(self.pools.iter())
            .take(high as usize)
            .filter(|(_, p)| p.used.load(Acquire) != 0)
    }

    /// All servers in use, with their numbers.
    pub fn used_servers(&self) -> impl Iterator<Item = (ServerIndex, &'static Server)> + use<> {
        (0..).map(ServerIndex).zip(self.servers.iter()).filter(|(_, s)| s.used.load(Acquire) != 0)
    }

    /// The pool of (database, user), if it was made.
    #[must_use]
    pub fn pool_of(&self, database: &str, user: &str) -> Option<PoolIndex> {
        self.used_pools().find(|(_, p)| p.database.is(database) && p.user.is(user)).map(|(i, _)| i)
    }

    /// The ParameterStatus values of `slot`: `name NUL value NUL …`. Read by its owner (rule 2), or for display.
    #[must_use]
    pub fn parameters(&self, slot: SlotIndex) -> Vec<u8> {
        let length = (self.slot(slot).parameters_length.load(Relaxed) as usize).min(PARAMETERS_MAX_BYTES);
        let mut bytes = Vec::with_capacity(length + 8);
        load_bytes(&self.parameters[slot.at()].words, length, &mut bytes);
        bytes
    }

    /// Writes the ParameterStatus values of `slot`, as its owner. Longer than `PARAMETERS_MAX_BYTES` is cut.
    pub fn set_parameters(&self, slot: SlotIndex, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(PARAMETERS_MAX_BYTES)];
        store_bytes(&self.parameters[slot.at()].words, bytes);
        self.slot(slot).parameters_length.store(u32::try_from(bytes.len()).unwrap_or(0), Relaxed);
    }

    /// The queue of `pool`.
    #[must_use]
    pub fn queue(&self, pool: PoolIndex) -> WaitQueue<'static> {
        let cells = self.dimensions.ring_cells();
        let table = self.pool(pool);
        let ring = &self.rings[pool.at() * cells..][..cells];
        WaitQueue {
            pool,
            head: &table.head.value,
            tail: &table.tail.value,
            compactor: &table.compactor,
            ring,
        }
    }

    /// The wait word of a client.
    #[must_use]
    pub fn wait_word(&self, client: ClientIndex) -> Option<&'static WaitWord> {
        self.find_client(client).map(|c| &c.wait)
    }

    /// Slots of `pool` that may be Free.
    pub(super) fn free_slots(&self, pool: PoolIndex) -> HintSet<'static> {
        let slots = self.dimensions.slots as usize;
        let (leaves, summary) = (leaf_words(slots), summary_words(slots));
        HintSet::new(
            &self.free_leaves[pool.at() * leaves..][..leaves],
            &self.free_summaries[pool.at() * summary..][..summary],
        )
    }

    /// Slots that may be NotInit.
    pub(super) fn empty_slots(&self) -> HintSet<'static> {
        let (leaves, summary) = self.empty.split_at(leaf_words(self.dimensions.slots as usize));
        HintSet::new(leaves, summary)
    }

    /// Pools in whose queue somebody may stand.
    pub(super) fn waiting_pools(&self) -> HintSet<'static> {
        let (leaves, summary) = self.waiting.split_at(leaf_words(self.dimensions.pools as usize));
        HintSet::new(leaves, summary)
    }

    /// The seats of `pool`: as many as slots, of which the pool's size says how many may be taken.
    pub(super) fn pool_seats(&self, pool: PoolIndex) -> &'static [PlainU32] {
        let slots = self.dimensions.slots as usize;
        &self.pool_seats[pool.at() * slots..][..slots]
    }

    /// The seats of `server`.
    pub(super) fn server_seats(&self, server: ServerIndex) -> &'static [PlainU32] {
        let slots = self.dimensions.slots as usize;
        &self.server_seats[server.at() * slots..][..slots]
    }
}
