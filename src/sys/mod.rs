//! The operating system: the only unsafe code besides the mapping of the shared segment.
//!
//! Everything above works with `OwnedFd`, `BorrowedFd` and references; raw descriptors and pointers stay in here.

pub mod clock;
pub mod descriptor_passing;
pub mod descriptors;
pub mod process;
pub mod shared_memory;
pub mod signals;
pub mod socket;
pub mod terminal;
pub mod user;
