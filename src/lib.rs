//! Howdah, a PostgreSQL connection pooler for Linux.
//!
//! A main process keeps server connections in a shared table of atomic slots; workers that it forks serve clients and
//! claim slots. `doc/architecture.md` tells the whole story.
//!
//! Arrows point down: `main_process`, `worker`, `cli` → `server`, `management`, `net` → `protocol`, `auth`, `config`,
//! `segment` → `sys`. `main_process` and `worker` never import each other. No process of the daemon ever starts a
//! thread: `fork` is only safe so.

pub mod auth;
pub mod cli;
pub mod config;
pub mod main_process;
pub mod management;
pub mod net;
pub mod protocol;
pub mod segment;
pub mod server;
pub mod sys;
pub mod worker;
