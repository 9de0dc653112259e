//! The supervising process: accepts, forks, reaps, keeps the descriptors of server connections, answers the operator.
//!
//! Single-threaded for ever, as it forks. It never blocks: no name service, no connect, no query, no wait for another
//! process; what can wait is done by a child. It never reads a client's byte after accept. Begin with `boot.rs`, then
//! `main_loop.rs`.

mod accept;
mod boot;
mod children;
mod ending;
mod flush;
mod hangups;
mod housekeeping;
mod listeners;
mod main_loop;
mod operator;
mod pools;
mod reload;
mod service;
mod shutdown;
mod worker_messages;

pub use boot::{BootError, run};
