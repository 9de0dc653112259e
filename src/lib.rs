//! Howdah, a PostgreSQL connection pooler for Linux.
//!
//! A main process keeps server connections in a shared table of atomic slots; workers that it forks serve clients and
//! claim slots. `doc/architecture.md` tells the whole story.
//!
//! Arrows point down: `main_process`, `worker`, `cli` → `server`, `management`, `net` → `protocol`, `auth`, `config`,
//! `segment` → `sys`. `main_process` and `worker` never import each other. No process of the daemon ever starts a
//! thread: `fork` is only safe so.

pub mod auth;
// Model checks have no mapping to read the status from.
#[cfg(not(loom))]
pub mod cli;
pub mod config;
#[cfg(not(loom))]
pub mod logging;
#[cfg(not(loom))]
pub mod main_process;
#[cfg(not(loom))]
pub mod management;
#[cfg(not(loom))]
pub mod net;
pub mod protocol;
pub mod segment;
#[cfg(not(loom))]
pub mod server;
pub mod sys;
#[cfg(not(loom))]
pub mod worker;
