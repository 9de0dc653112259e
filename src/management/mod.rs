//! The management protocol: what `howdah-cli` and main say to each other, and what main and its workers do.
//!
//! `frame.rs` has the bytes common to all, `operator.rs` the requests of an operator and main's replies, `server.rs`
//! main's end of it, which never waits, `client.rs` the other end, which waits with a deadline.

#![forbid(unsafe_code)]

pub mod client;
pub mod frame;
pub mod operator;
pub mod seed;
pub mod server;
pub mod worker;

pub use frame::{FrameError, Header};
pub use operator::{FlushMode, Reply, Request, ShutdownMode};
