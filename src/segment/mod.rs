//! The shared segment: slots, clients, pools, servers, and the protocols over them.
//!
//! Runs in every process. Nothing in here blocks, allocates on a claim, or makes a system call; whoever has to be woken
//! is told to the caller's [`Wake`]. Start with `state.rs` (the slot state machine), then `wait_queue.rs` (first come,
//! first served), `claims.rs` (both together), `room.rs` (limits) and `recovery.rs` (what main does for the dead). The longer story is in
//! `doc/architecture.md`.

pub mod atomic;
mod cancel_pin;
mod claims;
pub mod hints;
pub mod index;
mod layout;
mod map;
#[cfg(all(test, loom))]
mod models;
mod recovery;
mod room;
mod secrets;
pub mod state;
pub mod text;
pub mod wait_queue;

pub use cancel_pin::Pinned;
pub use claims::{Claim, Held, Release, Wake};
pub use index::{ClientIndex, PoolIndex, ServerIndex, SlotIndex};
pub use layout::*;
pub use map::{OpenError, Segment};
pub use recovery::Recovered;
pub use secrets::Secrets;
pub use state::{Generation, Owner, SlotState, Snapshot};
