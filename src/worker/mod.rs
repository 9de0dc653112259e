//! The code of the processes that main forks: a worker that serves a client, and children with other work.
//!
//! `entry.rs` is where a child begins; what it does with a client is told in order by `startup.rs`, `authenticate.rs`,
//! `claim.rs`, `welcome.rs`, `session_mode.rs` and `clean_up.rs`. `chores.rs` is work that main may not wait for.

mod authenticate;
mod cancel;
mod chores;
mod claim;
mod clean_up;
mod client;
mod context;
mod control;
mod entry;
mod refuse;
mod serve;
mod session_mode;
mod startup;
mod welcome;

pub use entry::run;
