//! What the black-box tests stand on: fixtures that speak for themselves.
//!
//! ```text
//! Postgres::shared() ── one cluster for all test processes of a run ──▶ Login ──▶ RawClient, psql, pgbench, tokio
//! Postgres::private() ─ one for a test that restarts or kills it ─────▶ Login
//! Pooler::with("[howdah]\nmax_connections = 2").start() ──────────────▶ Login, cli, workers, open_fds, stop
//! ```
//! Everything waits with a deadline and a predicate, nothing sleeps for a condition. Whatever a test leaves behind is
//! ended: by `Drop` when it passes or panics, by `guardian.sh` when its process is killed.

#![allow(dead_code, unused_imports, reason = "every test binary compiles all of it and uses its own part")]

mod command;
mod guardian;
mod login;
mod pooler;
mod ports;
mod postgres;
pub mod process;
mod raw_client;
pub mod wire;

use std::time::{Duration, Instant};

pub use command::{Background, Outcome, run};
pub use login::Login;
pub use pooler::{Pooler, Setup, unprivileged_user};
pub use ports::Port;
pub use postgres::Postgres;
pub use raw_client::{Message, PgError, RawClient, Rows};

/// How long a test waits for what should happen at once, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `predicate` holds; fails the test after [`PATIENCE`], naming `what` was waited for.
#[track_caller]
pub fn eventually(what: &str, predicate: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, predicate);
}

/// Waits until `predicate` holds; fails the test after `limit`, naming `what` was waited for.
#[track_caller]
pub fn eventually_within(limit: Duration, what: &str, mut predicate: impl FnMut() -> bool) {
    assert!(holds_within(limit, &mut predicate), "not within {limit:?}: {what}");
}

/// Whether `predicate` comes to hold within `limit`.
pub fn holds_within(limit: Duration, mut predicate: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if predicate() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fails the test if `predicate` stops holding within `period`.
#[track_caller]
pub fn always_for(period: Duration, what: &str, mut predicate: impl FnMut() -> bool) {
    let broken = holds_within(period, || !predicate());
    assert!(!broken, "did not hold for {period:?}: {what}");
}

/// Lets this process open as many descriptors as the system allows: 2,000 clients need 2,000.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("RLIMIT_NOFILE can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit can be raised to the hard one");
}

/// A runtime for the tests that use tokio-postgres, a driver that people really use.
pub fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a tokio runtime can be built")
}
